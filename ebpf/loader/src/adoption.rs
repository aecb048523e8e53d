//! Processes that are older than the programs: made known to them under the identity that the
//! programs would have given them.

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use ebpf_hello_abi::{MATCHED_PATH, NANOSECONDS_PER_TICK, Process, exec_id, map};

use crate::{
    Kernel, LoadError,
    object::{NOEXIST, Shared, is_already_there, take},
};

/// Whether a process was known before it was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessAge {
    /// Older than the programs: now known under this identity, its parent's beside it.
    Older {
        /// Identity of its image.
        exec_id: u64,
    },
    /// The programs saw it come, or exec, themselves.
    Seen,
}

/// The tables of processes.
pub(crate) struct ProcessMaps {
    known: HashMap<MapData, u32, Shared<Process>>,
    executables: HashMap<MapData, u32, Shared<[u8; MATCHED_PATH]>>,
}

impl ProcessMaps {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(ProcessMaps {
            known: take(ebpf, map::PROCESSES)?,
            executables: take(ebpf, map::EXECUTABLES)?,
        })
    }
}

// === impl Kernel ===

impl Kernel {
    /// Makes a process that is older than the programs known to them.
    ///
    /// `executable` is its path in its mount namespace; `start_ticks` is field 22 of `/proc/<tgid>/stat`, of the initial PID namespace's /proc.
    ///
    /// # Errors
    /// A failed map operation; a full table is one.
    pub fn adopt(
        &mut self,
        tgid: u32,
        start_ticks: u64,
        parent: u32,
        parent_start_ticks: Option<u64>,
        executable: &[u8],
    ) -> Result<ProcessAge, LoadError> {
        let identity = exec_id(self.config.seed, tgid, start_ticks, 0);
        let process = Process {
            exec_id: identity,
            parent_exec_id: parent_start_ticks
                .map_or(0, |ticks| exec_id(self.config.seed, parent, ticks, 0)),
            start_time: start_ticks * NANOSECONDS_PER_TICK,
            parent,
            execs: 0,
            previous_comm: [0; 16],
        };
        match self.processes.known.insert(tgid, Shared(process), NOEXIST) {
            Ok(()) => {}
            Err(error) if is_already_there(&error) => return Ok(ProcessAge::Seen),
            Err(error) => return Err(LoadError::map(map::PROCESSES)(error)),
        }
        let mut path = [0; MATCHED_PATH];
        // One that does not fit with its NUL is not matched by any pattern.
        if executable.len() < MATCHED_PATH {
            path[..executable.len()].copy_from_slice(executable);
        }
        match self
            .processes
            .executables
            .insert(tgid, Shared(path), NOEXIST)
        {
            Err(error) if !is_already_there(&error) => Err(LoadError::map(map::EXECUTABLES)(error)),
            _ => Ok(ProcessAge::Older { exec_id: identity }),
        }
    }

    /// Forgets a process that ended between being listed and being adopted.
    pub fn forget(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.processes.known.remove(&tgid);
        let _ = self.processes.executables.remove(&tgid);
    }
}
