//! Everything that decides what is written and when: filters, nodes, agents. Pure, with both clocks handed in.
//!
//! ```text
//! watches ─▶ set_filter, set_node, set_placement ─┐
//! fleet   ─▶ set_agents ──────────────────────────┼▶ plan ─▶ writes, time of the next look
//! API server's answers ─▶ answered ───────────────┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use ebpf_hello_policy::crd::FilterStatus;
use ebpf_hello_proto::v1::{FilterState, NodeReport};
use k8s_openapi::jiff::Timestamp;
use kube::core::SelectorExt as _;
use tokio::time::Instant;

use super::{
    content::{Content, Word, find},
    object::{Kind, Object},
    pace::{Budget, News, Pace},
    placement::{Place, Placement},
};
use crate::fleet::Agent;

/// How long an agent may be without a stream before its node counts as without agent: it reconnects.
const ABSENCE: Duration = Duration::from_secs(5);
/// How long a node may have no agent at all, or a new holder waits for agents to find it.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds of the pause after a write that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The state of things.
#[derive(Debug)]
pub(super) struct Board {
    placement: Option<Placement>,
    nodes: BTreeMap<String, Node>,
    filters: BTreeMap<String, Entry>,
    /// When our term began.
    began: Instant,
    budget: Budget,
    /// How long an agent with a stream may be silent.
    silence: Duration,
}

#[derive(Debug)]
struct Node {
    /// Absent for an agent of a node that the API server has not told of.
    place: Option<Place>,
    /// When either was first seen.
    first: Instant,
    agent: Option<Known>,
    presence: Presence,
}

/// What is known of a node's agent.
#[derive(Debug)]
struct Known {
    report: Arc<NodeReport>,
    /// What it says of each filter, by uid.
    states: HashMap<String, usize>,
    is_present: bool,
    /// Since when it is not.
    away: Option<Instant>,
    heard: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// Not, but it may still come.
    Awaited,
    Missing,
}

#[derive(Debug)]
struct Entry {
    object: Object,
    pace: Pace,
    /// Something that its status depends on has changed since the content was made.
    is_touched: bool,
    content: Option<Content>,
    is_asked: bool,
    /// Not to be written before, because of a failure; and the pause after the next.
    blocked: Option<(Instant, Duration)>,
    /// The version that a write was refused for as outdated.
    outdated: Option<String>,
}

/// A status to be written.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) object: Object,
    pub(super) status: FilterStatus,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Answer {
    /// This is the object now.
    Written(Box<Object>),
    /// It was about this version of the object: a newer one is on its way.
    Outdated(String),
    /// The object is gone.
    Gone,
    Failed,
}

// === impl Board ===

impl Board {
    pub(super) fn new(now: Instant) -> Self {
        Board {
            placement: None,
            nodes: BTreeMap::new(),
            filters: BTreeMap::new(),
            began: now,
            budget: Budget::new(now),
            silence: Duration::MAX,
        }
    }

    /// A term begins: what agents did while another held the lease may not have reached us.
    pub(super) fn begin(&mut self, since: Instant) {
        self.began = since;
        for entry in self.filters.values_mut() {
            entry.is_touched = true;
            entry.is_asked = false;
            entry.blocked = None;
        }
    }

    /// A filter as it is now.
    pub(super) fn set_filter(&mut self, object: Object, now: Instant) {
        let known = self.filters.get_mut(&object.uid);
        match known {
            None => {
                let mut pace = Pace::default();
                if object.observed() != Some(object.generation) {
                    pace.spec_changed(now);
                }
                let entry = Entry {
                    pace,
                    is_touched: true,
                    content: None,
                    is_asked: false,
                    blocked: None,
                    outdated: None,
                    object,
                };
                self.filters.insert(entry.object.uid.clone(), entry);
            }
            Some(entry) => {
                if is_older(&object.version, &entry.object.version) {
                    return;
                }
                if object.generation != entry.object.generation {
                    entry.pace.spec_changed(now);
                    entry.blocked = None;
                }
                entry.object = object;
                entry.is_touched = true;
            }
        }
    }

