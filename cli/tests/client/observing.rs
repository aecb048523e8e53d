//! `observe`: what is asked, what is printed, how it ends.

use std::{fs, io::Read as _, process::Command, time::Duration};

use ebpf_hello_proto::v1::Event;
use rustix::process::Signal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    command::{Running, assert_done, assert_refused, output, product, text},
    events::{exec, loss},
    server::{Server, Step, events, flood, heartbeat, hello},
};

#[test]
fn every_flag_is_asked_of_the_server() {
    let server = Server::streaming([vec![hello("collector")]]);
    assert_done(&output(&[
        "observe",
        "--server",
        &server.url(),
        "-n",
        "shop",
        "--pod",
        "cart-*",
        "-l",
        "app=cart,!canary",
        "-c",
        "web",
        "--node",
        "n?",
        "--type",
        "exec,exit",
        "--syscall",
        "openat,@file",
        "--comm",
        "ba*",
        "--binary",
        "/usr/*",
        "--uid",
        "0,1000-1999",
        "--pid",
        "7",
        "--cel",
        "event.process.pid > 1",
        "--since",
        "2026-11-22T10:00:00Z",
        "--until",
        "2026-11-22T11:00:00Z",
        "--mask",
        "process.comm,exec",
    ]));
    let asked = server.answers().observed.remove(0);
    let selection = asked.selection.unwrap();
    assert_eq!(selection.namespaces, ["shop"]);
    assert_eq!(selection.pods, ["cart-*"]);
    assert_eq!(selection.label_selector, "app=cart,!canary");
    assert_eq!(selection.containers, ["web"]);
    assert_eq!(selection.nodes, ["n?"]);
    assert_eq!(selection.types, ["exec", "exit"]);
    assert_eq!(selection.syscalls, ["openat", "@file"]);
    assert_eq!(selection.comms, ["ba*"]);
    assert_eq!(selection.binaries, ["/usr/*"]);
    assert_eq!(selection.uids, ["0", "1000-1999"]);
    assert_eq!(selection.pids, [7]);
    assert_eq!(selection.cel, "event.process.pid > 1");
    assert_eq!(asked.since.unwrap().seconds, 1_795_341_600);
    assert_eq!(asked.until.unwrap().seconds, 1_795_345_200);
    assert_eq!(asked.mask.unwrap().paths, ["process.comm", "exec"]);
    assert!(!asked.follow);
}

#[test]
fn json_is_the_events_and_nothing_else() {
    let sent: Vec<_> = (1..=500).map(exec).collect();
    let server = Server::streaming([vec![
        hello("collector"),
        events(sent[..200].to_vec(), "t1"),
        heartbeat(0, "t2"),
        events(sent[200..].to_vec(), "t3"),
    ]]);
    let output = output(&[
        "observe",
        "--server",
        &server.url(),
        "-o",
        "json",
        "--last",
        "500",
    ]);
    let printed: Vec<Event> = assert_done(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed, sent);
    assert!(text(&output.stderr).contains("500 events, 0 lost"));
    assert_eq!(server.answers().observed[0].last, 500);
}

#[test]
fn people_see_node_pod_and_what_happened() {
    let script = || vec![hello("collector"), events(vec![exec(1), loss(12)], "t1")];
    let server = Server::streaming([script(), script(), script()]);
    let stdout = |format| {
        assert_done(&output(&[
            "observe",
            "--server",
            &server.url(),
            "-o",
            format,
        ]))
    };
    assert_eq!(
        stdout("compact"),
        "10:00:00.123 n1               shop/cart-0/web                     4242   1000 ls               \
         exec /usr/bin/ls file-1\n\
         00:00:00.000                  -                                      -      - -                \
         LOST 12 events: subscriber queue_full\n"
    );
    assert!(stdout("wide").contains("shop/cart-0/web: exec /usr/bin/ls file-1"));
    let dict = stdout("dict");
    for line in [
        "what: exec /usr/bin/ls file-1",
        "pod.name: cart-0",
        "process.pid: 4242",
        "exec.argv[1]: file-1",
    ] {
        assert!(
            dict.lines().any(|shown| shown == line),
            "{line} in:\n{dict}"
        );
    }
    assert_eq!(
        dict.matches("\n\n").count(),
        2,
        "a blank line after each event:\n{dict}"
    );
}

#[test]
fn losses_are_summed_and_a_node_says_that_it_is_only_one() {
    let server = Server::streaming([vec![
        hello("node n1"),
        events(vec![exec(1), loss(12), loss(0)], "t1"),
        heartbeat(3, "t2"),
    ]]);
    let output = output(&[
        "observe",
        "--server",
        &server.url(),
        "--cel",
        "event.nosuch",
    ]);
    let stdout = assert_done(&output);
    assert!(
        stdout.contains("shop/cart-0/web: exec"),
        "one node needs no column of its own:\n{stdout}"
    );
    let stderr = text(&output.stderr);
    for words in [
        "only node n1; ask a collector for the others",
        "--cel failed on events, which are not shown events=3",
        "3 events, 12 lost and 1 times a number that nobody knows",
    ] {
        assert!(stderr.contains(words), "{words} in:\n{stderr}");
    }
}

