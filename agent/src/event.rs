//! Kernel records to events.

use std::sync::Arc;

use ebpf_hello_loader::{
    ExecView, Record,
    abi::{Abi, ExecFlags, ExitRecord, Handler, Header, HeaderFlags},
};
use ebpf_hello_policy::{self as policy, syscall::Names};
use ebpf_hello_proto::{
    Duration,
    v1::{self, Event, event::Kind},
};

use crate::{
    call::Call, policies::Policies, processes::Processes, redact::Redactor, suppressed::Suppressed,
    text, wall::Wall,
};

/// Signals below this are in wait(2)'s low bits.
const SIGNAL_MASK: u32 = 0x7f;
const CORE_DUMPED: u32 = 0x80;

/// What is the same for every event of a node.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) node: String,
    /// Ordered and new at every start.
    pub(crate) epoch: u64,
    pub(crate) arch: policy::Arch,
    pub(crate) policies: Arc<Policies>,
    pub(crate) suppressed: Arc<Suppressed>,
    pub(crate) redactor: Redactor,
}

/// Makes the event of a record, and remembers what later events of the process repeat.
pub(crate) fn event(
    record: Record<'_>,
    origin: &Origin,
    processes: &mut Processes,
    wall: Wall,
) -> Event {
    let header = record.header();
    let mut event = Event {
        time: Some(wall.time(header.time)),
        node: origin.node.clone(),
        cpu: Some(header.cpu),
        sequence: header.sequence,
        epoch: origin.epoch,
        cgroup_id: header.cgroup_id,
        process: Some(process(header, wall)),
        ..Event::default()
    };
    let call = Call { header, origin };
    event.kind = Some(match record {
        Record::Exec(exec) if header.handler == Handler::Exec as u8 => {
            // It failed: the process is what it was.
            event.policy = Some(call.policy(execve_number(&exec, origin)));
            Kind::Exec(failed_exec_event(&exec))
        }
        Record::Exec(exec) => {
            let mut binary = binary(&exec);
            let redacted = origin.redactor.text(&mut binary);
            let process = event.process.get_or_insert_default();
            process.parent_exec_id = exec_id(exec.record.parent_exec_id);
            process.login_uid =
                (exec.record.login_uid != u32::MAX).then_some(exec.record.login_uid);
            process.namespace_pid = Some(exec.record.namespace_pid);
            process.binary_truncated = exec.record.flags & ExecFlags::BINARY_TRUNCATED != 0;
            processes.insert(
                header.tgid,
                header.exec_id,
                header.time,
                binary.as_str().into(),
            );
            Kind::Exec(v1::Exec {
                redacted,
                ..exec_event(&exec, &binary)
            })
        }
        Record::Fork(fork) => {
            processes.fork(header.exec_id, fork.child, fork.child_exec_id, header.time);
            Kind::Fork(v1::Fork {
                child_pid: fork.child,
                child_exec_id: exec_id(fork.child_exec_id),
            })
        }
        Record::Exit(exit) => Kind::Exit(exit_event(exit)),
        Record::Syscall(record) => {
            event.policy = Some(call.policy(record.number));
            Kind::Syscall(call.syscall(record))
        }
        Record::Timer(record) => {
            event.policy = Some(call.policy(record.number));
            Kind::Timer(call.timer(record))
        }
        Record::Path(view) => {
            event.policy = Some(call.policy(view.record.number));
            Kind::Path(call.path(&view))
        }
        Record::Sock(record) => {
            event.policy = Some(call.policy(record.number));
            Kind::Sock(call.sock(record))
        }
    });
    if let Some(binary) = processes.binary(header.exec_id) {
        event.process.get_or_insert_default().binary = binary.to_string();
    }
    if matches!(record, Record::Exit(_)) {
        processes.end(header.tgid, header.exec_id);
    }
    origin.redactor.redact(&mut event);
    event
}

/// The system call of a failed exec: its record has the shape of a successful one's.
fn execve_number(exec: &ExecView<'_>, origin: &Origin) -> u32 {
    let abi = policy_abi(exec.record.header.abi);
    policy::syscall::number(origin.arch, abi, "execve").map_or(0, u32::from)
}

fn process(header: &Header, wall: Wall) -> v1::Process {
    v1::Process {
        pid: header.tgid,
        tid: header.tid,
        parent_pid: header.parent,
        uid: Some(header.uid),
        gid: Some(header.gid),
        comm: text::name(&header.comm),
        exec_id: exec_id(header.exec_id),
        start_time: Some(wall.time(header.start_time)),
        ..v1::Process::default()
    }
}

/// An `exec_id` as events show it; empty when unknown.
pub(crate) fn exec_id(id: u64) -> String {
    if id == 0 {
        String::new()
    } else {
        format!("{id:016x}")
    }
}

