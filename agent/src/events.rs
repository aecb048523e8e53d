//! From the reader to the consumer: batches of events, and the canaries that were read with them.

use std::{
    num::NonZeroU64,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, SyncSender},
    },
};

use crate::{canary::Canaries, intake::Batch};

/// What is handed on at once.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) batch: Batch,
    /// Nonces of canaries that were read no later than the batch's last event.
    pub(crate) canaries: Vec<NonZeroU64>,
}

/// Where parcels go in. [`Events`] ends when the last of these is gone.
pub(crate) type Out = SyncSender<Parcel>;

/// A node's events, in batches, for the one who prints or publishes them. Waits for the next one; ends after
/// [`Node::drain`](crate::Node::drain).
///
/// Who asks for a batch has done with the one before: a canary that came with that is through then.
#[derive(Debug)]
pub struct Events {
    parcels: Receiver<Parcel>,
    canaries: Arc<Canaries>,
    /// Of the last parcel.
    came: Vec<NonZeroU64>,
    /// Tells [`Consumer`] that this is still there.
    _alive: Arc<()>,
}

/// Whether anybody holds the [`Events`].
#[derive(Debug)]
pub(crate) struct Consumer(Weak<()>);

// === impl Parcel ===

impl Parcel {
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.canaries.is_empty()
    }
}

impl From<Batch> for Parcel {
    fn from(batch: Batch) -> Self {
        Parcel {
            batch,
            canaries: Vec::new(),
        }
    }
}

// === impl Events ===

impl Events {
    pub(crate) fn new(parcels: Receiver<Parcel>, canaries: Arc<Canaries>) -> (Self, Consumer) {
        let alive = Arc::new(());
        let consumer = Consumer(Arc::downgrade(&alive));
        let events = Events {
            parcels,
            canaries,
            came: Vec::new(),
            _alive: alive,
        };
        (events, consumer)
    }
}

impl Iterator for Events {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        loop {
            for nonce in self.came.drain(..) {
                self.canaries.arrive(nonce);
            }
            let parcel = self.parcels.recv().ok()?;
            self.came = parcel.canaries;
            if !parcel.batch.is_empty() {
                return Some(parcel.batch);
            }
        }
    }
}

// === impl Consumer ===

impl Consumer {
    pub(crate) fn is_there(&self) -> bool {
        self.0.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use ebpf_hello_proto::v1::Event;

    use super::*;
    use crate::Item;

    const NONCE: NonZeroU64 = NonZeroU64::new(7).unwrap();

    /// A queue that holds an awaited canary, read with so many events.
    fn awaiting(events: usize) -> (Events, Out, Arc<Canaries>) {
        let canaries = Arc::new(Canaries::default());
        let (out, parcels) = sync_channel(1);
        let (queue, _) = Events::new(parcels, Arc::clone(&canaries));
        canaries.expect(NONCE);
        let item = Item {
            handler: None,
            event: Event::default(),
        };
        let parcel = Parcel {
            batch: vec![item; events],
            canaries: vec![NONCE],
        };
        out.send(parcel).unwrap();
        (queue, out, canaries)
    }

    #[test]
    fn a_canary_is_through_when_its_batch_is_done_with() {
        let (mut events, out, canaries) = awaiting(1);
        assert_eq!(events.next().unwrap().len(), 1);
        assert!(canaries.is_awaited(NONCE));
        drop(out);
        assert!(events.next().is_none());
        assert!(!canaries.is_awaited(NONCE));
    }

    #[test]
    fn a_canary_that_comes_alone_disturbs_nobody() {
        let (mut events, out, canaries) = awaiting(0);
        drop(out);
        assert!(events.next().is_none());
        assert!(!canaries.is_awaited(NONCE));
    }

    #[test]
    fn a_consumer_that_ended_is_missed() {
        let (_out, parcels) = sync_channel(1);
        let (events, consumer) = Events::new(parcels, Arc::default());
        assert!(consumer.is_there());
        drop(events);
        assert!(!consumer.is_there());
    }
}
