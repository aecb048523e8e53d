//! What the generator says it made. That it exists makes cargo build the executable for the tests of
//! other packages too.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

/// The executable. Asked for when the test runs: scripts/rustc-static is a shell script, and a shell
/// drops variables whose names hold a `-` from what it hands on to the compiler.
fn executable() -> String {
    std::env::var("CARGO_BIN_EXE_ebpf-hello-generator").unwrap()
}

fn generator(arguments: &[&str]) -> Value {
    let output = Command::new(executable()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn calls_are_counted_over_all_threads() {
    let made = generator(&["call", "getppid,-1", "10", "--threads", "3", "--pin"]);
    assert_eq!(made["made"]["getppid"], 30);
    assert_eq!(made["made"]["-1"], 30);
    assert_eq!(made["total"], 60);
}

#[test]
fn a_rate_does_not_change_the_count() {
    let made = generator(&["call", "getppid", "1501", "--rate", "100000"]);
    assert_eq!(made["total"], 1501);
}

#[test]
fn every_timer_call_succeeds() {
    let made = generator(&["timers"]);
    assert!(
        made["timer"].is_i64() && made["descriptor"].as_i64() > Some(2),
        "{made}"
    );
}

#[test]
fn a_process_ends_as_it_was_told() {
    let made = generator(&["processes", "8", "3"]);
    let processes = made["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 8);
    for (index, process) in processes.iter().enumerate() {
        match process["ending"].as_str() {
            Some("kill") => assert_eq!(process["signal"], 9, "{process}"),
            // Which thread's code counts depends on the kernel.
            Some("leader-first") => {
                let code = process["code"].as_u64().unwrap() as usize;
                assert!(code == index || code == index + 1, "{process}");
            }
            _ => assert_eq!(process["code"], index, "{process}"),
        }
    }
}

#[test]
fn every_batch_that_is_ordered_is_timed() {
    let mut child = Command::new(executable())
        .args(["measure", "--cpu", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"getppid 3 100\nopen-missing 2 100\nfork-exec-exit 1 2\nexec 1 3\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let batches: Vec<usize> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let taken: Vec<u64> = serde_json::from_str(line).unwrap();
            assert!(taken.iter().all(|nanoseconds| *nanoseconds > 0), "{line}");
            taken.len()
        })
        .collect();
    assert_eq!(batches, [3, 2, 1, 1]);
}

#[test]
fn a_burst_runs_each_once() {
    let made = generator(&["burst", "5", "--", &executable(), "exit", "3"]);
    let mut indices: Vec<_> = made["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| {
            assert_eq!(process["code"], 3);
            process["index"].as_u64().unwrap()
        })
        .collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
}
