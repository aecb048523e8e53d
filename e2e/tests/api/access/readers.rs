//! Readers by tokens of the cluster, and how they lose what they may.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ebpf_hello_e2e::{Stalls, TokenFor};
use ebpf_hello_proto::v1::{self, observe_response::Message};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::DeleteParams};
use pem::parse;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::json;
use tonic::{Code, Streaming};

use super::fixture::{Cluster, HOME, batch, end, follow, publish, reason, resume_token, with};

/// Quick, for tests of what takes a minute by default.
const LIMIT: Duration = Duration::from_secs(4);
const QUICK: [&str; 2] = ["--access-limit", "4s"];

/// The sequences of the next events.
async fn sequences(stream: &mut Streaming<v1::ObserveResponse>, count: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    while sequences.len() < count {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Message::Events(list)) = message.message {
            sequences.extend(list.events.iter().map(|event| event.sequence));
        }
    }
    sequences
}

#[tokio::test]
async fn a_token_is_for_this_audience_and_a_refusal_says_how_to_get_one() {
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&[]).await;
    let mut observer = cluster.observer(&collector).await;
    let other = cluster
        .server
        .token("shop", "reader", TokenFor::default())
        .await;
    let refused = observer
        .observe(with(&other, follow(&["shop"])))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "WRONG_AUDIENCE"),
        "{refused}"
    );
    // What it says to run, run.
    let command = "kubectl create token --audience=ebpf-hello --namespace=shop reader";
    assert!(
        refused.message().contains(&format!("`{command}`")),
        "{refused}"
    );
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let token = cluster.server.kubectl(&arguments);
    observer
        .observe(with(token.trim(), follow(&["shop"])))
        .await
        .unwrap();

    // Known, and allowed there only.
    for (namespaces, what) in [
        (&["bank"][..], "syscallfilters/events there"),
        (&["shop", "bank"], "events of bank"),
        (&[], "name the namespaces"),
        (&["*"], "no namespace"),
    ] {
        let refused = observer
            .observe(with(token.trim(), follow(namespaces)))
            .await
            .unwrap_err();
        assert!(refused.message().contains(what), "{refused}");
        assert!(
            matches!(
                refused.code(),
                Code::PermissionDenied | Code::InvalidArgument
            ),
            "{refused}"
        );
    }
    let auditor = cluster.reader(HOME, "auditor").await;
    for namespaces in [&[][..], &["bank"]] {
        let mut stream = observer
            .observe(with(&auditor, follow(namespaces)))
            .await
            .unwrap()
            .into_inner();
        let Some(Message::Hello(hello)) = stream.message().await.unwrap().unwrap().message else {
            panic!("no hello");
        };
        assert!(hello.all_namespaces);
    }
    // What kubectl says of the same.
    let can = |who: &str, resource: &str, namespace: &str| {
        let who = format!("--as=system:serviceaccount:{who}");
        let namespace = format!("--namespace={namespace}");
        let output = std::process::Command::new(kubectl())
            .arg("--kubeconfig")
            .arg(cluster.server.admin_kubeconfig())
            .args([
                "auth",
                "can-i",
                "get",
                resource,
                "--subresource=events",
                &who,
                &namespace,
            ])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(can("shop:reader", "syscallfilters", "shop"), "yes");
    assert_eq!(can("shop:reader", "syscallfilters", "bank"), "no");
    assert_eq!(can("shop:reader", "clustersyscallfilters", "shop"), "no");
    assert_eq!(
        can("ebpf-hello:auditor", "clustersyscallfilters", "shop"),
        "yes"
    );
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_right_and_goes_on_where_it_was_with_a_new_one() {
    let stalls = Stalls::watch();
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&QUICK).await;
    let n1 = cluster.node(&collector, "n1").await;
    let mut publishing = publish(n1, "n1").await.unwrap();
    let mut observer = cluster.observer(&collector).await;
    let token = cluster.reader("shop", "reader").await;
    let mut stream = observer
        .observe(with(&token, follow(&["shop"])))
        .await
        .unwrap()
        .into_inner();
    let mut send = async |number| {
        let batch = batch("n1", number, &[("shop", "cart-0")]);
        publishing.sender.send(batch).await.unwrap();
        publishing.answers.message().await.unwrap().unwrap();
    };
    send(1).await;
    assert_eq!(sequences(&mut stream, 1).await, [1]);
    // While it has the right, the stream outlives many looks.
    tokio::time::sleep(LIMIT * 2).await;
    send(2).await;
    assert_eq!(sequences(&mut stream, 1).await, [2]);

    cluster.unbind("shop", "reader");
    let (since, unbound) = (Instant::now(), SystemTime::now());
    let ended = end(&mut stream, LIMIT + Duration::from_secs(20)).await;
    let took = since.elapsed();
    assert!(
        took < LIMIT + Duration::from_millis(500) + stalls.since(unbound),
        "{took:?}"
    );
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::PermissionDenied, "NOT_ALLOWED")
    );
    let resume = resume_token(&ended).expect("a token to go on with");
    send(3).await;
    let again = v1::ObserveRequest {
        resume_token: resume,
        ..follow(&["shop"])
    };
    let refused = observer
        .observe(with(&token, again.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    cluster.bind("shop", "reader");
    let mut stream = loop {
        match observer.observe(with(&token, again.clone())).await {
            Ok(stream) => break stream.into_inner(),
            Err(refused) => assert!(since.elapsed() < Duration::from_secs(60), "{refused}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(
        sequences(&mut stream, 1).await,
        [3],
        "nothing is missing and nothing comes twice"
    );

    // The account itself goes: the token is nobody's.
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.server.client(), "shop");
    accounts
        .delete("reader", &DeleteParams::default())
        .await
        .unwrap();
    // The API server itself remembers a good token for ten seconds.
    let ended = end(&mut stream, LIMIT + Duration::from_secs(26)).await;
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    assert!(resume_token(&ended).is_some());
}

#[tokio::test]
async fn by_default_a_stream_ends_within_a_minute_of_its_right() {
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&[]).await;
    let mut observer = cluster.observer(&collector).await;
    let token = cluster.reader("shop", "reader").await;
    let mut stream = observer
        .observe(with(&token, follow(&["shop"])))
        .await
        .unwrap()
        .into_inner();
    cluster.unbind("shop", "reader");
    let ended = end(&mut stream, Duration::from_secs(60)).await;
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
}

/// Where kubectl is: `ApiServer::kubectl` wants it to succeed, and a "no" does not.
fn kubectl() -> PathBuf {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    folder.unwrap_or_default().join("kubectl")
}

/// A token as the API server would give it, signed with its key, for a few seconds: it gives none for less than ten
/// minutes itself.
async fn short_token(cluster: &Cluster, seconds: u64) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.server.client(), "shop");
    let uid = accounts.get("reader").await.unwrap().metadata.uid.unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({"alg": "ES256", "typ": "JWT"}));
    let claims = part(json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:shop:reader",
        "aud": ["ebpf-hello"],
        "iat": now, "nbf": now, "exp": now + seconds,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "reader", "uid": uid}},
    }));
    let key = std::fs::read(cluster.server.directory().join("accounts.key")).unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        parse(key).unwrap().contents(),
        &random,
    )
    .unwrap();
    let text = format!("{head}.{claims}");
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&[]).await;
    let mut observer = cluster.observer(&collector).await;
    let token = short_token(&cluster, 15).await;
    let since = Instant::now();
    let mut stream = observer
        .observe(with(&token, follow(&["shop"])))
        .await
        .unwrap()
        .into_inner();
    let ended = end(&mut stream, Duration::from_secs(60)).await;
    assert!(
        since.elapsed() > Duration::from_secs(13),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::Unauthenticated, "EXPIRED_CREDENTIALS"),
        "{ended}"
    );
    assert!(resume_token(&ended).is_some());
    let refused = observer
        .observe(with(&token, follow(&["shop"])))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "EXPIRED_CREDENTIALS");
}
