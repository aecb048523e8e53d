//! The task: hears of changes, asks the board, writes.

use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use ebpf_hello_policy::crd::{FilterStatus, GROUP, VERSION};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    core::DynamicObject,
    runtime::watcher::Event,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch as channel},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    announcement::{Announcer, announcements},
    board::{Answer, Board, Write},
    metrics::Counts,
    object::{Kind, Object},
    placement::{Place, Placement},
    watch::{self, Change},
};
use crate::{
    fleet::Fleet,
    ingest::report_interval,
    kubernetes::Kubernetes,
    lease::{Holding, Term},
};

/// Who writes, as `metadata.managedFields` has it: the same in every version and replica, so that a whole status
/// replaces the one before.
const FIELD_MANAGER: &str = "ebpf-hello-collector";
/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Writes on their way at a time.
const WRITES: usize = 8;
/// Time between looks at the fleet: at least, while it changes, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Reports that an agent may leave out before it is silent, and the time one takes to come.
const REPORTS: u32 = 3;
const DELAY: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    client: Client,
    fleet: Arc<Fleet>,
    holding: Holding,
    counts: Arc<Counts>,
    board: Board,
    announcer: Announcer,
    changes: mpsc::Receiver<Change>,
    /// What a list that is being received has named so far.
    listed: [BTreeSet<String>; 3],
    /// Which lists have been received whole, the DaemonSet's too.
    synced: [bool; 4],
    term: Option<Instant>,
    /// How long an agent with a stream may be silent. Falls no faster than time passes: agents hear late that they
    /// are to report oftener.
    silence: Duration,
    looked: Instant,
    /// The watches, and who sends events.
    _tasks: JoinSet<()>,
}

const FILTERS: usize = 0;
const CLUSTER_FILTERS: usize = 1;
const NODES: usize = 2;
const DAEMONSET: usize = 3;

