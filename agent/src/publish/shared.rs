//! What the publisher's parts share: who offers events, the stream's task, the spool's thread.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    backlog::{Backlog, Encoded, Key},
    batcher::Draft,
    tally::Tally,
};
use crate::{Accounts, Outcome};

/// Settings until the collector sends its own, and their bounds.
const LINGER: Duration = Duration::from_millis(5);
const LINGER_MAX: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct State {
    pub(super) backlog: Backlog,
    /// A collector takes what is sent.
    pub(super) connected: bool,
    /// Why none does.
    pub(super) error: Option<String>,
    pub(super) linger: Duration,
    pub(super) report_interval: Duration,
    /// Everything in the spool up to here is to be removed.
    pub(super) forget: Option<Key>,
    /// The publisher ends: what is left goes to the spool.
    pub(super) ending: bool,
    pub(super) left_in_spool: u64,
    pub(super) spool_bytes: u64,
    pub(super) spool_batches: usize,
    pub(super) spool_error: Option<String>,
}

#[derive(Debug)]
pub(super) struct Shared {
    node: Arc<str>,
    epoch: u64,
    state: Mutex<State>,
    /// For threads: anything in the state changed.
    changed: Condvar,
    /// For the stream: there is something to send.
    pub(super) work: Notify,
    /// For who closes batches in time: one was opened, or the time they have is another.
    pub(super) opened: Notify,
    /// For who waits until all is acknowledged.
    pub(super) progress: Notify,
    accounts: Arc<Accounts>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        node: Arc<str>,
        epoch: u64,
        memory: usize,
        has_spool: bool,
        accounts: Arc<Accounts>,
    ) -> Self {
        Shared {
            state: Mutex::new(State {
                backlog: Backlog::new(Arc::clone(&node), epoch, memory, has_spool),
                connected: false,
                error: None,
                linger: LINGER,
                report_interval: REPORT_INTERVAL,
                forget: None,
                ending: false,
                left_in_spool: 0,
                spool_bytes: 0,
                spool_batches: 0,
                spool_error: None,
            }),
            node,
            epoch,
            changed: Condvar::new(),
            work: Notify::new(),
            opened: Notify::new(),
            progress: Notify::new(),
            accounts,
        }
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is a bug in a few lines without I/O; the counts stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changed, at most so long.
    pub(super) fn wait_changed<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        if most == Duration::MAX {
            return self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.changed
            .wait_timeout(state, most)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    pub(super) fn tell_changed(&self) {
        self.changed.notify_all();
        self.work.notify_one();
        self.progress.notify_one();
    }

    /// Puts a batch into the backlog, waiting for room at most until `deadline`.
    pub(super) fn accept(&self, draft: Draft, deadline: Instant) {
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ending || state.backlog.has_room(&draft) {
                break;
            }
            state = self.wait_changed(state, left);
        }
        let accepted = state.backlog.accept(draft);
        drop(state);
        match accepted {
            Ok(()) => {
                self.changed.notify_all();
                self.work.notify_one();
            }
            Err((tally, outcome)) => self.accounts.settle_all(&tally.counts, outcome),
        }
    }

    /// Notes what became of a batch's events. Those of earlier runs are in no ledger of this one.
    pub(super) fn settle(&self, key: Key, tally: &Tally, outcome: Outcome) {
        if key.epoch == self.epoch {
            self.accounts.settle_all(&tally.counts, outcome);
        }
    }

    /// The collector has everything up to and with `last`.
    pub(super) fn acknowledge(&self, last: Key) {
        let mut state = self.state();
        let done = state.backlog.acknowledge(last);
        if state.spool_batches > 0 {
            state.forget = state.forget.max(Some(last));
        }
        drop(state);
        for batch in &done {
            self.settle(batch.key, &batch.tally, Outcome::Delivered);
        }
        self.tell_changed();
    }

    /// The collector refused something that was sent. Once it is known which batch, that is taken out and given
    /// back; its loss takes its place, under its key.
    pub(super) fn refused(&self) -> Option<Encoded> {
        let mut state = self.state();
        let batch = state.backlog.refused()?;
        if !batch.tally.is_empty() {
            let loss = Draft::of_loss(&self.node, batch.key.epoch, &batch.tally, Outcome::Refused);
            let (bytes, tally) = loss.finish(batch.key.number);
            state.backlog.replace(Encoded {
                key: batch.key,
                bytes,
                tally,
                spooled: batch.spooled,
            });
        } else if batch.spooled {
            state.forget = state.forget.max(Some(batch.key));
        }
        drop(state);
        self.settle(batch.key, &batch.tally, Outcome::Refused);
        self.tell_changed();
        Some(batch)
    }

    /// Everything was acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.state().backlog.is_empty()
    }

    /// How long a batch may stay open now. With nobody to wait for it, long: fewer and larger batches.
    pub(super) fn linger(&self) -> Duration {
        let state = self.state();
        if state.connected {
            state.linger
        } else {
            LINGER_MAX
        }
    }
}

// === impl State ===

impl State {
    /// Settings of the collector; what it leaves open is the agent's choice.
    pub(super) fn set(&mut self, settings: &ebpf_hello_proto::v1::Settings) {
        let bounded = |span: Option<ebpf_hello_proto::Duration>, default, least, most| {
            let nanos = span.map_or(0, |span| {
                i128::from(span.seconds) * 1_000_000_000 + i128::from(span.nanos)
            });
            match u64::try_from(nanos) {
                Ok(0) | Err(_) => default,
                Ok(nanos) => Duration::from_nanos(nanos).clamp(least, most),
            }
        };
        self.linger = bounded(settings.linger, LINGER, LINGER, LINGER_MAX);
        self.report_interval = bounded(
            settings.report_interval,
            REPORT_INTERVAL,
            Duration::from_millis(100),
            REPORT_INTERVAL_MAX,
        );
        self.backlog.set_window(super::backlog::Window::new(
            settings.window_batches,
            settings.window_bytes,
        ));
    }
}
