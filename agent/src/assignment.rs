//! Which cgroup has which policy, and the least that has to change in the kernel when that does.
//!
//! Cgroups with equal tables share an outcome. A policy change of all of them is one flip; only a
//! cgroup that parts from the others is moved.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ebpf_hello_loader::{DEFAULT_OUTCOME, Kernel, LoadError, Programmed};
use ebpf_hello_policy::{Arch, FilterName, Table};

use crate::{
    cgroups::Tree,
    desired::{Desired, Name, Selection},
    policies::Policies,
    pool::PooledTable,
    programming::table_spec,
};

/// Outcomes there is room for, the default included.
const OUTCOMES: u32 = 65_536;

/// An outcome as it was programmed.
#[derive(Clone, Debug)]
struct Outcome {
    table: PooledTable,
    generation: u64,
    programmed: Programmed,
}

/// What every cgroup has.
#[derive(Debug)]
pub(crate) struct Assignment {
    arch: Arch,
    policies: Arc<Policies>,
    outcomes: BTreeMap<u32, Outcome>,
    /// Outcomes of cgroups that are yet to come, as the kernel has them.
    names: BTreeMap<Name, u32>,
    /// Of the outcomes.
    generations: HashSet<u64>,
    generation: u64,
    /// The number last given. Numbers are used in turn, so that a cgroup that inherited one a
    /// moment ago never finds it meaning something else.
    last: u32,
}

/// What is in the kernel, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) outcomes: usize,
    pub(crate) exhausted: usize,
    /// Policies without a table that a filter is part of.
    pub(crate) without_table: BTreeMap<FilterName, usize>,
    pub(crate) generation: u64,
    /// Cgroups that are foretold.
    pub(crate) names: usize,
}

// === impl Assignment ===

impl Assignment {
    pub(crate) fn new(arch: Arch, policies: Arc<Policies>) -> Self {
        Assignment {
            arch,
            policies,
            outcomes: BTreeMap::new(),
            names: BTreeMap::new(),
            generations: HashSet::new(),
            generation: 0,
            last: DEFAULT_OUTCOME,
        }
    }

