//! User space's side of the ledger: what became of the records that were received.

use std::sync::atomic::{AtomicU64, Ordering};

use ebpf_hello_loader::abi::{HANDLERS, Handler};
use ebpf_hello_proto::v1::{LossReason, LossStage};

/// What a consumer did with an event: each ends as exactly one of these. What is in none of them yet is in
/// flight, in the spool as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is out: printed, or acknowledged by the collector.
    Delivered,
    /// It could not be written.
    OutputFailed,
    /// It was a readiness canary, and ends here.
    Canary,
    /// The collector was away, and the queue in memory and the spool were full.
    SpoolFull,
    /// The collector was away, the queue in memory was full, and there is no spool.
    QueueFull,
    /// What the spool gave back was not what it was given.
    Corrupt,
    /// The collector refused the batch as invalid.
    Refused,
    /// A filter that names containers wanted it, and it turned out to be of none of them, or of one not known in time.
    OutOfScope,
    /// The agent ended before it was acknowledged, and there was no spool to leave it in.
    Unsent,
}

/// Counters that the consumer of events keeps, and the ledger reads.
#[derive(Debug, Default)]
pub struct Accounts {
    settled: [[AtomicU64; HANDLERS]; Outcome::ALL.len()],
    /// Execs of processes older than the programs, told from /proc.
    synthetic: AtomicU64,
    /// Calls that had not returned at the end.
    waiting: [AtomicU64; HANDLERS],
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Outcome; 9] = [
        Outcome::Delivered,
        Outcome::OutputFailed,
        Outcome::Canary,
        Outcome::SpoolFull,
        Outcome::QueueFull,
        Outcome::Corrupt,
        Outcome::Refused,
        Outcome::OutOfScope,
        Outcome::Unsent,
    ];

    /// Where and why the event was lost, as the protocol says it; `None` when it was not: when it came where it was meant
    /// to, or was left out on request.
    #[must_use]
    pub fn loss(self) -> Option<(LossStage, LossReason)> {
        let reason = match self {
            Outcome::Delivered | Outcome::Canary | Outcome::OutOfScope => return None,
            Outcome::OutputFailed => {
                return Some((LossStage::Subscriber, LossReason::OutputFailed));
            }
            Outcome::SpoolFull => LossReason::SpoolFull,
            Outcome::QueueFull => LossReason::QueueFull,
            Outcome::Corrupt => LossReason::Corrupt,
            Outcome::Refused => LossReason::Malformed,
            Outcome::Unsent => LossReason::OutputFailed,
        };
        Some((LossStage::Spool, reason))
    }
}

// === impl Accounts ===

impl Accounts {
    /// Notes what became of one event. One without a handler is in no ledger.
    pub fn settle(&self, handler: Option<Handler>, outcome: Outcome) {
        let Some(handler) = handler else { return };
        self.settled[outcome as usize][handler as usize].fetch_add(1, Ordering::Release);
    }

    /// Notes what became of the events of a batch, counted by handler.
    pub fn settle_all(&self, counts: &[u64; HANDLERS], outcome: Outcome) {
        for (cell, count) in self.settled[outcome as usize].iter().zip(counts) {
            if *count > 0 {
                cell.fetch_add(*count, Ordering::Release);
            }
        }
    }

    /// Events of a handler that ended so.
    #[must_use]
    pub fn settled(&self, handler: Handler, outcome: Outcome) -> u64 {
        self.settled[outcome as usize][handler as usize].load(Ordering::Acquire)
    }

    /// Events of a handler that ended at all, canaries included.
    pub(crate) fn settled_total(&self, handler: Handler) -> u64 {
        Outcome::ALL
            .iter()
            .map(|outcome| self.settled(handler, *outcome))
            .sum()
    }

    /// The same, of what takes a sequence number: canaries do not.
    pub(crate) fn settled_numbered(&self, handler: Handler) -> u64 {
        self.settled_total(handler) - self.settled(handler, Outcome::Canary)
    }

    pub(crate) fn add_synthetic(&self) {
        self.synthetic.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn synthetic(&self) -> u64 {
        self.synthetic.load(Ordering::Acquire)
    }

    pub(crate) fn add_waiting(&self, handler: Handler) {
        self.waiting[handler as usize].fetch_add(1, Ordering::Release);
    }

    pub(crate) fn waiting(&self, handler: Handler) -> u64 {
        self.waiting[handler as usize].load(Ordering::Acquire)
    }

    /// Events of a handler that were delivered.
    pub fn delivered(&self, handler: Handler) -> u64 {
        self.settled(handler, Outcome::Delivered)
    }
}
