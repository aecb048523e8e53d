//! The outcome of all filters for one workload: what the kernel side loads.
//!
//! A [`Table`] is a value. Two workloads with equal tables share one table in the kernel, so
//! equality and hash cover everything the kernel is told, and nothing else.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, sync::Arc};

use serde::Serialize;

use crate::{
    arch::Abi,
    handler::{DefaultAction, Handler, Strength},
};

/// What happens to every system call of a workload, on both ABIs of one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Table {
    /// The 64-bit numbers.
    pub native: Half,
    /// The 32-bit numbers.
    pub compat: Half,
}

/// One ABI's part of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Half {
    /// What happens to the calls that are not in `slots`.
    pub default: DefaultSlot,
    /// By system call number, all below [`crate::syscall::NUMBER_LIMIT`]. A slot may say
    /// `Ignore`: that is a decision, where the default may be stronger.
    pub slots: BTreeMap<u16, Slot>,
}

/// The default of one half: slot 511 in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DefaultSlot {
    /// What to do.
    pub action: DefaultAction,
    /// Who said so; `None` when no filter selects the workload, or none asks for more than
    /// nothing.
    pub filter: Option<FilterName>,
    /// Only these users, if any are given.
    pub match_uids: Vec<UidRange>,
    /// Only these executed files, if any are given.
    pub match_binaries: Vec<BinaryPattern>,
}

/// What happens to one system call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// The program that gets the call.
    pub handler: Handler,
    /// The filter that owns it. `None` never comes out of [`crate::compile`]; the node's own
    /// defaults have it.
    pub filter: Option<FilterName>,
    /// Position of the rule in its filter, from 1; 0: the filter's default.
    pub rule: u16,
    /// At most so many events, per container and rule.
    pub rate_limit: Option<RateLimit>,
    /// One event in so many, from 1 (all).
    pub sampling: u32,
    /// Join the return value from sys_exit.
    pub returns: bool,
    /// Report calls that seccomp refused, from sys_exit alone.
    pub denied: bool,
    /// Only these users, if any are given.
    pub match_uids: Vec<UidRange>,
    /// Only these executed files, if any are given.
    pub match_binaries: Vec<BinaryPattern>,
}

/// A filter's name as events and status show it: `shop/cart-timers`, or `baseline` for a cluster
/// filter. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct FilterName {
    // The name before the namespace: DESIGN's last word between two filters is the name.
    name: Arc<str>,
    namespace: Option<Arc<str>>,
}

/// A bound on events, per container and rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Sustained events per second, 1 to 1,000,000.
    pub events_per_second: u32,
    /// Events that may come at once after a pause, 1 to ten times the rate.
    pub burst: u32,
}

/// Host user ids, both ends included, 0 to 4294967294.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UidRange {
    /// The smallest.
    pub first: u32,
    /// The largest; not below `first`.
    pub last: u32,
}

/// Which executed files match: one path, or all that start with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BinaryPattern {
    /// An absolute path in the process's mount namespace, without the `*`; 1 to 255 bytes.
    pub path: String,
    /// Whether anything may follow, slashes too.
    pub prefix: bool,
}

// === impl Table ===

impl Table {
    /// One of the two halves.
    pub fn half(&self, abi: Abi) -> &Half {
        match abi {
            Abi::Native => &self.native,
            Abi::Compat => &self.compat,
        }
    }

    /// Whether any system call has a handler other than `Ignore`. Where no live table wants one,
    /// sys_enter need not be attached.
    pub fn wants_system_calls(&self) -> bool {
        self.halves()
            .any(|half| half.default.action != DefaultAction::Ignore)
            || self.slots().any(|slot| slot.handler != Handler::Ignore)
    }

    /// Whether any slot needs sys_exit for its return value or for what seccomp refused.
    pub fn wants_exits(&self) -> bool {
        self.slots().any(|slot| slot.returns || slot.denied)
    }

    /// The table of a cgroup that may turn out to be either workload (a pod's own cgroup, before
    /// its containers are known): for each call whatever either wants, under the looser bounds,
    /// so that nothing is missed. What proves unselected is dropped later.
    pub fn union(&self, other: &Table) -> Table {
        Table {
            native: self.native.union(&other.native),
            compat: self.compat.union(&other.compat),
        }
    }

    fn halves(&self) -> impl Iterator<Item = &Half> {
        [&self.native, &self.compat].into_iter()
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.halves().flat_map(|half| half.slots.values())
    }
}

// === impl Half ===

impl Half {
    /// The handler of system call `number`, whose name on this ABI is `name`.
    pub fn handler(&self, number: u16, name: &str) -> Handler {
        self.slots.get(&number).map_or_else(
            || self.default.action.handler_for(name),
            |slot| slot.handler,
        )
    }

