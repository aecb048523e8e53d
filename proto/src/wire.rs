//! The messages that carry events, as a collector handles them: the same bytes on the wire as their
//! namesakes in [`v1`](crate::v1), with the events left encoded.
//!
//! A collector takes batches in, stores them, and hands events out; most of them it never looks into. So
//! the generated servers use these types: a batch stays the bytes it came as, and an event complete in
//! itself is put together from the batch's parts by concatenation, which protobuf defines as merging
//! ("Encoding", last one wins, embedded messages merge).

use bytes::{BufMut as _, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::v1;

/// [`v1::PublishRequest`] with its batch left encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequest {
    /// Exactly one.
    #[prost(oneof = "publish_request::Message", tags = "1, 2, 3")]
    pub message: Option<publish_request::Message>,
}

/// Parts of [`PublishRequest`].
pub mod publish_request {
    use bytes::Bytes;

    use crate::v1;

    /// Exactly one.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Message {
        /// First.
        #[prost(message, tag = "1")]
        Hello(v1::AgentHello),
        /// An encoded [`v1::Batch`].
        #[prost(bytes = "bytes", tag = "2")]
        Batch(Bytes),
        /// The node's state.
        #[prost(message, tag = "3")]
        Report(Box<v1::NodeReport>),
    }
}

/// [`v1::Batch`] with its parts left encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// As in [`v1::Batch`].
    #[prost(string, tag = "1")]
    pub node: String,
    /// As in [`v1::Batch`].
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// As in [`v1::Batch`].
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// Encoded [`v1::Process`]es.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub processes: Vec<Bytes>,
    /// Encoded [`v1::Pod`]s.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub pods: Vec<Bytes>,
    /// Encoded [`v1::Policy`]s.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub policies: Vec<Bytes>,
    /// The events.
    #[prost(message, repeated, tag = "7")]
    pub events: Vec<BatchedEvent>,
}

/// [`v1::BatchedEvent`] with its event left encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchedEvent {
    /// An encoded [`v1::Event`].
    #[prost(bytes = "bytes", tag = "1")]
    pub event: Bytes,
    /// As in [`v1::BatchedEvent`].
    #[prost(uint32, tag = "2")]
    pub process: u32,
    /// As in [`v1::BatchedEvent`].
    #[prost(uint32, tag = "3")]
    pub pod: u32,
    /// As in [`v1::BatchedEvent`].
    #[prost(uint32, tag = "4")]
    pub policy: u32,
    /// As in [`v1::BatchedEvent`].
    #[prost(uint32, tag = "5")]
    pub tid: u32,
}

/// [`v1::ObserveResponse`] with its events left encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ObserveResponse {
    /// Exactly one.
    #[prost(oneof = "observe_response::Message", tags = "1, 2, 3")]
    pub message: Option<observe_response::Message>,
    /// As in [`v1::ObserveResponse`].
    #[prost(string, tag = "4")]
    pub resume_token: String,
}

/// Parts of [`ObserveResponse`].
pub mod observe_response {
    use bytes::Bytes;

    use crate::v1;

    /// Exactly one.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Message {
        /// First.
        #[prost(message, tag = "1")]
        Hello(v1::ObserverHello),
        /// An encoded [`v1::EventList`]: see [`Batch::append_event`](super::Batch::append_event).
        #[prost(bytes = "bytes", tag = "2")]
        Events(Bytes),
        /// A sign of life.
        #[prost(message, tag = "3")]
        Heartbeat(v1::Heartbeat),
    }
}

/// A batched event names a part that its batch does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{part} {index} of a batch that has {len}")]
pub struct NoSuchPart {
    /// `process`, `pod` or `policy`.
    pub part: &'static str,
    /// The place that was named, from 1.
    pub index: u32,
    /// Places there are.
    pub len: usize,
}

/// Field numbers of [`v1::Event`] and [`v1::EventList`].
mod tag {
    pub(super) const NODE: u32 = 2;
    pub(super) const EPOCH: u32 = 5;
    pub(super) const PROCESS: u32 = 7;
    pub(super) const POD: u32 = 8;
    pub(super) const POLICY: u32 = 9;
    pub(super) const PROCESS_TID: u32 = 2;
    pub(super) const LIST_EVENTS: u32 = 1;
}

