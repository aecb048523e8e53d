//! User space's side of the ledger: what became of the records that were received.

use std::sync::atomic::{AtomicU64, Ordering};

use ebpf_hello_loader::abi::{HANDLERS, Handler};

/// What a consumer did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is out: printed, or taken by who is responsible for it from then on.
    Delivered,
    /// It could not be written.
    OutputFailed,
    /// It was a readiness canary, and ends here.
    Canary,
}

/// Counters that the consumer of events keeps, and the ledger reads.
#[derive(Debug, Default)]
pub struct Accounts {
    delivered: [AtomicU64; HANDLERS],
    output_failed: [AtomicU64; HANDLERS],
    canary: [AtomicU64; HANDLERS],
    /// Execs of processes older than the programs, told from /proc.
    synthetic: AtomicU64,
    /// Calls that had not returned at the end.
    waiting: [AtomicU64; HANDLERS],
}

impl Accounts {
    /// Notes what became of one event. One without a handler is in no ledger.
    pub fn settle(&self, handler: Option<Handler>, outcome: Outcome) {
        let Some(handler) = handler else { return };
        let cells = match outcome {
            Outcome::Delivered => &self.delivered,
            Outcome::OutputFailed => &self.output_failed,
            Outcome::Canary => &self.canary,
        };
        cells[handler as usize].fetch_add(1, Ordering::Release);
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
        self.delivered[handler as usize].load(Ordering::Acquire)
    }

    pub(crate) fn canary(&self, handler: Handler) -> u64 {
        self.canary[handler as usize].load(Ordering::Acquire)
    }

    /// Events of a handler that need nothing more from anybody.
    pub(crate) fn settled(&self, handler: Handler) -> u64 {
        self.delivered(handler) + self.output_failed(handler)
    }

    pub(crate) fn output_failed(&self, handler: Handler) -> u64 {
        self.output_failed[handler as usize].load(Ordering::Acquire)
    }
}
