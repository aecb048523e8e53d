//! `observe -f` when the connection breaks: it goes on after the last event, once each.

use std::time::Duration;

use ebpf_hello_proto::v1::Event;
use rustix::process::Signal;
use tonic::Status;

use crate::{
    command::{Running, assert_done, assert_refused, output, text},
    events::exec,
    server::{Server, Step, events, hello},
};

fn sequences(stdout: &str) -> Vec<u64> {
    stdout
        .lines()
        .map(|line| serde_json::from_str::<Event>(line).unwrap().sequence)
        .collect()
}

#[test]
fn a_stream_goes_on_from_its_last_token() {
    let server = Server::streaming([
        vec![
            hello("collector"),
            events(vec![exec(1), exec(2)], "t1"),
            Step::Fail(Status::unavailable("going away")),
        ],
        // Broken at once: the place does not move.
        vec![Step::Fail(Status::unavailable("still away"))],
        vec![
            hello("collector"),
            events(vec![exec(3)], "t2"),
            Step::Silence,
        ],
    ]);
    let mut running = Running::start(&[
        "observe",
        "-f",
        "--server",
        &server.url(),
        "-o",
        "json",
        "--last",
        "2",
    ]);
    running.await_line("file-3");
    running.signal(Signal::INT);
    let output = running.end();
    assert_eq!(sequences(&assert_done(&output)), [1, 2, 3]);
    let stderr = text(&output.stderr);
    for words in [
        "interrupted",
        "going away",
        "still away",
        "again_in=",
        "connected again",
        "3 events, 0 lost",
    ] {
        assert!(stderr.contains(words), "{words} in:\n{stderr}");
    }
    let asked: Vec<_> = server
        .answers()
        .observed
        .iter()
        .map(|request| (request.resume_token.clone(), request.last))
        .collect();
    // A server gave t0 with its first hello.
    assert_eq!(
        asked,
        [
            (String::new(), 2),
            ("t1".to_owned(), 0),
            ("t1".to_owned(), 0)
        ]
    );
}

#[test]
fn a_server_that_is_replaced_is_found_again() {
    let mut server = Server::streaming([
        vec![
            hello("collector"),
            events(vec![exec(1)], "t1"),
            Step::Silence,
        ],
        vec![
            hello("collector"),
            events(vec![exec(2)], "t2"),
            Step::Silence,
        ],
    ]);
    let mut running = Running::start(&["observe", "-f", "--server", &server.url(), "-o", "json"]);
    running.await_line("file-1");
    server.stop();
    running.await_notice("interrupted");
    server.resume();
    running.await_line("file-2");
    running.signal(Signal::INT);
    assert_eq!(sequences(&assert_done(&running.end())), [1, 2]);
    assert_eq!(server.answers().observed[1].resume_token, "t1");
}

#[test]
fn a_silent_server_is_dead() {
    let server = Server::streaming([
        vec![
            hello("collector"),
            events(vec![exec(1)], "t1"),
            Step::Silence,
        ],
        vec![
            hello("collector"),
            events(vec![exec(2)], "t2"),
            Step::Wait(Duration::from_secs(60)),
        ],
    ]);
    let mut running = Running::start(&[
        "observe",
        "-f",
        "--server",
        &server.url(),
        "--silence",
        "6s",
    ]);
    running.await_line("file-1");
    running.await_notice("the server was silent for 6s");
    running.await_line("file-2");
    assert_eq!(server.answers().observed[1].resume_token, "t1");
}

#[test]
fn history_that_breaks_off_is_finished() {
    let server = Server::streaming([
        vec![
            hello("collector"),
            events(vec![exec(1)], "t1"),
            Step::Fail(Status::unavailable("going away")),
        ],
        vec![hello("collector"), events(vec![exec(2)], "t2")],
    ]);
    let output = output(&["observe", "--server", &server.url(), "-o", "json"]);
    assert_eq!(sequences(&assert_done(&output)), [1, 2]);
}

#[test]
fn a_refusal_in_the_middle_ends_it() {
    let server = Server::streaming([
        vec![
            hello("collector"),
            events(vec![exec(1)], "t1"),
            Step::Fail(Status::unavailable("going away")),
        ],
        vec![Step::Fail(Status::permission_denied("no longer yours"))],
    ]);
    let output = output(&["observe", "-f", "--server", &server.url()]);
    assert_refused(
        &output,
        1,
        &["PERMISSION_DENIED: no longer yours", "1 events, 0 lost"],
    );
}

#[test]
fn a_server_that_stays_away_ends_what_does_not_follow() {
    let mut server = Server::streaming([vec![
        hello("collector"),
        events(vec![exec(1)], "t1"),
        Step::Silence,
    ]]);
    let mut running = Running::start(&["observe", "--server", &server.url()]);
    running.await_line("file-1");
    server.stop();
    assert_refused(&running.end(), 6, &["gave up after 5 attempts"]);
}
