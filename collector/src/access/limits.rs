//! How much the port gives to whoever comes.

use std::time::Duration;

/// Descriptors kept for everything that is no connection: the store, logs, sockets to NATS.
const RESERVED_FILES: u64 = 512;

/// What one connection gets, and one address. How many there may be in all, and what HTTP allows on each, is said in
/// [`serve::Options`](crate::serve::Options).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once from one address (IPv6: from one /64).
    pub connections_per_address: usize,
    /// Time until a connection's first request of somebody: who does not say who it is may not stay.
    pub recognition: Duration,
    /// Time without a byte in either direction: longer than an HTTP/2 keep-alive and its answer.
    pub idle: Duration,
    /// Longest life of a connection, give or take a tenth: a stream ends, and who comes again shows again who it is.
    pub age: Duration,
}

// === impl Limits ===

impl Limits {
    /// The age where other collectors share a hub with this one: connections that all went to one, as when the others
    /// were restarted, spread within so long.
    pub const SHARED_AGE: Duration = Duration::from_secs(3600);
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_per_address: 256,
            recognition: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            age: Duration::from_secs(12 * 3600),
        }
    }
}

/// Connections that a process with this many descriptors can hold, `wanted` at most.
#[must_use]
pub fn connections_within(open_files: u64, wanted: usize) -> usize {
    let room = usize::try_from(open_files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
    if room < wanted {
        tracing::warn!(
            open_files,
            connections = room,
            wanted,
            "the limit of open files allows fewer connections"
        );
    }
    room.min(wanted).max(1)
}

/// Raises this process's soft limit of open files to the hard one, and returns it.
#[must_use]
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // `None` is "no limit".
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