// === impl Batch ===

impl Batch {
    /// Encoded length of event `index`, complete in itself.
    ///
    /// # Errors
    /// It names a part that the batch does not have.
    ///
    /// # Panics
    /// `index` is not an event of the batch.
    pub fn event_len(&self, index: usize) -> Result<usize, NoSuchPart> {
        Ok(Complete::new(self, &self.events[index])?.len())
    }

    /// Appends event `index`, complete in itself, as an encoded [`v1::Event`].
    ///
    /// # Errors
    /// It names a part that the batch does not have; then nothing is appended.
    ///
    /// # Panics
    /// `index` is not an event of the batch.
    pub fn append_event(&self, index: usize, out: &mut Vec<u8>) -> Result<(), NoSuchPart> {
        Complete::new(self, &self.events[index])?.append(out);
        Ok(())
    }

    /// Appends event `index` as one entry of an encoded [`v1::EventList`].
    ///
    /// # Errors
    /// It names a part that the batch does not have; then nothing is appended.
    ///
    /// # Panics
    /// `index` is not an event of the batch.
    pub fn append_entry(&self, index: usize, out: &mut Vec<u8>) -> Result<(), NoSuchPart> {
        let event = Complete::new(self, &self.events[index])?;
        encode_key(tag::LIST_EVENTS, WireType::LengthDelimited, out);
        encode_varint(event.len() as u64, out);
        event.append(out);
        Ok(())
    }
}

/// An event and the parts it is completed with.
struct Complete<'a> {
    batch: &'a Batch,
    event: &'a [u8],
    process: Option<&'a [u8]>,
    pod: Option<&'a [u8]>,
    policy: Option<&'a [u8]>,
    tid: u32,
}

// === impl Complete ===

impl<'a> Complete<'a> {
    fn new(batch: &'a Batch, event: &'a BatchedEvent) -> Result<Self, NoSuchPart> {
        Ok(Complete {
            batch,
            event: &event.event,
            process: part("process", &batch.processes, event.process)?,
            pod: part("pod", &batch.pods, event.pod)?,
            policy: part("policy", &batch.policies, event.policy)?,
            tid: event.tid,
        })
    }

    fn tid_len(&self) -> usize {
        match self.tid {
            0 => 0,
            tid => key_len(tag::PROCESS_TID) + encoded_len_varint(u64::from(tid)),
        }
    }

    fn process_len(&self) -> Option<usize> {
        self.process.map(|bytes| bytes.len() + self.tid_len())
    }

    fn len(&self) -> usize {
        let embedded = |tag, len: usize| key_len(tag) + encoded_len_varint(len as u64) + len;
        let bytes = |tag, bytes: Option<&[u8]>| bytes.map_or(0, |bytes| embedded(tag, bytes.len()));
        self.event.len()
            + embedded(tag::NODE, self.batch.node.len())
            + key_len(tag::EPOCH)
            + encoded_len_varint(self.batch.epoch)
            + self
                .process_len()
                .map_or(0, |len| embedded(tag::PROCESS, len))
            + bytes(tag::POD, self.pod)
            + bytes(tag::POLICY, self.policy)
    }

    /// Node and epoch come after the event's own bytes: the last one wins, whatever these say.
    fn append(&self, out: &mut Vec<u8>) {
        fn embedded(tag: u32, len: usize, out: &mut Vec<u8>) {
            encode_key(tag, WireType::LengthDelimited, out);
            encode_varint(len as u64, out);
        }
        out.put_slice(self.event);
        embedded(tag::NODE, self.batch.node.len(), out);
        out.put_slice(self.batch.node.as_bytes());
        encode_key(tag::EPOCH, WireType::Varint, out);
        encode_varint(self.batch.epoch, out);
        if let (Some(process), Some(len)) = (self.process, self.process_len()) {
            embedded(tag::PROCESS, len, out);
            out.put_slice(process);
            if self.tid != 0 {
                encode_key(tag::PROCESS_TID, WireType::Varint, out);
                encode_varint(u64::from(self.tid), out);
            }
        }
        for (tag, bytes) in [(tag::POD, self.pod), (tag::POLICY, self.policy)] {
            if let Some(bytes) = bytes {
                embedded(tag, bytes.len(), out);
                out.put_slice(bytes);
            }
        }
    }
}

