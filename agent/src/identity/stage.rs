//! The stage between the reader and the consumer: gives events their pod. Pure but for the pods and paths it asks.
//!
//! Most events pass at once: their cgroup is known, or no pod's. The first of a new cgroup may come before the API
//! server told of its pod. Such a cgroup's events wait, for `wait` at most, and in their order; others' do not wait for
//! them. Then they leave without, and an `identity` event tells as soon as there is something to tell.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_proto::v1::{self, Event, event::Kind};

use super::{
    ContainerScope, Identity,
    figures::{Figures, Level},
    resolve::{Answer, Resolution, Resolver},
};
use crate::{
    Accounts, Batch, Item, Outcome,
    event::Origin,
    wall::{Wall, boot_now},
};

/// Events that wait at most, of all cgroups together.
const WAITING: usize = 8_192;
/// Cgroups at most whose answer is waited for; events of others go out without, and nothing follows.
const OPEN: usize = 8_192;
/// How long an answer is waited for that nothing is known of, not even a path.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stage.
pub(super) struct Stage {
    resolver: Resolver,
    wait: Duration,
    scope: Option<Arc<dyn ContainerScope>>,
    origin: Arc<Origin>,
    accounts: Arc<Accounts>,
    figures: Figures,
    cgroups: HashMap<u64, State>,
    /// Those of them that are open.
    open: HashSet<u64>,
    /// Events that wait in them.
    waiting: usize,
    /// What the pods were when the answers were last compared with them.
    version: u64,
    out: Batch,
}

/// What is known of one cgroup.
enum State {
    /// It is no pod's.
    Host,
    /// All there is to know, as of a version of the pods.
    Known(Arc<Answer>, u64),
    Open(Box<Open>),
}

/// A cgroup whose answer is waited for.
struct Open {
    /// Its first event.
    since: Instant,
    waiting: VecDeque<Item>,
    /// Its events do not wait any more.
    is_overdue: bool,
    /// Its pod, where only the container is not known.
    pod: Option<Arc<Answer>>,
    /// Events that left without pod.
    left: u64,
    /// Events that left without container.
    left_container: u64,
}

// === impl Stage ===

impl Stage {
    pub(super) fn new(identity: &Identity, origin: Arc<Origin>, accounts: Arc<Accounts>) -> Self {
        Stage {
            resolver: identity.resolver(),
            wait: identity.options.wait,
            scope: identity.options.scope.clone(),
            origin,
            accounts,
            figures: identity.figures.clone(),
            cgroups: HashMap::new(),
            open: HashSet::new(),
            waiting: 0,
            version: 0,
            out: Batch::new(),
        }
    }

    /// What goes on to the consumer now.
    pub(super) fn out(&mut self) -> Batch {
        std::mem::take(&mut self.out)
    }

    /// Whether anything waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether an answer is waited for.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The pods are another version now.
    pub(super) fn renew(&mut self, version: u64) {
        self.version = version;
    }

    /// Takes one event.
    pub(super) fn take(&mut self, item: Item, now: Instant) {
        let cgroup = item.event.cgroup_id;
        // 0 is no cgroup.
        if cgroup == 0 {
            self.out.push(item);
            return;
        }
        match self.cgroups.get_mut(&cgroup) {
            Some(State::Host) => self.out.push(item),
            Some(State::Known(answer, version)) => {
                if *version != self.version {
                    *version = self.version;
                    if let Some(renewed) = self.resolver.renew(cgroup, answer) {
                        *answer = renewed;
                    }
                }
                let answer = Arc::clone(answer);
                self.send(item, Some(&answer));
            }
            Some(State::Open(open)) if !open.is_overdue => {
                open.waiting.push_back(item);
                self.waiting += 1;
                if self.waiting > WAITING {
                    self.leave(cgroup);
                }
            }
            Some(State::Open(_)) => self.send_open(cgroup, item),
            None => self.take_first(item, now),
        }
    }

    /// Takes the first event of a cgroup.
    fn take_first(&mut self, item: Item, now: Instant) {
        let cgroup = item.event.cgroup_id;
        let pod = match self.resolver.resolve(cgroup) {
            Resolution::Host => {
                self.cgroups.insert(cgroup, State::Host);
                self.out.push(item);
                return;
            }
            Resolution::Known(answer) => {
                self.figures.answered(Level::Pod, Duration::ZERO);
                if answer.pod.container.is_some() {
                    self.figures.answered(Level::Container, Duration::ZERO);
                }
                self.send(item, Some(&answer));
                self.cgroups
                    .insert(cgroup, State::Known(answer, self.version));
                return;
            }
            Resolution::NoContainer(answer) => {
                self.figures.answered(Level::Pod, Duration::ZERO);
                Some(answer)
            }
            Resolution::NoPath | Resolution::NoPod => None,
        };
        if self.open.len() >= OPEN {
            self.send(item, pod.as_deref());
            return;
        }
        let is_overdue = self.wait.is_zero() || self.waiting >= WAITING;
        self.open.insert(cgroup);
        let open = Open {
            since: now,
            waiting: VecDeque::new(),
            is_overdue,
            pod,
            left: 0,
            left_container: 0,
        };
        self.cgroups.insert(cgroup, State::Open(Box::new(open)));
        // It is open now.
        self.take(item, now);
    }

