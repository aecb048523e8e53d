//! Which cgroup has which policy, and the least that has to change in the kernel when that does.
//!
//! Cgroups with equal tables share an outcome. A policy change of all of them is one flip; only a
//! cgroup that parts from the others is moved.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ebpf_hello_loader::{DEFAULT_OUTCOME, Kernel, LoadError, Programmed};
use ebpf_hello_policy::{Arch, Table};

use crate::{
    cgroups::{Cgroup, below},
    policies::Policies,
    programming::table_spec,
    selection::Selection,
};

/// Outcomes there is room for, the default included.
const OUTCOMES: u32 = 65_536;

/// An outcome as it was programmed.
#[derive(Clone, Debug)]
struct Outcome {
    table: Arc<Table>,
    generation: u64,
    programmed: Programmed,
}

/// What every cgroup should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    default: Arc<Table>,
    /// Cgroups whose table is not the default, parents first.
    others: Vec<(u64, Arc<Table>)>,
    /// Cgroups that are yet to come, by parent and name, whose table is not their parent's.
    names: Vec<(Name, Arc<Table>)>,
}

/// A cgroup that is yet to come: the id of the one it will be in, its directory's name.
type Name = (u64, String);

/// What every cgroup has.
#[derive(Debug)]
pub(crate) struct Assignment {
    arch: Arch,
    policies: Arc<Policies>,
    outcomes: BTreeMap<u32, Outcome>,
    /// Outcomes of cgroups that are yet to come, as the kernel has them.
    names: BTreeMap<Name, u32>,
    generation: u64,
    /// The number last given. Numbers are used in turn, so that a cgroup that inherited one a
    /// moment ago never finds it meaning something else.
    last: u32,
}

/// What is in the kernel, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) outcomes: usize,
    pub(crate) exhausted: usize,
    pub(crate) generation: u64,
    /// Cgroups that are foretold.
    pub(crate) names: usize,
}

impl Desired {
    /// What the filters ask of every one of `cgroups`, and of those that they foretell in them.
    pub(crate) fn new(selection: &mut Selection, cgroups: &[Cgroup]) -> Self {
        let mut desired = Desired {
            default: selection.table(None),
            others: Vec::new(),
            names: Vec::new(),
        };
        if !selection.names_cgroups() {
            return desired;
        }
        for cgroup in cgroups {
            let table = selection.table(Some(&cgroup.path));
            let names = foretold(selection, &cgroup.path, &table);
            let names = names
                .into_iter()
                .map(|(name, named)| ((cgroup.id, name), named));
            desired.names.extend(names);
            if table != desired.default {
                desired.others.push((cgroup.id, table));
            }
        }
        desired
    }

    /// The policy of every cgroup without one of its own.
    pub(crate) fn default(&self) -> Arc<Table> {
        Arc::clone(&self.default)
    }

    /// Every table that is not the default's, once.
    fn tables(&self) -> Vec<Arc<Table>> {
        let mut seen = HashSet::new();
        self.others
            .iter()
            .map(|(_, table)| table)
            .filter(|table| seen.insert(Arc::clone(table)))
            .cloned()
            .collect()
    }
}

// === impl Assignment ===

impl Assignment {
    pub(crate) fn new(arch: Arch, policies: Arc<Policies>) -> Self {
        Assignment {
            arch,
            policies,
            outcomes: BTreeMap::new(),
            names: BTreeMap::new(),
            generation: 0,
            last: DEFAULT_OUTCOME,
        }
    }

