//! `counts`: every page, as tables, as JSON, as rates.

use std::collections::VecDeque;

use ebpf_hello_proto::v1::{
    Abi, Counters, CountersRow, ExecCount, GetCountersResponse, SyscallCount,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    command::{Running, assert_done, assert_refused, output},
    server::{Answers, Server},
};

fn row(node: &str, pod: &str, execs: u64, reads: u64) -> CountersRow {
    CountersRow {
        node: node.into(),
        namespace: if pod.is_empty() { "" } else { "shop" }.into(),
        pod: pod.into(),
        epoch: 1,
        counters: Some(Counters {
            execs: vec![ExecCount {
                uid: Some(1000),
                count: execs,
            }],
            syscalls: vec![SyscallCount {
                name: "read".into(),
                number: Some(0),
                abi: Abi::X8664.into(),
                count: reads,
            }],
            ..Counters::default()
        }),
        ..CountersRow::default()
    }
}

fn page(row: CountersRow, next: &str) -> GetCountersResponse {
    GetCountersResponse {
        rows: vec![row],
        next_page_token: next.into(),
    }
}

fn server(counters: impl Into<VecDeque<GetCountersResponse>>) -> Server {
    Server::start(Answers {
        counters: counters.into(),
        ..Answers::default()
    })
}

#[test]
fn every_page_is_in_the_tables() {
    let pages = || {
        [
            page(row("n1", "cart-0", 5, 100), "p2"),
            page(row("n2", "", 7, 9), ""),
        ]
    };
    let server = server(pages().into_iter().chain(pages()).collect::<VecDeque<_>>());
    let tables = assert_done(&output(&[
        "counts",
        "--server",
        &server.url(),
        "-n",
        "shop",
        "--node",
        "n*",
    ]));
    assert_eq!(
        tables,
        "NODE  POD           UID  EXECS\n\
         n1    shop/cart-0  1000      5\n\
         n2    -            1000      7\n\
         \n\
         NODE  POD          SYSCALL  ABI     CALLS\n\
         n1    shop/cart-0  read     x86_64    100\n\
         n2    -            read     x86_64      9\n"
    );
    let asked = server.answers().counted.clone();
    assert_eq!(
        (asked[0].page_token.as_str(), asked[1].page_token.as_str()),
        ("", "p2")
    );
    let selection = asked[0].selection.clone().unwrap();
    assert_eq!(
        (selection.namespaces, selection.nodes),
        (vec!["shop".to_owned()], vec!["n*".to_owned()])
    );
    let json: Value = serde_json::from_str(&assert_done(&output(&[
        "counts",
        "--server",
        &server.url(),
        "-o",
        "json",
    ])))
    .unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);
    assert_eq!(json["rows"][0]["counters"]["syscalls"][0]["count"], "100");
}

#[test]
fn watching_shows_what_was_added_each_second() {
    let server = server(
        (1..=600)
            .map(|n| page(row("n1", "cart-0", 5, 1_000_000 * n), ""))
            .collect::<VecDeque<_>>(),
    );
    let mut running = Running::start(&["counts", "--server", &server.url(), "--watch", "100ms"]);
    running.await_line("PER SECOND");
    let line = running.await_line(" 3000000 ");
    let rate: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
    // A million more at each reading, at most ten readings a second.
    assert!((1.0..=12_000_000.0).contains(&rate), "{line}");
    running.signal(Signal::INT);
    let stdout = assert_done(&running.end());
    let first = stdout
        .lines()
        .find(|line| line.contains(" 1000000 "))
        .unwrap();
    assert!(
        first.ends_with('-'),
        "the first reading has no rate: {first}"
    );
}

#[test]
fn calls_are_picked_by_name() {
    let server = server([
        page(row("n1", "cart-0", 5, 100), ""),
        page(row("n1", "cart-0", 5, 100), ""),
    ]);
    let picked = assert_done(&output(&[
        "counts",
        "--server",
        &server.url(),
        "--syscall",
        "read",
    ]));
    assert!(picked.contains("read") && !picked.contains("1000"));
    let none = assert_done(&output(&[
        "counts",
        "--server",
        &server.url(),
        "--syscall",
        "@timer",
    ]));
    assert!(!none.contains("read"));
    assert_refused(
        &output(&["counts", "--syscall", "raed"]),
        2,
        &["--syscall", "raed", "@file"],
    );
    // Counters have no thread names.
    assert_refused(&output(&["counts", "--comm", "sh"]), 2, &["--comm"]);
}
