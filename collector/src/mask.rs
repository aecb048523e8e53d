//! Which fields of each event a reader wants, applied to encoded events without decoding them.
//!
//! What says which event it is stays whatever the mask: `time`, `node`, `cpu`, `sequence`, `epoch`, and which
//! kind it is of; a loss is told whole. The parts that events of a batch share are masked once.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use ebpf_hello_proto::wire;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use prost_reflect::{Kind, MessageDescriptor};
use prost_types::FieldMask;

use crate::{refusal::Invalid, schema};

/// Most paths of a mask.
pub const MAX_PATHS: usize = 256;

/// Field numbers of `Event` and `Process`.
mod tag {
    pub(super) const KEY: [u32; 5] = [1, 2, 3, 4, 5];
    pub(super) const PROCESS: u32 = 7;
    pub(super) const POD: u32 = 8;
    pub(super) const POLICY: u32 = 9;
    /// Not a reader's choice: a loss without its count would say nothing.
    pub(super) const LOSS: u32 = 24;
    pub(super) const KINDS: std::ops::RangeInclusive<u32> = 16..=31;
    pub(super) const PROCESS_TID: u32 = 2;
}

/// A mask over `Event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask(Fields);

/// Fields to keep, by number: whole, or some of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields(BTreeMap<u32, Option<Fields>>);

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an encoded message")]
pub struct Malformed;

// === impl Mask ===

impl Mask {
    /// Reads a mask; `None` for one without paths, which keeps everything.
    ///
    /// # Errors
    /// Each path that names no field of `Event`.
    pub fn compile(mask: Option<&FieldMask>) -> Result<Option<Mask>, Vec<Invalid>> {
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        if paths.is_empty() {
            return Ok(None);
        }
        if paths.len() > MAX_PATHS {
            let message = format!("{} paths: expected at most {MAX_PATHS}", paths.len());
            return Err(vec![Invalid::new("mask.paths", message)]);
        }
        let mut fields = Fields::default();
        let problems: Vec<Invalid> = paths
            .iter()
            .enumerate()
            .filter_map(|(index, path)| {
                fields
                    .add(schema::event(), path)
                    .err()
                    .map(|error| Invalid::new(format!("mask.paths[{index}]"), error))
            })
            .collect();
        for key in tag::KEY.into_iter().chain([tag::LOSS]) {
            fields.0.insert(key, None);
        }
        if problems.is_empty() {
            Ok(Some(Mask(fields)))
        } else {
            Err(problems)
        }
    }

    /// The batch with the masked fields of its events only.
    ///
    /// # Errors
    /// Something in it is no message.
    pub fn apply(&self, batch: &wire::Batch) -> Result<wire::Batch, Malformed> {
        let part = |tag: u32, parts: &[Bytes]| match self.0.0.get(&tag) {
            None => Ok(None),
            Some(None) => Ok(Some(parts.to_vec())),
            Some(Some(fields)) => parts
                .iter()
                .map(|part| fields.keep(part, false).map(Bytes::from))
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
        };
        let processes = part(tag::PROCESS, &batch.processes)?;
        let pods = part(tag::POD, &batch.pods)?;
        let policies = part(tag::POLICY, &batch.policies)?;
        let tid = match self.0.0.get(&tag::PROCESS) {
            None => false,
            Some(None) => true,
            Some(Some(fields)) => fields.0.contains_key(&tag::PROCESS_TID),
        };
        let events = batch
            .events
            .iter()
            .map(|event| {
                let keep = |part: u32, parts: &Option<Vec<Bytes>>| {
                    if parts.is_some() { part } else { 0 }
                };
                Ok(wire::BatchedEvent {
                    event: self.0.keep(&event.event, true)?.into(),
                    process: keep(event.process, &processes),
                    pod: keep(event.pod, &pods),
                    policy: keep(event.policy, &policies),
                    tid: if tid { event.tid } else { 0 },
                })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        Ok(wire::Batch {
            node: batch.node.clone(),
            epoch: batch.epoch,
            number: batch.number,
            processes: processes.unwrap_or_default(),
            pods: pods.unwrap_or_default(),
            policies: policies.unwrap_or_default(),
            events,
        })
    }
}

// === impl Fields ===

impl Fields {
    fn add(&mut self, of: &MessageDescriptor, path: &str) -> Result<(), String> {
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        let field = schema::field(of, name)?;
        let entry = self
            .0
            .entry(field.number())
            .or_insert_with(|| Some(Fields::default()));
        let Some(rest) = rest else {
            *entry = None;
            return Ok(());
        };
        match field.kind() {
            Kind::Message(next) if !field.is_list() && !field.is_map() => match entry {
                // Named as a whole before.
                None => Fields::default().add(&next, rest),
                Some(fields) => fields.add(&next, rest),
            },
            _ => Err(format!(
                "{name} can only be named as a whole: expected {name:?} without {rest:?}"
            )),
        }
    }

    /// The fields to keep of an encoded message; of an event, besides, that it is of its kind.
    fn keep(&self, message: &[u8], event: bool) -> Result<Vec<u8>, Malformed> {
        let mut kept = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            let start = rest;
            let (number, wire_type) = decode_key(&mut rest).map_err(|_| Malformed)?;
            match (self.0.get(&number), wire_type) {
                (Some(Some(fields)), WireType::LengthDelimited) => {
                    let part = fields.keep(delimited(&mut rest)?, false)?;
                    encode_key(number, wire_type, &mut kept);
                    encode_varint(part.len() as u64, &mut kept);
                    kept.extend_from_slice(&part);
                }
                (None, WireType::LengthDelimited) if event && tag::KINDS.contains(&number) => {
                    delimited(&mut rest)?;
                    encode_key(number, wire_type, &mut kept);
                    kept.push(0);
                }
                (keep, _) => {
                    skip_field(wire_type, number, &mut rest, DecodeContext::default())
                        .map_err(|_| Malformed)?;
                    if keep.is_some() {
                        kept.extend_from_slice(&start[..start.len() - rest.len()]);
                    }
                }
            }
        }
        Ok(kept)
    }
}

fn delimited<'m>(rest: &mut &'m [u8]) -> Result<&'m [u8], Malformed> {
    let length = decode_varint(rest).map_err(|_| Malformed)?;
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let part = rest.get(..length).ok_or(Malformed)?;
    rest.advance(length);
    Ok(part)
}