    /// Makes it so. An outcome whose table does not change is not touched.
    pub(crate) fn apply(
        &mut self,
        desired: &Desired,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        self.program(DEFAULT_OUTCOME, &desired.default, kernel)?;
        let wanted: HashMap<u64, &Arc<Table>> = desired
            .others
            .iter()
            .map(|(cgroup, table)| (*cgroup, table))
            .collect();
        // As the kernel has it: children inherit without asking.
        let mut members: HashMap<u64, u32> = kernel.bound_cgroups()?.into_iter().collect();
        // Those who leave go first, so that their table is free for who comes.
        members.retain(|cgroup, _| {
            let stays = wanted.contains_key(cgroup);
            if !stays {
                kernel.unbind_cgroup(*cgroup);
            }
            stays
        });
        let named: HashSet<&Name> = desired.names.iter().map(|(name, _)| name).collect();
        self.unbind_names(|name| named.contains(name), kernel);
        self.drop_empty(&members, kernel)?;
        let outcomes = self.choose(&desired.tables(), &wanted, &members);
        for (table, outcome) in &outcomes {
            self.program(*outcome, table, kernel)?;
        }
        let outcomes: HashMap<&Arc<Table>, u32> = outcomes
            .iter()
            .map(|(table, outcome)| (table, *outcome))
            .collect();
        for (cgroup, table) in &desired.others {
            let Some(outcome) = outcomes.get(table) else {
                continue;
            };
            if members.get(cgroup) != Some(outcome) {
                kernel.bind_cgroup(*cgroup, *outcome, false)?;
                members.insert(*cgroup, *outcome);
            }
        }
        for (name, table) in &desired.names {
            self.bind_name(name, table, kernel)?;
        }
        self.drop_empty(&members, kernel)
    }

    /// Gives a cgroup that came a moment ago its table, and those that the filters foretell in it.
    pub(crate) fn place(
        &mut self,
        id: u64,
        path: &str,
        selection: &mut Selection,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let table = selection.table(Some(path));
        let present = kernel.outcome_of(id)?;
        let outcome = if self.is_default(&table) {
            DEFAULT_OUTCOME
        } else {
            self.outcome_with(&table)
                .unwrap_or_else(|| self.next_number())
        };
        if outcome != DEFAULT_OUTCOME {
            self.program(outcome, &table, kernel)?;
        }
        match present {
            Some(present) if present == outcome => {}
            Some(_) if outcome == DEFAULT_OUTCOME => kernel.unbind_cgroup(id),
            None if outcome == DEFAULT_OUTCOME => {}
            _ => kernel.bind_cgroup(id, outcome, false)?,
        }
        for (name, named) in foretold(selection, path, &table) {
            self.bind_name(&(id, name), &named, kernel)?;
        }
        Ok(())
    }

    /// Forgets what was foretold in a cgroup that is gone.
    pub(crate) fn forget(&mut self, id: u64, kernel: &mut Kernel) {
        self.unbind_names(|(parent, _)| *parent != id, kernel);
    }

    /// Gives a cgroup that is yet to come its table. Where that cannot be, the cgroup is placed
    /// when it comes.
    fn bind_name(
        &mut self,
        name: &Name,
        table: &Arc<Table>,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let known = if self.is_default(table) {
            Some(DEFAULT_OUTCOME)
        } else {
            self.outcome_with(table)
        };
        let outcome = match known {
            Some(outcome) => outcome,
            // Those that are there need tables more than those that may come.
            None if kernel.tables_in_use() < kernel.table_capacity() as usize / 2 => {
                let outcome = self.next_number();
                self.program(outcome, table, kernel)?;
                outcome
            }
            None => return Ok(()),
        };
        if self.names.get(name) == Some(&outcome) {
            return Ok(());
        }
        match kernel.bind_name(Some(name.0), &name.1, outcome) {
            Ok(()) => {
                self.names.insert(name.clone(), outcome);
            }
            Err(error) => tracing::debug!(name = name.1, %error, "a cgroup is not foretold"),
        }
        Ok(())
    }

    fn unbind_names(&mut self, stays: impl Fn(&Name) -> bool, kernel: &mut Kernel) {
        self.names.retain(|name, _| {
            let stays = stays(name);
            if !stays {
                kernel.unbind_name(Some(name.0), &name.1);
            }
            stays
        });
    }

    fn is_default(&self, table: &Arc<Table>) -> bool {
        self.outcomes
            .get(&DEFAULT_OUTCOME)
            .is_some_and(|outcome| outcome.table == *table)
    }

    fn outcome_with(&self, table: &Arc<Table>) -> Option<u32> {
        self.outcomes
            .iter()
            .find(|(id, outcome)| **id != DEFAULT_OUTCOME && outcome.table == *table)
            .map(|(id, _)| *id)
    }

