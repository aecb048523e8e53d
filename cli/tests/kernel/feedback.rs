//! No feedback: what `run` and whoever reads it do is never an event, which would be one more.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use ebpf_hello_proto::v1::Event;

use crate::{
    events::{pid_of, syscall},
    executable,
    filter::{UNUSED_CALL, filter},
    generator::generate_in_background,
    instance::{Ended, Instance},
};

/// Calls per second of the background, which is the same in every run. Few enough that a loop of
/// reader and writer would outnumber them.
const RATE: &str = "1000";
/// What a pipe may add to the events of the same run without one.
const TOLERANCE: f64 = 1.2;
/// Pairs of runs: the quietest of three tells, unless the machine does other things meanwhile.
const PAIRS: [usize; 4] = [3, 5, 7, 9];

const RUN: [&str; 7] = [
    "run",
    "--default",
    "trace",
    "-o",
    "json",
    "--duration",
    "1s",
];

pub(crate) fn a_reader_of_the_output_is_never_in_it() {
    compare(|| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &pipeline()]).arg(executable::product());
        shell
    });
}

pub(crate) fn a_reader_of_the_output_is_never_in_it_in_a_pid_namespace() {
    compare(|| {
        let mut unshare = Command::new("unshare");
        unshare
            .args([
                "--pid",
                "--fork",
                "--mount-proc",
                "/bin/sh",
                "-c",
                &pipeline(),
            ])
            .arg(executable::product());
        unshare
    });
}

/// Every child holds what its parent has open until it execs: at the wrong moment it looks like a
/// reader. The shell here does so for long, and then becomes the generator, which does not.
pub(crate) fn who_read_the_output_before_its_exec_is_reported_after_it() {
    for process_events in ["on", "off"] {
        let output = tempfile::NamedTempFile::new().unwrap();
        let script = format!("read go; exec \"$0\" call {UNUSED_CALL} 50 2>&1");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &script])
            .arg(executable::generator())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(output.reopen().unwrap())
            .spawn()
            .unwrap();
        let filter = filter("Trace", &[UNUSED_CALL]);
        let mut command = Command::new(executable::product());
        command
            .args(["run", "-v", "--process-events", process_events])
            .args(["--filters", filter.path()])
            .stdout(output.reopen().unwrap());
        let run = Instance::start(command);
        shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(shell.wait().unwrap().success());
        let ledger = run.end().ledger();
        ledger.assert_complete();
        assert_eq!(
            ledger.row("trace").delivered,
            50,
            "with process events {process_events}, it reads the output no more"
        );
    }
}

/// For a shell whose `$0` is the product.
fn pipeline() -> String {
    format!("\"$0\" {} | cat", RUN.join(" "))
}

/// Runs into /dev/null and into a pipe by turns, and compares their events.
fn compare(piped: impl Fn() -> Command) {
    let _background = generate_in_background(&["call", UNUSED_CALL, "1000000000", "--rate", RATE]);
    let (mut into_null, mut into_pipe) = (Vec::new(), Vec::new());
    for pairs in PAIRS {
        while into_null.len() < pairs {
            into_null.push(run_into_null());
            into_pipe.push(run_into_pipe(piped()));
        }
        if quietest(&into_pipe) <= median(&into_null) * TOLERANCE {
            return;
        }
    }
    panic!("events into /dev/null: {into_null:?}, into a pipe: {into_pipe:?}");
}

fn run_into_null() -> f64 {
    let mut command = Command::new(executable::product());
    command.args(RUN).stdout(Stdio::null());
    let ended = Instance::start(command).await_end();
    events_made(&ended)
}

fn run_into_pipe(mut command: Command) -> f64 {
    command.stdout(Stdio::piped());
    let run = Instance::start(command);
    let ours = family(run.pid());
    assert!(
        ours.len() >= 4,
        "a shell, `run`, `cat` and this test at least: {ours:?}"
    );
    let ended = run.await_end();
    let events = ended.events();
    let fed_back: Vec<_> = events
        .iter()
        .filter(|event| ours.contains(&pid_of(event)))
        .take(3)
        .collect();
    assert!(fed_back.is_empty(), "of {ours:?}: {fed_back:?}");
    assert!(background_of(&events) > 100, "the background is reported");
    events_made(&ended)
}

fn background_of(events: &[Event]) -> usize {
    events
        .iter()
        .filter_map(syscall)
        .filter(|call| call.name == UNUSED_CALL)
        .count()
}

fn events_made(ended: &Ended) -> f64 {
    assert!(ended.status.success(), "{}", ended.stderr.join("\n"));
    let ledger = ended.ledger();
    ledger.assert_balanced();
    ledger.reportable() as f64
}

/// The events of the quietest round. Whatever else the machine does adds to a round; what we fed
/// back to ourselves would be in every one.
fn quietest(rounds: &[f64]) -> f64 {
    rounds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A process, all below it and all above it, by their numbers in this /proc.
fn family(pid: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut family = BTreeSet::from([pid]);
    loop {
        let below: Vec<_> = parents
            .iter()
            .filter(|(child, parent)| family.contains(parent) && !family.contains(child))
            .map(|(child, _)| *child)
            .collect();
        if below.is_empty() {
            break;
        }
        family.extend(below);
    }
    let mut above = pid;
    while let Some(parent) = parent(above).filter(|parent| *parent != 0) {
        family.insert(parent);
        above = parent;
    }
    family
}

/// Field 4 of proc_pid_stat(5); `None` for who has ended.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and can hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}
