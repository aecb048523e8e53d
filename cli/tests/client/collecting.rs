//! The commands and the collector together.

use std::{
    io::{BufRead as _, BufReader},
    time::Duration,
};

use ebpf_hello_collector::serve::Options;
use ebpf_hello_proto::v1::{
    AgentHello, Counters, Event, FilterState, Ledger, Node, NodeReport, PodCounters, SyscallCount,
    event::Kind,
};
use rustix::process::Signal;

use crate::{
    collector,
    command::{Running, assert_done, assert_refused, output},
    events::{call, exec},
};

fn parse(line: &str) -> Event {
    serde_json::from_str(line).unwrap()
}

#[test]
fn what_is_in_the_store_is_printed_as_it_was_published() {
    let mut collector = collector::Running::start(Options::default());
    let published: Vec<_> = (1..=50).map(exec).collect();
    collector.append(published[..20].to_vec());
    collector.append(published[20..].to_vec());
    collector.append([call("openat", "bash")]);
    let observe = |flags: &[&str]| {
        let mut arguments = vec!["observe", "--server"];
        let url = collector.url();
        arguments.extend([url.as_str(), "-o", "json"]);
        arguments.extend(flags);
        let lines: Vec<_> = assert_done(&output(&arguments))
            .lines()
            .map(parse)
            .collect();
        lines
    };
    assert_eq!(observe(&["--type", "exec"]), published);
    assert_eq!(observe(&["--last", "3", "-n", "shop"]), published[47..]);
    let picked = observe(&[
        "--cel",
        "event.sequence == 7u && event.exec.argv.exists(a, a == 'file-7')",
    ]);
    assert_eq!(picked, published[6..7]);
    assert_eq!(observe(&["--comm", "ba*", "--syscall", "@file"]).len(), 1);
    let masked = observe(&["--last", "1", "--type", "exec", "--mask", "process.comm"]);
    let process = masked[0].process.as_ref().unwrap();
    assert_eq!(
        (process.comm.as_str(), process.pid, masked[0].pod.is_some()),
        ("ls", 0, false)
    );
}

#[test]
fn the_collectors_refusals_are_told_by_flag_and_place() {
    let collector = collector::Running::start(Options::default());
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["--cel", "event.proces.pid > 1"],
            &["--cel", "proces", "\n    event.proces.pid > 1\n", "^"],
        ),
        (
            &["--cel", "event.process.pid +"],
            &["--cel", "\n    event.process.pid +\n", "^"],
        ),
        (
            &["-l", "app cart"],
            &["--selector", "\n    app cart\n        ^"],
        ),
        (&["--syscall", "opnat"], &["--syscall", "opnat"]),
        (&["--pod", "[a"], &["--pod", "[a"]),
        (
            &["--mask", "process.nosuch"],
            &["--mask", "nosuch", "expected one of pid"],
        ),
    ];
    for (flags, words) in cases {
        let url = collector.url();
        let mut arguments = vec!["observe", "--server", url.as_str()];
        arguments.extend(flags);
        let mut words = words.to_vec();
        words.push("INVALID_ARGUMENT");
        assert_refused(&output(&arguments), 1, &words);
    }
}

#[test]
fn a_stream_goes_on_at_another_collector_of_the_same_store() {
    let mut collector = collector::Running::start(Options::default());
    let mut running = Running::start(&[
        "observe",
        "-f",
        "--server",
        &collector.url(),
        "-o",
        "json",
        "--since",
        "1970-01-02T00:00:00Z",
    ]);
    for sequence in 1..=30 {
        collector.append([exec(sequence)]);
        if sequence % 10 == 0 {
            running.await_line(&format!("file-{sequence}\""));
            collector.replace();
        }
    }
    running.await_line("file-30\"");
    running.signal(Signal::INT);
    let stdout = assert_done(&running.end());
    let sequences: Vec<_> = stdout.lines().map(|line| parse(line).sequence).collect();
    assert_eq!(
        sequences,
        (1..=30).collect::<Vec<_>>(),
        "each once, in order"
    );
}

