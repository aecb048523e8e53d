//! Kernel records to events.

use std::sync::Arc;

use ebpf_hello_loader::{
    ExecView, Record,
    abi::{Abi, Decode, ExecFlags, ExitRecord, Header, SyscallRecord, TimerRecord},
};
use ebpf_hello_policy::{self as policy, FilterName, Table, syscall::Names};
use ebpf_hello_proto::{
    Duration,
    v1::{self, Event, event::Kind},
};

use crate::{processes::Processes, text, wall::Wall};

/// `TIMER_ABSTIME` of timer_settime(2) and `TFD_TIMER_ABSTIME` of timerfd_settime(2) are both 1.
const ABSOLUTE: u32 = 1;
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
    pub(crate) policy: Arc<Table>,
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
    event.kind = Some(match record {
        Record::Exec(exec) => {
            let binary = binary(&exec);
            let process = event.process.get_or_insert_default();
            process.parent_exec_id = exec_id(exec.record.parent_exec_id);
            process.login_uid =
                (exec.record.login_uid != u32::MAX).then_some(exec.record.login_uid);
            process.namespace_pid = Some(exec.record.namespace_pid);
            process.binary_truncated = exec.record.flags & ExecFlags::BINARY_TRUNCATED != 0;
            processes.insert(header.exec_id, binary.as_str().into());
            Kind::Exec(exec_event(&exec, &binary))
        }
        Record::Fork(fork) => {
            processes.fork(header.exec_id, fork.child_exec_id);
            Kind::Fork(v1::Fork {
                child_pid: fork.child,
                child_exec_id: exec_id(fork.child_exec_id),
            })
        }
        Record::Exit(exit) => Kind::Exit(exit_event(exit)),
        Record::Syscall(call) => {
            event.policy = Some(policy_of(header, call.number, origin));
            Kind::Syscall(syscall_event(call, origin))
        }
        Record::Timer(call) => {
            event.policy = Some(policy_of(header, call.number, origin));
            Kind::Timer(timer_event(call, origin))
        }
    });
    if let Some(binary) = processes.binary(header.exec_id) {
        event.process.get_or_insert_default().binary = binary.to_string();
    }
    if matches!(record, Record::Exit(_)) {
        processes.end(header.exec_id);
    }
    event
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

fn policy_of(header: &Header, number: u32, origin: &Origin) -> v1::Policy {
    let half = origin.policy.half(policy_abi(header.abi));
    let filter: Option<&FilterName> = u16::try_from(number)
        .ok()
        .and_then(|number| half.slots.get(&number))
        .map_or(half.default.filter.as_ref(), |slot| slot.filter.as_ref());
    v1::Policy {
        filter: filter.map(ToString::to_string).unwrap_or_default(),
        rule: u32::from(header.rule),
        table: u32::from(header.table),
        generation: header.generation,
        suppressed_since_last: 0,
    }
}

