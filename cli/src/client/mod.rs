//! What every command that asks a server shares.
//!
//! ```text
//! flags ─▶ selection ─▶ request ─▶ feed (follows, reconnects) ─▶ observe, top
//!                              └─▶ pages (a list, all of it)  ─▶ counts, status
//! refusal: what a server says no to, in the words of the command line
//! ```

pub(crate) mod feed;
pub(crate) mod instant;
pub(crate) mod pages;
pub(crate) mod refusal;
pub(crate) mod selection;

use anyhow::Context as _;
use ebpf_hello_proto::v1::observer_service_client::ObserverServiceClient;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::connect::{Client, ConnectArgs, connect};

/// The client that all commands use.
pub(crate) type Observer = ObserverServiceClient<Client>;

/// Connects to the observer service.
pub(crate) async fn observer(arguments: &ConnectArgs) -> anyhow::Result<Observer> {
    Ok(ObserverServiceClient::new(connect(arguments).await?))
}

/// The event loop of a command: one thread.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

/// The signals that end a command: Ctrl-C, `kill`, and a terminal that goes away.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

// === impl Ending ===

impl Ending {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot handle signals");
        Ok(Ending {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
