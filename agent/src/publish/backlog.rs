//! Batches that no collector has acknowledged yet, in their order.
//!
//! ```text
//! accept ─▶ memory ─────────────────▶ outbox ─▶ stream ─▶ acknowledge
//!             └─▶ spool (its thread) ─┘  the window: sent or about to be
//! ```
//!
//! What is in the spool is older than what is in memory and newer than what is in the outbox. So while the spool
//! holds anything unread, the outbox is filled from there alone. Pure state: no I/O, no waiting.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{batcher::Draft, tally::Tally};
use crate::Outcome;

/// Batches the collector lets be unacknowledged until it says otherwise.
const WINDOW_BATCHES: usize = 64;
/// Bytes of them.
const WINDOW_BYTES: usize = 4 << 20;
/// Most of either that a collector is believed.
const WINDOW_BATCHES_MAX: usize = 1024;
const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Batches in memory, at most: each costs some bookkeeping besides its bytes.
const MEMORY_BATCHES: usize = 1 << 14;

/// A batch among those of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) epoch: u64,
    pub(super) number: u64,
}

/// An encoded `v1::Batch`. Cheap to clone but for its tally.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub(super) key: Key,
    pub(super) bytes: Bytes,
    pub(super) tally: Tally,
    /// It is in the spool as well.
    pub(super) spooled: bool,
}

/// How much may be unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    batches: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Backlog {
    node: Arc<str>,
    epoch: u64,
    /// Number of the next batch.
    next: u64,
    outbox: Queue,
    /// How many of the outbox were sent on this stream.
    sent: usize,
    /// There is a stream. Without one nothing new goes to the outbox: it goes to the spool.
    open: bool,
    window: Window,
    memory: Queue,
    memory_limit: usize,
    /// Batches in the spool that are in the outbox not yet.
    pub(super) unread: usize,
    /// The first of memory is being written to the spool.
    spilling: bool,
    /// What to call a batch that finds no room.
    full: Outcome,
    /// What found no room and was not told yet.
    dropped: Tally,
    /// The collector refused something: one batch at a time, to find out which.
    probing: bool,
}

/// Batches and their bytes.
#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Encoded>,
    bytes: usize,
}

// === impl Queue ===

impl Queue {
    fn push(&mut self, batch: Encoded) {
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
    }

    fn pop(&mut self) -> Option<Encoded> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.bytes.len();
        Some(batch)
    }
}

// === impl Window ===

impl Window {
    /// As a collector set it; 0 leaves the default.
    pub(super) fn new(batches: u32, bytes: u32) -> Self {
        let or = |set: u32, default, most| match set {
            0 => default,
            set => (set as usize).min(most),
        };
        Window {
            batches: or(batches, WINDOW_BATCHES, WINDOW_BATCHES_MAX),
            bytes: or(bytes, WINDOW_BYTES, WINDOW_BYTES_MAX),
        }
    }
}

// === impl Backlog ===

impl Backlog {
    pub(super) fn new(node: Arc<str>, epoch: u64, memory_limit: usize, has_spool: bool) -> Self {
        Backlog {
            node,
            epoch,
            next: 1,
            outbox: Queue::default(),
            sent: 0,
            open: false,
            window: Window::new(0, 0),
            memory: Queue::default(),
            memory_limit,
            unread: 0,
            spilling: false,
            full: if has_spool {
                Outcome::SpoolFull
            } else {
                Outcome::QueueFull
            },
            dropped: Tally::default(),
            probing: false,
        }
    }

    /// Whether a batch would be taken now.
    pub(super) fn has_room(&self, draft: &Draft) -> bool {
        self.memory.bytes + draft.len() <= self.memory_limit
            && self.memory.batches.len() < MEMORY_BATCHES
    }

    /// Takes a batch and gives it its number. Without room it is dropped: then its outcome is returned, and the
    /// loss is told in a batch of its own before the next one that finds room.
    pub(super) fn accept(&mut self, draft: Draft) -> Result<(), (Tally, Outcome)> {
        if !self.has_room(&draft) {
            self.dropped.merge(&draft.tally);
            return Err((draft.tally, self.full));
        }
        self.tell_dropped();
        self.number(draft);
        self.refill();
        Ok(())
    }

    /// Appends the loss of what was dropped, if any was. A few hundred bytes past the limit do no harm.
    pub(super) fn tell_dropped(&mut self) {
        if !self.dropped.is_empty() {
            let dropped = std::mem::take(&mut self.dropped);
            let loss = Draft::of_loss(&self.node, self.epoch, &dropped, self.full);
            self.number(loss);
            self.refill();
        }
    }

