//! Certificates and authorities that change under running streams.

use ebpf_hello_collector::access::AuthorityPem;
use rustls::pki_types::CertificateDer;

use super::fixture::{
    Client, POLL, READER, Server, Setup, batch, enrolled, next_sequence, start, start_with, until,
    write_server,
};

/// What the server shows a new connection.
async fn shown(server: &Server, client: &Client) -> Option<CertificateDer<'static>> {
    let stream = client.tls(server.address).await.ok()?;
    Some(
        stream.get_ref().1.peer_certificates()?[0]
            .clone()
            .into_owned(),
    )
}

fn write_authority(server: &Server, certificates: &[&[u8]], key: &[u8]) {
    std::fs::write(server.path("tls/ca.key"), key).unwrap();
    std::fs::write(server.path("tls/ca.crt"), certificates.concat()).unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_shown_while_streams_go_on_and_a_broken_one_is_not() {
    let server = start_with(Setup {
        files: true,
        ..Setup::default()
    })
    .await;
    let trusting = || Client {
        trusts: server.certificates("server.crt"),
        shows: None,
    };
    let before = trusting();
    let mut stream = server.observe(&before, READER).await.unwrap();
    let first = shown(&server, &before).await.unwrap();

    std::fs::write(
        server.path("server.crt"),
        "-----BEGIN CERTIFICATE-----\nbroken",
    )
    .unwrap();
    tokio::time::sleep(POLL * 5).await;
    assert_eq!(shown(&server, &before).await.unwrap(), first);

    write_server(server.directory.path(), "localhost");
    let after = trusting();
    let second = until("the new certificate", async || shown(&server, &after).await).await;
    assert_ne!(first, second);
    assert!(
        shown(&server, &before).await.is_none(),
        "the old one is still shown"
    );
    stream.message().await.unwrap().expect("the stream goes on");
    server.observe(&after, READER).await.unwrap();
}

#[tokio::test]
async fn an_authority_is_replaced_in_three_steps_and_no_stream_ends() {
    let server = start().await;
    let old = AuthorityPem {
        certificates: std::fs::read(server.path("tls/ca.crt")).unwrap(),
        key: std::fs::read(server.path("tls/ca.key")).unwrap(),
    };
    let new = AuthorityPem::generate().unwrap();
    let node = server.node("n1").await;
    let mut observed = server.observe(&node_less(&node), READER).await.unwrap();
    let (sender, mut answers) = server.publish(&node, "n1").await.unwrap();
    let mut number = 0;
    let mut goes_on = async || {
        number += 1;
        sender.send(batch("n1", number)).await.unwrap();
        answers
            .message()
            .await
            .unwrap()
            .expect("an acknowledgement");
        assert_eq!(next_sequence(&mut observed).await, number);
    };
    goes_on().await;

    // 1. The new one is trusted besides; agents hear of it when they renew.
    write_authority(&server, &[&old.certificates, &new.certificates], &old.key);
    let node = until("both authorities", async || {
        let (answer, key) = server.enrol(&node, "n1", "").await;
        answer
            .ok()
            .filter(|answer| answer.authorities.len() == 2)
            .map(|answer| enrolled(answer, key))
    })
    .await;
    goes_on().await;

    // 2. The new one issues; certificates of the old are still good.
    write_authority(&server, &[&old.certificates, &new.certificates], &new.key);
    let only_new = Client {
        trusts: certificates(&new),
        shows: None,
    };
    until("a server's certificate of the new authority", async || {
        shown(&server, &only_new).await
    })
    .await;
    let (answer, key) = server.enrol(&node, "n1", "").await;
    let renewed = enrolled(answer.unwrap(), key);
    goes_on().await;

    // 3. The old one is gone: who renewed comes in, who did not does not, and streams that are open stay.
    write_authority(&server, &[&new.certificates], &new.key);
    until("the end of the old authority", async || {
        let (answer, _) = server.enrol(&renewed, "n1", "").await;
        answer.ok().filter(|answer| answer.authorities.len() == 1)
    })
    .await;
    assert!(
        server.enrol(&node, "n1", "").await.0.is_err(),
        "the old authority is still trusted"
    );
    goes_on().await;
}

#[tokio::test]
async fn a_key_without_its_certificate_leaves_the_authority_as_it_was() {
    let server = start().await;
    let other = AuthorityPem::generate().unwrap();
    std::fs::write(server.path("tls/ca.key"), &other.key).unwrap();
    tokio::time::sleep(POLL * 5).await;
    server.node("n1").await;
}

/// Trusts as a client does, shows nothing.
fn node_less(client: &Client) -> Client {
    Client {
        shows: None,
        ..client.clone()
    }
}

fn certificates(authority: &AuthorityPem) -> Vec<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(&authority.certificates)
        .collect::<Result<_, _>>()
        .unwrap()
}