fn binary(exec: &ExecView<'_>) -> String {
    text::lossless(&exec.binary())
}

fn exec_event(exec: &ExecView<'_>, binary: &str) -> v1::Exec {
    let flags = exec.record.flags;
    let has = |flag| flags & flag != 0;
    v1::Exec {
        filename: text::lossless(exec.filename),
        argv: exec.arguments().map(text::lossless).collect(),
        argv_truncated: has(ExecFlags::ARGV_TRUNCATED),
        argv_unreadable: has(ExecFlags::ARGV_UNREADABLE),
        cwd: text::lossless(&exec.cwd()),
        cwd_truncated: has(ExecFlags::CWD_TRUNCATED),
        previous_comm: text::name(&exec.record.previous_comm),
        source: v1::ExecSource::SchedProcessExec.into(),
        deleted: has(ExecFlags::DELETED),
        // A memfd's dentry is its name with this prefix, in no directory (mm/memfd.c).
        memfd: has(ExecFlags::DELETED) && binary.starts_with("/memfd:"),
        errno: None,
        redacted: false,
    }
}

fn failed_exec_event(exec: &ExecView<'_>) -> v1::Exec {
    let header = &exec.record.header;
    v1::Exec {
        filename: text::lossless(exec.filename),
        argv: exec.arguments().map(text::lossless).collect(),
        argv_truncated: exec.record.flags & ExecFlags::ARGV_TRUNCATED != 0,
        argv_unreadable: header.flags & HeaderFlags::UNREADABLE != 0,
        source: v1::ExecSource::Syscall.into(),
        // Error numbers are at most 4095 (MAX_ERRNO in include/linux/err.h).
        errno: i32::try_from(-header.return_value).ok(),
        ..v1::Exec::default()
    }
}

fn exit_event(exit: &ExitRecord) -> v1::Exit {
    let signal = exit.status & SIGNAL_MASK;
    v1::Exit {
        // An exit code has 8 bits (wait(2)).
        code: (signal == 0).then_some((exit.status >> 8 & 0xff) as i32),
        signal: if signal == 0 {
            String::new()
        } else {
            signal_name(signal)
        },
        core_dumped: exit.status & CORE_DUMPED != 0,
        lifetime: Some(Duration::from_nanos(
            exit.header.time.saturating_sub(exit.header.start_time),
        )),
    }
}

/// signal(7)'s name, or `SIGRTMIN+N`.
fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    match signal {
        1..=31 => NAMES[signal as usize - 1].to_owned(),
        // The kernel's SIGRTMIN; the C library keeps the first two for itself.
        _ => format!("SIGRTMIN+{}", signal - 32),
    }
}

pub(crate) fn policy_abi(abi: u8) -> policy::Abi {
    if abi == Abi::Compat as u8 {
        policy::Abi::Compat
    } else {
        policy::Abi::Native
    }
}

/// The kernel's name of a system call, or `syscall_N` for one that is newer than our tables.
pub(crate) fn syscall_name(arch: policy::Arch, abi: policy::Abi, number: u32) -> String {
    u16::try_from(number)
        .ok()
        .and_then(|number| Names::of(arch, abi).name(number))
        .map_or_else(|| format!("syscall_{number}"), ToOwned::to_owned)
}

pub(crate) fn proto_abi(arch: policy::Arch, abi: policy::Abi) -> v1::Abi {
    match (arch, abi) {
        (policy::Arch::X86_64, policy::Abi::Native) => v1::Abi::X8664,
        (policy::Arch::X86_64, policy::Abi::Compat) => v1::Abi::Ia32,
        (policy::Arch::Aarch64, policy::Abi::Native) => v1::Abi::Aarch64,
        (policy::Arch::Aarch64, policy::Abi::Compat) => v1::Abi::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::header;

    #[test]
    fn a_status_is_read_as_wait_reads_it() {
        let exit = |status| {
            exit_event(&ExitRecord {
                header: header(),
                status,
                padding: 0,
            })
        };
        assert_eq!(exit(0).code, Some(0));
        assert_eq!(exit(0x2a00).code, Some(42));
        let killed = exit(9);
        assert_eq!(
            (killed.code, killed.signal.as_str(), killed.core_dumped),
            (None, "SIGKILL", false)
        );
        let dumped = exit(0x8b);
        assert_eq!(
            (dumped.signal.as_str(), dumped.core_dumped),
            ("SIGSEGV", true)
        );
        assert_eq!(exit(34).signal, "SIGRTMIN+2");
        assert_eq!(exit(0).lifetime, Some(Duration::from_nanos(7)));
    }

    #[test]
    fn a_call_newer_than_our_tables_has_its_number() {
        assert_eq!(
            syscall_name(policy::Arch::X86_64, policy::Abi::Native, 500),
            "syscall_500"
        );
    }
}
