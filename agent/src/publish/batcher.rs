//! Events to the bytes of a `v1::Batch`: what they share once, the rest one after another.
//!
//! It is encoded as the events come, straight into the bytes that are sent and spooled. Fields of a protobuf
//! message may come in any order: a process stands before the first event that names it, and the batch's number
//! at the end, because only a batch that finds room gets one.

use std::{sync::Arc, time::Instant};

use ebpf_hello_proto::v1::Event;
use prost::{
    Message as _,
    encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::{dictionary::Dictionary, tally::Tally};
use crate::{Item, Outcome};

/// Events of a batch, at most.
const EVENTS: usize = 4096;
/// Bytes after which a batch is closed. One event more can be in it, which has at most some 40 KiB: argv, paths
/// and names are bounded.
const BYTES: usize = 256 << 10;

/// Fields of `v1::Batch` and `v1::BatchedEvent`.
mod field {
    pub(super) const NODE: u32 = 1;
    pub(super) const EPOCH: u32 = 2;
    pub(super) const NUMBER: u32 = 3;
    pub(super) const EVENTS: u32 = 7;
    pub(super) const EVENT: u32 = 1;
    pub(super) const PLACES: [u32; 4] = [2, 3, 4, 5];
}

/// An encoded batch without its number.
#[derive(Debug)]
pub(super) struct Draft {
    body: Vec<u8>,
    pub(super) tally: Tally,
}

/// Gathers events into batches.
#[derive(Debug)]
pub(super) struct Batcher {
    node: Arc<str>,
    epoch: u64,
    body: Vec<u8>,
    events: usize,
    tally: Tally,
    processes: Dictionary<ebpf_hello_proto::v1::Process>,
    pods: Dictionary<ebpf_hello_proto::v1::Pod>,
    policies: Dictionary<ebpf_hello_proto::v1::Policy>,
    opened: Option<Instant>,
    /// Length of the batch before: the next one will be about as long.
    usual: usize,
}

// === impl Draft ===

impl Draft {
    /// A batch that tells a loss and holds nothing else.
    pub(super) fn of_loss(node: &str, epoch: u64, lost: &Tally, outcome: Outcome) -> Self {
        let mut body = Vec::new();
        encode_header(node, epoch, &mut body);
        for event in lost.losses(node, outcome) {
            encode_event(&event, [0; 4], &mut body);
        }
        Draft {
            body,
            tally: Tally::default(),
        }
    }

    /// Bytes it will have, about.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// The bytes of the whole `v1::Batch`.
    pub(super) fn finish(mut self, number: u64) -> (bytes::Bytes, Tally) {
        encoding::uint64::encode(field::NUMBER, &number, &mut self.body);
        (self.body.into(), self.tally)
    }
}

// === impl Batcher ===

impl Batcher {
    pub(super) fn new(node: Arc<str>, epoch: u64) -> Self {
        Batcher {
            node,
            epoch,
            body: Vec::new(),
            events: 0,
            tally: Tally::default(),
            processes: Dictionary::default(),
            pods: Dictionary::default(),
            policies: Dictionary::default(),
            opened: None,
            usual: 4096,
        }
    }

    /// Takes an event; gives the batch back when it is full. Node and epoch of the event are the batch's,
    /// whatever it says itself.
    pub(super) fn push(&mut self, item: Item) -> Option<Draft> {
        let Item { handler, mut event } = item;
        if self.opened.is_none() {
            self.opened = Some(Instant::now());
            self.body.reserve(self.usual);
            encode_header(&self.node, self.epoch, &mut self.body);
        }
        self.tally.add(handler, event.cpu, event.sequence);
        let mut places = [0; 4];
        if let Some(process) = event.process.take() {
            let tid = process.tid;
            let (place, entry) = self.processes.place(process, &mut self.body);
            places[0] = place;
            places[3] = if entry.tid == tid { 0 } else { tid };
        }
        if let Some(pod) = event.pod.take() {
            places[1] = self.pods.place(pod, &mut self.body).0;
        }
        if let Some(mut policy) = event.policy.take() {
            let suppressed_since_last = std::mem::take(&mut policy.suppressed_since_last);
            places[2] = self.policies.place(policy, &mut self.body).0;
            if suppressed_since_last > 0 {
                event.policy.get_or_insert_default().suppressed_since_last = suppressed_since_last;
            }
        }
        event.node = String::new();
        event.epoch = 0;
        encode_event(&event, places, &mut self.body);
        self.events += 1;
        if self.events >= EVENTS || self.body.len() >= BYTES {
            return self.take();
        }
        None
    }

    /// When the first event of the open batch came; `None` when there is none.
    pub(super) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Closes the batch, however small.
    pub(super) fn take(&mut self) -> Option<Draft> {
        self.opened.take()?;
        self.events = 0;
        self.processes.clear();
        self.pods.clear();
        self.policies.clear();
        let body = std::mem::take(&mut self.body);
        self.usual = body.len() + body.len() / 8;
        Some(Draft {
            body,
            tally: std::mem::take(&mut self.tally),
        })
    }
}

fn encode_header(node: &str, epoch: u64, out: &mut Vec<u8>) {
    encode_key(field::NODE, WireType::LengthDelimited, out);
    encode_varint(node.len() as u64, out);
    out.extend_from_slice(node.as_bytes());
    encoding::uint64::encode(field::EPOCH, &epoch, out);
}

/// Appends one `v1::BatchedEvent`: process, pod and policy by place, and the thread.
fn encode_event(event: &Event, places: [u32; 4], out: &mut Vec<u8>) {
    let len = event.encoded_len();
    let mut total = key_len(field::EVENT) + encoded_len_varint(len as u64) + len;
    for place in places {
        if place != 0 {
            // The fields' keys have one byte.
            total += 1 + encoded_len_varint(u64::from(place));
        }
    }
    encode_key(field::EVENTS, WireType::LengthDelimited, out);
    encode_varint(total as u64, out);
    encoding::message::encode(field::EVENT, event, out);
    for (tag, place) in field::PLACES.into_iter().zip(places) {
        if place != 0 {
            encoding::uint32::encode(tag, &place, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use ebpf_hello_loader::abi::Handler;
    use ebpf_hello_proto::{
        Timestamp,
        v1::{self, event::Kind},
        wire,
    };
    use proptest::{option, prelude::*};

    use super::*;

    const NODE: &str = "n1";
    const EPOCH: u64 = 300;

    fn batcher() -> Batcher {
        Batcher::new(NODE.into(), EPOCH)
    }

    prop_compose! {
        /// Few values of each, so that parts are shared, and nearly shared.
        fn process()(
            pid in 0..3_u32, tid in 0..3_u32, parent_pid in 0..2_u32,
            uid in option::of(0..2_u32), comm in "[ab]{0,2}", binary in "[ab]{0,1}",
            exec_id in "[ab]{0,1}", parent_exec_id in "[ab]{0,1}", login_uid in option::of(0..2_u32),
            start in option::of(0..2_u64), binary_truncated: bool,
        ) -> v1::Process {
            v1::Process {
                pid, tid, parent_pid, uid, comm, binary, exec_id, parent_exec_id, login_uid, binary_truncated,
                start_time: start.map(Timestamp::from_unix_nanos),
                ..v1::Process::default()
            }
        }
    }

    prop_compose! {
        fn pod()(
            uid in "[ab]{0,1}", labels in prop::collection::btree_map("[ab]", "[ab]{0,1}", 0..2),
            container in option::of("[ab]{0,1}"),
        ) -> v1::Pod {
            v1::Pod {
                uid, labels,
                container: container.map(|id| v1::Container { id, ..v1::Container::default() }),
                ..v1::Pod::default()
            }
        }
    }

    prop_compose! {
        fn policy()(
            filter in "[ab]{0,1}", rule in 0..2_u32, generation in 0..2_u64,
            suppressed_since_last in prop_oneof![Just(0_u64), any::<u64>()],
        ) -> v1::Policy {
            v1::Policy { filter, rule, generation, suppressed_since_last, ..v1::Policy::default() }
        }
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            (
                prop::collection::vec(".{0,20}", 0..4),
                option::of(any::<i32>())
            )
                .prop_map(|(argv, errno)| Kind::Exec(v1::Exec {
                    argv,
                    errno,
                    ..v1::Exec::default()
                })),
            (
                any::<Option<u32>>(),
                prop::collection::vec(any::<u64>(), 0..6)
            )
                .prop_map(|(number, args)| Kind::Syscall(v1::Syscall {
                    number,
                    args,
                    ..v1::Syscall::default()
                })),
            ".{0,200}".prop_map(|path| Kind::Path(v1::Path {
                path,
                ..v1::Path::default()
            })),
            any::<u64>().prop_map(|count| Kind::Loss(v1::Loss {
                count,
                ..v1::Loss::default()
            })),
            Just(Kind::Exit(v1::Exit::default())),
        ]
    }

    prop_compose! {
        fn event()(
            time in option::of(any::<u64>()), cpu in option::of(0..4_u32), sequence: u64, cgroup_id: u64,
            process in option::of(process()), pod in option::of(pod()), policy in option::of(policy()),
            kind in option::of(kind()),
        ) -> Event {
            Event {
                time: time.map(Timestamp::from_unix_nanos),
                node: NODE.into(),
                epoch: EPOCH,
                cpu, sequence, cgroup_id, process, pod, policy, kind,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_what_was_given(events in prop::collection::vec(event(), 1..40)) {
            let mut batcher = batcher();
            for event in events.clone() {
                let full = batcher.push(Item { handler: Some(Handler::Trace), event });
                prop_assert!(full.is_none());
            }
            let (bytes, tally) = batcher.take().unwrap().finish(9);
            prop_assert_eq!(tally.events(), events.len() as u64);
            // Whoever decodes the whole sees the same batch as who leaves the events encoded.
            let whole = v1::Batch::decode(bytes.clone()).unwrap();
            let encoded = wire::Batch::decode(bytes).unwrap();
            prop_assert_eq!((encoded.node.as_str(), encoded.epoch, encoded.number), (NODE, EPOCH, 9));
            prop_assert_eq!(whole.events.len(), encoded.events.len());
            for (index, event) in events.iter().enumerate() {
                let mut out = Vec::new();
                encoded.append_event(index, &mut out).unwrap();
                prop_assert_eq!(&Event::decode(out.as_slice()).unwrap(), event);
            }
            // Each once.
            for (index, process) in whole.processes.iter().enumerate() {
                prop_assert!(!whole.processes[..index].contains(process));
            }
            for (index, pod) in whole.pods.iter().enumerate() {
                prop_assert!(!whole.pods[..index].contains(pod));
            }
            for (index, policy) in whole.policies.iter().enumerate() {
                prop_assert!(!whole.policies[..index].contains(policy));
            }
        }
    }

    fn item(sequence: u64) -> Item {
        Item {
            handler: Some(Handler::Trace),
            event: Event {
                cpu: Some(0),
                sequence,
                ..Event::default()
            },
        }
    }

    #[test]
    fn threads_of_a_process_share_its_entry() {
        let mut batcher = batcher();
        for tid in [42, 43, 42, 44] {
            let mut item = item(1);
            item.event.process = Some(v1::Process {
                pid: 42,
                tid,
                ..v1::Process::default()
            });
            batcher.push(item);
        }
        let (bytes, _) = batcher.take().unwrap().finish(1);
        let batch = v1::Batch::decode(bytes).unwrap();
        assert_eq!(batch.processes.len(), 1);
        let tids: Vec<_> = batch.events.iter().map(|event| event.tid).collect();
        assert_eq!(tids, [0, 43, 0, 44]);
    }

    #[test]
    fn a_batch_is_closed_by_events_or_bytes() {
        let mut batcher = batcher();
        assert!(batcher.take().is_none());
        let closed_after = |batcher: &mut Batcher, make: &dyn Fn(u64) -> Item| {
            let mut pushed = 0;
            loop {
                pushed += 1;
                if let Some(draft) = batcher.push(make(pushed)) {
                    return (pushed, draft);
                }
            }
        };
        let (events, draft) = closed_after(&mut batcher, &item);
        assert_eq!(events, EVENTS as u64);
        assert_eq!(draft.tally.counts[Handler::Trace as usize], events);
        assert!(batcher.opened().is_none());
        let (events, draft) = closed_after(&mut batcher, &|sequence| {
            let mut item = item(sequence);
            item.event.kind = Some(Kind::Path(v1::Path {
                path: "x".repeat(4000),
                ..v1::Path::default()
            }));
            item
        });
        assert!(events < 80 && draft.len() < BYTES + 5000, "{events} events");
    }
}
