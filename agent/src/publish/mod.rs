//! From batches of events to the collector, each event accounted for exactly once.
//!
//! ```text
//! offer ─▶ batcher ─▶ backlog (memory, spool) ─▶ stream ─▶ collector
//!                        ▲                          │
//!                        └───── acknowledged ◀──────┘  delivered
//! ```
//!
//! An event ends as delivered when the collector acknowledged its batch, else as lost at stage `SPOOL`; until then
//! it is in flight. While the collector is away, batches go to memory, then to a bounded spool on disk; what then
//! finds no room is dropped, the newest first: what was kept stays whole, and the hole is one, told as `loss`
//! events with exact counts where it is. A kill loses what was in memory and not yet in the spool: a few batches.

mod backlog;
mod batcher;
mod dictionary;
mod retry;
mod segment;
mod shared;
mod spool;
mod spooler;
mod stream;
mod tally;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ebpf_hello_proto::v1::NodeReport;
use tokio::sync::watch;

use self::{
    batcher::Batcher,
    shared::Shared,
    spooler::Spooler,
    stream::{Compression, Uplink},
};
use crate::{Accounts, Batch, Outcome};

/// How long the stream may take to end once it is told to.
const ENDING: Duration = Duration::from_secs(3);

pub use self::{
    spool::{SpoolError, SpoolOptions, spooled_epoch},
    stream::{Connect, ConnectError},
};

/// Bytes of batches in memory, unless said otherwise. The window of what is sent and unacknowledged (the
/// collector's choice, at most 64 MiB) comes on top.
pub const MEMORY: usize = 16 << 20;

/// How to publish.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// The node's name.
    pub node: String,
    /// The agent's run: greater than that of every earlier run of the node.
    pub epoch: u64,
    /// The agent's version.
    pub version: String,
    /// Bytes of batches in memory, at most.
    pub memory: usize,
    /// Where to put what memory has no room for.
    pub spool: Option<SpoolOptions>,
    /// Compress what is sent, as far as the collector understands it. Of no use on the same machine.
    pub compress: bool,
}

/// Publishes a node's events.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    batcher: Arc<Mutex<Batcher>>,
    reports: watch::Sender<Option<NodeReport>>,
    stop: watch::Sender<bool>,
    uplink: tokio::task::JoinHandle<()>,
    clock: tokio::task::JoinHandle<()>,
    spooler: Option<JoinHandle<()>>,
}

/// What the publisher is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishState {
    /// A collector takes what is sent.
    pub connected: bool,
    /// Why none does.
    pub error: Option<String>,
    /// Batches that were sent and not acknowledged yet.
    pub unacknowledged: usize,
    /// Bytes of batches in memory.
    pub memory_bytes: usize,
    /// Bytes of batches in the spool.
    pub spool_bytes: u64,
    /// Batches in the spool.
    pub spool_batches: usize,
    /// Why the spool cannot be used.
    pub spool_error: Option<String>,
}

/// Tells what a publisher is doing, for as long as anybody wants to know.
#[derive(Clone, Debug)]
pub struct StateWatch(Arc<Shared>);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Events of this run that are in the spool for the next one. In the ledger they stay in flight.
    pub spooled: u64,
}

// === impl Publisher ===

impl Publisher {
    /// Starts to publish. Needs a Tokio runtime. A spool that cannot be opened is logged, and done without.
    ///
    /// # Errors
    /// The spool's thread cannot be started.
    pub fn start(
        options: PublishOptions,
        connect: impl Connect,
        accounts: Arc<Accounts>,
    ) -> std::io::Result<Self> {
        let node: Arc<str> = options.node.into();
        let spool = options.spool.map(spool::Spool::open).transpose();
        let (spool, spool_error) = match spool {
            Ok(spool) => (spool, None),
            Err(error) => {
                tracing::error!(%error, "no spool: what finds no room in memory is lost");
                (None, Some(error.to_string()))
            }
        };
        if let Some(newest) = spool.as_ref().and_then(spool::Spool::newest)
            && newest.epoch >= options.epoch
        {
            tracing::error!(
                spooled = newest.epoch,
                ours = options.epoch,
                "the spool holds batches of a later run: was the clock set back?"
            );
        }
        let shared = Arc::new(Shared::new(
            Arc::clone(&node),
            options.epoch,
            options.memory,
            spool.is_some(),
            accounts,
        ));
        shared.state().spool_error = spool_error;
        let spooler = match spool {
            None => None,
            Some(spool) => {
                let spooler = Spooler::new(Arc::clone(&shared), spool);
                let thread = std::thread::Builder::new().name("spool".into());
                Some(thread.spawn(move || spooler.run())?)
            }
        };
        let (reports, receiver) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let uplink = Uplink {
            shared: Arc::clone(&shared),
            connect: Box::new(connect),
            version: options.version,
            compression: if options.compress {
                Compression::Zstd
            } else {
                Compression::None
            },
            reports: receiver,
            stop: stopped,
        };
        let batcher = Arc::new(Mutex::new(Batcher::new(node, options.epoch)));
        let clock = close_in_time(Arc::clone(&shared), Arc::clone(&batcher));
        Ok(Publisher {
            shared,
            batcher,
            reports,
            stop,
            uplink: tokio::spawn(uplink.run()),
            clock: tokio::spawn(clock),
            spooler,
        })
    }

