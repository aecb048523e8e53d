//! The collector's own ledger: where events went here, counted where it happens.
//!
//! `received = stored + duplicates + lost`, and over all streams `offered = sent + dropped + queued`. A batch
//! that could not be stored is in none of them: the agent still has it and sends it again. Nothing between
//! taking a batch and the store can lose one, so `lost` is empty.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use ebpf_hello_proto::v1;

/// Cumulative counts since the collector started, and gauges of now.
#[derive(Debug, Default)]
pub struct Accounts {
    stored: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    gaps: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
    subscribers: AtomicU32,
    /// Why the last batch could not be stored.
    unwritable: Mutex<Option<String>>,
}

/// Events on their way to one stream: `queued` until they are sent; `dropped` if they never are.
#[derive(Debug)]
pub struct InQueue {
    accounts: Arc<Accounts>,
    events: u64,
}

/// One stream, as long as it lasts.
#[derive(Debug)]
pub struct Subscription(Arc<Accounts>);

// === impl Accounts ===

impl Accounts {
    /// Why the log takes no batches, as far as the last one showed.
    #[must_use]
    pub fn unwritable(&self) -> Option<String> {
        self.unwritable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A batch could be stored, or not and why.
    pub fn note_append(&self, problem: Option<String>) {
        let mut unwritable = self
            .unwritable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *unwritable != problem {
            *unwritable = problem;
        }
    }

    /// Events of a batch that is now in the store.
    pub fn stored(&self, events: u64) {
        self.stored.fetch_add(events, Relaxed);
    }

    /// Events of a batch that was in the store before.
    pub fn duplicate(&self, events: u64) {
        self.duplicates.fetch_add(events, Relaxed);
    }

    /// A batch or a stream that broke the protocol's rules.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Batches that are missing in a node's numbers: its agent tells what was in them as `loss`.
    pub fn gap(&self, batches: u64) {
        self.gaps.fetch_add(batches, Relaxed);
    }

    /// Batches and streams that broke the protocol's rules so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Batch numbers that were left out so far.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    /// Events that a stream's selection picked and that go into its queue.
    #[must_use]
    pub fn queue(self: &Arc<Self>, events: u64) -> InQueue {
        self.queued.fetch_add(events, Relaxed);
        InQueue {
            accounts: self.clone(),
            events,
        }
    }

    /// Events that a stream's selection picked and that its queue had no room for.
    pub fn dropped(&self, events: u64) {
        self.dropped.fetch_add(events, Relaxed);
    }

    /// A stream began.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        self.subscribers.fetch_add(1, Relaxed);
        Subscription(self.clone())
    }

    /// As the protocol tells it. Both equations hold in every reading.
    #[must_use]
    pub fn ledger(&self) -> v1::CollectorLedger {
        let (stored, duplicates) = (self.stored.load(Relaxed), self.duplicates.load(Relaxed));
        let (sent, dropped) = (self.sent.load(Relaxed), self.dropped.load(Relaxed));
        let queued = self.queued.load(Relaxed);
        v1::CollectorLedger {
            received: stored + duplicates,
            stored,
            duplicates,
            lost: Vec::new(),
            offered: sent + dropped + queued,
            sent,
            dropped,
            queued,
            subscribers: self.subscribers.load(Relaxed),
        }
    }
}

// === impl InQueue ===

impl InQueue {
    /// They were written to the stream.
    pub fn sent(mut self) {
        let events = std::mem::take(&mut self.events);
        self.accounts.queued.fetch_sub(events, Relaxed);
        self.accounts.sent.fetch_add(events, Relaxed);
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.accounts.queued.fetch_sub(self.events, Relaxed);
        self.accounts.dropped.fetch_add(self.events, Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_offered_is_sent_dropped_or_queued() {
        let accounts = Arc::new(Accounts::default());
        let subscription = accounts.subscribe();
        accounts.queue(5).sent();
        drop(accounts.queue(3));
        accounts.dropped(2);
        let waiting = accounts.queue(7);
        let ledger = accounts.ledger();
        assert_eq!((ledger.sent, ledger.dropped, ledger.queued), (5, 5, 7));
        assert_eq!((ledger.offered, ledger.subscribers), (17, 1));
        drop((waiting, subscription));
        let ledger = accounts.ledger();
        assert_eq!(
            (ledger.offered, ledger.queued, ledger.subscribers),
            (17, 0, 0)
        );
    }
}
