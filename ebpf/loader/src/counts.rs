//! What the counting handlers counted: cumulative, exact, with what found no room beside it.

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use ebpf_hello_abi::{CountKey, IO_URING, OUT_OF_RANGE, Overflow, map};

use crate::{
    LoadError, machine,
    object::{Shared, take},
};

/// The generation of counts that are no longer in the kernel's map: no policy has it.
pub const FOLDED: u64 = u64::MAX;

/// Calls of one system call in one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCount {
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// Policy generation that counted them, or [`FOLDED`].
    pub generation: u64,
    /// System call number.
    pub number: u16,
    /// True for the 32-bit ABI.
    pub compat: bool,
    /// Calls since load.
    pub calls: u64,
}

/// Operations of one io_uring opcode in one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationCount {
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// Policy generation that counted them, or [`FOLDED`].
    pub generation: u64,
    /// `enum io_uring_op` (`include/uapi/linux/io_uring.h`).
    pub opcode: u16,
    /// Operations since load.
    pub operations: u64,
}

/// Everything counted since load.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls by cgroup and number.
    pub calls: Vec<CallCount>,
    /// Calls that found the map full.
    pub calls_overflow: u64,
    /// io_uring operations by cgroup and opcode.
    pub operations: Vec<OperationCount>,
    /// Operations that found the map full.
    pub operations_overflow: u64,
    /// Exec attempts by real user id.
    pub execs_by_uid: Vec<(u32, u64)>,
    /// Exec attempts that found the map full.
    pub execs_overflow: u64,
    /// Calls whose number no table can hold, by cgroup.
    pub out_of_range: Vec<(u64, u64)>,
    /// Such calls that found the map full.
    pub out_of_range_overflow: u64,
    /// New cgroups that found no room for their parent's outcome, and so had the default's.
    pub cgroups_overflow: u64,
    /// Cgroups that came or went without a word, because a ring buffer had no room.
    pub cgroup_changes_overflow: u64,
}

/// The maps that the programs count in.
pub(crate) struct Counters {
    counts: HashMap<MapData, Shared<CountKey>, u64>,
    /// What was taken out of the map.
    folded: std::collections::HashMap<CountKey, u64>,
    execs_by_uid: HashMap<MapData, u32, u64>,
    overflow: PerCpuArray<MapData, u64>,
}

// === impl Counters ===

impl Counters {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Counters {
            counts: take(ebpf, map::COUNTS)?,
            folded: Default::default(),
            execs_by_uid: take(ebpf, map::EXECS_BY_UID)?,
            overflow: take(ebpf, map::OVERFLOW)?,
        })
    }

    pub(crate) fn read(&self) -> Result<Counts, LoadError> {
        let mut counts = Counts::default();
        for entry in self.counts.iter() {
            let (key, calls) = entry.map_err(LoadError::map(map::COUNTS))?;
            counts.add(&key.0, calls);
        }
        for (key, calls) in &self.folded {
            counts.add(key, *calls);
        }
        counts.execs_by_uid = self
            .execs_by_uid
            .iter()
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::EXECS_BY_UID))?;
        counts.calls_overflow = self.overflowed(Overflow::Counts)?;
        counts.operations_overflow = self.overflowed(Overflow::IoUring)?;
        counts.execs_overflow = self.overflowed(Overflow::ExecsByUid)?;
        counts.out_of_range_overflow = self.overflowed(Overflow::OutOfRange)?;
        counts.cgroups_overflow = self.overflowed(Overflow::Cgroups)?;
        counts.cgroup_changes_overflow = self.overflowed(Overflow::CgroupChanges)?;
        Ok(counts)
    }

    pub(crate) fn keys(&self) -> Result<Vec<CountKey>, LoadError> {
        let in_map = self.counts.keys().map(|key| key.map(|key| key.0));
        let folded = self.folded.keys().copied().map(Ok);
        in_map
            .chain(folded)
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::COUNTS))
    }

    pub(crate) fn fold(&mut self, folds: &[(CountKey, CountKey)]) -> Result<(), LoadError> {
        if folds.is_empty() {
            return Ok(());
        }
        // One that began before still adds to the entry it has found.
        machine::wait_for_programs()?;
        for (from, to) in folds {
            let calls = match self.folded.remove(from) {
                Some(calls) => calls,
                None => self.take_out(from)?,
            };
            *self.folded.entry(*to).or_default() += calls;
        }
        Ok(())
    }

    /// Deletes an entry of the map; its calls.
    fn take_out(&mut self, key: &CountKey) -> Result<u64, LoadError> {
        let key = Shared(*key);
        let calls = match self.counts.get(&key, 0) {
            Err(MapError::KeyNotFound) => return Ok(0),
            calls => calls.map_err(LoadError::map(map::COUNTS))?,
        };
        self.counts
            .remove(&key)
            .map_err(LoadError::map(map::COUNTS))?;
        Ok(calls)
    }

    fn overflowed(&self, cell: Overflow) -> Result<u64, LoadError> {
        let cells = self
            .overflow
            .get(&(cell as u32), 0)
            .map_err(LoadError::map(map::OVERFLOW))?;
        Ok(cells.iter().sum())
    }
}

// === impl Counts ===

impl Counts {
    /// All calls out of range.
    pub fn out_of_range_total(&self) -> u64 {
        self.out_of_range
            .iter()
            .map(|(_, calls)| calls)
            .sum::<u64>()
            + self.out_of_range_overflow
    }

    /// Takes one entry of the counting map in.
    fn add(&mut self, key: &CountKey, calls: u64) {
        if key.number == OUT_OF_RANGE {
            self.out_of_range.push((key.cgroup_id, calls));
            return;
        }
        if key.abi == IO_URING {
            self.operations.push(OperationCount {
                cgroup_id: key.cgroup_id,
                generation: key.generation,
                opcode: key.number,
                operations: calls,
            });
            return;
        }
        self.calls.push(CallCount {
            cgroup_id: key.cgroup_id,
            generation: key.generation,
            number: key.number,
            compat: key.abi != 0,
            calls,
        });
    }
}