    /// The filter as it was last seen.
    pub(super) fn filter(&self, uid: &str) -> Option<&Object> {
        self.filters.get(uid).map(|entry| &entry.object)
    }

    pub(super) fn remove_filter(&mut self, uid: &str) {
        self.filters.remove(uid);
    }

    /// Of one kind, all but these are gone.
    pub(super) fn retain_filters(&mut self, kind: Kind, uids: &BTreeSet<String>) {
        self.filters
            .retain(|uid, entry| entry.object.kind != kind || uids.contains(uid));
    }

    pub(super) fn set_node(&mut self, place: Place, now: Instant) {
        let node = self.node(&place.name.clone(), now);
        if node.place.as_ref() != Some(&place) {
            if node.place.is_none() {
                node.first = now;
            }
            node.place = Some(place);
            self.touch_all();
        }
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.place = None;
            self.touch_all();
        }
    }

    /// All nodes but these are gone.
    pub(super) fn retain_nodes(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .nodes
            .iter()
            .filter(|(name, node)| node.place.is_some() && !names.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.remove_node(&name);
        }
    }

    /// The agents' DaemonSet; `None`: there is none, and agents belong where they are.
    pub(super) fn set_placement(&mut self, placement: Option<Placement>) {
        if self.placement != placement {
            self.placement = placement;
            self.touch_all();
        }
    }

    /// All agents that are known, in the order of their nodes' names, and how long one may be silent.
    pub(super) fn set_agents(
        &mut self,
        agents: Vec<(String, Agent)>,
        silence: Duration,
        now: Instant,
    ) {
        self.silence = silence;
        let mut touched = BTreeSet::new();
        self.forget_agents(&agents);
        for (name, agent) in agents {
            let node = self.node(&name, now);
            let heard = Instant::from_std(agent.heard);
            let Some(known) = &mut node.agent else {
                let states = states(&agent.report);
                touched.extend(states.keys().cloned());
                node.agent = Some(Known {
                    states,
                    is_present: agent.present,
                    away: (!agent.present).then_some(heard),
                    heard,
                    report: agent.report,
                });
                continue;
            };
            known.heard = heard;
            if known.is_present != agent.present {
                known.is_present = agent.present;
                known.away = (!agent.present).then_some(now);
            }
            if Arc::ptr_eq(&known.report, &agent.report) {
                continue;
            }
            if known.report.filters != agent.report.filters {
                let new = states(&agent.report);
                touched.extend(differing(known, &agent.report, &new));
                known.states = new;
            }
            known.report = agent.report;
        }
        for uid in touched {
            if let Some(entry) = self.filters.get_mut(&uid) {
                entry.is_touched = true;
            }
        }
    }

    /// Nobody remembers the agents of the other nodes any more.
    fn forget_agents(&mut self, known: &[(String, Agent)]) {
        let is_known = |name: &String| known.binary_search_by(|(known, _)| known.cmp(name)).is_ok();
        let mut changed = false;
        for (name, node) in &mut self.nodes {
            if node.agent.is_some() && !is_known(name) {
                node.agent = None;
                changed = true;
            }
        }
        if changed {
            self.touch_all();
        }
    }

    /// What to write now, so many at most, and when to look again at the latest. Whoever has no room for all of it
    /// asks again when there is.
    pub(super) fn plan(
        &mut self,
        now: Instant,
        wall: Timestamp,
        room: usize,
    ) -> (Vec<Write>, Option<Instant>) {
        let mut next = self.look_for_missing(now);
        let mut due = Vec::new();
        let is_new = now < self.began + REPORT_TIMEOUT;
        for (uid, entry) in &mut self.filters {
            if entry.is_asked || entry.outdated.as_ref() == Some(&entry.object.version) {
                continue;
            }
            if std::mem::take(&mut entry.is_touched) {
                let words = words(&self.nodes, self.placement.as_ref(), &entry.object);
                entry.content = Some(Content::of(&entry.object, words));
            }
            let Some(content) = &entry.content else {
                continue;
            };
            let before = entry.object.status.as_ref();
            let status = content.status(entry.object.generation, before, wall);
            if before == Some(&status) {
                entry.content = None;
                continue;
            }
            if is_new && is_held_back(&entry.object, content) {
                next = earlier(next, self.began + REPORT_TIMEOUT);
                continue;
            }
            let news = news(before, &status);
            let mut at = entry.pace.due(now, content.is_complete, news);
            if let Some((blocked, _)) = entry.blocked {
                at = at.max(blocked);
            }
            if at <= now {
                due.push((news == News::Count, at, uid.clone(), status));
            } else {
                next = earlier(next, at);
            }
        }
        // Where not all can be written, what is urgent first, then what has waited longest.
        due.sort_by_key(|a| (a.0, a.1));
        let agents = self.nodes.values().filter(|n| n.agent.is_some()).count();
        let mut writes = Vec::new();
        for (_, _, uid, status) in due.into_iter().take(room) {
            if let Err(later) = self.budget.take(now, agents) {
                next = earlier(next, later);
                break;
            }
            if let Some(entry) = self.filters.get_mut(&uid) {
                entry.is_asked = true;
                let object = entry.object.clone();
                writes.push(Write { object, status });
            }
        }
        (writes, next)
    }

    /// What the API server said to a write.
    pub(super) fn answered(&mut self, uid: &str, answer: Answer, now: Instant) {
        let Some(entry) = self.filters.get_mut(uid) else {
            return;
        };
        entry.is_asked = false;
        entry.is_touched = true;
        match answer {
            Answer::Written(object) => {
                entry.blocked = None;
                entry.outdated = None;
                // One whose spec changed meanwhile has its first write before it.
                if object.generation == entry.object.generation {
                    entry.pace.wrote(now);
                }
                self.set_filter(*object, now);
            }
            Answer::Outdated(version) => entry.outdated = Some(version),
            Answer::Gone => {
                self.filters.remove(uid);
            }
            Answer::Failed => {
                let pause = entry.blocked.map_or(RETRY.0, |(_, pause)| pause);
                entry.blocked = Some((now + pause, (pause * 2).min(RETRY.1)));
            }
        }
    }

    fn node(&mut self, name: &str, now: Instant) -> &mut Node {
        self.nodes.entry(name.to_owned()).or_insert_with(|| Node {
            place: None,
            first: now,
            agent: None,
            presence: Presence::Awaited,
        })
    }

    fn touch_all(&mut self) {
        for entry in self.filters.values_mut() {
            entry.is_touched = true;
        }
    }

    /// Judges which agents are there; says when that may change by time alone.
    fn look_for_missing(&mut self, now: Instant) -> Option<Instant> {
        let (began, silence) = (self.began, self.silence);
        let mut next = None;
        let mut changed = false;
        // What neither the API server nor an agent knows any more.
        self.nodes
            .retain(|_, node| node.place.is_some() || node.agent.is_some());
        for node in self.nodes.values_mut() {
            let (presence, until) = match &node.agent {
                Some(known) if known.is_present => {
                    let end = known.heard.checked_add(silence);
                    if end.is_none_or(|end| now < end) {
                        (Presence::Here, end)
                    } else {
                        (Presence::Missing, None)
                    }
                }
                Some(Known {
                    away: Some(away), ..
                }) if began <= *away || node.presence == Presence::Missing => {
                    absent(*away + ABSENCE, now)
                }
                _ => absent(node.first.max(began) + REPORT_TIMEOUT, now),
            };
            if let Some(until) = until {
                next = earlier(next, until);
            }
            if node.presence != presence {
                node.presence = presence;
                changed = true;
            }
        }
        if changed {
            self.touch_all();
        }
        next
    }
}

