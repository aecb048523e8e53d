//! The fleet: which nodes publish, and what their agents last said of themselves.
//!
//! Filled by ingest, one report replacing the one before; read by the listing RPCs, for each caller only what
//! it may see.

mod list;
mod page;
mod peers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_proto::v1;
use prost::Message as _;
use tokio::sync::{mpsc, watch};

pub use self::peers::Peers;

/// Most nodes that are remembered: past it the one unheard of for the longest goes.
pub const MAX_NODES: usize = 20_000;
/// Largest report that is kept whole: of a larger one what was counted per pod is left out.
pub const MAX_REPORT_BYTES: usize = 512 << 10;
/// A stream of ours that was silent for so long gives way to what another collector says of the node.
const SILENT: Duration = Duration::from_secs(10);

/// Every node that publishes, or did within the time of the store.
#[derive(Debug)]
pub struct Fleet {
    nodes: Mutex<BTreeMap<String, Member>>,
    retention: Duration,
    connected: AtomicU64,
    sessions: AtomicU64,
    /// Told when an agent came or went, or another filter is in a node's kernel.
    changes: watch::Sender<()>,
    /// Nodes of our own that other collectors should hear of.
    news: OnceLock<mpsc::Sender<String>>,
}

#[derive(Clone, Debug)]
struct Member {
    hello: v1::AgentHello,
    report: Arc<v1::NodeReport>,
    /// For who asks.
    last_seen: SystemTime,
    /// The same by a clock that nobody sets.
    heard: Instant,
    session: Option<(u64, watch::Sender<bool>)>,
    /// The collector that says it has its stream.
    peer: Option<String>,
}

/// What one collector tells the others of a node.
#[derive(Debug)]
struct Said {
    has_stream: bool,
    hello: v1::AgentHello,
    report: Arc<v1::NodeReport>,
}

