//! Loss: a ring that is far too small loses events, and every one of them is accounted for.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    events::{pid_of, syscall},
    executable,
    filter::{UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
};

pub(crate) fn what_a_full_ring_loses_is_what_was_made_less_what_was_delivered() {
    let filter = filter("Trace", &[UNUSED_CALL]);
    let run = Instance::run(&[
        "--process-events",
        "off",
        "--ring-size",
        "4KiB",
        "--filters",
        filter.path(),
        "-o",
        "json",
        "-v",
    ]);
    let made = generate(&["call", UNUSED_CALL, "100000", "--threads", "4", "--pin"]);
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_balanced();

    let events = ended.events();
    let delivered = events.len() as u64;
    for event in &events {
        assert_eq!(
            syscall(event).map(|call| call.name.as_str()),
            Some(UNUSED_CALL)
        );
        assert_eq!(pid_of(event), made.pid());
    }
    let row = ledger.row("trace");
    assert_eq!(row.seen, made.total(), "made is seen");
    assert_eq!(row.delivered, delivered, "delivered is on stdout");
    let lost = ledger.get("ringbuf_full");
    assert!(
        lost > 0,
        "a ring of one page holds some twenty records, not {delivered}"
    );
    assert_eq!(
        lost,
        made.total() - delivered,
        "lost is made less delivered"
    );
    assert_eq!(ledger.get("lost"), lost, "and nothing else lost any");

    assert_eq!(
        gaps(&events, &ledger.sequences),
        lost,
        "every lost one is a gap in its CPU's sequence"
    );
}

pub(crate) fn a_reader_that_goes_away_ends_the_run_and_what_it_left_is_accounted_for() {
    let filter = filter("Trace", &[UNUSED_CALL]);
    let (reader, output) = io::pipe().unwrap();
    let mut command = Command::new(executable::product());
    command
        .args(["run", "--process-events", "off", "--filters", filter.path()])
        .stdout(output);
    let run = Instance::start(command);
    drop(reader);
    let made = generate(&["call", UNUSED_CALL, "1000"]);
    let ended = run.await_end();
    assert!(ended.status.success(), "{:?}", ended.stderr);
    let ledger = ended.ledger();
    ledger.assert_balanced();
    // It may have ended before all were made.
    let failed = ledger.get("output_failed");
    assert!(
        failed > 0 && failed <= made.total(),
        "{failed} of {}",
        made.total()
    );
    assert_eq!(ledger.get("lost"), failed);
}

pub(crate) fn a_reader_that_is_stuck_holds_up_no_signal_and_what_it_left_is_accounted_for() {
    let filter = filter("Trace", &[UNUSED_CALL]);
    let (unread, output) = io::pipe().unwrap();
    let mut command = Command::new(executable::product());
    command
        .args(["run", "--process-events", "off", "--ring-size", "64KiB"])
        .args(["-v", "--filters", filter.path()])
        .stdout(output);
    let run = Instance::start(command);
    let made = generate(&["call", UNUSED_CALL, "200000"]);
    run.signal(Signal::TERM);
    let signalled = Instant::now();
    let ended = run.await_end();
    let took = signalled.elapsed();
    assert!(ended.status.success(), "{:?}", ended.stderr);
    assert!(
        took < Duration::from_secs(20),
        "it ended only after {took:?}"
    );
    let ledger = ended.ledger();
    ledger.assert_balanced();
    assert_eq!(ledger.row("trace").seen, made.total(), "made is seen");
    let (full, failed) = (ledger.get("ringbuf_full"), ledger.get("output_failed"));
    assert!(
        full > 0 && failed > 0,
        "the pipe, the printer, the queue and the rings were full: {ledger:?}"
    );
    assert_eq!(ledger.get("lost"), full + failed);
    // The last write ended with the process; nobody knows how much of it the pipe took.
    let in_pipe = BufReader::new(unread).split(b'\n').count() as u64;
    let delivered = ledger.get("delivered");
    assert!(
        delivered <= in_pipe,
        "{delivered} delivered, {in_pipe} to be read"
    );
}

pub(crate) fn a_reader_of_stderr_that_goes_away_is_no_failure() {
    let mut command = Command::new(executable::product());
    command.args(["run", "--process-events", "off", "--default", "count", "-v"]);
    // Counters while it runs, the ledger and its rows at the end.
    command.args(["--counts", "200ms", "--duration", "2s"]);
    let ended = Instance::start_unheard(command).await_end();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.status);
}

/// Missing numbers, over all CPUs, up to each one's last.
fn gaps(events: &[ebpf_hello_proto::v1::Event], last: &[u64]) -> u64 {
    let mut by_cpu: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for event in events {
        let cpu = event.cpu.unwrap() as usize;
        by_cpu.entry(cpu).or_default().push(event.sequence);
    }
    for (cpu, sequences) in &by_cpu {
        assert!(
            sequences.is_sorted_by(|a, b| a < b),
            "CPU {cpu}'s events come in their order, each once"
        );
        assert!(
            sequences.last() <= last.get(*cpu),
            "CPU {cpu}'s last is its last"
        );
    }
    last.iter()
        .enumerate()
        .map(|(cpu, last)| {
            let delivered = by_cpu.get(&cpu).map_or(0, Vec::len) as u64;
            // The gaps before, between and after the delivered ones.
            last - delivered
        })
        .sum()
}
