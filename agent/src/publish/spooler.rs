//! The thread that owns the spool: nobody else waits for the disk.
//!
//! It moves batches from memory to the spool while the collector is away or memory is half full, from the spool to
//! the outbox when there is room, and forgets what was acknowledged. A disk that refuses leaves it reading and
//! trying again: events go on from memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backlog::{Encoded, Key},
    batcher::Draft,
    shared::{Shared, State},
    spool::{Read, Spool, SpoolError, SpoolOptions},
    tally::Tally,
};
use crate::Outcome;

/// Time between two tries to write to a disk that refused.
const RETRY: Duration = Duration::from_secs(2);
/// How often written batches are forced to the disk.
const SYNC: Duration = Duration::from_secs(1);
/// What a disk must have free before a failed spool is opened again: doing so with less could leave it closed.
const FREE: u64 = 16 << 20;

enum Disk {
    Ready(Spool),
    /// A write failed: it can be read, and is opened again at this time.
    ReadOnly(Spool, Instant),
    /// It could not be opened again; next try at this time.
    Closed(SpoolOptions, Option<Key>, Instant),
}

/// What to do next.
enum Job {
    Forget(Key),
    Read,
    Spill(Encoded),
    Reopen,
    Sync,
    End,
}

pub(super) struct Spooler {
    shared: Arc<Shared>,
    /// Taken only while it is being opened again.
    disk: Option<Disk>,
    /// Everything up to here was acknowledged.
    acknowledged: Option<Key>,
    /// The spool has no room for the batch that is next.
    full: bool,
    unsynced: Option<Instant>,
}

// === impl Spooler ===

impl Spooler {
    pub(super) fn new(shared: Arc<Shared>, spool: Spool) -> Self {
        let spooler = Spooler {
            shared,
            disk: Some(Disk::Ready(spool)),
            acknowledged: None,
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
                Job::Reopen => self.reopen(),
                Job::Sync => self.sync(),
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
            let readable = !matches!(self.disk, Some(Disk::Closed(..)));
            if readable && state.backlog.unread > 0 && state.backlog.window_has_room() {
                return Job::Read;
            }
            let mut wait = Duration::MAX;
            match &self.disk {
                Some(Disk::Ready(_)) => {
                    let all = !state.connected;
                    if !self.full
                        && let Some(batch) = state.backlog.spill(all)
                    {
                        return Job::Spill(batch);
                    }
                }
                Some(Disk::ReadOnly(_, retry) | Disk::Closed(_, _, retry)) => {
                    wait = retry.saturating_duration_since(now);
                    if wait.is_zero() {
                        return Job::Reopen;
                    }
                }
                None => {}
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

    fn spool(&mut self) -> Option<&mut Spool> {
        match self.disk.as_mut()? {
            Disk::Ready(spool) | Disk::ReadOnly(spool, _) => Some(spool),
            Disk::Closed(..) => None,
        }
    }

    fn unread(&mut self) -> Option<usize> {
        self.spool().map(|spool| spool.unread())
    }

    /// Tells the state what the spool holds.
    fn show(&self, state: &mut State) {
        if let Some(Disk::Ready(spool) | Disk::ReadOnly(spool, _)) = &self.disk {
            state.spool_bytes = spool.bytes();
            state.spool_batches = spool.batches();
            state.backlog.set_unread(spool.unread());
        }
    }

    fn shown(&self) {
        self.show(&mut self.shared.state());
        self.shared.tell_changed();
    }

    fn forget(&mut self, last: Key) {
        self.acknowledged = self.acknowledged.max(Some(last));
        if let Some(spool) = self.spool()
            && let Err(error) = spool.remove(last)
        {
            self.failed(&error);
        }
        self.full = false;
        self.shown();
    }

    fn read(&mut self) {
        let Some(read) = self.spool().and_then(Spool::read) else {
            return self.shown();
        };
        let batch = match read {
            Read::Batch(batch) => batch,
            Read::Damaged(key, tally) => self.damaged(key, &tally),
        };
        let unread = self.unread().unwrap_or(0);
        let mut state = self.shared.state();
        state.backlog.load(batch);
        state.backlog.set_unread(unread);
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
        if let Some(Disk::Ready(spool)) = &mut self.disk {
            if !spool.has_room(batch) {
                self.full = true;
                tracing::warn!(
                    bytes = spool.bytes(),
                    "the spool is full: events that find no room in memory are dropped and counted"
                );
            } else if let Err(error) = spool.write(batch) {
                self.failed(&error);
            } else {
                written = true;
                self.unsynced.get_or_insert_with(|| Instant::now() + SYNC);
            }
        }
        let unread = self.unread();
        let mut state = self.shared.state();
        let unread = unread.unwrap_or(state.backlog.unread);
        state.backlog.spilled(written, unread);
        self.show(&mut state);
        drop(state);
        self.shared.tell_changed();
    }

    fn sync(&mut self) {
        self.unsynced = None;
        if let Some(Disk::Ready(spool)) = &self.disk
            && let Err(error) = spool.sync()
        {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &SpoolError) {
        if let Some(Disk::Ready(spool)) = self.disk.take_if(|disk| matches!(disk, Disk::Ready(_))) {
            tracing::error!(%error, "the spool cannot be written: going on from memory");
            self.shared.state().spool_error = Some(error.to_string());
            self.disk = Some(Disk::ReadOnly(spool, Instant::now() + RETRY));
        }
    }

    fn reopen(&mut self) {
        let later = Instant::now() + RETRY;
        let (options, read) = match self.disk.take() {
            Some(Disk::ReadOnly(spool, _)) if !has_space(spool.options()) => {
                self.disk = Some(Disk::ReadOnly(spool, later));
                return;
            }
            Some(Disk::ReadOnly(spool, _)) => spool.close(),
            Some(Disk::Closed(options, read, _)) => (options, read),
            other => {
                self.disk = other;
                return;
            }
        };
        let opened = Spool::open_after(options.clone(), read).and_then(|mut spool| {
            if let Some(last) = self.acknowledged {
                spool.remove(last)?;
            }
            Ok(spool)
        });
        match opened {
            Ok(spool) => {
                tracing::info!("the spool can be written again");
                self.shared.state().spool_error = None;
                self.disk = Some(Disk::Ready(spool));
                self.full = false;
                self.shown();
            }
            Err(error) => {
                tracing::debug!(%error, "the spool still cannot be opened");
                self.shared.state().spool_error = Some(error.to_string());
                self.disk = Some(Disk::Closed(options, read, later));
            }
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
            let outcome = match &mut self.disk {
                Some(Disk::Ready(spool)) if !spool.has_room(&batch) => Outcome::SpoolFull,
                Some(Disk::Ready(spool)) => match spool.write(&batch) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.failed(&error);
                        Outcome::Unsent
                    }
                },
                _ => Outcome::Unsent,
            };
            self.shared.settle(batch.key, &batch.tally, outcome);
        }
        self.sync();
        let epoch = self.shared.epoch();
        let left = self.spool().map_or(0, |spool| spool.events(epoch));
        let mut state = self.shared.state();
        state.left_in_spool = left;
        self.show(&mut state);
    }
}

fn has_space(options: &SpoolOptions) -> bool {
    rustix::fs::statvfs(&options.directory)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= FREE)
}
