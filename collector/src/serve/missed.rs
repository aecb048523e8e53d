//! What a stream's queue had no room for, told in the stream when it is read again.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use ebpf_hello_proto::{Timestamp, v1};
use prost::Message as _;

use crate::{
    log::Place,
    selection::{
        nanos,
        shape::{Kind, Shape},
    },
};

/// Rows that are told apart by where the events were from; more are told together.
const MAX_ROWS: usize = 64;

/// Events that were dropped, until they are told.
#[derive(Debug, Default)]
pub(super) struct Missed {
    rows: BTreeMap<Origin, Row>,
    /// How many they are, but for every `loss` among them.
    pub(super) events: u64,
    /// The place after the last of them.
    pub(super) end: Place,
}

/// Whose events, and why they were lost: here, or as told by a `loss` that was among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    stage: i32,
    reason: i32,
    node: String,
    epoch: u64,
    cpu: Option<u32>,
    /// How many it were is not for this stream's reader.
    withheld: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: u64,
    first_time: Option<Timestamp>,
    last_time: Option<Timestamp>,
    first_sequence: u64,
    last_sequence: u64,
}

/// An encoded `EventList`, its events left encoded.
#[derive(Clone, PartialEq, prost::Message)]
struct List {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    events: Vec<Bytes>,
}

// === impl Missed ===

impl Missed {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes an encoded `EventList` that was dropped, and the place after it.
    pub(super) fn add(&mut self, list: Bytes, end: Place) {
        self.end = end;
        let events = List::decode(list)
            .map(|list| list.events)
            .unwrap_or_default();
        for event in events {
            let Ok(shape) = Shape::decode(event) else {
                continue;
            };
            let (stage, reason) = (
                v1::LossStage::Subscriber.into(),
                v1::LossReason::QueueFull.into(),
            );
            let (origin, row) = match shape.kind {
                // Told on, so that nothing is silent.
                Some(Kind::Loss(loss)) => (
                    Origin {
                        stage: loss.stage,
                        reason: loss.reason,
                        node: loss.node,
                        epoch: shape.epoch,
                        cpu: shape.cpu,
                        withheld: loss.count_withheld,
                    },
                    Row {
                        count: loss.count,
                        first_time: loss.first_time.or(shape.time),
                        last_time: loss.last_time.or(shape.time),
                        first_sequence: loss.first_sequence,
                        last_sequence: loss.last_sequence,
                    },
                ),
                _ => {
                    self.events += 1;
                    (
                        Origin {
                            stage,
                            reason,
                            node: shape.node,
                            epoch: shape.epoch,
                            cpu: shape.cpu,
                            withheld: false,
                        },
                        Row {
                            count: 1,
                            first_time: shape.time,
                            last_time: shape.time,
                            first_sequence: shape.sequence,
                            last_sequence: shape.sequence,
                        },
                    )
                }
            };
            self.merge(origin, row);
        }
    }

    fn merge(&mut self, mut origin: Origin, mut row: Row) {
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&origin) {
            origin = Origin {
                stage: origin.stage,
                reason: origin.reason,
                withheld: origin.withheld,
                ..Origin::default()
            };
            (row.first_sequence, row.last_sequence) = (0, 0);
        }
        match self.rows.entry(origin) {
            Entry::Vacant(place) => {
                place.insert(row);
            }
            Entry::Occupied(mut place) => place.get_mut().merge(row),
        }
    }

    /// The `loss` events to tell, each with the time of its first lost event.
    pub(super) fn losses(&self) -> Vec<v1::Event> {
        self.rows
            .iter()
            .map(|(origin, row)| v1::Event {
                time: row.first_time,
                node: origin.node.clone(),
                epoch: origin.epoch,
                cpu: origin.cpu,
                kind: Some(v1::event::Kind::Loss(v1::Loss {
                    stage: origin.stage,
                    reason: origin.reason,
                    count: row.count,
                    node: origin.node.clone(),
                    first_sequence: row.first_sequence,
                    last_sequence: row.last_sequence,
                    count_withheld: origin.withheld,
                    first_time: row.first_time,
                    last_time: row.last_time,
                })),
                ..v1::Event::default()
            })
            .collect()
    }
}

