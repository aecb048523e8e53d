//! The fleet: which nodes publish, and what their agents last said of themselves.
//!
//! Filled by ingest, one report replacing the one before; read by the listing RPCs, for each caller only what
//! it may see.

mod list;
mod page;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use ebpf_hello_proto::v1;
use prost::Message as _;
use tokio::sync::watch;

/// Most nodes that are remembered: past it the one unheard of for the longest goes.
pub const MAX_NODES: usize = 20_000;
/// Largest report that is kept whole: of a larger one what was counted per pod is left out.
pub const MAX_REPORT_BYTES: usize = 512 << 10;

/// Every node that publishes, or did within the time of the store.
#[derive(Debug)]
pub struct Fleet {
    nodes: Mutex<BTreeMap<String, Member>>,
    retention: Duration,
    connected: AtomicU64,
    sessions: AtomicU64,
}

#[derive(Clone, Debug)]
struct Member {
    hello: v1::AgentHello,
    report: Arc<v1::NodeReport>,
    last_seen: SystemTime,
    session: Option<(u64, watch::Sender<bool>)>,
}

/// A node's stream, registered for as long as it lasts.
#[derive(Debug)]
pub struct Session {
    fleet: Arc<Fleet>,
    node: String,
    id: u64,
    superseded: watch::Receiver<bool>,
}

// === impl Fleet ===

impl Fleet {
    /// An empty one that remembers a node for this long after it was last heard of.
    #[must_use]
    pub fn new(retention: Duration) -> Self {
        Fleet {
            nodes: Mutex::default(),
            retention,
            connected: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
        }
    }

    /// Nodes that publish now.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }

    /// Registers a node's stream; an older one of the same node is told to end.
    #[must_use]
    pub fn connect(self: &Arc<Self>, hello: v1::AgentHello) -> Session {
        let id = self.sessions.fetch_add(1, Relaxed);
        let (end, superseded) = watch::channel(false);
        let node = hello.node.clone();
        let mut nodes = self.lock();
        let now = SystemTime::now();
        self.forget(&mut nodes, now);
        let report = nodes
            .get(&node)
            .map_or_else(Arc::default, |member| member.report.clone());
        let before = nodes.insert(
            node.clone(),
            Member {
                hello,
                report,
                last_seen: now,
                session: Some((id, end)),
            },
        );
        match before.and_then(|member| member.session) {
            // Its receiver is gone when that stream ended by itself just now.
            Some((_, older)) => older.send_replace(true),
            None => self.connected.fetch_add(1, Relaxed) > 0,
        };
        Session {
            fleet: self.clone(),
            node,
            id,
            superseded,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Member>> {
        // No panic leaves the map half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, nodes: &mut BTreeMap<String, Member>, now: SystemTime) {
        nodes.retain(|_, member| {
            member.session.is_some()
                || now
                    .duration_since(member.last_seen)
                    .is_ok_and(|gone| gone <= self.retention)
        });
        if nodes.len() >= MAX_NODES {
            let oldest = nodes
                .iter()
                .filter(|(_, member)| member.session.is_none())
                .min_by_key(|(_, member)| member.last_seen)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                nodes.remove(&oldest);
            }
        }
    }

    /// A consistent copy, in the order of names: cheap, for reports are shared.
    fn members(&self) -> Vec<(String, Member)> {
        let mut nodes = self.lock();
        self.forget(&mut nodes, SystemTime::now());
        nodes
            .iter()
            .map(|(name, member)| (name.clone(), member.clone()))
            .collect()
    }
}

// === impl Session ===

impl Session {
    /// The node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Returns when a newer stream of the node took over. Cancel safe.
    pub async fn superseded(&mut self) {
        // The sender lives in the fleet as long as this session is the node's.
        let _ = self.superseded.wait_for(|over| *over).await;
    }

    /// The node's agent was heard of.
    pub fn heard(&self) {
        self.with(|member| member.last_seen = SystemTime::now());
    }

    /// Takes what the agent says of its node; true if it was taken whole.
    pub fn report(&self, mut report: v1::NodeReport) -> bool {
        let whole = report.encoded_len() <= MAX_REPORT_BYTES;
        if !whole {
            report.pods.clear();
            report.programs.truncate(256);
            report.filters.truncate(256);
        }
        let report = Arc::new(report);
        self.with(|member| {
            member.report = report;
            member.last_seen = SystemTime::now();
        });
        whole
    }

    fn with(&self, change: impl FnOnce(&mut Member)) {
        let mut nodes = self.fleet.lock();
        if let Some(member) = nodes.get_mut(&self.node)
            && member
                .session
                .as_ref()
                .is_some_and(|(id, _)| *id == self.id)
        {
            change(member);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let fleet = self.fleet.clone();
        self.with(|member| {
            member.last_seen = SystemTime::now();
            member.session = None;
            fleet.connected.fetch_sub(1, Relaxed);
        });
    }
}

#[cfg(test)]
mod tests;