/// What is known of a node's agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// It has a stream, and this run of it has reported.
    pub present: bool,
    /// When it was last heard.
    pub heard: Instant,
    /// What it last said, perhaps in an earlier run.
    pub report: Arc<v1::NodeReport>,
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
            changes: watch::Sender::new(()),
            news: OnceLock::new(),
        }
    }

    /// Tells when an agent came or went, or what it said of its filters changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Every node's agent, in the order of names.
    #[must_use]
    pub fn agents(&self) -> Vec<(String, Agent)> {
        let members = self.members().into_iter();
        let agents = members.map(|(name, member)| {
            let agent = Agent {
                present: member.has_stream() && member.has_reported(),
                heard: member.heard,
                report: member.report,
            };
            (name, agent)
        });
        agents.collect()
    }

    /// Nodes that publish here now.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }

    /// Nodes that publish now, here or to another collector: at least as many as any of them has.
    #[must_use]
    pub fn publishing(&self) -> u64 {
        let nodes = self.lock();
        nodes.values().filter(|member| member.has_stream()).count() as u64
    }

    /// Registers a node's stream; an older one of the same node is told to end.
    #[must_use]
    pub fn connect(self: &Arc<Self>, hello: v1::AgentHello) -> Session {
        let id = self.sessions.fetch_add(1, Relaxed);
        let (end, superseded) = watch::channel(false);
        let node = hello.node.clone();
        let mut nodes = self.lock();
        self.forget(&mut nodes);
        let report = nodes
            .get(&node)
            .map_or_else(Arc::default, |member| member.report.clone());
        let before = nodes.insert(
            node.clone(),
            Member {
                hello,
                report,
                last_seen: SystemTime::now(),
                heard: Instant::now(),
                session: Some((id, end)),
                peer: None,
            },
        );
        match before.and_then(|member| member.session) {
            // Its receiver is gone when that stream ended by itself just now.
            Some((_, older)) => older.send_replace(true),
            None => self.connected.fetch_add(1, Relaxed) > 0,
        };
        drop(nodes);
        self.changes.send_replace(());
        self.tell(&node);
        Session {
            fleet: self.clone(),
            node,
            id,
            superseded,
        }
    }

    /// Another collector says something of a node. What our own stream says goes before.
    fn hear_of(&self, peer: &str, said: Said) {
        let mut nodes = self.lock();
        self.forget(&mut nodes);
        let known = nodes.get_mut(&said.hello.node);
        let changed = match known {
            Some(known)
                if known.session.is_some()
                    && said.hello.epoch <= known.hello.epoch
                    && known.heard.elapsed() < SILENT =>
            {
                return;
            }
            // Of those that it had only: the node may be another's by now.
            Some(known) if !said.has_stream => {
                let had = known.peer.as_deref() == Some(peer);
                if had {
                    known.peer = None;
                    known.hear();
                }
                had
            }
            Some(known) => {
                let changed = known.peer.as_deref() != Some(peer)
                    || known.hello.epoch != said.hello.epoch
                    || known.report.filters != said.report.filters;
                known.peer = Some(peer.to_owned());
                known.hello = said.hello;
                known.report = said.report;
                known.hear();
                changed
            }
            None => {
                let member = Member {
                    peer: said.has_stream.then(|| peer.to_owned()),
                    report: said.report,
                    last_seen: SystemTime::now(),
                    heard: Instant::now(),
                    session: None,
                    hello: said.hello,
                };
                nodes.insert(member.hello.node.clone(), member);
                true
            }
        };
        drop(nodes);
        if changed {
            self.changes.send_replace(());
        }
    }

    /// What other collectors should know of a node that is or was ours.
    fn said(&self, node: &str) -> Option<Said> {
        let nodes = self.lock();
        let member = nodes.get(node)?;
        (member.session.is_some() || member.peer.is_none()).then(|| Said {
            has_stream: member.session.is_some(),
            hello: member.hello.clone(),
            report: member.report.clone(),
        })
    }

    /// Nodes whose streams are here.
    fn own_nodes(&self) -> Vec<String> {
        let nodes = self.lock();
        let own = nodes.iter().filter(|(_, member)| member.session.is_some());
        own.map(|(name, _)| name.clone()).collect()
    }

    fn tell(&self, node: &str) {
        if let Some(news) = self.news.get() {
            // Where there is no room, the next report tells.
            let _ = news.try_send(node.to_owned());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Member>> {
        // No panic leaves the map half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, nodes: &mut BTreeMap<String, Member>) {
        nodes.retain(|_, member| {
            member.session.is_some() || member.heard.elapsed() <= self.retention
        });
        if nodes.len() >= MAX_NODES {
            let oldest = nodes
                .iter()
                .filter(|(_, member)| member.session.is_none())
                .min_by_key(|(_, member)| member.heard)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                nodes.remove(&oldest);
            }
        }
    }

    /// A consistent copy, in the order of names: cheap, for reports are shared.
    fn members(&self) -> Vec<(String, Member)> {
        let mut nodes = self.lock();
        self.forget(&mut nodes);
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
        self.with(Member::hear);
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
        let changed = self.with(|member| {
            let changed = member.report.filters != report.filters;
            member.report = report;
            member.hear();
            changed
        });
        if changed == Some(true) {
            self.fleet.changes.send_replace(());
        }
        self.fleet.tell(&self.node);
        whole
    }

    /// Changes what is known of the node, unless a newer stream has taken over.
    fn with<T>(&self, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let mut nodes = self.fleet.lock();
        let member = nodes.get_mut(&self.node)?;
        let (id, _) = member.session.as_ref()?;
        (*id == self.id).then(|| change(member))
    }
}

// === impl Member ===

impl Member {
    /// Whether a collector has its stream.
    fn has_stream(&self) -> bool {
        self.session.is_some() || self.peer.is_some()
    }

    /// Whether the report is of the run that has the stream.
    fn has_reported(&self) -> bool {
        let epoch = self.report.node.as_ref().map(|node| node.epoch);
        self.report.time.is_some()
            && epoch.is_none_or(|epoch| epoch == 0 || epoch == self.hello.epoch)
    }

    fn hear(&mut self) {
        self.last_seen = SystemTime::now();
        self.heard = Instant::now();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let fleet = self.fleet.clone();
        let ended = self.with(|member| {
            member.hear();
            member.session = None;
            fleet.connected.fetch_sub(1, Relaxed);
        });
        if ended.is_some() {
            fleet.changes.send_replace(());
            fleet.tell(&self.node);
        }
    }
}

#[cfg(test)]
mod tests;
