//! Many filters and one workload in, one table out.
//!
//! ```text
//! filters that select the workload
//!   ├─ rules     per system call: cluster filters that are not overridable first, then by
//!   │            priority and name; who is first and may, owns the call
//!   ├─ defaults  the strongest; it gets the calls that nobody owns
//!   └─ losers    who lost what to whom and why: data for `check` and for status
//! ```
//!
//! Two promises are kept whatever the priorities. A system call that a protected cluster filter
//! (one that is not `overridable`) names goes to a cluster filter. And where a protected cluster
//! filter asks only through its default, a namespaced filter may put a rule or a stronger default
//! in that place, but none that shows less: no weaker handler, no limit, no sampling, no match.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use crate::{
    arch::{Abi, Arch},
    filter::Filter,
    handler::{DefaultAction, EXEC_CALLS, Strength},
    subject::{Pod, Subject},
    syscall::Names,
    table::{DefaultSlot, FilterName, Half, Slot, Table},
};

/// The outcome for one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compiled {
    /// What the kernel is to do.
    pub table: Table,
    /// Every wish that lost, in a fixed order: by system call, then by filter and rule.
    pub overridden: Vec<Overridden>,
}

/// A filter's wish for one system call that another's was preferred to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overridden {
    /// The system call; `None`: the loser is a default that the whole default was decided against.
    pub syscall: Option<&'static str>,
    /// Who lost.
    pub filter: FilterName,
    /// Which rule of it, from 1; 0: its default.
    pub rule: u16,
    /// Whom it lost to: the call's owner, or for [`LossReason::WouldWeaken`] the cluster filter
    /// whose default it would have weakened.
    pub by: FilterName,
    /// Which rule of that, from 1; 0: its default.
    pub by_rule: u16,
    /// Why.
    pub reason: LossReason,
}

/// Why a wish lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LossReason {
    /// An earlier rule of the same filter names the call.
    EarlierRule,
    /// The winner is a cluster filter that is not overridable, or is guarded by one.
    ClusterFilter,
    /// The winner's priority is higher.
    Priority,
    /// Equal priorities, and the winner's name sorts first.
    Name,
    /// It would show less than the default of a cluster filter that is not overridable.
    WouldWeaken,
    /// The winner's default is stronger.
    StrongerDefault,
}

/// What of `filters` applies to `subject` on a node of `arch`.
///
/// Deterministic, whatever the order of `filters`, provided that their names differ, as they do
/// in an API server; [`crate::duplicates`] finds those of files that do not.
pub fn compile<'f>(
    filters: impl IntoIterator<Item = &'f Filter>,
    subject: &Subject,
    arch: Arch,
) -> Compiled {
    merge(
        filters
            .into_iter()
            .filter(|filter| filter.selects(subject))
            .collect(),
        arch,
    )
}

/// What `selected` amount to, whomever they select: for who asked [`Filter::selects`] already.
pub fn merge(mut selected: Vec<&Filter>, arch: Arch) -> Compiled {
    selected.sort_by(|a, b| a.rank().cmp(&b.rank()));

    let mut overridden = BTreeSet::new();
    let default = Defaults::of(&selected, &mut overridden);
    let mut owners = BTreeMap::new();
    let named: BTreeSet<&'static str> = selected
        .iter()
        .flat_map(|f| &f.rules)
        .flat_map(|rule| rule.calls.iter().copied())
        .collect();
    for call in named {
        if let Some(slot) = own(call, &selected, &default, &mut overridden) {
            owners.insert(call, slot);
        }
    }
    if default.slot.action == DefaultAction::Trace {
        for call in EXEC_CALLS {
            owners
                .entry(call)
                .or_insert_with(|| default.slot.as_slot(call));
        }
    }

    let half = |abi| Half {
        default: default.slot.clone(),
        slots: owners
            .iter()
            .filter_map(|(call, slot)| Some((Names::of(arch, abi).number(call)?, slot.clone())))
            .collect(),
    };
    Compiled {
        table: Table {
            native: half(Abi::Native),
            compat: half(Abi::Compat),
        },
        overridden: overridden.into_iter().collect(),
    }
}

/// The table of a pod's own cgroup while its containers are not known: the union of what each of
/// `containers` would get (DESIGN, "No start race"), whatever `pod.container` says.
///
/// Without names, that of a container that no filter names.
pub fn compile_pod<'c>(
    filters: &[Filter],
    pod: &Pod,
    containers: impl IntoIterator<Item = &'c str>,
    arch: Arch,
) -> Table {
    let table = |container: Option<&str>| {
        let container = Subject::Pod(Pod {
            container: container.map(str::to_owned),
            ..pod.clone()
        });
        compile(filters, &container, arch).table
    };
    containers
        .into_iter()
        .map(|name| table(Some(name)))
        .reduce(|all, one| all.union(&one))
        .unwrap_or_else(|| table(None))
}