fn part<'a>(
    part: &'static str,
    parts: &'a [Bytes],
    index: u32,
) -> Result<Option<&'a [u8]>, NoSuchPart> {
    if index == 0 {
        return Ok(None);
    }
    match parts.get(index as usize - 1) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(NoSuchPart {
            part,
            index,
            len: parts.len(),
        }),
    }
}

impl From<v1::AgentHello> for PublishRequest {
    fn from(hello: v1::AgentHello) -> Self {
        PublishRequest {
            message: Some(publish_request::Message::Hello(hello)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn batch() -> v1::Batch {
        v1::Batch {
            node: "n1".into(),
            epoch: 300,
            number: 7,
            processes: vec![v1::Process {
                pid: 42,
                tid: 42,
                comm: "sh".into(),
                ..v1::Process::default()
            }],
            pods: vec![v1::Pod {
                namespace: "shop".into(),
                name: "cart-0".into(),
                ..v1::Pod::default()
            }],
            policies: vec![v1::Policy {
                filter: "shop/cart".into(),
                rule: 1,
                generation: 9,
                ..v1::Policy::default()
            }],
            events: vec![
                v1::BatchedEvent {
                    event: Some(v1::Event {
                        cpu: Some(0),
                        sequence: 1,
                        policy: Some(v1::Policy {
                            suppressed_since_last: 5,
                            ..v1::Policy::default()
                        }),
                        kind: Some(v1::event::Kind::Exit(v1::Exit::default())),
                        ..v1::Event::default()
                    }),
                    process: 1,
                    pod: 1,
                    policy: 1,
                    tid: 43,
                },
                v1::BatchedEvent {
                    event: Some(v1::Event {
                        node: "n2".into(),
                        epoch: 1,
                        ..v1::Event::default()
                    }),
                    ..v1::BatchedEvent::default()
                },
            ],
        }
    }

    #[test]
    fn an_event_is_completed_from_the_parts_of_its_batch() {
        let encoded = Batch::decode(batch().encode_to_vec().as_slice()).unwrap();
        let mut list = Vec::new();
        for index in 0..2 {
            let start = list.len();
            encoded.append_event(index, &mut list).unwrap();
            assert_eq!(list.len() - start, encoded.event_len(index).unwrap());
        }
        list.clear();
        for index in 0..2 {
            encoded.append_entry(index, &mut list).unwrap();
        }
        let response = ObserveResponse {
            message: Some(observe_response::Message::Events(list.into())),
            resume_token: "t".into(),
        };
        let response = v1::ObserveResponse::decode(response.encode_to_vec().as_slice()).unwrap();
        let Some(v1::observe_response::Message::Events(list)) = response.message else {
            panic!("{response:?}");
        };
        let event = &list.events[0];
        assert_eq!((event.node.as_str(), event.epoch), ("n1", 300));
        assert_eq!((event.cpu, event.sequence), (Some(0), 1));
        let process = event.process.as_ref().unwrap();
        assert_eq!((process.pid, process.tid), (42, 43));
        assert_eq!(event.pod.as_ref().unwrap().name, "cart-0");
        let policy = event.policy.as_ref().unwrap();
        assert_eq!((policy.rule, policy.suppressed_since_last), (1, 5));
        assert!(event.kind.is_some());
        // An event cannot name another node than its batch.
        assert_eq!(
            (list.events[1].node.as_str(), list.events[1].epoch),
            ("n1", 300)
        );
    }

    #[test]
    fn a_part_that_is_not_there_is_an_error() {
        let mut batch = batch();
        batch.events[0].pod = 2;
        let batch = Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
        let error = batch.append_event(0, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "pod 2 of a batch that has 1");
    }

    #[test]
    fn a_published_batch_stays_encoded() {
        let request = v1::PublishRequest {
            message: Some(v1::publish_request::Message::Batch(batch())),
        };
        let request = PublishRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        let Some(publish_request::Message::Batch(bytes)) = request.message else {
            panic!("{request:?}");
        };
        assert_eq!(v1::Batch::decode(bytes).unwrap(), batch());
    }
}
