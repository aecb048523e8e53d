use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_collector::{
    log::{Appended, BatchKey, Log, LogError, Memory, Range, Reader},
    serve::Options,
    token::TokenKey,
};
use ebpf_hello_proto::{
    v1::{self, observe_response::Message},
    wire,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::server::*;

/// A shared log of which this collector has not yet received so many of the newest positions.
#[derive(Debug)]
struct Shared {
    received: Memory,
    missing: AtomicU64,
}

#[async_trait]
impl Log for Shared {
    fn id(&self) -> &str {
        self.received.id()
    }

    fn token_key(&self) -> &TokenKey {
        self.received.token_key()
    }

    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError> {
        self.received.last(node).await
    }

    async fn append_decoded(
        &self,
        batch: wire::Batch,
        encoded: Bytes,
    ) -> Result<Appended, LogError> {
        let events = batch.events.len() as u64;
        let appended = self.received.append_decoded(batch, encoded).await?;
        let missing = self.missing.load(Relaxed);
        self.missing.store(missing.saturating_sub(events), Relaxed);
        Ok(appended)
    }

    async fn range(&self) -> Result<Range, LogError> {
        let received = self.received.range().await?;
        Ok(Range {
            end: received.end + self.missing.load(Relaxed),
            ..received
        })
    }

    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError> {
        self.received.position_at(time).await
    }

    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.received.reader(position).await
    }
}

async fn start_behind() -> (Arc<Shared>, Server) {
    let log = Arc::new(Shared {
        received: Memory::default(),
        missing: AtomicU64::new(20),
    });
    let server = start_with(log.clone(), Options::default()).await;
    server.append(&batch(1, 10)).await;
    assert_eq!(log.missing.load(Relaxed), 10);
    (log, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_stored_is_waited_for() {
    for (last, expected) in [(0, 1..=20), (15, 6..=20)] {
        let (_log, server) = start_behind().await;
        let mut client = server.observer().await;
        let request = v1::ObserveRequest {
            last,
            ..everything()
        };
        let events = tokio::spawn(async move { all(&mut client, request).await });
        // An end that comes before is what this finds; one that comes later is right.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!events.is_finished(), "last {last}");
        server.append(&batch(2, 10)).await;
        let events = events.await.unwrap();
        assert_eq!(sequences(&events), expected.collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stays_behind_says_so_and_where_to_go_on() {
    let (_log, server) = start_behind().await;
    let mut client = server.observer().await;
    let request = v1::ObserveRequest {
        last: 15,
        ..everything()
    };
    let status = client.observe(request).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");

    let mut stream = open(&mut client, everything()).await;
    let mut events = Vec::new();
    let status = loop {
        match next(&mut stream).await {
            Ok(Some(response)) => match response.message {
                Some(Message::Events(list)) => events.extend(list.events),
                other => assert!(matches!(other, Some(Message::Heartbeat(_))), "{other:?}"),
            },
            Ok(None) => panic!("it ended as if that were all"),
            Err(status) => break status,
        }
    };
    assert_eq!(sequences(&events), (1..=10).collect::<Vec<u64>>());
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "BEHIND");
    server.append(&batch(2, 10)).await;
    let rest = v1::ObserveRequest {
        resume_token: info.metadata["resume_token"].clone(),
        ..everything()
    };
    let rest = all(&mut client, rest).await;
    assert_eq!(sequences(&rest), (11..=20).collect::<Vec<u64>>());
}
