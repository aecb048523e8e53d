//! The newest entries, in memory: where every live reader reads.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::SystemTime,
};

use ebpf_hello_proto::wire;
use prost::Message as _;
use tokio::sync::watch;

use super::{Entry, Range};

/// Entries in the order of their positions, the oldest dropped when they are too many bytes.
#[derive(Debug)]
pub(super) struct Tail {
    state: RwLock<State>,
    /// Bytes of the entries, at most; but always the newest entry.
    capacity: usize,
    /// Position the next entry has at least; what readers wait on.
    end: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    end: u64,
}

/// What a tail has at a position.
pub(super) enum Found {
    /// The first entry at or after it.
    Entry(Arc<Entry>),
    /// The tail begins after it, here.
    Before(u64),
    /// Nothing yet before this position.
    End(u64),
}

// === impl Tail ===

impl Tail {
    /// An empty one, whose first entry will be at `end` or after it.
    pub(super) fn new(capacity: usize, end: u64) -> Self {
        Tail {
            state: RwLock::new(State {
                entries: VecDeque::new(),
                bytes: 0,
                end,
            }),
            capacity,
            end: watch::Sender::new(end),
        }
    }

    /// Appends entries in their order; `end` is the position after the last. Readers wake.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = Entry>, end: u64) {
        let mut gone = Vec::new(); // dropped after the lock
        {
            let mut state = self.write();
            for entry in entries {
                state.bytes += weight(&entry.batch);
                state.entries.push_back(Arc::new(entry));
            }
            state.end = state.end.max(end);
            while state.bytes > self.capacity && state.entries.len() > 1 {
                if let Some(entry) = state.entries.pop_front() {
                    state.bytes -= weight(&entry.batch);
                    gone.push(entry);
                }
            }
        }
        self.end
            .send_if_modified(|at| std::mem::replace(at, end.max(*at)) < end);
    }

    /// Drops entries before a position.
    pub(super) fn trim(&self, to: u64) {
        let mut state = self.write();
        while state.entries.front().is_some_and(|e| e.position < to) {
            if let Some(entry) = state.entries.pop_front() {
                state.bytes -= weight(&entry.batch);
            }
        }
    }

    /// Goes on at a position, without entries. Readers wake.
    pub(super) fn restart(&self, end: u64) {
        self.trim(u64::MAX);
        self.extend([], end);
    }

    /// Goes back to a position: what was from there on is no more. Readers that wait do not hear of it here.
    pub(super) fn set_back(&self, end: u64) {
        let mut state = self.write();
        while state.entries.back().is_some_and(|e| e.position >= end) {
            if let Some(entry) = state.entries.pop_back() {
                state.bytes -= weight(&entry.batch);
            }
        }
        state.end = end;
        self.end.send_replace(end);
    }

    /// What is at a position.
    pub(super) fn find(&self, position: u64) -> Found {
        let state = self.read();
        if position >= state.end {
            return Found::End(position);
        }
        let oldest = state.entries.front().map_or(state.end, |e| e.position);
        if position < oldest {
            return Found::Before(oldest);
        }
        let index = state.entries.partition_point(|e| e.position < position);
        match state.entries.get(index) {
            Some(entry) => Found::Entry(entry.clone()),
            None => Found::End(state.end),
        }
    }

    /// Position of the first entry stored at or after a time, if it is certainly none before the tail.
    pub(super) fn position_at(&self, time: SystemTime) -> Option<u64> {
        let state = self.read();
        let index = state.entries.partition_point(|e| e.stored < time);
        if index == 0 {
            return None;
        }
        Some(state.entries.get(index).map_or(state.end, |e| e.position))
    }

    /// What the tail holds.
    pub(super) fn range(&self) -> Range {
        let state = self.read();
        let (front, back) = (state.entries.front(), state.entries.back());
        Range {
            oldest: front.map_or(state.end, |e| e.position),
            end: state.end,
            oldest_stored: front.map(|e| e.stored),
            newest_stored: back.map(|e| e.stored),
        }
    }

    /// Tells when the end moves.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    // Nothing panics while it holds the lock but a failed allocation, which aborts.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that a decoded batch takes, in bytes: what it was decoded from and what points into it.
fn weight(batch: &wire::Batch) -> usize {
    let parts = batch.processes.len() + batch.pods.len() + batch.policies.len();
    batch.encoded_len()
        + parts * size_of::<bytes::Bytes>()
        + batch.events.len() * size_of::<wire::BatchedEvent>()
        + size_of::<Entry>()
}