    /// Looks again for what is not known; to be called when pods or cgroups changed.
    pub(super) fn look_again(&mut self, now: Instant) {
        let open: Vec<u64> = self.open.iter().copied().collect();
        for cgroup in open {
            match self.resolver.resolve(cgroup) {
                Resolution::NoPath | Resolution::NoPod => {}
                Resolution::Host => {
                    if let Some(open) = self.close(cgroup, State::Host) {
                        self.out.extend(open.waiting);
                    }
                }
                Resolution::NoContainer(answer) => {
                    let Some(State::Open(open)) = self.cgroups.get_mut(&cgroup) else {
                        continue;
                    };
                    if open.pod.replace(Arc::clone(&answer)).is_some() {
                        continue;
                    }
                    let (since, left) = (open.since, std::mem::take(&mut open.left));
                    self.figures.answered(Level::Pod, now - since);
                    self.tell(cgroup, &answer, now - since, left);
                }
                Resolution::Known(answer) => {
                    let known = State::Known(Arc::clone(&answer), self.version);
                    let Some(open) = self.close(cgroup, known) else {
                        continue;
                    };
                    let waited = now - open.since;
                    if open.pod.is_none() {
                        self.figures.answered(Level::Pod, waited);
                    }
                    if answer.pod.container.is_some() {
                        self.figures.answered(Level::Container, waited);
                    }
                    self.tell(cgroup, &answer, waited, open.left.max(open.left_container));
                    for item in open.waiting {
                        self.send(item, Some(&answer));
                    }
                }
            }
        }
    }

    /// Lets those go that waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let overdue = self.open.iter().copied().filter(|cgroup| {
            matches!(self.cgroups.get(cgroup), Some(State::Open(open))
                if !open.is_overdue && now - open.since >= self.wait)
        });
        for cgroup in overdue.collect::<Vec<_>>() {
            self.leave(cgroup);
        }
    }

    /// Forgets cgroups that nobody knows any more.
    pub(super) fn forget(&mut self, now: Instant) {
        let paths = &self.resolver.paths;
        let gone: Vec<u64> = self
            .cgroups
            .iter()
            .filter(|(cgroup, state)| {
                let is_old = match state {
                    State::Open(open) => open.is_overdue && now - open.since > PATIENCE,
                    _ => true,
                };
                is_old && !paths.knows(**cgroup)
            })
            .map(|(cgroup, _)| *cgroup)
            .collect();
        for cgroup in gone {
            self.cgroups.remove(&cgroup);
            self.open.remove(&cgroup);
        }
    }

    /// Lets all go.
    pub(super) fn end(&mut self, now: Instant) {
        self.look_again(now);
        for cgroup in self.open.clone() {
            self.leave(cgroup);
        }
    }

    /// Lets a cgroup's events go with what is known.
    fn leave(&mut self, cgroup: u64) {
        let Some(State::Open(open)) = self.cgroups.get_mut(&cgroup) else {
            return;
        };
        open.is_overdue = true;
        let waiting = std::mem::take(&mut open.waiting);
        self.waiting -= waiting.len();
        for item in waiting {
            self.send_open(cgroup, item);
        }
    }

    /// Sends an event of a cgroup whose answer is waited for still.
    fn send_open(&mut self, cgroup: u64, item: Item) {
        let Some(State::Open(open)) = self.cgroups.get_mut(&cgroup) else {
            self.out.push(item);
            return;
        };
        open.left += u64::from(open.pod.is_none());
        open.left_container += 1;
        let pod = open.pod.clone();
        self.send(item, pod.as_deref());
    }

    /// The cgroup's answer is there.
    fn close(&mut self, cgroup: u64, state: State) -> Option<Box<Open>> {
        self.open.remove(&cgroup);
        match self.cgroups.insert(cgroup, state) {
            Some(State::Open(open)) => {
                self.waiting -= open.waiting.len();
                Some(open)
            }
            _ => None,
        }
    }

    /// Sends an event of a pod with what is known of it; or drops it, where no filter that wants it is for its container.
    fn send(&mut self, mut item: Item, answer: Option<&Answer>) {
        let container = answer.and_then(|answer| answer.pod.container.as_ref());
        let name = container.map(|container| container.name.as_str());
        let name = name.filter(|name| !name.is_empty());
        if let (Some(scope), Some(answer)) = (&self.scope, answer)
            && !scope.admits(&mut item.event, &answer.pod, name)
        {
            self.accounts.settle(item.handler, Outcome::OutOfScope);
            return;
        }
        self.figures.count(Level::Pod, answer.is_some(), 1);
        if answer.is_none() || container.is_some() {
            self.figures.count(Level::Container, name.is_some(), 1);
        }
        item.event.pod = answer.map(|answer| answer.pod.clone());
        self.out.push(item);
    }

    /// Tells whose the events were that left without.
    fn tell(&mut self, cgroup: u64, answer: &Answer, waited: Duration, events: u64) {
        if events == 0 {
            return;
        }
        let identity = v1::Identity {
            cgroup_path: self.resolver.paths.path(cgroup).unwrap_or_default(),
            waited: Some(ebpf_hello_proto::Duration::from_nanos(
                u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX),
            )),
            unresolved_events: events,
        };
        self.out.push(Item {
            handler: None,
            event: Event {
                time: Some(Wall::now().time(boot_now())),
                node: self.origin.node.clone(),
                epoch: self.origin.epoch,
                cgroup_id: cgroup,
                pod: Some(answer.pod.clone()),
                kind: Some(Kind::Identity(identity)),
                ..Event::default()
            },
        });
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
