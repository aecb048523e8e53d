//! Status of filters, written by the one collector that holds the lease.
//!
//! ```text
//! API server ─▶ watch ─▶ board (pure) ─▶ writer ─▶ API server: /status by server-side apply, events
//! fleet ───────────────────▲  └ object, placement: inputs
//!                             └ content, pace: what, when
//! ```
//!
//! Every status write reaches every agent's watch: it is made only when its content changes, whole, by one field
//! manager, and no oftener than [`pace`] lets it. It names the version of the object it is about, so that one that
//! is late (its process was stopped meanwhile, and another holds the lease) is refused.

mod announcement;
mod board;
mod content;
mod metrics;
mod object;
mod pace;
mod placement;
mod watch;
mod writer;

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::{sync::watch as channel, task::JoinHandle};

use self::{metrics::Metrics, writer::Writer};
use crate::{
    fleet::Fleet,
    kubernetes::Kubernetes,
    lease::{Holding, Lease, LeaseOptions},
};

/// Writes status whenever this process holds the lease, until it is stopped.
#[derive(Debug)]
pub struct StatusWriter {
    lease: Lease,
    counts: Arc<metrics::Counts>,
    stop: channel::Sender<bool>,
    task: JoinHandle<()>,
}

// === impl StatusWriter ===

impl StatusWriter {
    /// Starts, with the DaemonSet that says which nodes should run an agent. Needs a Tokio runtime.
    #[must_use]
    pub fn start(
        kubernetes: &Kubernetes,
        fleet: Arc<Fleet>,
        daemonset: &str,
        lease: LeaseOptions,
    ) -> Self {
        let lease = Lease::start(kubernetes, lease);
        let counts = Arc::default();
        let (stop, stopped) = channel::channel(false);
        let writer = Writer::new(
            kubernetes,
            fleet,
            daemonset,
            lease.holding(),
            Arc::clone(&counts),
        );
        StatusWriter {
            lease,
            counts,
            stop,
            task: tokio::spawn(writer.run(stopped)),
        }
    }

    /// Whether this process holds the lease.
    #[must_use]
    pub fn holding(&self) -> Holding {
        self.lease.holding()
    }

    /// Registers its numbers.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = Metrics {
            counts: Arc::clone(&self.counts),
            holding: self.lease.holding(),
        };
        metrics.register(registry);
    }

    /// Writes nothing more, then gives the lease back.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the status writer panicked");
        }
        self.lease.release().await;
    }
}
