//! What the kernel says of our programs and maps: what `bpftool prog list` and `map list` show.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::Program,
};
use ebpf_hello_abi::program;
use serde::Serialize;

use crate::{
    Kernel, LoadError,
    object::{STANDING_PROGRAMS, program_names},
};

/// One of our programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    /// Kernel's id.
    pub id: u32,
    /// Name, as long as the kernel keeps it (15 bytes).
    pub name: String,
    /// Program type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Hash of its instructions, as bpftool prints it.
    pub tag: String,
    /// The raw tracepoint it is attached to now.
    pub attached_to: Option<&'static str>,
    /// Runs, while the kernel keeps statistics (`sysctl kernel.bpf_stats_enabled=1`).
    pub runs: Option<u64>,
    /// Average nanoseconds of a run, with [`ProgramStatus::runs`].
    pub average_nanoseconds: Option<u64>,
    /// Entries skipped because the program was already running on that CPU.
    pub recursion_misses: Option<u64>,
}

/// One of our maps.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    /// Kernel's id.
    pub id: u32,
    /// Name, as long as the kernel keeps it (15 bytes).
    pub name: String,
    /// Map type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Room: entries, or bytes of a ring buffer.
    pub max_entries: u32,
    /// Bytes of kernel memory when it was made; only a trie grows.
    pub memory: Option<u64>,
}

impl Kernel {
    /// Every program that this instance has loaded.
    ///
    /// # Errors
    /// The kernel does not answer for a program of ours.
    pub fn programs(&self) -> Result<Vec<ProgramStatus>, LoadError> {
        let mut programs = Vec::new();
        for (name, program) in self.loaded() {
            programs.push(program_status(name, program, self.attached_to(name))?);
        }
        programs.sort_by_key(|program| program.id);
        Ok(programs)
    }

    /// The object's programs without the benchmarks' baseline, which an instance does not load.
    fn loaded(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.ebpf
            .programs()
            .filter(|(name, _)| *name != program::BENCH_EMPTY)
    }

    fn attached_to(&self, name: &str) -> Option<&'static str> {
        if name == program::SYS_ENTER {
            return self.is_sys_enter_attached().then_some("sys_enter");
        }
        if name == program::SYS_EXIT {
            return self.is_sys_exit_attached().then_some("sys_exit");
        }
        if name == program::IO_URING {
            return self
                .io_uring_tracepoint()
                .filter(|_| self.is_io_uring_attached());
        }
        STANDING_PROGRAMS
            .iter()
            .find(|(program, _)| *program == name && self.are_standing_attached())
            .map(|(_, tracepoint)| *tracepoint)
    }

    /// Every map of this instance.
    pub fn maps(&self) -> Vec<MapStatus> {
        self.maps.clone()
    }
}

/// Looks at every map by the descriptor it was made with: to open one by its id is CAP_SYS_ADMIN's, which an agent
/// in a cluster has not. Later the maps are spread over their users.
pub(crate) fn map_statuses(ebpf: &Ebpf) -> Result<Vec<MapStatus>, LoadError> {
    let mut maps = Vec::new();
    for (_, map) in ebpf.maps() {
        let Some(data) = data_of(map) else { continue };
        let info = data.info().map_err(LoadError::map("(of the object)"))?;
        maps.push(MapStatus {
            id: info.id(),
            name: String::from_utf8_lossy(info.name()).into_owned(),
            kind: info
                .map_type()
                .map_or_else(|_| "unknown".into(), |kind| format!("{kind:?}")),
            max_entries: info.max_entries(),
            memory: descriptor_info(data.fd().as_fd()).and_then(|text| field(&text, "memlock")),
        });
    }
    maps.sort_by_key(|map| map.id);
    Ok(maps)
}

/// What aya keeps of a map, of the kinds that our programs have.
fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

fn program_status(
    name: &str,
    program: &Program,
    attached_to: Option<&'static str>,
) -> Result<ProgramStatus, LoadError> {
    let failed = |error| LoadError::Program {
        program: program_name(name),
        error,
    };
    let info = program.info().map_err(failed)?;
    // The descriptor it was loaded with: another one, by its id, is CAP_SYS_ADMIN's.
    let text = descriptor_info(program.fd().map_err(failed)?.as_fd());
    let read = |key| text.as_deref().and_then(|text| field(text, key));
    let runs = read("run_cnt").filter(|runs| *runs > 0);
    Ok(ProgramStatus {
        id: info.id(),
        name: name.to_owned(),
        kind: kernel_name(&format!("{:?}", info.program_type()), "BPF_PROG_TYPE_"),
        // As bpftool prints it: the bytes in the order the kernel keeps them.
        tag: format!("{:016x}", info.tag().swap_bytes()),
        attached_to,
        runs,
        average_nanoseconds: runs
            .zip(read("run_time_ns"))
            .map(|(runs, time)| time / runs),
        recursion_misses: read("recursion_misses"),
    })
}

/// A constant of the kernel's headers as bpftool prints it: `raw_tracepoint`.
fn kernel_name(constant: &str, prefix: &str) -> String {
    constant
        .strip_prefix(prefix)
        .unwrap_or(constant)
        .to_lowercase()
}

/// The abi's own name of a program, for errors.
fn program_name(name: &str) -> &'static str {
    program_names()
        .find(|known| *known == name)
        .unwrap_or("(unknown)")
}

/// What proc_pid_fdinfo(5) shows of a BPF descriptor.
fn descriptor_info(fd: BorrowedFd<'_>) -> Option<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()
}

/// The number after `key:` in an fdinfo.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|value| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "pos:\t0\nprog_tag:\tabc\nrun_time_ns:\t1200\nrun_cnt:\t3\n";
        assert_eq!(field(text, "run_cnt"), Some(3));
        assert_eq!(field(text, "run"), None);
        assert_eq!(field(text, "prog_tag"), None);
    }
}