#[cfg(test)]
mod tests {
    use ebpf_hello_proto::v1::{self, event::Kind};
    use prost::Message as _;

    use super::*;

    fn mask(paths: &[&str]) -> Result<Option<Mask>, Vec<Invalid>> {
        Mask::compile(Some(&FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }))
    }

    fn masked(paths: &[&str]) -> v1::Event {
        let batch = v1::Batch {
            node: "n1".into(),
            epoch: 2,
            number: 1,
            processes: vec![v1::Process {
                pid: 42,
                comm: "sh".into(),
                ..v1::Process::default()
            }],
            pods: vec![v1::Pod {
                name: "cart".into(),
                labels: [("a".to_owned(), "b".to_owned())].into(),
                container: Some(v1::Container {
                    name: "web".into(),
                    id: "1".into(),
                    ..v1::Container::default()
                }),
                ..v1::Pod::default()
            }],
            policies: vec![v1::Policy::default()],
            events: vec![v1::BatchedEvent {
                event: Some(v1::Event {
                    time: Some(ebpf_hello_proto::Timestamp::from_unix_nanos(5)),
                    cpu: Some(0),
                    sequence: 9,
                    cgroup_id: 77,
                    kind: Some(Kind::Exec(v1::Exec {
                        filename: "/bin/ls".into(),
                        argv: vec!["ls".into()],
                        ..v1::Exec::default()
                    })),
                    ..v1::Event::default()
                }),
                process: 1,
                pod: 1,
                policy: 1,
                tid: 43,
            }],
        };
        let batch = wire::Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
        let mask = mask(paths).unwrap().unwrap();
        let mut bytes = Vec::new();
        mask.apply(&batch)
            .unwrap()
            .append_event(0, &mut bytes)
            .unwrap();
        v1::Event::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn keeps_what_is_named_and_what_identifies_the_event() {
        let event = masked(&["process.comm", "pod.container.name", "exec.argv"]);
        assert_eq!((event.node.as_str(), event.epoch), ("n1", 2));
        assert_eq!((event.cpu, event.sequence), (Some(0), 9));
        assert!(event.time.is_some());
        assert_eq!(event.cgroup_id, 0);
        assert_eq!(event.policy, None);
        let process = event.process.unwrap();
        assert_eq!(
            (process.comm.as_str(), process.pid, process.tid),
            ("sh", 0, 0)
        );
        let pod = event.pod.unwrap();
        assert_eq!(pod.name, "");
        assert_eq!(pod.container.unwrap().id, "");
        let Some(Kind::Exec(exec)) = event.kind else {
            panic!("kind");
        };
        assert_eq!((exec.filename.as_str(), exec.argv.len()), ("", 1));
    }

    #[test]
    fn the_kind_stays_and_whole_fields_stay_whole() {
        let event = masked(&["process", "process.comm", "pod.labels"]);
        assert_eq!(event.kind, Some(Kind::Exec(v1::Exec::default())));
        let process = event.process.unwrap();
        assert_eq!((process.pid, process.tid), (42, 43));
        assert_eq!(event.pod.unwrap().labels.len(), 1);
        assert_eq!(masked(&["cgroupId"]).cgroup_id, 77);
    }

    #[test]
    fn a_path_that_is_none_is_named() {
        for (path, expected) in [
            (
                "proces",
                "Event has no field \"proces\": expected one of time",
            ),
            ("process.comm.x", "comm can only be named as a whole"),
            ("pod.labels.app", "labels can only be named as a whole"),
            ("process.nothing", "Process has no field"),
            ("", "Event has no field \"\""),
        ] {
            let problems = mask(&["process", path]).unwrap_err();
            assert_eq!(problems[0].field, "mask.paths[1]");
            assert!(problems[0].description.contains(expected), "{problems:?}");
        }
        assert_eq!(mask(&[]).unwrap(), None);
        let many = vec!["node"; MAX_PATHS + 1];
        assert_eq!(mask(&many).unwrap_err()[0].field, "mask.paths");
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let mask = mask(&["process.comm"]).unwrap().unwrap();
        for bytes in [&b"\x3a\xff"[..], b"\x3a\x05ab", b"\xff\xff\xff"] {
            assert_eq!(mask.0.keep(bytes, true), Err(Malformed));
        }
    }
}
