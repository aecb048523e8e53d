//! The thread that owns the spool: nobody else waits for the disk.
//!
//! It moves batches from memory to the spool while the collector is away or memory is half full, from the spool to
//! the outbox when there is room, and forgets what was acknowledged. A disk that refuses is tried again: events go
//! on from memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backlog::{Encoded, Key},
    batcher::Draft,
    shared::{Shared, State},
    spool::{Read, Spool, SpoolError},
    tally::Tally,
};
use crate::Outcome;

/// Time between two tries to write to a disk that refused.
const RETRY: Duration = Duration::from_secs(2);
/// How often written batches are forced to the disk.
const SYNC: Duration = Duration::from_secs(1);
/// What to do next.
enum Job {
    Forget(Key),
    Read,
    Spill(Encoded),
    Sync,
    /// Whether a disk that refused takes something again.
    Probe,
    End,
}

pub(super) struct Spooler {
    shared: Arc<Shared>,
    spool: Spool,
    /// A write failed: none is tried before this time.
    refused_until: Option<Instant>,
    /// The spool has no room for the batch that is next.
    full: bool,
    unsynced: Option<Instant>,
}

// === impl Spooler ===

impl Spooler {
    pub(super) fn new(shared: Arc<Shared>, spool: Spool) -> Self {
        let spooler = Spooler {
            shared,
            spool,
            refused_until: None,
            full: false,
            unsynced: None,
        };
        spooler.show(&mut spooler.shared.state());
        spooler
    }

    /// Works until the publisher ends, then leaves in the spool what was not acknowledged.
    pub(super) fn run(mut self) {
        loop {
            match self.next_job() {
                Job::Forget(last) => self.forget(last),
                Job::Read => self.read(),
                Job::Spill(batch) => self.spill(&batch),
                Job::Sync => self.sync(),
                Job::Probe => self.probe(),
                Job::End => return self.end(),
            }
        }
    }

    fn next_job(&mut self) -> Job {
        let mut state = self.shared.state();
        loop {
            let now = Instant::now();
            if state.ending {
                return Job::End;
            }
            if let Some(last) = state.forget.take() {
                return Job::Forget(last);
            }
            if state.backlog.unread > 0 && state.backlog.window_has_room() {
                return Job::Read;
            }
            let mut wait = Duration::MAX;
            match self.refused_until {
                Some(retry) if retry > now => wait = retry - now,
                _ => {
                    let all = !state.connected;
                    if !self.full
                        && let Some(batch) = state.backlog.spill(all)
                    {
                        return Job::Spill(batch);
                    }
                    if self.refused_until.is_some() {
                        return Job::Probe;
                    }
                }
            }
            if let Some(due) = self.unsynced {
                let until = due.saturating_duration_since(now);
                if until.is_zero() {
                    return Job::Sync;
                }
                wait = wait.min(until);
            }
            state = self.shared.wait_changed(state, wait);
        }
    }

    /// Tells the state what the spool holds.
    fn show(&self, state: &mut State) {
        state.spool_bytes = self.spool.bytes();
        state.spool_batches = self.spool.batches();
        state.backlog.set_unread(self.spool.unread());
    }

    fn shown(&self) {
        self.show(&mut self.shared.state());
        self.shared.tell_changed();
    }

    fn forget(&mut self, last: Key) {
        if let Err(error) = self.spool.remove(last) {
            self.failed(&error);
        }
        self.full = false;
        self.shown();
    }

    fn read(&mut self) {
        let Some(read) = self.spool.read() else {
            return self.shown();
        };
        let batch = match read {
            Read::Batch(batch) => batch,
            Read::Damaged(key, tally) => self.damaged(key, &tally),
        };
        let mut state = self.shared.state();
        state.backlog.load(batch);
        state.backlog.set_unread(self.spool.unread());
        drop(state);
        self.shared.tell_changed();
    }

    /// What takes a damaged batch's place, under its key: the loss.
    fn damaged(&self, key: Key, tally: &Tally) -> Encoded {
        tracing::error!(
            epoch = key.epoch,
            batch = key.number,
            events = tally.events(),
            "a batch in the spool is damaged: its events are lost"
        );
        self.shared.settle(key, tally, Outcome::Corrupt);
        let loss = Draft::of_loss(self.shared.node(), key.epoch, tally, Outcome::Corrupt);
        let (bytes, tally) = loss.finish(key.number);
        Encoded {
            key,
            bytes,
            tally,
            spooled: true,
        }
    }

    fn spill(&mut self, batch: &Encoded) {
        let mut written = false;
        if !self.spool.has_room(batch) {
            self.full = true;
            tracing::warn!(
                bytes = self.spool.bytes(),
                "the spool is full: events that find no room in memory are dropped and counted"
            );
        } else if let Err(error) = self.spool.write(batch) {
            self.failed(&error);
        } else {
            written = true;
            self.unsynced.get_or_insert_with(|| Instant::now() + SYNC);
            self.recovered();
        }
        let mut state = self.shared.state();
        state.backlog.spilled(written, self.spool.unread());
        self.show(&mut state);
        drop(state);
        self.shared.tell_changed();
    }

    fn sync(&mut self) {
        self.unsynced = None;
        if let Err(error) = self.spool.sync() {
            self.failed(&error);
        }
    }

    fn probe(&mut self) {
        match self.spool.probe() {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(&error),
        }
    }

    /// Says it once for each reason.
    fn failed(&mut self, error: &SpoolError) {
        self.refused_until = Some(Instant::now() + RETRY);
        let error = error.to_string();
        let before = self.shared.state().spool_error.replace(error.clone());
        if before.as_ref() != Some(&error) {
            tracing::error!(%error, "the spool cannot be written: going on from memory");
        }
    }

    fn recovered(&mut self) {
        if self.refused_until.take().is_some() {
            self.shared.state().spool_error = None;
            tracing::info!("the spool can be written again");
        }
    }

    fn end(mut self) {
        let rest = {
            let mut state = self.shared.state();
            if let Some(last) = state.forget.take() {
                drop(state);
                self.forget(last);
                state = self.shared.state();
            }
            state.backlog.tell_dropped();
            state.backlog.take_rest()
        };
        for batch in rest {
            let outcome = if self.spool.has_room(&batch) {
                match self.spool.write(&batch) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.failed(&error);
                        Outcome::Unsent
                    }
                }
            } else {
                Outcome::SpoolFull
            };
            self.shared.settle(batch.key, &batch.tally, outcome);
        }
        self.sync();
        let epoch = self.shared.epoch();
        let left = self.spool.events(epoch);
        let mut state = self.shared.state();
        state.left_in_spool = left;
        self.show(&mut state);
    }
}
