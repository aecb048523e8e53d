//! The object file: its maps made, its programs loaded, attached, found by name.

use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::MapError,
    programs::{ProgramError, RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use ebpf_hello_abi::{CONFIG, Config, RINGS, SLOTS_PER_TABLE, map, program};

use crate::{LoadError, Options, machine};

static OBJECT: &[u8] = include_bytes_aligned!(env!("EBPF_HELLO_OBJECT"));

/// Programs that are always attached, and where.
pub(crate) const STANDING_PROGRAMS: [(&str, &str); 6] = [
    (program::PROCESS_FORK, "sched_process_fork"),
    (program::PROCESS_RENAME, "task_rename"),
    (program::PROCESS_EXEC, "sched_process_exec"),
    (program::PROCESS_EXIT, "sched_process_exit"),
    (program::CGROUP_MKDIR, "cgroup_mkdir"),
    (program::CGROUP_RMDIR, "cgroup_rmdir"),
];
/// Programs that are attached while a live table needs them, and where.
pub(crate) const SYSCALL_PROGRAMS: [(&str, &str); 2] = [
    (program::SYS_ENTER, "sys_enter"),
    (program::SYS_EXIT, "sys_exit"),
];
/// Programs that a table's slots call.
pub(crate) const HANDLER_PROGRAMS: [&str; 7] = [
    program::HANDLE_EXEC,
    program::HANDLE_TIMER,
    program::HANDLE_TRACE,
    program::HANDLE_PATH,
    program::HANDLE_SOCK,
    program::HANDLE_COUNT,
    program::HANDLE_IGNORE,
];
/// `BPF_PROG_LOAD` answers EAGAIN when a signal interrupts the verifier; aya does not try again.
const LOAD_ATTEMPTS: u32 = 10;

/// `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
pub(crate) const NOEXIST: u64 = 1;

/// A map value or key that is shared with the programs.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Shared<T>(pub(crate) T);
// SAFETY: only made for the abi's `repr(C)` types, which have no padding but explicit one and no
// invalid bit patterns.
unsafe impl<T: Copy + 'static> Pod for Shared<T> {}

/// Whether a map refused a key because it has it (`BPF_NOEXIST`).
pub(crate) fn is_already_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists)
}

pub(crate) fn make_maps(options: &Options, config: &Config) -> Result<Ebpf, LoadError> {
    let slots = options.tables * SLOTS_PER_TABLE;
    let shared = Shared(*config);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(CONFIG, &shared, true)
        .map_max_entries(map::TABLES, slots)
        .map_max_entries(map::PARAMETERS, slots)
        .map_max_entries(map::IO_URING, options.tables)
        .map_max_entries(map::COUNTS, options.count_entries)
        .map_max_entries(map::JOINS, options.join_entries);
    for ring in &RINGS[..options.shards() as usize] {
        loader.map_max_entries(ring, options.ring_size);
    }
    // A ring that is not in use is a page: the smallest there can be.
    for ring in &RINGS[options.shards() as usize..] {
        loader.map_max_entries(ring, rustix::param::page_size() as u32);
    }
    loader.load(OBJECT).map_err(LoadError::Object)
}

/// Every program of the object.
pub(crate) fn program_names() -> impl Iterator<Item = &'static str> {
    STANDING_PROGRAMS
        .iter()
        .chain(&SYSCALL_PROGRAMS)
        .map(|(program, _)| *program)
        .chain(HANDLER_PROGRAMS)
        .chain([
            program::IO_URING,
            program::IDENTIFY,
            program::FIND_READERS,
            program::ANNOUNCE,
        ])
}

pub(crate) fn load_programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    program_names().try_for_each(|name| load_program(ebpf, name))
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let program = raw_tracepoint(ebpf, name)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match program.load() {
            Ok(()) => return Ok(()),
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock
                    && attempts < LOAD_ATTEMPTS => {}
            Err(error) => return Err(rejected(name, error)),
        }
    }
}

/// The object with the smallest maps there can be, and of its programs only this one.
pub(crate) fn load_alone(name: &'static str) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    for ring in RINGS {
        loader.map_max_entries(ring, rustix::param::page_size() as u32);
    }
    let mut ebpf = loader.load(OBJECT).map_err(LoadError::Object)?;
    load_program(&mut ebpf, name)?;
    Ok(ebpf)
}

/// Tells a verifier's refusal from a lack of privilege.
fn rejected(program: &'static str, error: ProgramError) -> LoadError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            if io_error.kind() == std::io::ErrorKind::PermissionDenied && log.trim().is_empty() {
                return machine::refused(&format!("to load the program `{program}`"), &io_error);
            }
            let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            LoadError::Rejected {
                program,
                error: io_error,
                log: last,
            }
        }
        error => LoadError::Program { program, error },
    }
}

/// Takes a map out of the object, typed.
pub(crate) fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, LoadError> {
    let found = ebpf
        .take_map(name)
        .ok_or(LoadError::Missing { kind: "map", name })?;
    M::try_from(found).map_err(LoadError::map(name))
}

pub(crate) fn raw_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut RawTracePoint, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing {
            kind: "program",
            name,
        })?
        .try_into()
        .map_err(|error| LoadError::Program {
            program: name,
            error,
        })
}

pub(crate) fn attach(
    ebpf: &mut Ebpf,
    program: &'static str,
    tracepoint: &'static str,
) -> Result<RawTracePointLinkId, LoadError> {
    raw_tracepoint(ebpf, program)?
        .attach(tracepoint)
        .map_err(|error| LoadError::Attach {
            program,
            tracepoint,
            error,
        })
}

pub(crate) fn detach(
    ebpf: &mut Ebpf,
    program: &'static str,
    link: RawTracePointLinkId,
) -> Result<(), LoadError> {
    raw_tracepoint(ebpf, program)?
        .detach(link)
        .map_err(|error| LoadError::Program { program, error })
}
