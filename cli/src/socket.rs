//! This machine's observer socket: ObserverService for root, without TLS or tokens.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use ebpf_hello_collector::{
    access::Listen,
    caller::Trusted,
    serve::{Listener, Socket},
};

use crate::control::DIRECTORY;

/// Of the first instance on a machine.
const NAME: &str = "observer.sock";

/// A bound observer socket; its file goes when this does.
pub(crate) struct Served {
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Binds the observer socket: at `given`, or where observers look, or, when another instance answers there, beside it.
///
/// # Errors
/// It cannot be bound.
pub(crate) async fn bind(given: Option<&Listen>) -> anyhow::Result<(Listener, Served)> {
    let (bound, path) = match given {
        Some(Listen::Unix(path)) => (bind_at(path).await?, path.clone()),
        Some(Listen::Tcp(address)) => {
            anyhow::bail!(
                "--listen {address}: expected unix:///PATH; for TCP start `ebpf-hello collector`"
            )
        }
        None => {
            let first = Path::new(DIRECTORY).join(NAME);
            match bind_at(&first).await {
                Ok(socket) => (socket, first),
                Err(_) if std::os::unix::net::UnixStream::connect(&first).is_ok() => {
                    let own = Path::new(DIRECTORY).join(format!("{}.{NAME}", std::process::id()));
                    (bind_at(&own).await?, own)
                }
                Err(error) => return Err(error),
            }
        }
    };
    let listener = Listener {
        socket: bound,
        handshake: None,
        // Its mode decides who may connect.
        authenticate: Arc::new(Trusted),
    };
    Ok((listener, Served { path }))
}

async fn bind_at(path: &Path) -> anyhow::Result<Socket> {
    Listen::Unix(path.to_owned())
        .bind()
        .await
        .context("cannot serve observers")
}

// === impl Served ===

impl Served {
    /// As a client names it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Left behind at worst: the next instance finds that nobody answers.
        let _ = std::fs::remove_file(&self.path);
    }
}
