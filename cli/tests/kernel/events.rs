//! Picking events by who made them and what they are.

use std::collections::BTreeMap;

use ebpf_hello_proto::v1::{
    Event, Exec, ExecSource, Exit, Fork, Process, Syscall, Timer, event::Kind,
};

/// The events of `pid`, in the order they happened.
pub(crate) fn of_process(events: &[Event], pid: u32) -> Vec<&Event> {
    let mut found: Vec<_> = events.iter().filter(|event| pid_of(event) == pid).collect();
    found.sort_by_key(|event| {
        let time = event.time.unwrap_or_default();
        (time.seconds, time.nanos)
    });
    found
}

pub(crate) fn pid_of(event: &Event) -> u32 {
    event.process.as_ref().map_or(0, |process| process.pid)
}

pub(crate) fn process(event: &Event) -> &Process {
    event
        .process
        .as_ref()
        .expect("every event here has a process")
}

/// Live execs: not those of processes that are older than the instance.
pub(crate) fn exec(event: &Event) -> Option<&Exec> {
    any_exec(event).filter(|exec| exec.source() == ExecSource::SchedProcessExec)
}

/// Execs, those told from /proc among them.
pub(crate) fn any_exec(event: &Event) -> Option<&Exec> {
    match &event.kind {
        Some(Kind::Exec(exec)) => Some(exec),
        _ => None,
    }
}

pub(crate) fn exit(event: &Event) -> Option<&Exit> {
    match &event.kind {
        Some(Kind::Exit(exit)) => Some(exit),
        _ => None,
    }
}

pub(crate) fn fork(event: &Event) -> Option<&Fork> {
    match &event.kind {
        Some(Kind::Fork(fork)) => Some(fork),
        _ => None,
    }
}

pub(crate) fn syscall(event: &Event) -> Option<&Syscall> {
    match &event.kind {
        Some(Kind::Syscall(call)) => Some(call),
        _ => None,
    }
}

pub(crate) fn timer(event: &Event) -> Option<&Timer> {
    match &event.kind {
        Some(Kind::Timer(timer)) => Some(timer),
        _ => None,
    }
}

/// Wall-clock nanoseconds.
pub(crate) fn time(event: &Event) -> u64 {
    let time = event.time.expect("every event has a time");
    u64::try_from(time.seconds).unwrap() * 1_000_000_000 + u64::from(time.nanos.unsigned_abs())
}

/// What rate limits and sampling left out of a cgroup, as its events and counters tell: by
/// generation.
pub(crate) fn left_out(events: &[Event], cgroup: u64) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for event in events.iter().filter(|event| event.cgroup_id == cgroup) {
        if let Some(policy) = &event.policy {
            *sums.entry(policy.generation).or_default() += policy.suppressed_since_last;
        }
        if let Some(Kind::Counters(counters)) = &event.kind {
            for row in &counters.suppressed {
                *sums.entry(row.generation).or_default() += row.since_last;
            }
        }
    }
    sums
}

/// Fails unless every record that took a number is here: `last` is the last number of each CPU.
pub(crate) fn assert_no_gap(events: &[Event], last: &[u64]) {
    for (cpu, last) in last.iter().enumerate() {
        let mut numbers: Vec<_> = events
            .iter()
            .filter(|event| event.cpu == Some(u32::try_from(cpu).unwrap()))
            .map(|event| event.sequence)
            .filter(|number| *number > 0)
            .collect();
        numbers.sort_unstable();
        assert!(
            numbers.iter().copied().eq(1..=*last),
            "CPU {cpu}: {} numbers, the last was {last}",
            numbers.len()
        );
    }
}

/// The bytes that an event's text stands for: `\xNN` is a byte, everything else itself.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest[at..]
            .strip_prefix("\\x")
            .and_then(|digits| digits.get(..2))
            .unwrap_or_else(|| panic!("a backslash without two digits in {text:?}"));
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
