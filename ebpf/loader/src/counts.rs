//! What the counting handlers counted: cumulative, exact, with what found no room beside it.

use ebpf_hello_abi::{CountKey, OUT_OF_RANGE};

/// Calls of one system call in one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCount {
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// Policy generation that counted them.
    pub generation: u64,
    /// System call number.
    pub number: u16,
    /// True for the 32-bit ABI.
    pub compat: bool,
    /// Calls since load.
    pub calls: u64,
}

/// Everything counted since load.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls by cgroup and number.
    pub calls: Vec<CallCount>,
    /// Calls that found the map full.
    pub calls_overflow: u64,
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
}

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
    pub(crate) fn add(&mut self, key: &CountKey, calls: u64) {
        if key.number == OUT_OF_RANGE {
            self.out_of_range.push((key.cgroup_id, calls));
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