    fn number(&mut self, draft: Draft) {
        let key = Key {
            epoch: self.epoch,
            number: self.next,
        };
        self.next += 1;
        let (bytes, tally) = draft.finish(key.number);
        self.memory.push(Encoded {
            key,
            bytes,
            tally,
            spooled: false,
        });
    }

    pub(super) fn set_window(&mut self, window: Window) {
        self.window = window;
        self.refill();
    }

    /// Whether the window would take another batch. It takes one however large.
    pub(super) fn window_has_room(&self) -> bool {
        if !self.open {
            return false;
        }
        self.outbox.batches.is_empty()
            || (self.outbox.batches.len() < self.window.batches
                && self.outbox.bytes < self.window.bytes)
    }

    fn refill(&mut self) {
        while self.unread == 0 && !self.spilling && self.window_has_room() {
            let Some(batch) = self.memory.pop() else {
                return;
            };
            self.outbox.push(batch);
        }
    }

    /// Puts what was read from the spool into the outbox.
    pub(super) fn load(&mut self, batch: Encoded) {
        self.outbox.push(batch);
    }

    /// Says how much of the spool is unread.
    pub(super) fn set_unread(&mut self, unread: usize) {
        self.unread = unread;
        self.refill();
    }

    /// The next batch to send, if the window allows one.
    pub(super) fn next_to_send(&mut self) -> Option<Bytes> {
        if self.probing && self.sent > 0 {
            return None;
        }
        let bytes = self.outbox.batches.get(self.sent)?.bytes.clone();
        self.sent += 1;
        Some(bytes)
    }

    /// There is a new stream: everything unacknowledged is to be sent again.
    pub(super) fn open(&mut self) {
        self.open = true;
        self.sent = 0;
        self.refill();
    }

    /// The stream ended.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.sent = 0;
    }

    /// Takes every batch up to and with `last` out; what they held was delivered.
    pub(super) fn acknowledge(&mut self, last: Key) -> Vec<Encoded> {
        let mut done = Vec::new();
        while self
            .outbox
            .batches
            .front()
            .is_some_and(|batch| batch.key <= last)
        {
            done.extend(self.outbox.pop());
            self.sent = self.sent.saturating_sub(1);
        }
        self.probing &= done.is_empty();
        self.refill();
        done
    }

    /// The collector refused what was sent. Gives out the batch that it must have been, once that is known.
    pub(super) fn refused(&mut self) -> Option<Encoded> {
        let alone = self.probing && self.sent == 1;
        self.sent = 0;
        if !alone {
            self.probing = !self.outbox.batches.is_empty();
            return None;
        }
        self.probing = false;
        self.outbox.pop()
    }

    /// Puts a batch where [`Backlog::refused`] took one out.
    pub(super) fn replace(&mut self, batch: Encoded) {
        self.outbox.bytes += batch.bytes.len();
        self.outbox.batches.push_front(batch);
    }

    /// The first batch of memory, to be written to the spool. Until [`Backlog::spilled`] nothing overtakes it.
    pub(super) fn spill(&mut self, all: bool) -> Option<Encoded> {
        if !all && self.memory.bytes <= self.memory_limit / 2 {
            return None;
        }
        let first = self.memory.batches.front()?.clone();
        self.spilling = true;
        Some(first)
    }

    /// Says whether the batch is in the spool now; `unread` as in [`Backlog::set_unread`].
    pub(super) fn spilled(&mut self, written: bool, unread: usize) {
        self.spilling = false;
        if written {
            self.memory.pop();
        }
        self.set_unread(unread);
    }

    /// Everything that is not in the spool, oldest first.
    pub(super) fn take_rest(&mut self) -> Vec<Encoded> {
        self.sent = 0;
        let outbox = std::mem::take(&mut self.outbox);
        let memory = std::mem::take(&mut self.memory);
        outbox
            .batches
            .into_iter()
            .filter(|batch| !batch.spooled)
            .chain(memory.batches)
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outbox.batches.is_empty() && self.memory.batches.is_empty() && self.unread == 0
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.sent
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory.bytes + self.outbox.bytes
    }
}

#[cfg(test)]
mod tests {
    use ebpf_hello_loader::abi::Handler;
    use ebpf_hello_proto::v1::{self, Event, event::Kind};
    use prost::Message as _;

    use super::{super::batcher::Batcher, *};
    use crate::Item;

    fn backlog(limit: usize) -> Backlog {
        let mut backlog = Backlog::new("n1".into(), 7, limit, true);
        backlog.open();
        backlog
    }

    fn draft(sequence: u64) -> Draft {
        let mut batcher = Batcher::new("n1".into(), 7);
        let full = batcher.push(Item {
            handler: Some(Handler::Trace),
            event: Event {
                cpu: Some(0),
                sequence,
                ..Event::default()
            },
        });
        assert!(full.is_none());
        batcher.take().unwrap()
    }