    /// An outcome for each table: the one that has it; else one all of whose cgroups want it now,
    /// so that one flip moves them; else a new one.
    fn choose(
        &mut self,
        tables: &[Arc<Table>],
        wanted: &HashMap<u64, &Arc<Table>>,
        members: &HashMap<u64, u32>,
    ) -> Vec<(Arc<Table>, u32)> {
        let mut by_table: HashMap<&Arc<Table>, u32> = HashMap::new();
        for (id, outcome) in self
            .outcomes
            .iter()
            .filter(|(id, _)| **id != DEFAULT_OUTCOME)
        {
            by_table.insert(&outcome.table, *id);
        }
        // Where all cgroups of an outcome go; `None` when they part.
        let mut goes_to: BTreeMap<u32, Option<&Arc<Table>>> = BTreeMap::new();
        for (cgroup, outcome) in members {
            let table = wanted.get(cgroup).copied();
            goes_to
                .entry(*outcome)
                .and_modify(|common| {
                    if *common != table {
                        *common = None;
                    }
                })
                .or_insert(table);
        }
        let kept: HashSet<u32> = tables
            .iter()
            .filter_map(|table| by_table.get(table).copied())
            .collect();
        let mut movable: HashMap<&Arc<Table>, u32> = HashMap::new();
        for (id, table) in goes_to {
            if let Some(table) = table
                && self.outcomes.contains_key(&id)
                && !kept.contains(&id)
            {
                movable.insert(table, id);
            }
        }
        let known: Vec<Option<u32>> = tables
            .iter()
            .map(|table| by_table.get(table).or_else(|| movable.get(table)).copied())
            .collect();
        tables
            .iter()
            .zip(known)
            .map(|(table, known)| {
                (
                    Arc::clone(table),
                    known.unwrap_or_else(|| self.next_number()),
                )
            })
            .collect()
    }

    fn next_number(&mut self) -> u32 {
        // There are at most as many tables as cgroups in the map, and one number more than those.
        loop {
            self.last = self.last % (OUTCOMES - 1) + 1;
            if !self.outcomes.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    fn program(
        &mut self,
        id: u32,
        table: &Arc<Table>,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        if self.outcomes.get(&id).is_some_and(|outcome| {
            outcome.table == *table && outcome.programmed != Programmed::Exhausted
        }) {
            return Ok(());
        }
        self.generation += 1;
        let generation = self.generation;
        let live: HashSet<u64> = self
            .outcomes
            .values()
            .map(|outcome| outcome.generation)
            .collect();
        self.policies
            .insert(generation, Arc::clone(table), |generation| {
                live.contains(&generation)
            });
        let programmed = kernel.set_outcome(id, &table_spec(table, self.arch), generation)?;
        if programmed == Programmed::Exhausted {
            tracing::warn!(
                outcome = id,
                "TablesExhausted: no free table, its cgroups have the default's; raise --tables"
            );
        }
        self.outcomes.insert(
            id,
            Outcome {
                table: Arc::clone(table),
                generation,
                programmed,
            },
        );
        Ok(())
    }

    fn drop_empty(
        &mut self,
        members: &HashMap<u64, u32>,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let used: HashSet<u32> = members
            .values()
            .chain(self.names.values())
            .copied()
            .collect();
        let empty: Vec<u32> = self
            .outcomes
            .keys()
            .copied()
            .filter(|id| *id != DEFAULT_OUTCOME && !used.contains(id))
            .collect();
        for id in empty {
            kernel.remove_outcome(id)?;
            self.outcomes.remove(&id);
        }
        Ok(())
    }

    pub(crate) fn summary(&self) -> Summary {
        let exhausted = |outcome: &&Outcome| outcome.programmed == Programmed::Exhausted;
        Summary {
            outcomes: self.outcomes.len(),
            exhausted: self.outcomes.values().filter(exhausted).count(),
            generation: self.generation,
            names: self.names.len(),
        }
    }
}

/// What the filters spell out in the cgroup at `path`, whose table is `table`, as far as a child
/// does not simply inherit that.
fn foretold(
    selection: &mut Selection,
    path: &str,
    table: &Arc<Table>,
) -> Vec<(String, Arc<Table>)> {
    let names: Vec<String> = selection
        .names_in(path)
        .into_iter()
        .map(ToOwned::to_owned)
        .collect();
    names
        .into_iter()
        .map(|name| {
            let named = selection.table(Some(&below(path, &name)));
            (name, named)
        })
        .filter(|(_, named)| named != table)
        .collect()
}
