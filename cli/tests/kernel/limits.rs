//! Limits over time: how many events a second, and when what was left out is told.

use std::{thread, time::Duration};

use ebpf_hello_proto::v1::Event;

use crate::{
    cgroup::Cgroup,
    events::{left_out, syscall, time},
    filter::{FilterFile, UNUSED_CALL},
    generator::{Made, command, generate},
    instance::Instance,
};

const SECOND: u64 = 1_000_000_000;
/// Of the limit.
const RATE: usize = 1_000;
const BURST: usize = 10;
/// How long the calls go on.
const SECONDS: u64 = 9;
/// Of each second that shows the rate, calls must have been made.
const LIVELY: Duration = Duration::from_millis(800);
/// Seconds that must show it.
const SHOWN: usize = 5;

fn run(filter: &FilterFile) -> Instance {
    Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
        "-v",
    ])
}

fn filter(cgroups: &str, limit: &str) -> FilterFile {
    FilterFile::with_text(&format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: kernel-test}}\n\
         spec:\n  matchCgroup: {cgroups}\n  rules:\n  - {{syscalls: [{UNUSED_CALL}], handler: Trace, {limit}}}\n"
    ))
}

pub(crate) fn a_rate_holds_in_every_second_for_each_cgroup_that_shares_it() {
    // What a machine shows that stands still too often is right, and too little.
    assert!((0..3).any(|_| is_shown_in_enough_seconds()));
}

/// Asserts all that is seen; whether enough seconds had calls to see something.
fn is_shown_in_enough_seconds() -> bool {
    let mut enough = true;
    let parent = Cgroup::make("limited");
    let cgroups = [parent.child("a"), parent.child("b")];
    let limit = format!("rateLimit: {{eventsPerSecond: {RATE}, burst: {BURST}}}");
    let filter = filter(&format!("{}/*", parent.name()), &limit);
    let run = run(&filter);
    // 100,000 calls a second together, a thread of each on every CPU.
    let calls = format!("{UNUSED_CALL}=50000");
    let cpus = thread::available_parallelism().unwrap().to_string();
    let generators = cgroups.each_ref().map(|cgroup| {
        let place = cgroup.argument();
        command(&[
            "mix",
            &calls,
            "--threads",
            &cpus,
            "--pin",
            "--cgroup",
            place,
        ])
    });
    thread::sleep(Duration::from_secs(SECONDS));
    let made = generators.map(|generator| generator.end());
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_balanced();
    let events = ended.events();
    for (cgroup, made) in cgroups.iter().zip(&made) {
        let mut times: Vec<u64> = events
            .iter()
            .filter(|event| event.cgroup_id == cgroup.id() && syscall(event).is_some())
            .map(time)
            .collect();
        times.sort_unstable();
        assert_never_above(&times);
        let seconds = seconds(made, &times);
        eprintln!(
            "{} calls a second; events in each, and how long it had calls: {seconds:?}",
            rate(made)
        );
        for (events, with_calls) in &seconds {
            // A pause takes its share; what comes after it may be a burst more.
            let due = (RATE as f64 * with_calls.as_secs_f64()) as usize;
            let expected = due - due / 20..=RATE + RATE / 20;
            assert!(expected.contains(events), "{events} in a second");
        }
        let lively = seconds.iter().filter(|second| second.1 >= LIVELY).count();
        if lively < SHOWN {
            eprintln!("too many gaps: {:?}", made.gaps());
            enough = false;
        }
        let suppressed: u64 = left_out(&events, cgroup.id()).values().sum();
        if ledger.get("lost") == 0 {
            assert_eq!(times.len() as u64 + suppressed, made.total());
        }
    }
    let made: u64 = made.iter().map(Made::total).sum();
    let accounted = ledger.get("delivered") + ledger.get("suppressed") + ledger.get("lost");
    assert_eq!(accounted, made);
    enough
}

/// In any second, wherever it begins.
fn assert_never_above(times: &[u64]) {
    let mut first = 0;
    for (last, time) in times.iter().enumerate() {
        while time - times[first] >= SECOND {
            first += 1;
        }
        let events = last - first + 1;
        assert!(events <= RATE + BURST, "{events} events in a second");
    }
}

/// Events in each whole second, and for how long of it calls were made.
fn seconds(made: &Made, times: &[u64]) -> Vec<(usize, Duration)> {
    let (start, end) = (made.number("start"), made.number("end"));
    let gaps = made.gaps();
    (start / SECOND + 1..end / SECOND)
        .map(|second| (second * SECOND, (second + 1) * SECOND))
        .map(|(from, to)| {
            let before = |time| times.partition_point(|earlier| *earlier < time);
            let pauses = gaps
                .iter()
                .map(|gap| gap.1.min(to).saturating_sub(gap.0.max(from)));
            let with_calls = SECOND - pauses.sum::<u64>();
            (before(to) - before(from), Duration::from_nanos(with_calls))
        })
        .collect()
}

fn rate(made: &Made) -> u64 {
    made.total() * SECOND / (made.number("end") - made.number("start"))
}

pub(crate) fn what_no_event_follows_is_told_within_seconds_and_once() {
    const CALLS: u64 = 500;
    let cgroup = Cgroup::make("quiet");
    let filter = filter(&cgroup.name(), "sampling: 1000");
    let run = run(&filter);
    let call = || {
        let (calls, place) = (CALLS.to_string(), cgroup.argument());
        generate(&["call", UNUSED_CALL, &calls, "--cgroup", place]);
    };
    let sum = |line: &str| -> u64 {
        let event: Event = serde_json::from_str(line).unwrap();
        left_out(&[event], cgroup.id()).values().sum()
    };
    call();
    // One event tells of nothing before it; no other follows.
    let told = run.await_output("what was left out", |line| line.contains("counters"));
    assert!(sum(&told) < CALLS, "{told}");
    assert!(
        told.contains("\"rule\":1") && told.contains("kernel-test"),
        "{told}"
    );
    // 1,000 calls in all: still one event.
    call();
    let whole = format!("\"count\":\"{}\"", 2 * CALLS - 1);
    run.await_output("what was left out since", |line| line.contains(&whole));
    // Nothing changes: nothing is told again.
    thread::sleep(Duration::from_millis(2_500));
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let rows = events.len() - events.iter().filter_map(syscall).count();
    assert!((2..=4).contains(&rows), "{rows} rows for two changes");
    let told: u64 = left_out(&events, cgroup.id()).values().sum();
    assert_eq!(told, 2 * CALLS - 1);
    assert_eq!(ended.ledger().get("suppressed"), told);
}