/// The default that holds, and what protected cluster filters ask for through theirs.
struct Defaults {
    slot: DefaultSlot,
    /// The strongest default of a protected cluster filter, and whose.
    guard: Option<(Strength, FilterName)>,
}

// === impl Defaults ===

impl Defaults {
    fn of(selected: &[&Filter], overridden: &mut BTreeSet<Overridden>) -> Defaults {
        let asking = || {
            selected
                .iter()
                .filter(|filter| filter.default != DefaultAction::Ignore)
        };
        let guard = asking()
            .filter(|filter| filter.is_protected())
            .max_by_key(|filter| (filter.default, Reverse(filter.rank())))
            .map(|filter| (filter.default.strength(), filter.name.clone()));
        // Of equally strong ones the one for all processes, then the one that goes first anyway.
        let winner = asking()
            .filter(|filter| filter.is_protected() || guard.is_none() || !is_matching(filter))
            .max_by_key(|filter| {
                (
                    filter.default,
                    !is_matching(filter),
                    filter.is_cluster(),
                    Reverse(filter.rank()),
                )
            });
        let Some(winner) = winner else {
            return Defaults {
                slot: DefaultSlot::default(),
                guard,
            };
        };
        for loser in asking().filter(|filter| filter.name != winner.name) {
            let weaker = loser.default < winner.default;
            overridden.insert(Overridden {
                syscall: None,
                filter: loser.name.clone(),
                rule: 0,
                by: winner.name.clone(),
                by_rule: 0,
                reason: match (weaker, is_matching(loser) && !is_matching(winner)) {
                    (true, _) => LossReason::StrongerDefault,
                    (false, true) => LossReason::WouldWeaken,
                    (false, false) => precedence(winner, loser, false),
                },
            });
        }
        Defaults {
            slot: DefaultSlot {
                action: winner.default,
                filter: Some(winner.name.clone()),
                match_uids: winner.match_uids.clone(),
                match_binaries: winner.match_binaries.clone(),
            },
            guard,
        }
    }
}

fn is_matching(filter: &Filter) -> bool {
    !filter.match_uids.is_empty() || !filter.match_binaries.is_empty()
}

/// Who owns `call`: at most one, whatever the filters.
fn own(
    call: &'static str,
    selected: &[&Filter],
    default: &Defaults,
    overridden: &mut BTreeSet<Overridden>,
) -> Option<Slot> {
    let wishes: Vec<(&Filter, usize)> = selected
        .iter()
        .filter_map(|filter| Some((*filter, filter.rule_for(call)?)))
        .collect();
    let guarded = wishes.iter().any(|(filter, _)| filter.is_protected());
    let may = |filter: &Filter, rule: usize| match (&default.guard, filter.is_cluster()) {
        (_, true) | (None, _) => true,
        (Some((asked, _)), false) => {
            let slot = filter.slot(rule);
            slot.handler.strength() >= *asked && !slot.is_restricted()
        }
    };
    // A guarded call is the cluster filters' own affair; `selected` is in order of rank.
    let winner = wishes.iter().find(|(filter, rule)| {
        if guarded {
            filter.is_cluster()
        } else {
            may(filter, *rule)
        }
    });

    let mut lose = |filter: &Filter, rule: usize, by: (FilterName, u16), reason| {
        overridden.insert(Overridden {
            syscall: Some(call),
            filter: filter.name.clone(),
            rule: filter.slot(rule).rule,
            by: by.0,
            by_rule: by.1,
            reason,
        });
    };
    for (filter, first) in &wishes {
        let later =
            (first + 1..filter.rules.len()).filter(|rule| filter.rules[*rule].calls.contains(call));
        for rule in later {
            lose(
                filter,
                rule,
                (filter.name.clone(), filter.slot(*first).rule),
                LossReason::EarlierRule,
            );
        }
        match (winner, &default.guard) {
            (Some((owner, _)), _) if std::ptr::eq(*owner, *filter) => {}
            (Some((owner, rule)), guard) => {
                let by = (owner.name.clone(), owner.slot(*rule).rule);
                match guard {
                    Some((_, guardian)) if !guarded && !may(filter, *first) => {
                        lose(
                            filter,
                            *first,
                            (guardian.clone(), 0),
                            LossReason::WouldWeaken,
                        );
                    }
                    _ => lose(filter, *first, by, precedence(owner, filter, guarded)),
                }
            }
            (None, Some((_, guardian))) => lose(
                filter,
                *first,
                (guardian.clone(), 0),
                LossReason::WouldWeaken,
            ),
            // Without a guard every wish may win, so there is a winner.
            (None, None) => {}
        }
    }
    winner.map(|(filter, rule)| filter.slot(*rule))
}

/// Which of DESIGN's steps decided between two filters for the same thing.
fn precedence(winner: &Filter, loser: &Filter, guarded: bool) -> LossReason {
    if winner.is_cluster() && !loser.is_cluster() && (guarded || winner.is_protected()) {
        LossReason::ClusterFilter
    } else if winner.priority != loser.priority {
        LossReason::Priority
    } else {
        LossReason::Name
    }
}
