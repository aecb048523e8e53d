//! Which policy each generation was: events carry the generation, people want the filter's name.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_hello_policy::{Abi, Table};

/// Generations that are remembered; records in flight carry the latest few.
const REMEMBERED: usize = 1024;

/// Tables by generation. Shared by who programs them and who reads records.
#[derive(Debug, Default)]
pub(crate) struct Policies(RwLock<BTreeMap<u64, Arc<Table>>>);

impl Policies {
    /// To be called before the kernel is told: a record can come at once.
    pub(crate) fn insert(&self, generation: u64, table: Arc<Table>, live: impl Fn(u64) -> bool) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.insert(generation, table);
        let surplus = tables.len().saturating_sub(REMEMBERED);
        let old: Vec<u64> = tables
            .keys()
            .copied()
            .filter(|old| !live(*old))
            .take(surplus)
            .collect();
        for generation in old {
            tables.remove(&generation);
        }
    }

    /// The filter that chose what happened to a call; empty when none did.
    pub(crate) fn filter(&self, generation: u64, abi: Abi, number: u32) -> String {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = tables.get(&generation) else {
            return String::new();
        };
        let half = table.half(abi);
        u16::try_from(number)
            .ok()
            .and_then(|number| half.slots.get(&number))
            .map_or(half.default.filter.as_ref(), |slot| slot.filter.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}
