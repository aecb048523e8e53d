//! Events in, rows out: who makes which calls, and how often. Pure, but for the clock it is handed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use clap::ValueEnum;
use ebpf_hello_proto::v1::{Event, event::Kind};

use super::rate::Rate;

/// Rows kept at most: the busiest. What the others did is added up in one.
pub(super) const MAX_ROWS: usize = 4096;
/// What is thrown together at once when there are more.
const EVICTED: usize = MAX_ROWS / 4;

/// Whose calls a row adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Grouping {
    /// A pod; outside pods, threads of one name on one node.
    #[default]
    Pod,
    /// A namespace.
    Namespace,
    /// A node.
    Node,
    /// A process.
    Process,
}

/// What the rows are in the order of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Calls in the last second.
    #[default]
    Rate,
    /// Calls per second, averaged over the last ten.
    Average,
    /// Calls since the start.
    Total,
    /// Programs executed per second.
    Execs,
    /// Whose calls, by name.
    Name,
}

/// Whose calls, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    subject: Subject,
    call: String,
    /// From the kernel's counters, not from events.
    counted: bool,
}

/// Whose calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Subject {
    /// As it is shown.
    pub(super) name: String,
    /// Empty where a row is of all nodes.
    pub(super) node: String,
}

/// A row as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) subject: Subject,
    /// A system call, or the kind of a process event.
    pub(super) call: String,
    /// From the kernel's counters, not from events.
    pub(super) counted: bool,
    /// Calls per second, since the tick before.
    pub(super) rate: f64,
    /// Calls per second, averaged.
    pub(super) average: f64,
    /// Calls since the start.
    pub(super) total: u64,
    /// Programs executed per second by whose row it is.
    pub(super) execs: f64,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Model {
    grouping: Grouping,
    rows: HashMap<Key, Rate>,
    /// What the rows did that were not kept.
    others: Rate,
    /// All events, losses left out.
    pub(super) events: Rate,
    /// Events that were lost, as the stream told.
    pub(super) lost: u64,
    /// Losses whose number nobody knows.
    pub(super) lost_unknown: u64,
    /// Events left out on request: rate limits, sampling.
    pub(super) suppressed: u64,
}

// === impl Model ===

impl Model {
    pub(super) fn new(grouping: Grouping) -> Self {
        Model {
            grouping,
            ..Model::default()
        }
    }

    pub(super) fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Starts the rows afresh, as another kind; the sums stay.
    pub(super) fn regroup(&mut self, grouping: Grouping) {
        self.grouping = grouping;
        self.rows.clear();
        self.others = Rate::default();
    }

    /// Takes an event in.
    pub(super) fn add(&mut self, event: &Event) {
        if let Some(policy) = &event.policy {
            self.suppressed = self.suppressed.saturating_add(policy.suppressed_since_last);
        }
        let call = match &event.kind {
            Some(Kind::Exec(exec)) if exec.errno.is_some() => "exec (failed)",
            Some(Kind::Exec(_)) => EXEC,
            Some(Kind::Exit(_)) => "exit",
            Some(Kind::Fork(_)) => "fork",
            Some(Kind::Syscall(call)) => &call.name,
            Some(Kind::Timer(call)) => &call.name,
            Some(Kind::Path(call)) => &call.name,
            Some(Kind::Sock(call)) => &call.name,
            Some(Kind::Loss(loss)) => {
                self.lost = self.lost.saturating_add(loss.count);
                self.lost_unknown += u64::from(loss.count == 0);
                return;
            }
            // No calls of their own; a kind newer than this version has no name here.
            Some(Kind::Counters(_) | Kind::Identity(_)) | None => return,
        };
        self.events.add(1);
        let key = Key {
            subject: self.subject(event),
            call: call.to_owned(),
            counted: false,
        };
        self.count(key, 1);
    }

    /// Takes in what the kernel counted instead of reporting since the reading before.
    pub(super) fn add_counted(
        &mut self,
        node: &str,
        namespace: &str,
        pod: &str,
        call: &str,
        calls: u64,
    ) {
        let subject = match self.grouping {
            Grouping::Namespace if pod.is_empty() => Subject::named(OUTSIDE),
            Grouping::Namespace => Subject::named(namespace),
            Grouping::Pod if !pod.is_empty() => Subject {
                name: format!("{namespace}/{pod}"),
                node: node.to_owned(),
            },
            Grouping::Node => Subject::named(node),
            // The kernel does not count by process.
            Grouping::Pod | Grouping::Process => Subject {
                name: ALL.to_owned(),
                node: node.to_owned(),
            },
        };
        let key = Key {
            subject,
            call: call.to_owned(),
            counted: true,
        };
        self.count(key, calls);
    }

