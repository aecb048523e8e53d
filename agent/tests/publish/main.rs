//! The publisher against a collector on a Unix socket that acknowledges, refuses and disappears as it is told.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod collector;
mod delivery;
mod refusals;
mod spool;

use std::{sync::Arc, time::Duration};

use ebpf_hello_agent::{
    Accounts, Batch, Item, Outcome,
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::v1::{self, Event, event::Kind};
use tonic::transport::Endpoint;

use self::collector::Collector;

/// Longer than anything takes here, on a machine that does other things.
const LONG: Duration = Duration::from_secs(30);
const NODE: &str = "n1";

fn options(epoch: u64) -> PublishOptions {
    PublishOptions {
        node: NODE.into(),
        epoch,
        version: "0.1.0".into(),
        memory: MEMORY,
        spool: None,
        compress: true,
    }
}

fn start(options: PublishOptions, collector: &Collector) -> (Publisher, Arc<Accounts>) {
    let accounts = Arc::new(Accounts::default());
    let endpoint = Endpoint::from_shared(collector.address()).unwrap();
    let publisher = Publisher::start(options, endpoint, Arc::clone(&accounts)).unwrap();
    (publisher, accounts)
}

fn event(epoch: u64, sequence: u64) -> Event {
    Event {
        node: NODE.into(),
        epoch,
        cpu: Some(0),
        sequence,
        process: Some(v1::Process {
            pid: 42,
            tid: 42,
            comm: "sh".into(),
            ..v1::Process::default()
        }),
        kind: Some(Kind::Path(v1::Path {
            name: "openat".into(),
            path: format!("/tmp/{sequence:0100}"),
            ..v1::Path::default()
        })),
        ..Event::default()
    }
}

/// Events of one CPU with these sequence numbers.
fn batch(epoch: u64, sequences: impl IntoIterator<Item = u64>) -> Batch {
    sequences
        .into_iter()
        .map(|sequence| Item {
            handler: Some(Handler::Path),
            event: event(epoch, sequence),
        })
        .collect()
}

fn settled(accounts: &Accounts, outcome: Outcome) -> u64 {
    accounts.settled(Handler::Path, outcome)
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Each event up to `last` is there, or within a loss that stands where it would have been.
fn assert_whole(collector: &Collector, last: u64, reason: v1::LossReason) {
    let mut next = 1;
    for event in &collector.behaviour().events {
        match &event.kind {
            Some(Kind::Loss(loss)) => {
                assert_eq!((event.cpu, loss.first_sequence), (Some(0), next));
                assert_eq!(
                    (loss.stage(), loss.reason()),
                    (v1::LossStage::Spool, reason)
                );
                assert_eq!(loss.count, loss.last_sequence - next + 1);
                next = loss.last_sequence + 1;
            }
            _ => {
                assert_eq!(event.sequence, next);
                next += 1;
            }
        }
    }
    assert_eq!(next, last + 1);
}
