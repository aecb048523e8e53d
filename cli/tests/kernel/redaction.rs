//! Secrets in what processes say of themselves: they leave the agent neither for the disk nor for a collector.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent::{Agent, Collector},
    events::{exec, of_process},
    stream::DEADLINE,
};

const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn a_secret_in_arguments_is_neither_spooled_nor_published() {
    let state = tempfile::tempdir().unwrap();
    let mut collector = Collector::away();
    let agent = Agent::start(&collector.url(), state.path(), &[]);
    let number = RandomState::new().hash_one(0);
    let (secret, witness) = (format!("S3CRET-{number}"), format!("witness-{number}"));
    let password = format!("--password={secret}");
    let mut child = Command::new("/bin/true")
        .args([&password, "--token", &secret, &witness])
        .spawn()
        .unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    // What is next to the secret can be read: neither compression nor another encoding hides it.
    await_spooled(state.path(), &witness);
    assert_nowhere(state.path(), &secret);
    collector.arrive();
    agent.await_metric("ebpf_hello_publisher_connected", |it| it == 1.0);
    let (log, ledger) = agent.end();
    ledger.assert_complete();
    assert_nowhere(state.path(), &secret);

    let events = collector.events();
    let own = of_process(&events, pid);
    let execs: Vec<_> = own.iter().filter_map(|event| exec(event)).collect();
    let [exec] = execs[..] else {
        panic!("{} execs of one process: {execs:?}", execs.len());
    };
    assert_eq!(
        exec.argv,
        [
            "/bin/true",
            "--password=[redacted]",
            "--token",
            "[redacted]",
            &witness
        ]
    );
    assert!(exec.redacted, "{exec:?}");
    let told = format!("{events:?}{log:?}");
    assert!(!told.contains(&secret), "{told}");
}

/// Waits until a file of the spool has this in it.
fn await_spooled(state: &Path, text: &str) {
    let deadline = Instant::now() + DEADLINE;
    while files_with(&state.join("spool"), text).is_empty() {
        assert!(Instant::now() < deadline, "{text} is not spooled");
        thread::sleep(LOOK);
    }
}

fn assert_nowhere(directory: &Path, text: &str) {
    let files = files_with(directory, text);
    assert!(files.is_empty(), "{text} is in {files:?}");
}

/// The files below a directory that have this in them.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
            continue;
        }
        // What was delivered meanwhile is gone.
        let bytes = fs::read(&path).unwrap_or_default();
        if bytes
            .windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}
