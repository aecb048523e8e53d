//! Which events a reader gets: [`v1::Selection`] compiled, times, and what the caller may see.
//!
//! A batch is looked at once for what its events share (node, pods, processes), and its events only as far
//! as the selection asks; one that asks for everything looks into none.

mod compile;
pub(crate) mod expression;
mod fields;
pub(crate) mod labels;
pub(crate) mod shape;

use std::collections::BTreeSet;

use ebpf_hello_proto::{Timestamp, v1, wire};
use glob::Pattern;
use prost::Message as _;

use self::{
    expression::Expression,
    labels::LabelSelector,
    shape::{Kind, Shape},
};
use crate::caller::Reader;

pub use self::compile::{MAX_LABEL_SELECTOR_CHARACTERS, MAX_TEXT_BYTES, MAX_VALUES};

/// A compiled selection for one reader. Every list is "any of these", empty means all.
#[derive(Debug)]
pub struct Selector {
    reader: Reader,
    /// Nanoseconds since 1970: events at or after.
    since: Option<i128>,
    /// Nanoseconds since 1970: events before.
    until: Option<i128>,
    nodes: Vec<Pattern>,
    namespaces: BTreeSet<String>,
    pods: Vec<Pattern>,
    labels: Option<LabelSelector>,
    containers: BTreeSet<String>,
    syscalls: BTreeSet<Vec<u8>>,
    /// Bits by field number in `Event`.
    kinds: u32,
    comms: Vec<Pattern>,
    binaries: Vec<Pattern>,
    uids: Vec<std::ops::RangeInclusive<u32>>,
    pids: BTreeSet<u32>,
    expression: Option<Expression>,
}

/// What a selector makes of the parts of one batch.
#[derive(Debug)]
pub struct BatchVerdict {
    node: bool,
    /// Index 0 is "no pod".
    pods: Vec<bool>,
    /// Index 0 is "no process".
    processes: Vec<bool>,
}

/// What a selector makes of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The reader gets it.
    Selected,
    /// It hears that there was a loss, and not how many it took: some may be of events that it may not see.
    Withheld,
    /// It does not.
    Left,
    /// It does not, because the CEL expression failed on it.
    Failed,
}

// === impl Selector ===

