//! Which server, and how to reach it.

use std::{env, path::Path, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tonic::transport::{Channel, Endpoint};

use crate::exit::Unreachable;

/// The socket of a standalone instance.
const SOCKET: &str = "/run/ebpf-hello/observer.sock";
/// The server where there is no such socket.
const DEFAULT: &str = "https://localhost:7443";
/// Environment variable that names the server.
const VARIABLE: &str = "EBPF_HELLO_SERVER";
/// How long a connection may take to come about.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which server to ask.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// Server to ask: unix:///PATH, http://LOOPBACK:PORT or https://HOST:PORT. Else EBPF_HELLO_SERVER, else the
    /// socket of this machine's instance where there is one, else https://localhost:7443.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
}

// === impl ConnectArgs ===

impl ConnectArgs {
    /// Whether a server was chosen, by flag or variable.
    pub(crate) fn is_explicit(&self) -> bool {
        self.server.is_some() || env::var_os(VARIABLE).is_some()
    }

    /// The server's address.
    pub(crate) fn url(&self) -> String {
        let chosen = self.server.clone().or_else(|| env::var(VARIABLE).ok());
        chosen.unwrap_or_else(|| {
            if Path::new(SOCKET).exists() {
                format!("unix://{SOCKET}")
            } else {
                DEFAULT.to_owned()
            }
        })
    }
}

/// Connects.
///
/// # Errors
///
/// [`Unreachable`] with the server's address and why.
pub(crate) async fn connect(arguments: &ConnectArgs) -> anyhow::Result<Channel> {
    let url = arguments.url();
    let endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| {
            format!(
                "--server {url}: expected unix:///PATH, http://LOOPBACK:PORT or https://HOST:PORT"
            )
        })?
        .connect_timeout(TIMEOUT);
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to {url}"))
        .context(Unreachable)
}
