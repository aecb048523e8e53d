//! The collector's face: one port for agents, consumers, browsers and probes.
//!
//! ```text
//!                       ┌ CollectorService  (ingest)
//! connection ─ caller ─ ┼ ObserverService   (observe: place, plan → subscriber → queue → stream; fleet)
//!                       ├ GET /v1/events    (the same streams as lines of JSON)
//!                       └ health, reflection
//! ```

mod http;
mod linger;
mod listen;
mod missed;
mod observe;
mod outlet;
mod places;
mod plan;
mod queue;
mod slice;
mod subscriber;
mod withheld;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

use self::places::Places;
pub use self::{
    http::MAX_QUERY_BYTES,
    listen::{Handshake, Io, Listener, Socket, serve},
    plan::MAX_LAST,
    queue::Receiver,
    subscriber::MAX_MESSAGE_BYTES,
};
use crate::{
    accounts::Accounts,
    attribution::Attribution,
    fleet::Fleet,
    ingest::{Enrol, Ingest},
    log::Log,
};

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `ObserverHello.scope` says: "collector", or "node NAME".
    pub scope: String,
    /// Longest silence of a stream; at most 15 s.
    pub heartbeat: Duration,
    /// Bytes that may wait for one subscriber; what is live beyond that is dropped.
    pub queue_bytes: usize,
    /// Bytes that may wait for all subscribers together, besides the [`MAX_MESSAGE_BYTES`] that each has for itself.
    pub all_queues_bytes: usize,
    /// Subscribers at a time.
    pub max_subscribers: usize,
    /// Of them, those of one reader. Whoever comes over the Unix socket may have all.
    pub max_subscribers_per_reader: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Streams of one connection at a time.
    pub max_streams: u32,
    /// Time a connection has for its TLS handshake, and for the head of an HTTP/1.1 request.
    pub handshake_timeout: Duration,
    /// Time between questions whether an HTTP/2 connection is alive, and for their answer.
    pub keep_alive: Duration,
    /// Time that streams have to end at a shutdown.
    pub shutdown_grace: Duration,
    /// Origins that browsers may ask from; none: CORS is off.
    pub origins: Vec<String>,
    /// How long a node that no longer publishes is listed.
    pub node_retention: Duration,
}

/// Everything that is served, made once and served by any number of listeners.
#[derive(Debug)]
pub struct Collector {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) enrol: Option<Arc<dyn Enrol>>,
    pub(crate) options: Options,
    pub(crate) attribution: Arc<Attribution>,
    places: Arc<Places>,
    /// Bytes that queues may still borrow.
    budget: Arc<Semaphore>,
    pub(crate) stop: watch::Receiver<bool>,
    stopper: watch::Sender<bool>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Options {
            scope: "collector".into(),
            heartbeat: Duration::from_secs(10),
            queue_bytes: 4 << 20,
            all_queues_bytes: 256 << 20,
            max_subscribers: 1_000,
            max_subscribers_per_reader: 100,
            max_connections: 20_000,
            max_streams: 100,
            handshake_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(5),
            origins: Vec::new(),
            node_retention: Duration::from_secs(24 * 3600),
        }
    }
}

// === impl Collector ===

impl Collector {
    /// A collector over a log.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, enrol: Option<Arc<dyn Enrol>>, options: Options) -> Arc<Self> {
        let (stopper, stop) = watch::channel(false);
        Arc::new(Collector {
            fleet: Arc::new(Fleet::new(options.node_retention)),
            accounts: Arc::default(),
            attribution: Arc::default(),
            places: Places::new(options.max_subscribers, options.max_subscribers_per_reader),
            budget: Arc::new(Semaphore::new(
                options.all_queues_bytes.min(Semaphore::MAX_PERMITS),
            )),
            log,
            enrol,
            options,
            stop,
            stopper,
        })
    }

    /// Which nodes publish: an agent that serves its own events reports itself here.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Where events went: whoever appends to the log besides Publish counts here.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// What keeps it from doing its work, a sentence each. Empty when ready.
    #[must_use]
    pub fn lacks(&self) -> Vec<String> {
        let unwritable = self.accounts.unwritable();
        unwritable
            .map(|problem| format!("events cannot be stored: {problem}"))
            .into_iter()
            .collect()
    }

    /// Ends all streams and listeners; [`serve`] returns when they have, or the grace is over.
    pub fn stop(&self) {
        self.stopper.send_replace(true);
    }

    fn ingest(&self) -> Ingest {
        Ingest {
            log: self.log.clone(),
            fleet: self.fleet.clone(),
            accounts: self.accounts.clone(),
            enrol: self.enrol.clone(),
            stop: self.stop.clone(),
        }
    }
}
