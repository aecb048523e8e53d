//! The authority in a Secret: made once, replaced under load.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_agent::{
    Accounts, Item, Outcome,
    enrolment::{Enrolment, EnrolmentOptions},
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::{
    Timestamp,
    v1::{self, event::Kind, observe_response::Message},
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};

use super::fixture::{Cluster, Collector, HOME, follow, with};

const DAY: Duration = Duration::from_secs(86_400);

fn certificates(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

#[tokio::test]
async fn replicas_that_start_together_make_one_authority_and_publish_only_certificates() {
    let cluster = Cluster::start().await;
    let (one, two, three) = tokio::join!(
        cluster.collector(&[]),
        cluster.collector(&[]),
        cluster.collector(&[]),
    );
    let authorities = cluster.authorities().await;
    assert_eq!(certificates(&authorities), 1);
    assert!(!authorities.contains("PRIVATE KEY"));
    // Each serves with a certificate of it, and takes what another issued.
    let token = cluster.agent("n1").await;
    let channel = one.connect(&authorities, None).await.unwrap();
    let identity = super::fixture::enrol(channel, "n1", &token).await.unwrap();
    for collector in [&one, &two, &three] {
        let channel = collector
            .connect(&authorities, Some(identity.clone()))
            .await;
        super::fixture::enrol(channel.unwrap(), "n1", "")
            .await
            .unwrap();
    }
    let data = cluster.secret().await.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "ca.key"]);
    // Nothing was asked for but what the Role names.
    let asked = |resource: &str| {
        let of = |request: &&ebpf_hello_e2e::Request| {
            request.resource == resource && request.user.ends_with(":ebpf-hello-collector")
        };
        let mut verbs: Vec<String> = cluster
            .server
            .requests()
            .iter()
            .filter(of)
            .map(|request| format!("{} {}", request.verb, request.name))
            .collect();
        verbs.sort();
        verbs.dedup();
        verbs
    };
    assert_eq!(
        asked("secrets"),
        ["get ebpf-hello-tls", "patch ebpf-hello-tls"]
    );
    assert_eq!(
        asked("configmaps"),
        ["get ebpf-hello-ca", "patch ebpf-hello-ca"]
    );
}

/// An authority as a collector makes it, so many days ago.
fn aged(days: u32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "ebpf-hello authority 0");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = (SystemTime::now() - DAY * days).into();
    params.not_after = (SystemTime::now() + DAY).into();
    let certificate = params.self_signed(&key).unwrap().pem();
    (certificate, key.serialize_pem())
}

/// A node's real publisher, with its identity in a folder.
async fn agent(folder: &Path, collector: &Collector) -> (Arc<Enrolment>, Publisher, Arc<Accounts>) {
    let enrolment = Enrolment::open(EnrolmentOptions {
        node: "n1".into(),
        collector: format!("https://localhost:{}", collector.port),
        token: Some(folder.join("token")),
        authorities: Some(folder.join("ca.crt")),
        directory: folder.join("state"),
    });
    let enrolment = Arc::new(enrolment.await.unwrap());
    let keeping = enrolment.clone();
    tokio::spawn(async move { keeping.keep().await });
    let options = PublishOptions {
        node: "n1".into(),
        epoch: 1,
        version: "test".into(),
        memory: MEMORY,
        spool: None,
        compress: false,
    };
    let accounts = Arc::new(Accounts::default());
    let publisher = Publisher::start(options, enrolment.clone(), accounts.clone()).unwrap();
    (enrolment, publisher, accounts)
}

fn item(sequence: u64) -> Item {
    Item {
        handler: Some(Handler::Trace),
        event: v1::Event {
            time: Some(Timestamp::from(SystemTime::now())),
            node: "n1".into(),
            epoch: 1,
            cpu: Some(0),
            sequence,
            kind: Some(Kind::Syscall(v1::Syscall::default())),
            ..v1::Event::default()
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_load_without_a_restart_or_a_lost_event() {
    let cluster = Cluster::start().await;
    let (certificate, key) = aged(2);
    cluster.fill_secret(&certificate, &key).await;
    // Certificates live for ten seconds: two of these lives, and the successor is alone.
    let settings = ["--certificate-life", "10s", "--ca-age", "1d"];
    let mut collector = cluster.collector(&settings).await;
    let folder = tempfile::tempdir().unwrap();
    // What kubelet mounts: the token, and the bundle as it is at the time.
    std::fs::write(folder.path().join("token"), cluster.agent("n1").await).unwrap();
    let mount = folder.path().join("ca.crt");
    std::fs::write(&mount, &certificate).unwrap();
    let (enrolment, publisher, accounts) = agent(folder.path(), &collector).await;

    let auditor = cluster.reader(HOME, "auditor").await;
    let mut observer = cluster.observer(&collector).await;
    let stream = observer.observe(with(&auditor, follow(&[]))).await;
    let mut stream = stream.unwrap().into_inner();
    let reading = tokio::spawn(async move {
        let mut next = 1;
        while let Some(message) = stream.message().await.unwrap() {
            let Some(Message::Events(list)) = message.message else {
                continue;
            };
            for event in list.events {
                assert!(!matches!(event.kind, Some(Kind::Loss(_))), "{event:?}");
                if event.sequence == u64::MAX {
                    return next - 1;
                }
                assert_eq!(event.sequence, next, "in order, none missing, none twice");
                next += 1;
            }
        }
        panic!("the stream ended");
    });

    let since = Instant::now();
    let (mut sequence, mut steps) = (0, vec![1]);
    // Until the old one is gone, and certificates of it have ended.
    let mut alone = None;
    while alone.is_none_or(|alone: Instant| alone.elapsed() < Duration::from_secs(12)) {
        assert!(
            since.elapsed() < Duration::from_secs(120),
            "steps so far: {steps:?}"
        );
        let batch = (1..=100).map(|index| item(sequence + index)).collect();
        sequence += 100;
        publisher.offer(batch, Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
        if sequence % 1000 == 0 {
            let bundle = cluster.authorities().await;
            std::fs::write(&mount, &bundle).unwrap();
            let count = certificates(&bundle);
            if steps.last() != Some(&count) {
                steps.push(count);
            }
            if alone.is_none() && steps == [1, 2, 1] {
                assert!(!bundle.contains(&certificate));
                alone = Some(Instant::now());
            }
        }
    }
    assert_eq!(steps, [1, 2, 1]);
    publisher.offer(
        std::iter::once(item(u64::MAX)).collect(),
        Duration::from_secs(10),
    );
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert_eq!(read.unwrap().unwrap(), sequence);
    publisher.drain(Duration::from_secs(30)).await;
    assert_eq!(
        accounts.settled(Handler::Trace, Outcome::Delivered),
        sequence + 1
    );
    assert!(
        enrolment
            .expires()
            .is_some_and(|end| end > SystemTime::now())
    );
    assert_eq!(
        collector.process.ended(),
        None,
        "{}",
        collector.process.log()
    );
    // Who trusts the old one only, is not served any more.
    assert!(collector.connect(&certificate, None).await.is_err());
}