#[test]
fn what_a_slow_reader_misses_is_told_to_the_last_event() {
    let mut collector = collector::Running::start(Options {
        queue_bytes: 64 << 10,
        ..Options::default()
    });
    let mut running = Running::unread(&[
        "observe",
        "-f",
        "--server",
        &collector.url(),
        "-o",
        "json",
        "--type",
        "exec",
    ]);
    let mut stdout = BufReader::new(running.take_stdout());
    // It follows from now on: its first event is here.
    let mut line = String::new();
    let mut appended = 0;
    while line.is_empty() {
        appended += 1;
        collector.append([exec(appended)]);
        if collector.collector.accounts().ledger().sent > 0 {
            stdout.read_line(&mut line).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let first = parse(&line).sequence;
    // Nobody reads: far more than pipe, socket and queues hold.
    let total = appended + 200_000;
    while appended < total {
        let batch: Vec<_> = (appended + 1..=appended + 1_000).map(exec).collect();
        appended += 1_000;
        collector.append(batch);
    }
    let (mut seen, mut lost, mut last) = (1, 0, first);
    for line in stdout.lines() {
        match parse(&line.unwrap()) {
            Event {
                kind: Some(Kind::Loss(loss)),
                ..
            } => lost += loss.count,
            event => {
                assert!(event.sequence > last, "in order");
                last = event.sequence;
                seen += 1;
            }
        }
        if first - 1 + seen + lost >= appended {
            break;
        }
        // Once it is read again, more comes, and with it the loss is told.
        if last == appended {
            appended += 1;
            collector.append([exec(appended)]);
        }
    }
    assert!(lost > 0, "{seen} seen and none lost: the test was too weak");
    assert_eq!(first - 1 + seen + lost, appended);
    running.signal(Signal::INT);
    running.await_notice(&format!("{lost} lost"));
}

#[test]
fn top_counts_and_status_show_what_agents_report() {
    let mut collector = collector::Running::start(Options::default());
    let session = collector.collector.fleet().connect(AgentHello {
        node: "n1".into(),
        epoch: 1,
        version: "0.1.0".into(),
    });
    let report = |calls: u64| NodeReport {
        node: Some(Node {
            name: "n1".into(),
            version: "0.1.0".into(),
            unready: vec!["the pods are not known yet".into()],
            ..Node::default()
        }),
        filters: vec![FilterState {
            filter: "shop/cart".into(),
            programmed: true,
            ..FilterState::default()
        }],
        ledger: Some(Ledger {
            seen: 3,
            delivered: 3,
            ..Ledger::default()
        }),
        pods: vec![PodCounters {
            namespace: "shop".into(),
            pod: "db-0".into(),
            counters: Some(Counters {
                syscalls: vec![SyscallCount {
                    name: "read".into(),
                    number: Some(0),
                    count: calls,
                    ..SyscallCount::default()
                }],
                ..Counters::default()
            }),
        }],
        ..NodeReport::default()
    };
    assert!(session.report(report(1_000)));
    let url = collector.url();
    let counts = assert_done(&output(&["counts", "--server", &url, "-n", "shop"]));
    assert!(
        counts.contains("shop/db-0") && counts.contains("1000"),
        "{counts}"
    );
    let status = assert_done(&output(&["status", "--server", &url]));
    for words in [
        "1 of 1 nodes connected",
        "n1: not ready: the pods are not known yet",
        "shop/cart",
        "seen=3 delivered=3",
        "collector: received=",
    ] {
        assert!(status.contains(words), "{words} in:\n{status}");
    }
    assert_done(&output(&["status", "--server", &url, "--probe"]));
    let mut top = Running::start(&["top", "--once", "--interval", "2s", "--server", &url]);
    let mut calls = 1_000;
    for sequence in 1..=100 {
        collector.append([exec(sequence)]);
        calls += 500;
        session.report(report(calls));
        std::thread::sleep(Duration::from_millis(50));
    }
    top.await_line("shop/cart-0");
    top.await_line("read*");
    assert_done(&top.end());
}
