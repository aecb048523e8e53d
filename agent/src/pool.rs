//! Tables, each once: those that say the same are the same, so that thousands of cgroups are compared by address.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use ebpf_hello_policy::Table;

/// A table of a [`Pool`]. Tables of one pool are equal when they are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct PooledTable(Arc<Table>);

/// Every table that is in use.
#[derive(Debug, Default)]
pub(crate) struct Pool(HashSet<Arc<Table>>);

// === impl Pool ===

impl Pool {
    pub(crate) fn take(&mut self, table: Table) -> PooledTable {
        if let Some(known) = self.0.get(&table) {
            return PooledTable(Arc::clone(known));
        }
        let table = Arc::new(table);
        self.0.insert(Arc::clone(&table));
        PooledTable(table)
    }

    /// Forgets tables that nobody has.
    pub(crate) fn prune(&mut self) {
        self.0.retain(|table| Arc::strong_count(table) > 1);
    }
}

// === impl PooledTable ===

impl PooledTable {
    pub(crate) fn to_arc(&self) -> Arc<Table> {
        Arc::clone(&self.0)
    }

    pub(crate) fn is(&self, table: &Arc<Table>) -> bool {
        Arc::ptr_eq(&self.0, table)
    }
}

impl Deref for PooledTable {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

impl PartialEq for PooledTable {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for PooledTable {}

impl Hash for PooledTable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
