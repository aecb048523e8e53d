//! Which policy each generation was: events carry the generation, people want the filter's name.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_hello_policy::{Abi, Table};

use crate::programming::{Rule, limited_rules};

/// Generations that are remembered beside the live ones; records in flight carry the latest few.
const REMEMBERED: usize = 1024;

/// Tables by generation. Shared by who programs them and who reads records.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    known: RwLock<BTreeMap<u64, Known>>,
    /// Namespaces that filters are of, by number, from 1: whose share of the node's events is used.
    namespaces: RwLock<Vec<String>>,
}

#[derive(Debug)]
struct Known {
    table: Arc<Table>,
    /// By bucket, from 1.
    limited: Vec<Rule>,
}

impl Policies {
    /// To be called before the kernel is told: a record can come at once.
    pub(crate) fn insert(&self, generation: u64, table: Arc<Table>, live: &HashSet<u64>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let limited = limited_rules(&table);
        known.insert(generation, Known { table, limited });
        // Not at every insertion: each costs a look at all.
        if known.len() > 2 * (live.len() + REMEMBERED) {
            let latest = known.keys().rev().nth(REMEMBERED).copied().unwrap_or(0);
            known.retain(|generation, _| *generation > latest || live.contains(generation));
        }
    }

    /// The number of a namespace, from 1. It never changes.
    pub(crate) fn namespace_number(&self, name: &str) -> u32 {
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let place = namespaces.iter().position(|known| known == name);
        let place = place.unwrap_or_else(|| {
            namespaces.push(name.to_owned());
            namespaces.len() - 1
        });
        u32::try_from(place + 1).unwrap_or(u32::MAX)
    }

    /// The namespace with a number.
    pub(crate) fn namespace(&self, number: u64) -> Option<String> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        namespaces.get(place).cloned()
    }

    /// What a generation was; `None` where that is forgotten.
    pub(crate) fn table(&self, generation: u64) -> Option<Arc<Table>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&generation).map(|known| Arc::clone(&known.table))
    }

    /// The filter that chose what happened to a call; empty when none did.
    pub(crate) fn filter(&self, generation: u64, abi: Abi, number: u32) -> String {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.get(&generation) else {
            return String::new();
        };
        let half = known.table.half(abi);
        u16::try_from(number)
            .ok()
            .and_then(|number| half.slots.get(&number))
            .map_or(half.default.filter.as_ref(), |slot| slot.filter.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// The filter and rule that a bucket counts for; empty and 0 where that is forgotten.
    pub(crate) fn limited(&self, generation: u64, bucket: u64) -> (String, u32) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(bucket)
            .ok()
            .and_then(|bucket| known.get(&generation)?.limited.get(bucket.checked_sub(1)?))
            .map(|(filter, rule)| {
                let filter = filter.as_ref().map(ToString::to_string);
                (filter.unwrap_or_default(), u32::from(*rule))
            })
            .unwrap_or_default()
    }
}
