//! Which executable each process image is: execs say it once, every later event repeats it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Images remembered. Past it, events of further ones go without `binary`.
const CAPACITY: usize = 1 << 17;
/// Images that have ended and are still remembered, because records of several rings come a
/// little out of order.
const ENDED: usize = 4096;

/// The executable's path by `exec_id`.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    binaries: HashMap<u64, Arc<str>>,
    ended: VecDeque<u64>,
}

impl Processes {
    pub(crate) fn insert(&mut self, exec_id: u64, binary: Arc<str>) {
        if self.binaries.len() < CAPACITY {
            self.binaries.insert(exec_id, binary);
        }
    }

    /// A child runs its parent's image until it execs.
    pub(crate) fn fork(&mut self, parent: u64, child: u64) {
        if let Some(binary) = self.binaries.get(&parent) {
            self.insert(child, Arc::clone(binary));
        }
    }

    pub(crate) fn binary(&self, exec_id: u64) -> Option<&Arc<str>> {
        self.binaries.get(&exec_id)
    }

    /// The image is gone: its process ended.
    pub(crate) fn end(&mut self, exec_id: u64) {
        self.ended.push_back(exec_id);
        if self.ended.len() > ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.binaries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_its_parents_binary_until_long_after_its_end() {
        let mut processes = Processes::default();
        processes.insert(1, "/bin/a".into());
        processes.fork(1, 2);
        processes.end(2);
        assert_eq!(processes.binary(2).map(|binary| &**binary), Some("/bin/a"));
        for id in 10..10 + ENDED as u64 {
            processes.end(id);
        }
        assert_eq!(processes.binary(2), None);
        assert!(processes.binary(1).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut processes = Processes::default();
        for id in 0..CAPACITY as u64 + 10 {
            processes.insert(id, "/bin/a".into());
        }
        assert_eq!(processes.binaries.len(), CAPACITY);
    }
}