    /// Takes events. Where there is no room it waits at most so long, then drops and counts them. An agent does not
    /// wait: its reader would, and the kernel would lose events instead.
    pub fn offer(&self, batch: Batch, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut batcher = self.batcher.lock().unwrap_or_else(PoisonError::into_inner);
        for item in batch {
            if let Some(draft) = batcher.push(item) {
                self.shared.accept(draft, deadline);
            }
        }
        if batcher.opened().is_some() {
            self.shared.opened.notify_one();
        }
    }

    /// Where the node's report is put whenever there is a new one. It is sent at the collector's interval, and
    /// again on each new stream.
    pub fn reports(&self) -> &watch::Sender<Option<NodeReport>> {
        &self.reports
    }

    /// What it is doing now.
    pub fn state(&self) -> PublishState {
        self.watch().state()
    }

    /// The same for others, who need not have the publisher.
    #[must_use]
    pub fn watch(&self) -> StateWatch {
        StateWatch(Arc::clone(&self.shared))
    }

    /// Ends: sends what is left and waits for the collector to have it, at most so long and a few seconds, then leaves the
    /// rest in the spool. Without a spool the rest is lost, and counted so.
    pub async fn drain(mut self, most: Duration) -> Drained {
        self.clock.abort();
        let deadline = Instant::now() + most;
        if let Some(draft) = self
            .batcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            self.shared.accept(draft, Instant::now());
        }
        self.shared.state().backlog.tell_dropped();
        self.shared.tell_changed();
        let acknowledged = async {
            while !self.shared.is_empty() {
                self.shared.progress.notified().await;
            }
        };
        // Past the deadline the rest is dealt with below.
        let _ = tokio::time::timeout_at(deadline.into(), acknowledged).await;
        // Nobody is left to receive it only when the task has ended already.
        let _ = self.stop.send(true);
        if tokio::time::timeout(ENDING, &mut self.uplink)
            .await
            .is_err()
        {
            // Whatever it waits for, what it held is in memory, and goes into the spool.
            self.uplink.abort();
            let _ = self.uplink.await;
        }
        self.shared.state().ending = true;
        self.shared.tell_changed();
        match self.spooler {
            Some(spooler) => {
                let ended = tokio::task::spawn_blocking(move || spooler.join()).await;
                if !matches!(ended, Ok(Ok(()))) {
                    tracing::error!("the spool's thread panicked");
                }
            }
            None => {
                let rest = self.shared.state().backlog.take_rest();
                for batch in rest {
                    self.shared.settle(batch.key, &batch.tally, Outcome::Unsent);
                }
            }
        }
        Drained {
            spooled: self.shared.state().left_in_spool,
        }
    }
}

// === impl StateWatch ===

impl StateWatch {
    /// What the publisher is doing now.
    #[must_use]
    pub fn state(&self) -> PublishState {
        let state = self.0.state();
        PublishState {
            connected: state.connected,
            error: state.error.clone(),
            unacknowledged: state.backlog.unacknowledged(),
            memory_bytes: state.backlog.memory_bytes(),
            spool_bytes: state.spool_bytes,
            spool_batches: state.spool_batches,
            spool_error: state.spool_error.clone(),
        }
    }
}

/// Closes batches that have been open for as long as they may.
async fn close_in_time(shared: Arc<Shared>, batcher: Arc<Mutex<Batcher>>) {
    /// Whoever offers events holds the batcher for less than this.
    const BUSY: Duration = Duration::from_millis(1);
    loop {
        shared.opened.notified().await;
        loop {
            let pause = {
                let Ok(mut batcher) = batcher.try_lock() else {
                    tokio::time::sleep(BUSY).await;
                    continue;
                };
                let Some(since) = batcher.opened() else { break };
                let left = shared.linger().saturating_sub(since.elapsed());
                if left.is_zero() {
                    if let Some(draft) = batcher.take() {
                        shared.accept(draft, since);
                    }
                    break;
                }
                left
            };
            // The time may become a shorter one.
            let _ = tokio::time::timeout(pause, shared.opened.notified()).await;
        }
    }
}
