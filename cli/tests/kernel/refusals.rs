//! Refusals: each has its exit status, says what is wrong, and what to do.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use crate::{
    agent::Agent,
    executable,
    filter::{FilterFile, UNUSED_CALL, filter},
};

/// Nobody's: it is for documentation (RFC 5737).
const ANOTHER_HOST: &str = "192.0.2.1:7443";

fn product(arguments: &[&str]) -> Output {
    Command::new(executable::product())
        .args(arguments)
        .output()
        .unwrap()
}

/// Fails unless it ended with `status`, printed nothing, and said every one of `words`.
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

pub(crate) fn who_is_not_root_is_told_what_is_missing() {
    // Where nobody may go too: what cargo builds can lie below a closed directory.
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let copy = directory.path().join("ebpf-hello");
    fs::copy(executable::product(), &copy).unwrap();
    let output = Command::new(copy)
        .arg("run")
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    assert_refused(&output, 3, &["CAP_BPF", "root"]);
}

pub(crate) fn wrong_usage_is_status_2() {
    assert_refused(&product(&["run", "--nonsense"]), 2, &["--nonsense"]);
    assert_refused(
        &product(&["run", "--duration", "10"]),
        2,
        &["--duration", "10s"],
    );
    assert_refused(
        &product(&["run", "--default", "nothing"]),
        2,
        &["nothing", "ignore"],
    );
    assert_refused(&product(&["nonsense"]), 2, &["nonsense"]);
}

pub(crate) fn a_ring_of_an_impossible_size_is_status_2() {
    for size in ["5000", "1KiB", "2GiB", "0"] {
        let output = product(&["run", "--ring-size", size]);
        assert_refused(&output, 2, &["ring", "size", "power of two", "1GiB"]);
    }
    assert_refused(
        &product(&["run", "--ring-size", "big"]),
        2,
        &["--ring-size"],
    );
    assert_refused(
        &product(&["run", "--ring-shards", "3"]),
        2,
        &["ring shards", "1, 2, 4 or 8"],
    );
    assert_refused(
        &product(&["run", "--tables", "0"]),
        2,
        &["tables", "from 1 to 4096"],
    );
}

pub(crate) fn an_invalid_filter_is_status_1_and_names_file_and_mistake() {
    let unknown_call = FilterFile::of("  - {syscalls: [openta], handler: Trace}\n");
    let output = product(&["run", "--filters", unknown_call.path()]);
    assert_refused(&output, 1, &["filter.yaml", "openta", "openat"]);
    let no_yaml = FilterFile::with_text("spec: [\n");
    assert_refused(
        &product(&["run", "--filters", no_yaml.path()]),
        1,
        &["filter.yaml"],
    );
    let output = product(&["run", "--filters", "/nonexistent/filters"]);
    assert_refused(&output, 1, &["/nonexistent/filters"]);
}

pub(crate) fn status_without_an_instance_is_status_6() {
    // With a /run of its own: other instances may run on this machine.
    let output = Command::new("unshare")
        .args([
            "--mount",
            "/bin/sh",
            "-c",
            "mount -t tmpfs tmpfs /run && exec \"$0\" status",
        ])
        .arg(executable::product())
        .output()
        .unwrap();
    assert_refused(&output, 6, &["/run/ebpf-hello", "ebpf-hello run"]);
    // No process has this number: PID_MAX_LIMIT (include/linux/threads.h) is 2^22.
    let output = product(&["status", "--instance", "4194305"]);
    assert_refused(&output, 6, &["4194305"]);
}

pub(crate) fn an_agent_without_tls_to_another_host_is_status_1_and_names_the_flag() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    // Of a name nobody knows to which machine it leads.
    for host in [ANOTHER_HOST, "[2001:db8::1]:7443", "collector.example:7443"] {
        let url = format!("http://{host}");
        let output = product(&["agent", "--collector", &url, "--state-dir", state]);
        let secure = format!("https://{host}");
        assert_refused(&output, 1, &[&url, "--insecure", &secure]);
    }
}

pub(crate) fn an_agent_that_may_be_insecure_says_that_it_is() {
    let state = tempfile::tempdir().unwrap();
    let filters = filter("Trace", &[UNUSED_CALL]);
    // Without events it has nothing to wait for at its end.
    let more = [
        "--insecure",
        "--process-events",
        "off",
        "--filters",
        filters.path(),
    ];
    let url = format!("http://{ANOTHER_HOST}");
    let agent = Agent::start(&url, state.path(), &more);
    agent.await_log("how it publishes", |line| {
        line.contains("INSECURE") && line.contains(&url)
    });
    agent.end();
}