    /// Makes it so. An outcome whose table does not change is not touched. Neither is a cgroup that is not in
    /// the `tree` yet: it came a moment ago, and has what its parent or its name gave it.
    pub(crate) fn apply(
        &mut self,
        desired: &Desired,
        tree: &Tree,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let before = self.exhausted().count();
        self.program(DEFAULT_OUTCOME, &desired.default, kernel)?;
        let wanted: HashMap<u64, &PooledTable> = desired
            .others
            .iter()
            .map(|(cgroup, table)| (*cgroup, table))
            .collect();
        // As the kernel has it: children inherit without asking.
        let mut members: HashMap<u64, u32> = kernel.bound_cgroups()?.into_iter().collect();
        // Those who leave go first, so that their table is free for who comes.
        members.retain(|cgroup, _| {
            let stays = wanted.contains_key(cgroup) || tree.path(*cgroup).is_none();
            if !stays {
                kernel.unbind_cgroup(*cgroup);
            }
            stays
        });
        let named: HashSet<&Name> = desired.names.iter().map(|(name, _)| name).collect();
        // Where tables are short, those that are there need them more than those that may come.
        let is_short = before > 0 || !kernel.has_free_table();
        let used: HashSet<u32> = members.values().copied().collect();
        self.unbind_names(
            |name, outcome| {
                let may_stay = !is_short || outcome == DEFAULT_OUTCOME || used.contains(&outcome);
                named.contains(name) && may_stay
            },
            kernel,
        );
        self.drop_empty(kernel)?;
        let outcomes = self.choose(&desired.tables(), &wanted, &members);
        for (table, outcome) in &outcomes {
            self.program(*outcome, table, kernel)?;
        }
        let outcomes: HashMap<&PooledTable, u32> = outcomes
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
            self.bind_name(name, table, outcomes.get(table).copied(), kernel)?;
        }
        self.drop_empty(kernel)?;
        let now = self.exhausted().count();
        if now > before {
            tracing::warn!(
                policies = now,
                "TablesExhausted: no free table for these; their cgroups have the default's, their calls are counted table_miss; raise --tables"
            );
        }
        Ok(())
    }

    /// Gives a cgroup that came a moment ago its table, and those that the filters foretell in it.
    pub(crate) fn place(
        &mut self,
        id: u64,
        path: &str,
        selection: &mut Selection,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let (table, names) = selection.at(path);
        let present = kernel.outcome_of(id)?;
        let outcome = if self.has(DEFAULT_OUTCOME, &table) {
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
        for (name, named) in names {
            self.bind_name(&(id, name), &named, None, kernel)?;
        }
        Ok(())
    }

    /// Forgets what was foretold in a cgroup that is gone.
    pub(crate) fn forget(&mut self, id: u64, kernel: &mut Kernel) {
        self.unbind_names(|(parent, _), _| *parent != id, kernel);
    }

    /// Gives a cgroup that is yet to come its table, by the outcome `known` to have it, if any is.
    /// Where that cannot be, the cgroup is placed when it comes.
    fn bind_name(
        &mut self,
        name: &Name,
        table: &PooledTable,
        known: Option<u32>,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        let bound = self.names.get(name).copied();
        if bound.is_some_and(|bound| self.has(bound, table)) {
            return Ok(());
        }
        let known = if self.has(DEFAULT_OUTCOME, table) {
            Some(DEFAULT_OUTCOME)
        } else {
            known.or_else(|| self.outcome_with(table))
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
        match kernel.bind_name(Some(name.0), &name.1, outcome) {
            Ok(()) => {
                self.names.insert(name.clone(), outcome);
            }
            Err(error) => tracing::debug!(name = name.1, %error, "a cgroup is not foretold"),
        }
        Ok(())
    }

    fn unbind_names(&mut self, stays: impl Fn(&Name, u32) -> bool, kernel: &mut Kernel) {
        self.names.retain(|name, outcome| {
            let stays = stays(name, *outcome);
            if !stays {
                kernel.unbind_name(Some(name.0), &name.1);
            }
            stays
        });
    }

    fn has(&self, outcome: u32, table: &PooledTable) -> bool {
        self.outcomes
            .get(&outcome)
            .is_some_and(|outcome| outcome.table == *table)
    }

    fn outcome_with(&self, table: &PooledTable) -> Option<u32> {
        self.outcomes
            .iter()
            .find(|(id, outcome)| **id != DEFAULT_OUTCOME && outcome.table == *table)
            .map(|(id, _)| *id)
    }

    /// An outcome for each table: the one that has it; else one all of whose cgroups want it now,
    /// so that one flip moves them; else a new one.
    fn choose(
        &mut self,
        tables: &[PooledTable],
        wanted: &HashMap<u64, &PooledTable>,
        members: &HashMap<u64, u32>,
    ) -> Vec<(PooledTable, u32)> {
        let mut by_table: HashMap<&PooledTable, u32> = HashMap::new();
        for (id, outcome) in self
            .outcomes
            .iter()
            .filter(|(id, _)| **id != DEFAULT_OUTCOME)
        {
            by_table.insert(&outcome.table, *id);
        }
        // Where all cgroups of an outcome go; `None` when they part.
        let mut goes_to: BTreeMap<u32, Option<&PooledTable>> = BTreeMap::new();
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
        let mut movable: HashMap<&PooledTable, u32> = HashMap::new();
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
            .map(|(table, known)| (table.clone(), known.unwrap_or_else(|| self.next_number())))
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
        table: &PooledTable,
        kernel: &mut Kernel,
    ) -> Result<(), LoadError> {
        if self.outcomes.get(&id).is_some_and(|outcome| {
            outcome.table == *table
                && (outcome.programmed != Programmed::Exhausted || !kernel.has_free_table())
        }) {
            return Ok(());
        }
        self.generation += 1;
        let generation = self.generation;
        self.policies
            .insert(generation, table.to_arc(), &self.generations);
        let spec = table_spec(table, self.arch, |namespace| {
            self.policies.namespace_number(namespace)
        });
        let programmed = kernel.set_outcome(id, &spec, generation)?;
        self.generations.insert(generation);
        let older = self.outcomes.insert(
            id,
            Outcome {
                table: table.clone(),
                generation,
                programmed,
            },
        );
        if let Some(older) = older {
            self.generations.remove(&older.generation);
        }
        Ok(())
    }

    fn drop_empty(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        // As the kernel has them now: a new cgroup may have inherited one meanwhile.
        let members = kernel.bound_cgroups()?;
        let used: HashSet<u32> = members
            .iter()
            .map(|(_, outcome)| outcome)
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
            if let Some(outcome) = self.outcomes.remove(&id) {
                self.generations.remove(&outcome.generation);
            }
        }
        Ok(())
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut without_table: BTreeMap<FilterName, usize> = BTreeMap::new();
        for outcome in self.exhausted() {
            for filter in filters(&outcome.table) {
                *without_table.entry(filter.clone()).or_default() += 1;
            }
        }
        Summary {
            outcomes: self.outcomes.len(),
            exhausted: self.exhausted().count(),
            without_table,
            generation: self.generation,
            names: self.names.len(),
        }
    }

    fn exhausted(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes
            .values()
            .filter(|outcome| outcome.programmed == Programmed::Exhausted)
    }
}

/// The filters that a table has anything from.
fn filters(table: &Table) -> HashSet<&FilterName> {
    [&table.native, &table.compat]
        .into_iter()
        .flat_map(|half| {
            let slots = half.slots.values().map(|slot| slot.filter.as_ref());
            slots.chain([half.default.filter.as_ref()]).flatten()
        })
        .collect()
}
