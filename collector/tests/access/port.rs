//! What is no TLS, and who stays too long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_collector::access::Limits;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::fixture::{PATIENCE, READER, Setup, start, start_with, until};

/// A ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2): without `supported_versions` it can be nothing newer.
fn client_hello_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM, ECDSA and RSA
    body.extend([1, 0]); // no compression
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],  // supported_groups: secp256r1
        &[0, 11, 0, 2, 1, 0],             // ec_point_formats: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256
    ]
    .concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(handshake.len()).unwrap().to_be_bytes());
    record.extend(handshake);
    record
}

/// Sends bytes, and returns all that comes back until the connection ends.
async fn exchange(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection stays");
    answer
}

#[tokio::test]
async fn tls_1_2_is_refused_by_its_version() {
    let server = start().await;
    let answer = exchange(server.address, &client_hello_1_2()).await;
    // A record of kind alert: fatal, protocol_version (RFC 8446, 6).
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert_eq!(answer[5..7], [2, 70], "{answer:?}");
}

#[tokio::test]
async fn bytes_that_are_no_tls_end_their_connection_and_no_other() {
    let server = start().await;
    let mut stream = server.observe(&server.stranger(), READER).await.unwrap();
    let noise: Vec<u8> = (0..10_000_u32)
        .map(|index| (index * 31 % 251) as u8)
        .collect();
    for bytes in [
        &b"GET /v1/events HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &noise,
        &[22, 3, 1, 0xff, 0xff],
        &[0; 100],
    ] {
        exchange_closing(server.address, bytes).await;
    }
    assert!(
        server.door.counts().failed >= 4,
        "{:?}",
        server.door.counts()
    );
    stream.message().await.unwrap().expect("the stream goes on");
    server.observe(&server.stranger(), READER).await.unwrap();
}

/// As [`exchange`], for what the server might wait for more of.
async fn exchange_closing(address: std::net::SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection stays");
}

#[tokio::test]
async fn who_does_not_say_who_it_is_may_not_stay_and_who_does_may() {
    let limits = Limits {
        recognition: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = start_with(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    let mut silent = server.stranger().tls(server.address).await.unwrap();
    // A health check is for everybody, and tells nobody who asks.
    let mut known = until("it says who it is in time", async || {
        server.observe(&server.stranger(), READER).await.ok()
    })
    .await;
    let mut byte = [0; 1];
    let ended = tokio::time::timeout(PATIENCE, silent.read(&mut byte))
        .await
        .expect("it stays");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    for _ in 0..10 {
        known.message().await.unwrap().expect("the stream goes on");
    }
}

#[tokio::test]
async fn a_quiet_connection_ends_and_one_that_is_asked_for_signs_of_life_does_not() {
    let limits = Limits {
        idle: Duration::from_secs(8),
        ..Limits::default()
    };
    let mut setup = Setup {
        limits,
        ..Setup::default()
    };
    setup.options.keep_alive = Duration::from_secs(2);
    setup.options.heartbeat = Duration::from_secs(60);
    let server = start_with(setup).await;
    let mut live = server.observe(&server.stranger(), READER).await.unwrap();
    let mut quiet = server.stranger().tls(server.address).await.unwrap();
    let mut byte = [0; 1];
    let ended = tokio::time::timeout(PATIENCE, quiet.read(&mut byte))
        .await
        .expect("it stays");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // Opened before the other, and no more was said on it but pings.
    let still = tokio::time::timeout(Duration::from_secs(1), live.message()).await;
    assert!(still.is_err(), "{still:?}");
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let limits = Limits {
        connections_per_address: 3,
        ..Limits::default()
    };
    let server = start_with(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.stranger().tls(server.address).await.unwrap());
    }
    assert!(server.stranger().tls(server.address).await.is_err());
    assert_eq!(server.door.counts().crowded, 1);
    drop(held);
    until("a free place", async || {
        server.stranger().tls(server.address).await.ok()
    })
    .await;
}

#[tokio::test]
async fn nobody_stays_for_ever() {
    let limits = Limits {
        age: Duration::from_millis(800),
        ..Limits::default()
    };
    let server = start_with(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    let opened = async || server.observe(&server.stranger(), READER).await.ok();
    let mut stream = until("a stream", opened).await;
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(_)) = stream.message().await {}
    });
    ended.await.expect("it stays");
    until("another stream", opened).await;
}

/// Over HTTP/1.1 there are no pings: its heartbeats have to be bytes.
#[tokio::test]
async fn following_over_http_1_is_not_taken_for_quiet() {
    let idle = Duration::from_secs(4);
    let limits = Limits {
        idle,
        ..Limits::default()
    };
    let mut setup = Setup {
        limits,
        ..Setup::default()
    };
    setup.options.heartbeat = Duration::from_millis(500);
    let server = start_with(setup).await;
    let mut config = server.stranger().config();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
        .unwrap();
    let request = format!(
        "GET /v1/events?follow HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {READER}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let started = Instant::now();
    let mut buffer = [0; 4096];
    while started.elapsed() < idle * 2 {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .expect("it stays, and says nothing");
        assert!(
            matches!(read, Ok(1..)),
            "{read:?} after {:?}",
            started.elapsed()
        );
    }
}
