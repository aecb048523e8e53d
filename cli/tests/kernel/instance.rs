//! A running `ebpf-hello run`, as whoever started it sees it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_proto::v1::Event;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    executable,
    ledger::Ledger,
    stream::{DEADLINE, Stream},
};

/// It observes from here on, and says so on stderr.
const READY: &str = "running; Ctrl-C ends";
const LOOK: Duration = Duration::from_millis(5);

/// A running instance; killed when a test fails before its end.
pub(crate) struct Instance {
    child: Child,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

/// What an instance left behind.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Lines without their newlines.
    pub(crate) stdout: Vec<Vec<u8>>,
    pub(crate) stderr: Vec<String>,
}

// === impl Instance ===

impl Instance {
    /// Starts `run` with these arguments and waits until it observes.
    pub(crate) fn run(arguments: &[&str]) -> Instance {
        let mut command = Command::new(executable::product());
        command.arg("run").args(arguments).stdout(Stdio::piped());
        Instance::start(command)
    }

    /// Every system call of the machine, with a ring that holds what a busy one makes meanwhile.
    pub(crate) fn trace_everything() -> Instance {
        Instance::run(&["--default", "trace", "-o", "json", "--ring-size", "64MiB"])
    }

    /// Starts a command that ends in `run`, and waits until that observes.
    pub(crate) fn start(mut command: Command) -> Instance {
        let mut child = command
            // Its log is read here: neither the user's level nor colour may hide it.
            .env_remove("EBPF_HELLO_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let instance = Instance {
            stdout: child.stdout.take().map(Stream::read),
            stderr: child.stderr.take().map(Stream::read),
            child,
        };
        // What was logged before it can still be waited for.
        instance
            .stderr()
            .find_line("the start of `run`", 0, |line| line.contains(READY));
        instance
    }

    /// Starts a command that is `run`, waits until that observes, and then reads its stderr no more: it is closed.
    /// What it prints goes nowhere.
    pub(crate) fn start_unheard(mut command: Command) -> Instance {
        let mut child = command
            .env_remove("EBPF_HELLO_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let instance = Instance {
            child,
            stdout: None,
            stderr: None,
        };
        let mut said = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains(READY)), "`run` did not start");
        instance
    }

    /// Its process id, where it was started directly.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on stderr, behind the one that was waited for last.
    pub(crate) fn await_log(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        self.stderr().await_line(what, fits)
    }

    fn stderr(&self) -> &Stream {
        self.stderr.as_ref().expect("stderr is piped in `start`")
    }

    /// Waits for a line on stdout, where that is piped, behind the one that was waited for last.
    pub(crate) fn await_output(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let stdout = self.stdout.as_ref().expect("stdout is piped in `run`");
        stdout.await_line(what, fits)
    }

    /// What `ebpf-hello status -o json` says of it.
    pub(crate) fn status(&self) -> Value {
        let output = Command::new(executable::product())
            .args(["status", "-o", "json", "--instance"])
            .arg(self.pid().to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as Ctrl-C does. Everything that happened before is in what it left.
    pub(crate) fn end(self) -> Ended {
        self.signal(Signal::INT);
        let ended = self.await_end();
        assert!(
            ended.status.success(),
            "{}:\n{}",
            ended.status,
            ended.stderr.join("\n")
        );
        ended
    }

    /// Waits until it ended by itself.
    pub(crate) fn await_end(mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "`run` does not end");
            thread::sleep(LOOK);
        };
        let lines = |stream: Option<Stream>| stream.map(Stream::into_lines).unwrap_or_default();
        Ended {
            status,
            stdout: lines(self.stdout.take()),
            stderr: lines(self.stderr.take())
                .iter()
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect(),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Only a failed test leaves one that runs; it has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Ended ===

impl Ended {
    /// The lines of `-o json`; every one must be an event.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.stdout
            .iter()
            .map(|line| {
                serde_json::from_slice(line)
                    .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(line)))
            })
            .collect()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::parse(&self.stderr)
    }
}
