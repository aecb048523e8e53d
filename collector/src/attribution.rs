//! Whose earlier events were: what agents told of cgroups after events of theirs had gone out without a pod.
//!
//! ```text
//! log ──follow──▶ identity events ──▶ Attribution (node, epoch, cgroup ▶ pod) ──▶ batches as they are read
//! ```
//!
//! An index of the newest answers, of bounded size, made again of the newest part of the log when a collector starts. A
//! live stream has the events as they came, and the identity event after them; who reads them later gets their pod.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use ebpf_hello_proto::{v1, wire};
use prost::Message as _;

use crate::{
    ingest::stopped,
    log::{Log, Next},
    selection::shape::Kind,
};

/// Answers that are kept, the newest.
const ANSWERS: usize = 65_536;
/// Bytes of their pods.
const BYTES: usize = 32 << 20;
/// How far back in the log a collector that starts looks for answers: positions, which count events where the log is its
/// own.
const BACK: u64 = 1_000_000;
/// Time between attempts to read a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// Which cgroups of which agent's run.
type Run = (String, u64);

/// The answers.
#[derive(Debug, Default)]
pub(crate) struct Attribution(RwLock<Answers>);

#[derive(Debug, Default)]
struct Answers {
    /// Encoded pods by run and cgroup.
    by_run: HashMap<Run, HashMap<u64, Bytes>>,
    /// In the order they came.
    order: VecDeque<(Run, u64)>,
    bytes: usize,
}

/// An event, as far as is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Owned {
    #[prost(uint64, tag = "6")]
    cgroup_id: u64,
    #[prost(oneof = "Kind", tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25")]
    kind: Option<Kind>,
}