#[test]
fn ctrl_c_and_sigterm_end_it_and_say_how_much_was_shown() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::streaming([vec![
            hello("collector"),
            events(vec![exec(1), loss(2)], "t1"),
            Step::Silence,
        ]]);
        let mut running = Running::start(&["observe", "-f", "--server", &server.url()]);
        running.await_line("LOST 2 events");
        running.signal(signal);
        let output = running.end();
        assert_done(&output);
        assert!(text(&output.stderr).contains("2 events, 2 lost"));
        assert!(server.answers().observed[0].follow);
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_without_a_further_event() {
    let server = Server::streaming([vec![
        hello("collector"),
        events(vec![exec(1)], "t1"),
        Step::Silence,
    ]]);
    let mut running = Running::unread(&["observe", "-f", "--server", &server.url()]);
    let mut stdout = running.take_stdout();
    assert_eq!(stdout.read(&mut [0; 10]).unwrap(), 10);
    drop(stdout);
    assert_done(&running.end());
}

#[test]
fn a_reader_of_both_outputs_that_goes_away_is_no_panic() {
    let server = Server::streaming([vec![
        hello("node n1"),
        events(vec![exec(1)], "t1"),
        Step::Fail(Status::permission_denied("no longer yours")),
    ]]);
    let line = format!(
        "{} observe -f --server {} 2>&1 | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}",
        product().display(),
        server.url()
    );
    for _ in 0..3 {
        let status = Command::new("bash").args(["-c", &line]).status().unwrap();
        assert!(
            matches!(status.code(), Some(0 | 1)),
            "{status}: 101 is a panic"
        );
    }
}

#[test]
fn logs_are_json_where_that_is_asked_for() {
    let server = Server::streaming([vec![hello("node n1")]]);
    let output = output(&["--log-format", "json", "observe", "--server", &server.url()]);
    assert_done(&output);
    let log: serde_json::Value =
        serde_json::from_str(text(&output.stderr).lines().next().unwrap()).unwrap();
    assert_eq!(
        log["fields"]["message"],
        "only node n1; ask a collector for the others"
    );
}

#[test]
fn a_reader_that_does_not_read_leaves_ctrl_c_working() {
    let server = Server::streaming([vec![
        hello("collector"),
        flood((1..200).map(exec).collect()),
    ]]);
    let mut running = Running::unread(&["observe", "-f", "--server", &server.url()]);
    let mut stdout = running.take_stdout();
    // It is in the middle of its lines, and the pipe is full after that.
    stdout.read_exact(&mut [0; 1000]).unwrap();
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let waiting = rustix::io::ioctl_fionread(&stdout).unwrap();
        if waiting == before && waiting > 0 {
            break;
        }
        before = waiting;
    }
    running.signal(Signal::INT);
    let output = running.end();
    assert_done(&output);
    assert!(text(&output.stderr).contains("the last lines are missing"));
}

#[test]
fn a_refusal_names_flag_reason_and_place() {
    let mut details =
        ErrorDetails::with_bad_request_violation("selection.cel", "1:7: `evnt` has no field `pod`");
    details.set_error_info("INVALID_SELECTION", "ebpf-hello.dev", []);
    let status =
        Status::with_error_details(Code::InvalidArgument, "the selection is not valid", details);
    let server = Server::streaming([vec![Step::Fail(status)]]);
    let output = output(&[
        "observe",
        "-f",
        "--server",
        &server.url(),
        "--cel",
        "event.evnt.pod",
    ]);
    assert_refused(
        &output,
        1,
        &[
            "INVALID_ARGUMENT: the selection is not valid (reason INVALID_SELECTION)",
            "--cel (selection.cel): 1:7: `evnt` has no field `pod`",
            "    event.evnt.pod\n          ^",
        ],
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_bookmark_goes_on_where_the_reader_before_ended() {
    let server = Server::streaming([
        vec![hello("collector"), events(vec![exec(1)], "place-1")],
        vec![hello("collector"), heartbeat(0, "place-2")],
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("place");
    let observe = || {
        assert_done(&output(&[
            "observe",
            "--server",
            &server.url(),
            "--resume",
            file.to_str().unwrap(),
        ]))
    };
    assert_eq!(observe().lines().count(), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "place-1\n");
    assert_eq!(observe(), "");
    let asked: Vec<_> = server
        .answers()
        .observed
        .iter()
        .map(|request| request.resume_token.clone())
        .collect();
    assert_eq!(asked, ["", "place-1"]);
    // A heartbeat moves the place too: what was not selected is not looked at again.
    assert_eq!(fs::read_to_string(&file).unwrap(), "place-2\n");
    fs::write(&file, "not a token\n").unwrap();
    let output = output(&[
        "observe",
        "--server",
        &server.url(),
        "--resume",
        file.to_str().unwrap(),
    ]);
    assert_refused(&output, 1, &["--resume", "place", "resume token"]);
}