fn policy_abi(abi: u8) -> policy::Abi {
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

fn syscall_event(call: &SyscallRecord, origin: &Origin) -> v1::Syscall {
    let abi = policy_abi(call.header.abi);
    v1::Syscall {
        name: syscall_name(origin.arch, abi, call.number),
        number: Some(call.number),
        abi: proto_abi(origin.arch, abi).into(),
        args: call.arguments.to_vec(),
        return_value: None,
        denied: false,
    }
}

fn timer_event(call: &TimerRecord, origin: &Origin) -> v1::Timer {
    let abi = policy_abi(call.header.abi);
    let mut timer = v1::Timer {
        name: syscall_name(origin.arch, abi, call.number),
        number: Some(call.number),
        abi: proto_abi(origin.arch, abi).into(),
        unreadable: call.unreadable != 0,
        absolute: call.flags & ABSOLUTE != 0,
        ..v1::Timer::default()
    };
    let is = |decode: Decode| call.decode == decode as u32;
    if is(Decode::TimerCreate) || is(Decode::TimerfdCreate) {
        timer.clock = clock_name(call.subject);
        // timerfd_create's flags are not a time's.
        timer.absolute = false;
    } else if is(Decode::Setitimer) || is(Decode::Setitimer32) {
        timer.clock = interval_timer_name(call.subject);
    } else if is(Decode::TimerfdSettime)
        || is(Decode::TimerfdSettime32)
        || is(Decode::TimerfdGettime)
    {
        timer.fd = Some(call.subject);
    } else {
        timer.timer_id = Some(call.subject);
    }
    if call.has_setting != 0 && call.unreadable == 0 {
        let microseconds = is(Decode::Setitimer) || is(Decode::Setitimer32);
        let span = |seconds, fraction: i64| {
            let unit = if microseconds { 1000 } else { 1 };
            let nanoseconds = fraction.checked_mul(unit)?;
            Duration::from_timespec(seconds, nanoseconds).ok()
        };
        timer.interval = span(call.interval_seconds, call.interval_fraction);
        timer.initial = span(call.initial_seconds, call.initial_fraction);
        timer.out_of_range = timer.interval.is_none() || timer.initial.is_none();
    }
    timer
}

/// clock_gettime(2)'s name of a clock id; a number where it has none (a descriptor's or a
/// process's clock, or nonsense).
fn clock_name(id: i32) -> String {
    match id {
        0 => "CLOCK_REALTIME",
        1 => "CLOCK_MONOTONIC",
        2 => "CLOCK_PROCESS_CPUTIME_ID",
        3 => "CLOCK_THREAD_CPUTIME_ID",
        4 => "CLOCK_MONOTONIC_RAW",
        5 => "CLOCK_REALTIME_COARSE",
        6 => "CLOCK_MONOTONIC_COARSE",
        7 => "CLOCK_BOOTTIME",
        8 => "CLOCK_REALTIME_ALARM",
        9 => "CLOCK_BOOTTIME_ALARM",
        11 => "CLOCK_TAI",
        id => return id.to_string(),
    }
    .to_owned()
}

/// setitimer(2)'s name of `which`.
fn interval_timer_name(which: i32) -> String {
    match which {
        0 => "ITIMER_REAL",
        1 => "ITIMER_VIRTUAL",
        2 => "ITIMER_PROF",
        which => return which.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_wait_reads_it() {
        let exit = |status| {
            let header = header();
            exit_event(&ExitRecord {
                header,
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

    fn header() -> Header {
        Header {
            kind: 0,
            handler: 0,
            abi: 0,
            cpu: 0,
            sequence: 0,
            time: 10,
            cgroup_id: 0,
            exec_id: 0,
            start_time: 3,
            generation: 0,
            tgid: 0,
            tid: 0,
            parent: 0,
            uid: 0,
            gid: 0,
            table: 0,
            rule: 0,
            comm: [0; 16],
        }
    }

    fn timer(decode: Decode, subject: i32, setting: [i64; 4]) -> v1::Timer {
        let origin = Origin {
            node: String::new(),
            epoch: 1,
            arch: policy::Arch::X86_64,
            policy: Arc::default(),
        };
        let record = TimerRecord {
            header: header(),
            interval_seconds: setting[0],
            interval_fraction: setting[1],
            initial_seconds: setting[2],
            initial_fraction: setting[3],
            number: 222,
            decode: decode as u32,
            subject,
            flags: 0,
            unreadable: 0,
            has_setting: 1,
        };
        timer_event(&record, &origin)
    }

    #[test]
    fn a_setting_is_in_nanoseconds_whatever_its_unit_was() {
        let timer = timer(Decode::Setitimer, 0, [1, 500_000, 0, 1]);
        assert_eq!(timer.clock, "ITIMER_REAL");
        assert_eq!(timer.interval, Some(Duration::from_nanos(1_500_000_000)));
        assert_eq!(timer.initial, Some(Duration::from_nanos(1_000)));
    }

    #[test]
    fn an_absurd_setting_is_marked_not_printed() {
        let timer = timer(Decode::TimerSettime, 3, [i64::MAX, i64::MAX, 1, 0]);
        assert!(timer.out_of_range);
        assert_eq!(
            (timer.interval, timer.initial),
            (None, Some(Duration::from_nanos(1_000_000_000)))
        );
        assert_eq!(timer.timer_id, Some(3));
    }

    #[test]
    fn a_clock_without_a_name_keeps_its_number() {
        assert_eq!(
            timer(Decode::TimerCreate, 1, [0; 4]).clock,
            "CLOCK_MONOTONIC"
        );
        assert_eq!(timer(Decode::TimerCreate, -6, [0; 4]).clock, "-6");
        assert_eq!(
            syscall_name(policy::Arch::X86_64, policy::Abi::Native, 500),
            "syscall_500"
        );
    }
}
