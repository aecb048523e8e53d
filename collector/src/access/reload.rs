//! Something read from outside, and read again when that changes.
//!
//! Polled, not watched: what a cluster mounts changes by a swap of links, on file systems that tell nobody, and a
//! few small files every ten seconds cost nothing.

use std::{
    io::Read as _,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::AccessError;

/// Bytes a file of certificates or secrets may have.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// How often files are looked at, unless said otherwise.
pub const RELOAD: Duration = Duration::from_secs(10);

/// Where something comes from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// As it is read.
    type Raw: PartialEq + Send + Sync;
    /// As it is used.
    type Value: Send + Sync;

    /// What it is, for the log.
    fn what(&self) -> String;

    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read.
    async fn read(&self) -> Result<Self::Raw, AccessError>;

    /// Makes of it what is used.
    ///
    /// # Errors
    /// It is not what it should be.
    fn build(&self, raw: &Self::Raw) -> Result<Self::Value, AccessError>;

    /// Whether it has to be made anew although it did not change.
    fn is_stale(&self, _: &Self::Value) -> bool {
        false
    }
}

/// The latest good value of a source.
pub struct Reload<S: Source> {
    source: S,
    current: ArcSwap<S::Value>,
}

// === impl Reload ===

impl<S: Source> Reload<S> {
    /// Reads the source, and from now on again `every` so often, for as long as anybody holds the result.
    ///
    /// # Errors
    /// It cannot be read the first time, or is not good. Later errors are logged, once each, and leave the value.
    pub async fn start(source: S, every: Duration) -> Result<Arc<Self>, AccessError> {
        let raw = source.read().await?;
        let value = source.build(&raw)?;
        let this = Arc::new(Reload {
            source,
            current: ArcSwap::from_pointee(value),
        });
        tokio::spawn(Self::follow(Arc::downgrade(&this), raw, every));
        Ok(this)
    }

    /// The latest good value.
    pub fn current(&self) -> Arc<S::Value> {
        self.current.load_full()
    }

    async fn follow(this: Weak<Self>, mut raw: S::Raw, every: Duration) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(every).await;
            let Some(this) = this.upgrade() else { return };
            match this.renew(&raw).await {
                Ok(None) => {}
                Ok(Some(new)) => {
                    tracing::info!(what = this.source.what(), "read again");
                    raw = new;
                    complaint = None;
                }
                Err(error) => {
                    let error = chain(&error);
                    if complaint.as_ref() != Some(&error) {
                        tracing::error!(
                            what = this.source.what(),
                            error,
                            "changed and is not good: the last good one stays"
                        );
                        complaint = Some(error);
                    }
                }
            }
        }
    }

    async fn renew(&self, old: &S::Raw) -> Result<Option<S::Raw>, AccessError> {
        let raw = self.source.read().await?;
        if raw == *old && !self.source.is_stale(&self.current.load()) {
            return Ok(None);
        }
        self.current.store(Arc::new(self.source.build(&raw)?));
        Ok(Some(raw))
    }
}

impl<S: Source> std::fmt::Debug for Reload<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload")
            .field("what", &self.source.what())
            .finish_non_exhaustive()
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Reads a file of at most [`MAX_FILE`] bytes.
pub(super) async fn read_bounded(path: &Path) -> Result<Vec<u8>, AccessError> {
    let failed = |source| AccessError::Read {
        path: path.to_owned(),
        source,
    };
    let owned = path.to_owned();
    // In one go: Tokio's own reading changes threads at every few bytes.
    let read = move || {
        let mut bytes = Vec::new();
        std::fs::File::open(owned)?
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: std::io::Result<Vec<u8>> = tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let bytes = bytes.map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(AccessError::TooLarge {
            path: path.to_owned(),
            limit: MAX_FILE,
        });
    }
    Ok(bytes)
}
