//! Loss: a ring that is far too small loses events, and every one of them is accounted for.

use std::{collections::BTreeMap, io, process::Command};

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