type Answers = JoinSet<(Write, Answer)>;

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        kubernetes: &Kubernetes,
        fleet: Arc<Fleet>,
        daemonset: &str,
        holding: Holding,
        counts: Arc<Counts>,
    ) -> Self {
        let (changes, mut tasks) = watch::start(kubernetes, daemonset, &counts);
        let client = kubernetes.client.clone();
        let announcer = Announcer::start(client.clone(), counts.clone(), &mut tasks);
        Writer {
            client,
            fleet,
            holding,
            counts,
            board: Board::new(Instant::now()),
            announcer,
            changes,
            listed: Default::default(),
            synced: [false; 4],
            term: None,
            silence: Duration::ZERO,
            looked: Instant::now(),
            _tasks: tasks,
        }
    }

    pub(super) async fn run(mut self, mut stop: channel::Receiver<bool>) {
        let mut answers = Answers::new();
        let mut fleet = self.fleet.changes();
        let mut look = Instant::now();
        let mut next = None;
        loop {
            let wake = next.map_or(look, |next: Instant| next.min(look));
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                Some(answer) = answers.join_next() => {
                    if let Ok((write, answer)) = answer {
                        self.take(write, answer);
                    }
                }
                Some(change) = self.changes.recv() => {
                    self.apply(change);
                    while let Ok(change) = self.changes.try_recv() {
                        self.apply(change);
                    }
                }
                Ok(()) = fleet.changed() => look = look.min(Instant::now() + LOOK.0),
                () = self.holding.changed() => {}
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            if look <= now {
                self.look_at_agents(now);
                look = now + LOOK.1;
            }
            next = match self.holding.term().filter(|_| self.synced == [true; 4]) {
                Some(term) => self.write(term, now, &mut answers),
                None => {
                    // Not ours to write: what is on its way names a version, and is refused where another wrote.
                    answers.abort_all();
                    self.term = None;
                    None
                }
            };
        }
        // An answer that is not waited for may stand for a write that happens: the lease is still ours.
        let ended = async { while answers.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(1), ended).await;
    }

    fn look_at_agents(&mut self, now: Instant) {
        let wanted = patience(self.fleet.publishing());
        let passed = now.saturating_duration_since(self.looked);
        self.silence = wanted.max(self.silence.saturating_sub(passed));
        self.looked = now;
        self.board
            .set_agents(self.fleet.agents(), self.silence, now);
    }

    fn write(&mut self, term: Term, now: Instant, answers: &mut Answers) -> Option<Instant> {
        if self.term != Some(term.since) {
            self.term = Some(term.since);
            self.look_at_agents(now);
            self.board.begin(term.since);
        }
        // Whole seconds, as the API server keeps them.
        let second = Timestamp::now().as_second();
        let wall = Timestamp::from_second(second).unwrap_or_default();
        let room = WRITES.saturating_sub(answers.len());
        let (writes, next) = self.board.plan(now, wall, room);
        for write in writes {
            let client = self.client.clone();
            let patience = ANSWER.min(term.until.saturating_duration_since(now));
            answers.spawn(async move {
                let answer = timeout(patience, apply(client, &write)).await;
                let answer = answer.unwrap_or_else(|_| {
                    tracing::warn!(filter = write.object.name, "a status was not taken in time");
                    Answer::Failed
                });
                (write, answer)
            });
        }
        next
    }

    fn take(&mut self, write: Write, answer: Answer) {
        let now = Instant::now();
        let counts = &self.counts;
        match &answer {
            Answer::Written(_) => {
                counts.written.fetch_add(1, Relaxed);
                for announcement in announcements(&write.object, &write.status) {
                    self.announcer.announce(announcement, now);
                }
            }
            Answer::Outdated(_) => {
                counts.outdated.fetch_add(1, Relaxed);
            }
            Answer::Gone => {}
            Answer::Failed => {
                counts.failed.fetch_add(1, Relaxed);
            }
        }
        self.board.answered(&write.object.uid, answer, now);
    }

    fn apply(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Filter(kind, event) => self.apply_filter(kind, *event, now),
            Change::Node(event) => self.apply_node(*event, now),
            Change::DaemonSet(found) => {
                self.board.set_placement(found.map(Placement::of));
                self.synced[DAEMONSET] = true;
            }
        }
    }

    fn apply_filter(&mut self, kind: Kind, event: Event<DynamicObject>, now: Instant) {
        let list = match kind {
            Kind::Namespaced => FILTERS,
            Kind::Cluster => CLUSTER_FILTERS,
        };
        let mut set = |object: &DynamicObject| {
            let uid = object.uid().unwrap_or_default();
            let read = Object::read(kind, object, self.board.filter(&uid));
            self.board.set_filter(read, now);
            uid
        };
        match event {
            Event::Init => self.listed[list].clear(),
            Event::InitApply(object) => {
                let uid = set(&object);
                self.listed[list].insert(uid);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed[list]);
                self.board.retain_filters(kind, &listed);
                self.synced[list] = true;
            }
            Event::Apply(object) => {
                set(&object);
            }
            Event::Delete(object) => self.board.remove_filter(&object.uid().unwrap_or_default()),
        }
    }

    fn apply_node(&mut self, event: Event<k8s_openapi::api::core::v1::Node>, now: Instant) {
        match event {
            Event::Init => self.listed[NODES].clear(),
            Event::InitApply(node) => {
                self.listed[NODES].insert(node.name_any());
                self.board.set_node(Place::of(node), now);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed[NODES]);
                self.board.retain_nodes(&listed);
                self.synced[NODES] = true;
            }
            Event::Apply(node) => self.board.set_node(Place::of(node), now),
            Event::Delete(node) => self.board.remove_node(&node.name_any()),
        }
    }
}

/// How long an agent may be silent, of so many in the whole fleet: each collector tells its own agents an interval by
/// how many those are, which is no longer than by how many there are.
fn patience(agents: u64) -> Duration {
    report_interval(agents) * REPORTS + DELAY
}

/// Writes one status, whole.
async fn apply(client: Client, write: &Write) -> Answer {
    let Write { object, status } = write;
    let resource = object.kind.resource();
    let api: Api<DynamicObject> = match &object.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(body(object, status));
    match api.patch_status(&object.name, &parameters, &patch).await {
        Ok(written) => Answer::Written(Box::new(Object::read(object.kind, &written, Some(object)))),
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            Answer::Outdated(object.version.clone())
        }
        Err(kube::Error::Api(answer)) if answer.code == 404 => Answer::Gone,
        Err(error) => {
            tracing::warn!(filter = object.name, %error, "a status cannot be written");
            Answer::Failed
        }
    }
}

fn body(object: &Object, status: &FilterStatus) -> serde_json::Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": object.kind.name(),
        "metadata": {
            "name": object.name,
            "namespace": object.namespace,
            "resourceVersion": object.version,
        },
        "status": status,
    })
}