fn absent(end: Instant, now: Instant) -> (Presence, Option<Instant>) {
    if now < end {
        (Presence::Awaited, Some(end))
    } else {
        (Presence::Missing, None)
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Versions of one object are numbers that grow; what is none is taken as newer.
fn is_older(version: &str, known: &str) -> bool {
    match (version.parse::<u128>(), known.parse::<u128>()) {
        (Ok(version), Ok(known)) => version < known,
        _ => false,
    }
}

fn states(report: &NodeReport) -> HashMap<String, usize> {
    let filters = report.filters.iter().enumerate();
    filters
        .filter(|(_, state)| !state.uid.is_empty())
        .map(|(index, state)| (state.uid.clone(), index))
        .collect()
}

/// Filters of which the new report says something else.
fn differing(known: &Known, report: &NodeReport, new: &HashMap<String, usize>) -> Vec<String> {
    let uids: BTreeSet<&String> = known.states.keys().chain(new.keys()).collect();
    uids.into_iter()
        .filter(|uid| {
            let before = known
                .states
                .get(*uid)
                .and_then(|at| known.report.filters.get(*at));
            let after = new.get(*uid).and_then(|at| report.filters.get(*at));
            before != after
        })
        .cloned()
        .collect()
}

/// What each node that should run the filter says of it.
fn words<'a>(
    nodes: &'a BTreeMap<String, Node>,
    placement: Option<&'a Placement>,
    object: &'a Object,
) -> impl Iterator<Item = (&'a str, Word<'a>)> {
    nodes.iter().filter_map(move |(name, node)| {
        let place = node.place.as_ref()?;
        let runs = node.agent.is_some();
        let should = match placement {
            Some(placement) => placement.takes(place, runs),
            None => node.agent.is_some(),
        };
        (should && object.nodes.matches(&place.labels))
            .then(|| (name.as_str(), node.word(&object.uid)))
    })
}

/// A new holder does not take back what the one before wrote until it has heard of every node, or waited long enough.
fn is_held_back(object: &Object, content: &Content) -> bool {
    let Some(before) = &object.status else {
        return false;
    };
    let accepted = find(before, super::content::ACCEPTED).map(|one| one.status == "True");
    if content.awaited == 0 || accepted != Some(content.accepted.holds) {
        return false;
    }
    let programmed = before.nodes.as_ref().map_or(0, |nodes| nodes.programmed);
    object.observed() == Some(object.generation) || content.nodes.programmed < programmed
}

fn news(before: Option<&FilterStatus>, status: &FilterStatus) -> News {
    let Some(before) = before else {
        return News::Urgent;
    };
    let statuses = |status: &FilterStatus| -> Vec<(String, String)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|one| (one.type_.clone(), one.status.clone()))
            .collect()
    };
    let failed = |status: &FilterStatus| status.nodes.as_ref().map(|nodes| nodes.failed);
    let is_urgent = statuses(before) != statuses(status)
        || failed(before) != failed(status)
        || before.failures != status.failures;
    if is_urgent { News::Urgent } else { News::Count }
}

// === impl Node ===

impl Node {
    fn word(&self, uid: &str) -> Word<'_> {
        let state = self.agent.as_ref().and_then(|known| known.state(uid));
        match (self.presence, state) {
            (Presence::Missing, _) => Word::Missing(match &self.agent {
                Some(known) if known.is_present => "The agent has fallen silent.",
                Some(_) => "The agent has left.",
                None => "No agent has reported.",
            }),
            // For as long as it may come back, what it said last holds.
            (_, Some(state)) => Word::Says(state),
            (Presence::Here, None) => Word::Silent,
            (Presence::Awaited, None) => Word::Awaited,
        }
    }
}

// === impl Known ===

impl Known {
    fn state(&self, uid: &str) -> Option<&FilterState> {
        self.report.filters.get(*self.states.get(uid)?)
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
