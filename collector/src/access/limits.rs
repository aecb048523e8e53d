//! How much the port gives to whoever comes.

use std::time::Duration;

/// Descriptors kept for everything that is no connection: the store, logs, sockets to NATS.
const RESERVED_FILES: u64 = 512;

/// Bounds of the port. The defaults are for a fleet of some thousand nodes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// Of these, from one address (IPv6: from one /64).
    pub connections_per_address: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time until a connection's first request of somebody: who does not say who it is may not stay.
    pub recognition: Duration,
    /// Time without a byte in either direction. Longer than `keep_alive_interval` and `keep_alive_timeout` together.
    pub idle: Duration,
    /// How often a quiet HTTP/2 connection is asked for a sign of life.
    pub keep_alive_interval: Duration,
    /// How long it may take to give one.
    pub keep_alive_timeout: Duration,
    /// Requests and streams at once on one connection.
    pub streams: u32,
    /// Bytes of a request's headers. A token has at most 8 KiB.
    pub header_bytes: u32,
    /// Age at which a connection is asked to go when its streams end; a new one takes the others' place, and finds
    /// its way to the replica that a load balancer chooses then.
    pub connection_age: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            connections_per_address: 256,
            handshake: Duration::from_secs(10),
            recognition: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(20),
            streams: 64,
            header_bytes: 16 << 10,
            connection_age: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    /// These, with no more connections than a process with this many descriptors can hold.
    #[must_use]
    pub fn within(mut self, open_files: u64) -> Self {
        let room = usize::try_from(open_files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
        if room < self.connections {
            tracing::warn!(
                open_files,
                connections = room,
                wanted = self.connections,
                "the limit of open files allows fewer connections"
            );
            self.connections = room.max(1);
        }
        self
    }
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