// === impl Row ===

impl Row {
    fn merge(&mut self, other: Row) {
        self.count = self.count.saturating_add(other.count);
        let by_time = |time: &Timestamp| nanos(*time);
        let firsts = [self.first_time, other.first_time];
        self.first_time = firsts.into_iter().flatten().min_by_key(by_time);
        let lasts = [self.last_time, other.last_time];
        self.last_time = lasts.into_iter().flatten().max_by_key(by_time);
        // 0 is "not known", and what is not known of one is not of both.
        let known = self.first_sequence != 0 && other.first_sequence != 0;
        self.first_sequence = if known {
            self.first_sequence.min(other.first_sequence)
        } else {
            0
        };
        self.last_sequence = if known {
            self.last_sequence.max(other.last_sequence)
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(events: &[v1::Event]) -> Bytes {
        v1::EventList {
            events: events.to_vec(),
        }
        .encode_to_vec()
        .into()
    }

    fn event(cpu: u32, sequence: u64) -> v1::Event {
        v1::Event {
            time: Some(Timestamp::from_unix_nanos(sequence)),
            node: "n1".into(),
            epoch: 1,
            cpu: Some(cpu),
            sequence,
            ..v1::Event::default()
        }
    }

    fn losses(missed: &Missed) -> Vec<(Option<u32>, v1::Loss)> {
        missed
            .losses()
            .into_iter()
            .map(|event| match event.kind {
                Some(v1::event::Kind::Loss(loss)) => (event.cpu, loss),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_was_dropped_is_counted_by_cpu_with_its_sequences() {
        let mut missed = Missed::default();
        let place = |position| Place { position, event: 2 };
        missed.add(list(&[event(0, 5), event(1, 2), event(0, 6)]), place(7));
        missed.add(list(&[event(0, 9)]), place(8));
        assert_eq!((missed.events, missed.end), (4, place(8)));
        let told = losses(&missed);
        let short: Vec<_> = told
            .iter()
            .map(|(cpu, loss)| (*cpu, loss.count, loss.first_sequence, loss.last_sequence))
            .collect();
        assert_eq!(short, [(Some(0), 3, 5, 9), (Some(1), 1, 2, 2)]);
        assert_eq!(told[0].1.stage(), v1::LossStage::Subscriber);
        assert_eq!(told[0].1.reason(), v1::LossReason::QueueFull);
    }

    #[test]
    fn a_loss_that_was_dropped_is_told_on_and_not_counted_again() {
        let mut missed = Missed::default();
        let upstream = v1::Event {
            kind: Some(v1::event::Kind::Loss(v1::Loss {
                stage: v1::LossStage::Kernel.into(),
                reason: v1::LossReason::RingbufFull.into(),
                count: 40,
                ..v1::Loss::default()
            })),
            ..event(0, 0)
        };
        missed.add(list(&[upstream.clone(), upstream]), Place::default());
        assert_eq!((missed.events, missed.is_empty()), (0, false));
        let told = losses(&missed);
        assert_eq!((told.len(), told[0].1.count), (1, 80));
        assert_eq!(told[0].1.stage(), v1::LossStage::Kernel);
    }

    #[test]
    fn rows_are_bounded_and_the_sum_stays() {
        let mut missed = Missed::default();
        for cpu in 0..1000 {
            missed.add(list(&[event(cpu, 1)]), Place::default());
        }
        let told = losses(&missed);
        assert_eq!(told.len(), MAX_ROWS + 1);
        assert_eq!(told.iter().map(|(_, loss)| loss.count).sum::<u64>(), 1000);
    }
}
