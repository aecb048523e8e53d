//! What holds while the API server is away.

use std::time::{Duration, Instant};

use tonic::Code;

use super::fixture::{Cluster, batch, end, enrol, follow, publish, reason, resume_token, with};

#[tokio::test]
async fn decisions_hold_for_a_while_without_the_api_server_and_then_nobody_reads() {
    let mut cluster = Cluster::start().await;
    let limits = ["--access-limit", "2s", "--access-grace", "12s"];
    let collector = cluster.collector(&limits).await;
    let mut observer = cluster.observer(&collector).await;
    let known = cluster.reader("shop", "reader").await;
    let unknown = cluster.reader("shop", "reader").await;
    assert_ne!(known, unknown);
    let stream = observer.observe(with(&known, follow(&["shop"]))).await;
    let mut stream = stream.unwrap().into_inner();

    let since = Instant::now();
    cluster.server.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Well past the limit: what was decided holds, for the stream that is open and for a new one.
    let again = observer.observe(with(&known, follow(&["shop"]))).await;
    drop(again.unwrap());
    // What was never decided does not.
    for (token, namespace) in [(&unknown, "shop"), (&known, "bank")] {
        let refused = observer.observe(with(token, follow(&[namespace]))).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unavailable, "VERIFIER_UNAVAILABLE"),
            "{refused}"
        );
    }
    let ended = end(&mut stream, Duration::from_secs(30)).await;
    let lasted = since.elapsed();
    assert!(lasted > Duration::from_secs(8), "{lasted:?}");
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    let again = ebpf_hello_proto::v1::ObserveRequest {
        resume_token: resume_token(&ended).unwrap(),
        ..follow(&["shop"])
    };
    let refused = observer.observe(with(&known, again.clone())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    // It comes back, and with it the reader.
    cluster.server.resume().await;
    let stream = observer.observe(with(&known, again)).await;
    stream.unwrap();
}

#[tokio::test]
async fn a_collector_that_starts_without_the_api_server_gets_its_agents_back() {
    let mut cluster = Cluster::start().await;
    let state = tempfile::tempdir().unwrap();
    let copy = state.path().join("tls").display().to_string();
    let store = state.path().join("store").display().to_string();
    let arguments = ["--tls-dir", &copy, "--store", &store];
    let mut collector = cluster.collector(&arguments).await;
    let authorities = cluster.authorities().await;
    let stranger = cluster.connect(&collector).await;
    let token = cluster.agent("n1").await;
    let identity = enrol(stranger, "n1", &token).await.unwrap();
    let n1 = collector
        .connect(&authorities, Some(identity.clone()))
        .await
        .unwrap();
    let mut publishing = publish(n1, "n1").await.unwrap();
    publishing
        .sender
        .send(batch("n1", 1, &[("shop", "cart-0")]))
        .await
        .unwrap();
    publishing.answers.message().await.unwrap().unwrap();

    cluster.server.kill();
    collector.restart().await;
    let n1 = collector
        .connect(&authorities, Some(identity))
        .await
        .unwrap();
    let mut publishing = publish(n1.clone(), "n1").await.unwrap();
    publishing
        .sender
        .send(batch("n1", 2, &[("shop", "cart-0")]))
        .await
        .unwrap();
    publishing.answers.message().await.unwrap().unwrap();
    // Renewal asks nobody either; a node that is new does.
    enrol(n1, "n1", "").await.unwrap();
    let stranger = collector.connect(&authorities, None).await.unwrap();
    let refused = enrol(stranger, "n1", &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    cluster.server.resume().await;
    let stranger = collector.connect(&authorities, None).await.unwrap();
    enrol(stranger, "n1", &token).await.unwrap();
    let log = collector.process.log();
    assert!(log.contains("taking the copy on disk"), "{log}");
}
