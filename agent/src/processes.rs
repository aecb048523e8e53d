//! Which executable each process image is: execs say it once, every later event repeats it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
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
    /// By process: the image that it runs, and since when. What replaces it ends it, whether or not its own end was seen.
    running: HashMap<u32, (u64, u64)>,
    ended: VecDeque<u64>,
}

impl Processes {
    /// Notes that a process runs an image since `time`, in nanoseconds since boot.
    pub(crate) fn insert(&mut self, tgid: u32, exec_id: u64, time: u64, binary: Arc<str>) {
        if self.binaries.len() >= CAPACITY {
            self.forget_ended();
        }
        if self.binaries.len() >= CAPACITY {
            return;
        }
        self.binaries.insert(exec_id, binary);
        match self.running.entry(tgid) {
            Entry::Vacant(place) => {
                place.insert((exec_id, time));
            }
            Entry::Occupied(mut place) => {
                let (known, since) = *place.get();
                if known == exec_id {
                    return;
                }
                // A fork can be read after its child's exec, from another ring.
                let is_late = since > time;
                if !is_late {
                    place.insert((exec_id, time));
                }
                self.ended(if is_late { exec_id } else { known });
            }
        }
    }

    /// A child runs its parent's image until it execs.
    pub(crate) fn fork(&mut self, parent: u64, child: u32, child_exec_id: u64, time: u64) {
        if let Some(binary) = self.binaries.get(&parent) {
            self.insert(child, child_exec_id, time, Arc::clone(binary));
        }
    }

    pub(crate) fn binary(&self, exec_id: u64) -> Option<&Arc<str>> {
        self.binaries.get(&exec_id)
    }

    /// The image is gone: its process ended.
    pub(crate) fn end(&mut self, tgid: u32, exec_id: u64) {
        if self
            .running
            .get(&tgid)
            .is_some_and(|(id, _)| *id == exec_id)
        {
            self.running.remove(&tgid);
        }
        self.ended(exec_id);
    }

    fn ended(&mut self, exec_id: u64) {
        self.ended.push_back(exec_id);
        if self.ended.len() > ENDED {
            self.forget_ended();
        }
    }

    fn forget_ended(&mut self) {
        if let Some(oldest) = self.ended.pop_front() {
            self.binaries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(processes: &Processes, exec_id: u64) -> Option<&str> {
        processes.binary(exec_id).map(|binary| &**binary)
    }

    /// Ends so many others that nobody remembers what ended before.
    fn pass(processes: &mut Processes) {
        for id in 0..ENDED as u64 {
            processes.end(0, 1 << 40 | id);
        }
    }

    #[test]
    fn a_child_has_its_parents_binary_until_long_after_its_end() {
        let mut processes = Processes::default();
        processes.insert(100, 1, 0, "/bin/a".into());
        processes.fork(1, 200, 2, 5);
        processes.end(200, 2);
        assert_eq!(binary(&processes, 2), Some("/bin/a"));
        pass(&mut processes);
        assert_eq!(binary(&processes, 2), None);
        assert!(processes.binary(1).is_some());
    }

    #[test]
    fn an_image_that_an_exec_replaced_is_forgotten_in_its_time() {
        let mut processes = Processes::default();
        processes.insert(100, 1, 0, "/bin/sh".into());
        for round in 0..CAPACITY as u64 {
            let (child, time) = (200 + round as u32 % 1000, 10 * round);
            let (forked, execed) = (1000 + 2 * round, 1001 + 2 * round);
            processes.fork(1, child, forked, time);
            processes.insert(child, execed, time + 1, "/bin/a".into());
            assert_eq!(
                (binary(&processes, forked), binary(&processes, execed)),
                (Some("/bin/sh"), Some("/bin/a"))
            );
            // The end of every tenth is not seen: its number is somebody else's later.
            if round % 10 != 0 {
                processes.end(child, execed);
            }
        }
        assert!(processes.binaries.len() < ENDED + 1100);
        assert_eq!(binary(&processes, 1), Some("/bin/sh"));
    }

    #[test]
    fn a_fork_that_is_read_after_its_childs_exec_replaces_nothing() {
        let mut processes = Processes::default();
        processes.insert(100, 1, 0, "/bin/sh".into());
        processes.insert(200, 3, 11, "/bin/a".into());
        processes.fork(1, 200, 2, 10);
        pass(&mut processes);
        assert_eq!(
            (binary(&processes, 2), binary(&processes, 3)),
            (None, Some("/bin/a"))
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut processes = Processes::default();
        for id in 0..CAPACITY as u32 + 10 {
            processes.insert(id, u64::from(id), 0, "/bin/a".into());
        }
        assert_eq!(processes.binaries.len(), CAPACITY);
        assert!(processes.binary(CAPACITY as u64).is_none());
        processes.end(5, 5);
        processes.insert(1 << 20, 1 << 40, 0, "/bin/b".into());
        assert_eq!(binary(&processes, 1 << 40), Some("/bin/b"));
    }
}
