//! The control socket of a running instance: whoever may connect gets its status as JSON.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use ebpf_hello_agent::Node;
use tokio::{io::AsyncWriteExt as _, net::UnixListener};

/// Where instances put their sockets.
pub(crate) const DIRECTORY: &str = "/run/ebpf-hello";

/// A control socket; its file goes when this does.
pub(crate) struct Control {
    path: PathBuf,
    listener: UnixListener,
}

// === impl Control ===

impl Control {
    /// Binds `/run/ebpf-hello/<pid>.sock`, for root only.
    pub(crate) fn bind() -> anyhow::Result<Self> {
        Self::bind_in(Path::new(DIRECTORY))
    }

    fn bind_in(directory: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join(format!("{}.sock", std::process::id()));
        // A socket of our own pid is a dead predecessor's.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        // Nobody else may connect, not even between bind and chmod.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&path);
        rustix::process::umask(mask);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        Ok(Control { path, listener })
    }

    /// Answers every connection with the status; never returns.
    pub(crate) async fn serve(&self, node: &Arc<Node>) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                // Out of descriptors, say: not a reason to stop observing.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let answer = match node.status(env!("CARGO_PKG_VERSION")) {
                Ok(status) => serde_json::to_vec(&status),
                Err(error) => {
                    serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))
                }
            };
            match answer {
                // A reader that went away is its own business.
                Ok(bytes) => drop(stream.write_all(&bytes).await),
                Err(error) => tracing::error!(%error, "status cannot be written as JSON"),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Left behind at worst; the next instance of this pid replaces it, `status` skips it.
        let _ = fs::remove_file(&self.path);
    }
}