    fn sent(backlog: &mut Backlog) -> Vec<v1::Batch> {
        std::iter::from_fn(|| backlog.next_to_send())
            .map(|bytes| v1::Batch::decode(bytes).unwrap())
            .collect()
    }

    fn key(number: u64) -> Key {
        Key { epoch: 7, number }
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut backlog = backlog(1 << 20);
        for sequence in 1..=3 {
            backlog.accept(draft(sequence)).unwrap();
        }
        let numbers = |batches: &[v1::Batch]| batches.iter().map(|b| b.number).collect::<Vec<_>>();
        assert_eq!(numbers(&sent(&mut backlog)), [1, 2, 3]);
        assert_eq!(backlog.acknowledge(key(1)).len(), 1);
        assert!(sent(&mut backlog).is_empty());
        backlog.close();
        backlog.open();
        assert_eq!(numbers(&sent(&mut backlog)), [2, 3]);
        assert_eq!(backlog.acknowledge(key(3)).len(), 2);
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_window_bounds_what_is_sent() {
        let mut backlog = backlog(1 << 20);
        backlog.set_window(Window::new(2, 0));
        for sequence in 1..=5 {
            backlog.accept(draft(sequence)).unwrap();
        }
        assert_eq!(sent(&mut backlog).len(), 2);
        backlog.acknowledge(key(2));
        assert_eq!(sent(&mut backlog).len(), 2);
        // A byte is less than any batch: one at a time.
        backlog.acknowledge(key(4));
        backlog.set_window(Window::new(0, 1));
        assert_eq!(sent(&mut backlog).len(), 1);
    }

    #[test]
    fn what_finds_no_room_is_told_before_the_next_batch() {
        let size = draft(1).finish(1).0.len();
        let mut backlog = backlog(2 * size);
        backlog.set_window(Window::new(1, 0));
        for sequence in 1..=3 {
            backlog.accept(draft(sequence)).unwrap();
        }
        for sequence in 4..=5 {
            let (tally, outcome) = backlog.accept(draft(sequence)).unwrap_err();
            assert_eq!((tally.events(), outcome), (1, Outcome::SpoolFull));
        }
        assert_eq!(sent(&mut backlog).len(), 1);
        backlog.acknowledge(key(1));
        backlog.accept(draft(6)).unwrap();
        backlog.set_window(Window::new(0, 0));
        let batches = sent(&mut backlog);
        assert_eq!(
            batches.iter().map(|b| b.number).collect::<Vec<_>>(),
            [2, 3, 4, 5]
        );
        let Some(Kind::Loss(loss)) = &batches[2].events[0].event.as_ref().unwrap().kind else {
            panic!("{batches:?}");
        };
        assert_eq!(
            (loss.count, loss.first_sequence, loss.last_sequence),
            (2, 4, 5)
        );
        assert_eq!(loss.reason(), v1::LossReason::SpoolFull);
    }

    #[test]
    fn the_batch_that_is_refused_is_found_and_only_it_is_taken_out() {
        let mut backlog = backlog(1 << 20);
        for sequence in 1..=3 {
            backlog.accept(draft(sequence)).unwrap();
        }
        assert_eq!(sent(&mut backlog).len(), 3);
        assert!(backlog.refused().is_none());
        // One at a time now: the first is fine.
        assert_eq!(sent(&mut backlog).len(), 1);
        backlog.acknowledge(key(1));
        assert_eq!(sent(&mut backlog).len(), 2);
        assert!(backlog.refused().is_none());
        assert_eq!(sent(&mut backlog).len(), 1);
        assert_eq!(backlog.refused().unwrap().key, key(2));
        assert_eq!(sent(&mut backlog)[0].number, 3);
    }

    #[test]
    fn nothing_overtakes_what_is_spooled() {
        let mut backlog = backlog(1 << 20);
        backlog.set_window(Window::new(1, 0));
        for sequence in 1..=3 {
            backlog.accept(draft(sequence)).unwrap();
        }
        let spilled = backlog.spill(true).unwrap();
        assert_eq!(spilled.key, key(2), "the first is in the window");
        backlog.acknowledge(key(1));
        assert!(sent(&mut backlog).is_empty());
        backlog.spilled(true, 1);
        assert!(sent(&mut backlog).is_empty());
        backlog.load(spilled);
        backlog.set_unread(0);
        assert_eq!(sent(&mut backlog)[0].number, 2);
        backlog.acknowledge(key(2));
        assert_eq!(sent(&mut backlog)[0].number, 3);
    }
}