/// Reads the log for answers until the collector stops.
pub(crate) async fn follow(
    attribution: Arc<Attribution>,
    log: Arc<dyn Log>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let read = async {
        loop {
            if let Err(error) = read(&attribution, log.as_ref()).await {
                tracing::warn!(%error, "cannot look for pods of earlier events");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = read => {}
        () = stopped(&mut stop) => {}
    }
}

async fn read(attribution: &Attribution, log: &dyn Log) -> Result<(), crate::log::LogError> {
    let range = log.range().await?;
    // Before a hole that a crash made, not in it.
    let end = log.end_before(range.end).await?;
    let start = end.saturating_sub(BACK).max(range.oldest);
    let mut reader = log.reader(start).await?;
    loop {
        match reader.next().await? {
            Next::Entry(entry) => attribution.learn(&entry.batch),
            Next::Gone { .. } => {}
            Next::End => reader.wait().await,
        }
        // A log in memory never makes its readers wait; others have streams.
        tokio::task::yield_now().await;
    }
}

// === impl Attribution ===

impl Attribution {
    /// Takes in the answers of a batch.
    pub(crate) fn learn(&self, batch: &wire::Batch) {
        for event in &batch.events {
            // Told by the agent of a pod, of no process and no policy: all others are passed over at a glance.
            if event.pod == 0 || event.process != 0 || event.policy != 0 {
                continue;
            }
            let Some(pod) = batch.pods.get(event.pod as usize - 1) else {
                continue;
            };
            if let Ok(owned) = Owned::decode(event.event.clone())
                && matches!(owned.kind, Some(Kind::Identity(_)))
            {
                let run = (batch.node.clone(), batch.epoch);
                let mut answers = self.0.write().unwrap_or_else(PoisonError::into_inner);
                answers.insert(run, owned.cgroup_id, pod);
            }
        }
    }

    /// The batch with the pods that have become known since; `None` where it is as it was.
    pub(crate) fn attribute(&self, batch: &wire::Batch) -> Option<wire::Batch> {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Few are empty: most agents always know in time.
        if answers.by_run.is_empty() {
            return None;
        }
        let run = (batch.node.clone(), batch.epoch);
        let known = answers.by_run.get(&run)?;
        // Pods that lack the name of the container.
        let lacking: Vec<bool> = batch.pods.iter().map(is_lacking).collect();
        let mut attributed = None;
        let mut places: HashMap<u64, u32> = HashMap::new();
        for (index, event) in batch.events.iter().enumerate() {
            let lacks = match event.pod {
                0 => true,
                pod => lacking.get(pod as usize - 1).copied().unwrap_or(false),
            };
            if !lacks {
                continue;
            }
            let Ok(owned) = Owned::decode(event.event.clone()) else {
                continue;
            };
            // What an agent told then, it told then.
            let is_told = matches!(owned.kind, Some(Kind::Identity(_) | Kind::Loss(_)));
            let Some(pod) = known.get(&owned.cgroup_id).filter(|_| !is_told) else {
                continue;
            };
            let attributed = attributed.get_or_insert_with(|| batch.clone());
            let place = *places.entry(owned.cgroup_id).or_insert_with(|| {
                attributed.pods.push(pod.clone());
                // Bounded by the events of a batch.
                u32::try_from(attributed.pods.len()).unwrap_or(0)
            });
            attributed.events[index].pod = place;
        }
        attributed
    }
}

fn is_lacking(pod: &Bytes) -> bool {
    v1::Pod::decode(pod.clone()).is_ok_and(|pod| {
        pod.container
            .is_some_and(|container| container.name.is_empty())
    })
}

// === impl Answers ===

impl Answers {
    fn insert(&mut self, run: Run, cgroup: u64, pod: &Bytes) {
        // Of its own: a slice would keep the whole batch.
        let pod = Bytes::copy_from_slice(pod);
        self.bytes += pod.len();
        let replaced = self
            .by_run
            .entry(run.clone())
            .or_default()
            .insert(cgroup, pod);
        match replaced {
            Some(earlier) => self.bytes -= earlier.len(),
            None => self.order.push_back((run, cgroup)),
        }
        while self.order.len() > ANSWERS || self.bytes > BYTES {
            let Some((run, cgroup)) = self.order.pop_front() else {
                break;
            };
            if let Some(cgroups) = self.by_run.get_mut(&run) {
                self.bytes -= cgroups.remove(&cgroup).map_or(0, |pod| pod.len());
                if cgroups.is_empty() {
                    self.by_run.remove(&run);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, container: &str) -> v1::Pod {
        v1::Pod {
            namespace: "shop".into(),
            name: name.into(),
            container: Some(v1::Container {
                id: "c1".into(),
                name: container.into(),
                image: String::new(),
            }),
            ..v1::Pod::default()
        }
    }

    fn event(cgroup_id: u64, kind: v1::event::Kind, place: u32) -> v1::BatchedEvent {
        let process = u32::from(!matches!(kind, v1::event::Kind::Identity(_)));
        v1::BatchedEvent {
            event: Some(v1::Event {
                cgroup_id,
                kind: Some(kind),
                ..v1::Event::default()
            }),
            process,
            pod: place,
            ..v1::BatchedEvent::default()
        }
    }

    fn batch(epoch: u64, pods: Vec<v1::Pod>, events: Vec<v1::BatchedEvent>) -> wire::Batch {
        let batch = v1::Batch {
            node: "n1".into(),
            epoch,
            number: 1,
            processes: vec![v1::Process::default()],
            pods,
            events,
            ..v1::Batch::default()
        };
        wire::Batch::decode(batch.encode_to_vec().as_slice()).unwrap()
    }

    /// `POD/CONTAINER` of every event of a batch.
    fn pods(batch: &wire::Batch) -> Vec<String> {
        (0..batch.events.len())
            .map(|index| {
                let mut bytes = Vec::new();
                batch.append_event(index, &mut bytes).unwrap();
                let pod = v1::Event::decode(bytes.as_slice())
                    .unwrap()
                    .pod
                    .unwrap_or_default();
                format!("{}/{}", pod.name, pod.container.unwrap_or_default().name)
            })
            .collect()
    }

    fn exec() -> v1::event::Kind {
        v1::event::Kind::Exec(v1::Exec::default())
    }

    fn identity() -> v1::event::Kind {
        v1::event::Kind::Identity(v1::Identity::default())
    }

    #[test]
    fn earlier_events_get_what_was_told_later_of_their_run_and_cgroup() {
        let attribution = Attribution::default();
        let earlier = |epoch| {
            let events = vec![
                event(7, exec(), 0),
                event(8, exec(), 0),
                event(9, exec(), 1),
            ];
            batch(epoch, vec![pod("known", "")], events)
        };
        assert!(attribution.attribute(&earlier(1)).is_none());
        let told = vec![event(7, identity(), 1), event(9, identity(), 2)];
        attribution.learn(&batch(
            1,
            vec![pod("cart-0", "web"), pod("known", "log")],
            told,
        ));
        let attributed = attribution.attribute(&earlier(1)).unwrap();
        assert_eq!(pods(&attributed), ["cart-0/web", "/", "known/log"]);
        assert!(attribution.attribute(&earlier(2)).is_none(), "another run");
        // An exec that came with its pod says nothing of others.
        attribution.learn(&batch(
            2,
            vec![pod("cart-1", "web")],
            vec![event(8, exec(), 1)],
        ));
        assert!(attribution.attribute(&earlier(2)).is_none());
    }

    #[test]
    fn only_the_newest_answers_are_kept() {
        let mut answers = Answers::default();
        let pod = Bytes::from(vec![0; 1 << 20]);
        for cgroup in 0..40 {
            answers.insert(("n1".into(), cgroup / 30), cgroup, &pod);
        }
        answers.insert(("n1".into(), 1), 39, &pod);
        assert_eq!((answers.bytes, answers.order.len()), (BYTES, 32));
        assert!(!answers.by_run[&("n1".into(), 0)].contains_key(&7));
        assert!(answers.by_run[&("n1".into(), 0)].contains_key(&8));
    }
}