    fn union(&self, other: &Half) -> Half {
        let default = self.default.union(&other.default);
        let numbers = self.slots.keys().chain(other.slots.keys());
        let slots = numbers
            .map(|number| {
                let [mine, theirs] = [self, other].map(|half| half.slot_or_default(*number));
                (*number, mine.union(&theirs))
            })
            .collect();
        Half { default, slots }
    }

    fn slot_or_default(&self, number: u16) -> Slot {
        // execve and execveat always have a slot of their own where the default is Trace, so the
        // default's handler here is Trace itself.
        self.slots
            .get(&number)
            .cloned()
            .unwrap_or_else(|| self.default.as_slot(""))
    }
}

// === impl DefaultSlot ===

impl DefaultSlot {
    /// The slot this default would be for the system call `name`.
    pub(crate) fn as_slot(&self, name: &str) -> Slot {
        Slot {
            handler: self.action.handler_for(name),
            filter: self.filter.clone(),
            rule: 0,
            rate_limit: None,
            sampling: 1,
            returns: false,
            denied: false,
            match_uids: self.match_uids.clone(),
            match_binaries: self.match_binaries.clone(),
        }
    }

    fn union(&self, other: &DefaultSlot) -> DefaultSlot {
        match self.action.cmp(&other.action) {
            std::cmp::Ordering::Greater if other.action == DefaultAction::Ignore => self.clone(),
            std::cmp::Ordering::Less if self.action == DefaultAction::Ignore => other.clone(),
            order => {
                let winner = if order.is_ge() { self } else { other };
                DefaultSlot {
                    match_uids: looser(&self.match_uids, &other.match_uids),
                    match_binaries: looser(&self.match_binaries, &other.match_binaries),
                    ..winner.clone()
                }
            }
        }
    }
}

// === impl Slot ===

impl Slot {
    /// Whether some calls that reach this slot become neither an event nor a count.
    pub(crate) fn is_restricted(&self) -> bool {
        self.rate_limit.is_some()
            || self.sampling > 1
            || !self.match_uids.is_empty()
            || !self.match_binaries.is_empty()
    }

    fn union(&self, other: &Slot) -> Slot {
        let (winner, loser) = if self.detail() >= other.detail() {
            (self, other)
        } else {
            (other, self)
        };
        if loser.handler == Handler::Ignore {
            return winner.clone();
        }
        Slot {
            rate_limit: match (winner.rate_limit, loser.rate_limit) {
                (Some(a), Some(b)) => Some(RateLimit {
                    events_per_second: a.events_per_second.max(b.events_per_second),
                    burst: a.burst.max(b.burst),
                }),
                _ => None,
            },
            sampling: winner.sampling.min(loser.sampling),
            returns: winner.returns || loser.returns,
            denied: winner.denied || loser.denied,
            match_uids: looser(&winner.match_uids, &loser.match_uids),
            match_binaries: looser(&winner.match_binaries, &loser.match_binaries),
            ..winner.clone()
        }
    }

    /// How much the handler tells: events before counts, decoded before raw.
    fn detail(&self) -> (Strength, bool) {
        (self.handler.strength(), self.handler != Handler::Trace)
    }
}

/// Both lists' members; an empty list is no restriction, and wins.
fn looser<T: Clone + Ord>(one: &[T], other: &[T]) -> Vec<T> {
    if one.is_empty() || other.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<T> = one.iter().chain(other).cloned().collect();
    all.sort();
    all.dedup();
    all
}

// === impl FilterName ===

impl FilterName {
    /// The name of a `ClusterSyscallFilter`.
    pub fn cluster(name: &str) -> Self {
        FilterName {
            name: name.into(),
            namespace: None,
        }
    }

    /// The name of a `SyscallFilter`.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        FilterName {
            name: name.into(),
            namespace: Some(namespace.into()),
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.namespace`; `None` for a cluster filter.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl fmt::Display for FilterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl From<FilterName> for String {
    fn from(name: FilterName) -> String {
        name.to_string()
    }
}

// === impl UidRange ===

impl UidRange {
    /// Whether `uid` is in it.
    pub fn contains(&self, uid: u32) -> bool {
        RangeInclusive::from(*self).contains(&uid)
    }
}

impl From<UidRange> for RangeInclusive<u32> {
    fn from(range: UidRange) -> Self {
        range.first..=range.last
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

// === impl BinaryPattern ===

impl BinaryPattern {
    /// Whether the executed file `path` matches: what the kernel side computes, said in Rust.
    pub fn matches(&self, path: &str) -> bool {
        if self.prefix {
            path.starts_with(&self.path)
        } else {
            path == self.path
        }
    }
}

impl fmt::Display for BinaryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.prefix { "*" } else { "" })
    }
}