impl Selector {
    /// Whether it takes every event of every batch, so that none need be looked into.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.since.is_none()
            && self.until.is_none()
            && self.takes_every_node()
            && self.takes_every_pod()
            && self.takes_every_process()
            && self.takes_every_kind()
            && self.expression.is_none()
    }

    /// Whether it takes every event of its times: what is lost of the log is then lost to it, one by one.
    #[must_use]
    pub fn is_everything_in_its_time(&self) -> bool {
        self.takes_every_node()
            && self.takes_every_pod()
            && self.takes_every_process()
            && self.takes_every_kind()
            && self.expression.is_none()
    }

    /// Whether it has a CEL expression, which may cost milliseconds for each event.
    #[must_use]
    pub fn has_expression(&self) -> bool {
        self.expression.is_some()
    }

    fn takes_every_node(&self) -> bool {
        self.nodes.is_empty()
    }

    fn takes_every_pod(&self) -> bool {
        self.reader == Reader::All
            && self.namespaces.is_empty()
            && self.pods.is_empty()
            && self.labels.is_none()
            && self.containers.is_empty()
    }

    fn takes_every_process(&self) -> bool {
        self.comms.is_empty()
            && self.binaries.is_empty()
            && self.uids.is_empty()
            && self.pids.is_empty()
    }

    fn takes_every_kind(&self) -> bool {
        self.kinds == 0 && self.syscalls.is_empty()
    }

    /// Looks at what the events of a batch share.
    #[must_use]
    pub fn look_at(&self, batch: &wire::Batch) -> BatchVerdict {
        let pod = |bytes: &bytes::Bytes| {
            v1::Pod::decode(bytes.clone()).is_ok_and(|pod| self.takes_pod(&pod))
        };
        let process = |bytes: &bytes::Bytes| {
            v1::Process::decode(bytes.clone()).is_ok_and(|process| self.takes_process(&process))
        };
        let node = self.takes_node(&batch.node);
        BatchVerdict {
            node,
            pods: if self.takes_every_pod() || !node {
                Vec::new()
            } else {
                std::iter::once(false)
                    .chain(batch.pods.iter().map(pod))
                    .collect()
            },
            processes: if self.takes_every_process() || !node {
                Vec::new()
            } else {
                std::iter::once(false)
                    .chain(batch.processes.iter().map(process))
                    .collect()
            },
        }
    }

    /// Whether the reader gets an event of a batch that was looked at. `scratch` is room for its encoding.
    #[must_use]
    pub fn judge(
        &self,
        verdict: &BatchVerdict,
        batch: &wire::Batch,
        index: usize,
        scratch: &mut Vec<u8>,
    ) -> Verdict {
        if !verdict.node {
            return Verdict::Left;
        }
        let Some(event) = batch.events.get(index) else {
            return Verdict::Left;
        };
        let of = |verdicts: &[bool], part: u32| {
            verdicts.is_empty() || verdicts.get(part as usize).copied().unwrap_or(false)
        };
        let shared = of(&verdict.pods, event.pod) && of(&verdict.processes, event.process);
        let looks_inside =
            !self.takes_every_kind() || self.since.is_some() || self.until.is_some() || !shared;
        if looks_inside {
            let Ok(shape) = Shape::decode(event.event.clone()) else {
                return Verdict::Left;
            };
            if !self.takes_time(shape.time) {
                return Verdict::Left;
            }
            if matches!(shape.kind, Some(Kind::Loss(_))) {
                return self.judge_loss(event.pod, of(&verdict.pods, event.pod));
            }
            if !shared || !self.takes_kind(shape.kind.as_ref()) {
                return Verdict::Left;
            }
        }
        let Some(expression) = &self.expression else {
            return Verdict::Selected;
        };
        scratch.clear();
        if batch.append_event(index, scratch).is_err() {
            return Verdict::Failed;
        }
        if !looks_inside
            && Shape::decode(event.event.clone())
                .is_ok_and(|shape| matches!(shape.kind, Some(Kind::Loss(_))))
        {
            return Verdict::Selected;
        }
        match expression.holds(scratch) {
            Ok(true) => Verdict::Selected,
            Ok(false) => Verdict::Left,
            Err(expression::Failed) => Verdict::Failed,
        }
    }

    /// A loss is told to everybody who may see whose events it took. Of which pod they were, few can say.
    fn judge_loss(&self, pod: u32, takes_pod: bool) -> Verdict {
        match &self.reader {
            Reader::All => Verdict::Selected,
            Reader::Namespaces(_) if pod == 0 => Verdict::Withheld,
            Reader::Namespaces(_) if takes_pod => Verdict::Selected,
            Reader::Namespaces(_) => Verdict::Left,
        }
    }

    /// Whether its reader hears of losses that may be others' only that there were some.
    #[must_use]
    pub fn withholds(&self) -> bool {
        self.reader != Reader::All
    }

    /// Whether a node's name is among the selected.
    #[must_use]
    pub fn takes_node(&self, node: &str) -> bool {
        any(&self.nodes, node)
    }

    /// Whether a pod, or what is in none, is selected by namespace and name, and the caller may see it.
    #[must_use]
    pub fn takes_pod_name(&self, namespace: &str, pod: &str) -> bool {
        let in_pod = !pod.is_empty();
        self.reader.sees(in_pod.then_some(namespace))
            && (self.namespaces.is_empty() || (in_pod && self.namespaces.contains(namespace)))
            && (self.pods.is_empty() || (in_pod && any(&self.pods, pod)))
    }

    fn takes_pod(&self, pod: &v1::Pod) -> bool {
        self.reader.sees(Some(&pod.namespace))
            && (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && any(&self.pods, &pod.name)
            && self
                .labels
                .as_ref()
                .is_none_or(|labels| labels.matches(&pod.labels))
            && (self.containers.is_empty()
                || pod
                    .container
                    .as_ref()
                    .is_some_and(|container| self.containers.contains(&container.name)))
    }

    fn takes_process(&self, process: &v1::Process) -> bool {
        any(&self.comms, &process.comm)
            && any(&self.binaries, &process.binary)
            && (self.uids.is_empty()
                || process
                    .uid
                    .is_some_and(|uid| self.uids.iter().any(|range| range.contains(&uid))))
            && (self.pids.is_empty() || self.pids.contains(&process.pid))
    }

    fn takes_kind(&self, kind: Option<&Kind>) -> bool {
        let of_kind =
            self.kinds == 0 || kind.is_some_and(|kind| self.kinds & (1 << kind.number()) != 0);
        of_kind
            && (self.syscalls.is_empty()
                || kind.is_some_and(|kind| kind.is_of(|name| self.syscalls.contains(name))))
    }

    fn takes_time(&self, time: Option<Timestamp>) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let time = time.map_or(0, nanos);
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanos(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests;
