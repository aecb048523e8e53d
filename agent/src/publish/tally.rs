//! What a batch holds, in numbers: enough to settle its events, or to tell exactly what was lost with it.

use ebpf_hello_loader::abi::{HANDLERS, Handler};
use ebpf_hello_proto::v1::{Event, Loss, event::Kind};

use crate::Outcome;

/// How many events, of which handler, and which of each CPU's sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Events by handler.
    pub(super) counts: [u64; HANDLERS],
    /// Sequence numbers, a row per CPU.
    pub(super) spans: Vec<Span>,
}

/// Events of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Span {
    /// The CPU; none for events that user space made.
    #[prost(uint32, optional, tag = "1")]
    pub(super) cpu: Option<u32>,
    /// Lowest sequence number.
    #[prost(uint64, tag = "2")]
    pub(super) first: u64,
    /// Highest.
    #[prost(uint64, tag = "3")]
    pub(super) last: u64,
    /// How many events.
    #[prost(uint64, tag = "4")]
    pub(super) events: u64,
}

// === impl Tally ===

impl Tally {
    pub(super) fn add(&mut self, handler: Option<Handler>, cpu: Option<u32>, sequence: u64) {
        if let Some(handler) = handler {
            self.counts[handler as usize] += 1;
        }
        self.add_span(Span {
            cpu,
            first: sequence,
            last: sequence,
            events: 1,
        });
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        for span in &other.spans {
            self.add_span(*span);
        }
    }

    fn add_span(&mut self, new: Span) {
        // Records come CPU by CPU: the row is nearly always the last that was used, at the end.
        match self.spans.iter_mut().rev().find(|span| span.cpu == new.cpu) {
            Some(span) => {
                span.first = span.first.min(new.first);
                span.last = span.last.max(new.last);
                span.events += new.events;
            }
            None => self.spans.push(new),
        }
    }

    pub(super) fn events(&self) -> u64 {
        self.spans.iter().map(|span| span.events).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The events that tell this loss downstream, one for each CPU. Of a loss whose extent is not known there
    /// is one, with a count of 0.
    pub(super) fn losses(&self, node: &str, outcome: Outcome) -> Vec<Event> {
        let Some((stage, reason)) = outcome.loss() else {
            return Vec::new();
        };
        let unknown = [Span::default()];
        let spans = if self.is_empty() {
            &unknown[..]
        } else {
            &self.spans
        };
        let time = Some(std::time::SystemTime::now().into());
        spans
            .iter()
            .map(|span| Event {
                time,
                cpu: span.cpu,
                kind: Some(Kind::Loss(Loss {
                    stage: stage.into(),
                    reason: reason.into(),
                    count: span.events,
                    node: node.to_owned(),
                    first_sequence: span.first,
                    last_sequence: span.last,
                    ..Loss::default()
                })),
                ..Event::default()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_for_each_cpu_with_its_sequences() {
        let mut tally = Tally::default();
        for sequence in [5, 3, 9] {
            tally.add(Some(Handler::Trace), Some(1), sequence);
        }
        tally.add(Some(Handler::ProcessExec), None, 0);
        let mut other = Tally::default();
        other.add(Some(Handler::Trace), Some(1), 12);
        tally.merge(&other);
        assert_eq!(tally.events(), 5);
        assert_eq!(tally.counts[Handler::Trace as usize], 4);
        let losses = tally.losses("n1", Outcome::SpoolFull);
        let told: Vec<_> = losses
            .iter()
            .map(|event| match &event.kind {
                Some(Kind::Loss(loss)) => (
                    event.cpu,
                    loss.count,
                    loss.first_sequence,
                    loss.last_sequence,
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(Some(1), 4, 3, 12), (None, 1, 0, 0)]);
        assert!(tally.losses("n1", Outcome::Delivered).is_empty());
    }
}
