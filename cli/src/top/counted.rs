//! The kernel's counters, as what was added since the reading before.

use std::{collections::HashMap, time::Duration};

use ebpf_hello_agent::GONE;
use ebpf_hello_proto::v1::{CountersRow, Selection};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::{Observer, observer, pages},
    connect::ConnectArgs,
};

/// Counters remembered at most: a thousand pods with a few hundred system calls each. Beyond, they are not shown.
const MAX_COUNTERS: usize = 300_000;

/// What was added to a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) call: String,
    pub(super) calls: u64,
}

/// Which counter: node, the agent's run, namespace, pod, ABI and number.
type Key = (String, u64, String, String, i32, Option<u32>);

/// The counters of the last reading.
#[derive(Default)]
struct Reading {
    counts: Option<HashMap<Key, u64>>,
}

/// Reads the counters this often, and sends what was added or why it is not known, until nobody listens.
pub(super) fn start(
    connect: ConnectArgs,
    selection: Selection,
    period: Duration,
) -> mpsc::Receiver<anyhow::Result<Vec<Added>>> {
    // One reading waits at most: the next is taken when it is wanted.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut reading = Reading::default();
        let mut client = None;
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let result = read(&mut client, &connect, &selection).await;
            if result.is_err() {
                client = None;
            }
            let added = result.map(|rows| reading.advance(&rows));
            if sender.send(added).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn read(
    client: &mut Option<Observer>,
    connect: &ConnectArgs,
    selection: &Selection,
) -> anyhow::Result<Vec<CountersRow>> {
    let client = match client {
        Some(client) => client,
        None => client.insert(observer(connect).await?),
    };
    pages::counters(client, selection).await
}

// === impl Reading ===

impl Reading {
    /// What was added since the reading before; nothing for the first.
    fn advance(&mut self, rows: &[CountersRow]) -> Vec<Added> {
        let mut counts = HashMap::new();
        let mut all = Vec::new();
        // What came into that row was added long before, in others.
        for row in rows.iter().filter(|row| row.pod != GONE) {
            let calls = row.counters.iter().flat_map(|counters| &counters.syscalls);
            for count in calls {
                if counts.len() >= MAX_COUNTERS {
                    tracing::debug!(MAX_COUNTERS, "more counters than are followed");
                    break;
                }
                let key = (
                    row.node.clone(),
                    row.epoch,
                    row.namespace.clone(),
                    row.pod.clone(),
                    count.abi,
                    count.number,
                );
                if let Some(before) = &self.counts {
                    // A counter that was not there began at zero.
                    let before = before.get(&key).copied().unwrap_or_default();
                    let calls = count.count.saturating_sub(before);
                    if calls > 0 {
                        all.push(Added {
                            node: row.node.clone(),
                            namespace: row.namespace.clone(),
                            pod: row.pod.clone(),
                            call: name(&count.name, count.number),
                            calls,
                        });
                    }
                }
                counts.insert(key, count.count);
            }
        }
        self.counts = Some(counts);
        all
    }
}

fn name(name: &str, number: Option<u32>) -> String {
    match (name, number) {
        ("", Some(number)) => number.to_string(),
        (name, _) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Counters, SyscallCount};

    fn row(epoch: u64, calls: u64) -> [CountersRow; 1] {
        [CountersRow {
            node: "n1".into(),
            epoch,
            counters: Some(Counters {
                syscalls: vec![SyscallCount {
                    name: "read".into(),
                    number: Some(0),
                    count: calls,
                    ..SyscallCount::default()
                }],
                ..Counters::default()
            }),
            ..CountersRow::default()
        }]
    }

    #[test]
    fn a_reading_is_what_was_added_by_the_same_run() {
        let mut reading = Reading::default();
        assert!(
            reading.advance(&row(1, 100)).is_empty(),
            "the first is where it begins"
        );
        assert_eq!(reading.advance(&row(1, 130))[0].calls, 30);
        assert!(reading.advance(&row(1, 130)).is_empty());
        assert_eq!(
            reading.advance(&row(2, 5))[0].calls,
            5,
            "another run began at zero"
        );
    }

    #[test]
    fn what_was_counted_in_pods_that_are_gone_is_not_added_again() {
        let mut reading = Reading::default();
        let gone = |calls| {
            row(1, calls).map(|row| CountersRow {
                pod: GONE.into(),
                ..row
            })
        };
        assert!(reading.advance(&gone(100)).is_empty());
        assert!(reading.advance(&gone(900)).is_empty());
    }
}