    /// A period ends: rates are those of it.
    pub(super) fn tick(&mut self, elapsed: Duration) {
        self.events.tick(elapsed);
        self.others.tick(elapsed);
        for rate in self.rows.values_mut() {
            rate.tick(elapsed);
        }
        if self.rows.len() >= MAX_ROWS {
            self.evict();
        }
    }

    /// The rows that `filter` is part of, in order; the row of all others, if there is one, is last.
    pub(super) fn rows(&self, sort: Sort, filter: &str) -> Vec<Row> {
        let execs: HashMap<&Subject, f64> = self
            .rows
            .iter()
            .filter(|(key, _)| key.call == EXEC && !key.counted)
            .map(|(key, rate)| (&key.subject, rate.per_second()))
            .collect();
        let filter = filter.to_lowercase();
        let fits = |text: &str| text.to_lowercase().contains(&filter);
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .filter(|(key, _)| {
                fits(&key.subject.name) || fits(&key.subject.node) || fits(&key.call)
            })
            .map(|(key, rate)| {
                let execs = execs.get(&key.subject).copied().unwrap_or_default();
                Row::new(key.subject.clone(), &key.call, key.counted, *rate, execs)
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = match sort {
                Sort::Rate => b.rate.total_cmp(&a.rate),
                Sort::Average => b.average.total_cmp(&a.average),
                Sort::Total => b.total.cmp(&a.total),
                Sort::Execs => b.execs.total_cmp(&a.execs),
                Sort::Name => a.subject.cmp(&b.subject),
            };
            // Rows that are alike keep their places from one look to the next.
            order
                .then_with(|| b.total.cmp(&a.total))
                .then_with(|| a.subject.cmp(&b.subject))
                .then_with(|| a.call.cmp(&b.call))
        });
        if self.others.total() > 0 && filter.is_empty() {
            rows.push(Row::new(
                Subject::named("(others)"),
                "",
                false,
                self.others,
                0.0,
            ));
        }
        rows
    }

    fn subject(&self, event: &Event) -> Subject {
        let node = event.node.clone();
        let process = event.process.as_ref();
        let comm = process.map_or("", |process| &process.comm);
        match (self.grouping, &event.pod) {
            (Grouping::Node, _) => Subject::named(&node),
            (Grouping::Namespace, Some(pod)) => Subject::named(&pod.namespace),
            (Grouping::Namespace, None) => Subject::named(OUTSIDE),
            (Grouping::Process, _) => Subject {
                name: format!("{comm} {}", process.map_or(0, |process| process.pid)),
                node,
            },
            (Grouping::Pod, Some(pod)) => Subject {
                name: format!("{}/{}", pod.namespace, pod.name),
                node,
            },
            (Grouping::Pod, None) => Subject {
                name: comm.to_owned(),
                node,
            },
        }
    }

    fn count(&mut self, key: Key, calls: u64) {
        if let Some(rate) = self.rows.get_mut(&key) {
            rate.add(calls);
        } else if self.rows.len() < MAX_ROWS {
            self.rows.entry(key).or_default().add(calls);
        } else {
            // Until the tick makes room.
            self.others.add(calls);
        }
    }

    /// Makes room: the least busy rows become part of the others.
    fn evict(&mut self) {
        let mut keys: Vec<_> = self
            .rows
            .iter()
            .map(|(key, rate)| (rate.average(), rate.total(), key))
            .collect();
        keys.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let idle: HashSet<_> = keys
            .into_iter()
            .take(EVICTED)
            .map(|(_, _, key)| key.clone())
            .collect();
        let others = &mut self.others;
        self.rows.retain(|key, rate| {
            let keep = !idle.contains(key);
            if !keep {
                others.absorb(rate.total());
            }
            keep
        });
    }
}

/// A successful exec, as a row names it.
const EXEC: &str = "exec";
/// The namespace of what is in none.
const OUTSIDE: &str = "(no pod)";
/// Calls that are not told apart further.
const ALL: &str = "(all processes)";

// === impl Subject ===

impl Subject {
    fn named(name: &str) -> Self {
        Subject {
            name: name.to_owned(),
            node: String::new(),
        }
    }
}

// === impl Row ===

impl Row {
    fn new(subject: Subject, call: &str, counted: bool, rate: Rate, execs: f64) -> Self {
        Row {
            subject,
            call: call.to_owned(),
            counted,
            rate: rate.per_second(),
            average: rate.average(),
            total: rate.total(),
            execs,
        }
    }
}

#[cfg(test)]
mod tests;
