//! This node's own collector, in this process: what makes its events observable on this machine.
//!
//! Fed as any collector is, by a publisher over gRPC, here through its Unix socket; kept in memory only.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use ebpf_hello_agent::{
    Accounts, Batch, Node,
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_collector::{
    access::Listen,
    log::Memory,
    serve::{Collector, Options, serve},
};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::socket::{self, Served};

/// Bytes of batches that can be looked back on.
const HISTORY: usize = 64 << 20;
/// Patience with what is still on its way at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// The collector, its feed and its socket.
pub(crate) struct Local {
    collector: Arc<Collector>,
    publisher: Publisher,
    serving: JoinHandle<std::io::Result<()>>,
    // Its file goes when this does.
    _socket: Served,
}

// === impl Local ===

impl Local {
    /// Serves a node's events at `listen`, or where observers look.
    pub(crate) async fn start(node: &Node, listen: Option<&Listen>) -> anyhow::Result<Self> {
        let options = Options {
            scope: format!("node {}", node.name()),
            ..Options::default()
        };
        let (listener, socket) = socket::bind(listen).await?;
        let collector = Collector::new(Arc::new(Memory::new(HISTORY)), None, options);
        let serving = tokio::spawn(serve(collector.clone(), vec![listener]));
        let endpoint = Endpoint::from_shared(socket.url())
            .with_context(|| format!("cannot publish to {}", socket.url()))?;
        let publisher = Publisher::start(
            PublishOptions {
                node: node.name().to_owned(),
                epoch: node.epoch(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                memory: MEMORY,
                spool: None,
                compress: false,
            },
            endpoint,
            // The node's ledger is settled by whoever the events are for.
            Arc::new(Accounts::default()),
        )
        .context("cannot start publishing")?;
        tracing::info!(server = socket.url(), "serving observers on this machine");
        Ok(Local {
            collector,
            publisher,
            serving,
            _socket: socket,
        })
    }

    /// Offers events to observers; never waits.
    pub(crate) fn offer(&self, batch: &Batch) {
        self.publisher.offer(batch.clone(), Duration::ZERO);
    }

    /// Whether anybody observes now.
    pub(crate) fn is_observed(&self) -> bool {
        self.collector.accounts().ledger().subscribers > 0
    }

    /// Says what the node is and did.
    pub(crate) fn report(&self, report: ebpf_hello_proto::v1::NodeReport) {
        self.publisher.reports().send_replace(Some(report));
    }

    /// Gives observers what is on its way, and ends their streams.
    pub(crate) async fn drain(self) -> anyhow::Result<()> {
        self.publisher.drain(DRAIN).await;
        self.collector.stop();
        self.serving
            .await
            .context("the server panicked")?
            .context("cannot serve observers")
    }
}
