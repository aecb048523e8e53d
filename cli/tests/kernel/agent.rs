//! A running `ebpf-hello agent`, and the collector that it publishes to.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    executable,
    ledger::Ledger,
    monitor::{Answer, free_address, get},
    stream::{DEADLINE, Stream},
};

const LOOK: Duration = Duration::from_millis(20);

/// A collector in memory, on a Unix socket; killed when it is dropped.
pub(crate) struct Collector {
    child: Option<Child>,
    directory: TempDir,
}

/// A running agent; killed when a test fails before its end.
pub(crate) struct Agent {
    child: Child,
    stderr: Option<Stream>,
    metrics: SocketAddr,
}

// === impl Collector ===

impl Collector {
    pub(crate) fn start() -> Collector {
        let mut collector = Collector::away();
        collector.arrive();
        collector
    }

    /// One that is not there yet.
    pub(crate) fn away() -> Collector {
        Collector {
            child: None,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn arrive(&mut self) {
        let child = Command::new(executable::product())
            .args(["collector", "--metrics-addr", "127.0.0.1:0", "--listen"])
            .arg(self.url())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "the collector does not listen");
            thread::sleep(LOOK);
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("collector.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Everything it has, as `observe` prints it.
    pub(crate) fn events(&self) -> Vec<ebpf_hello_proto::v1::Event> {
        let output = Command::new(executable::product())
            .args(["observe", "-o", "json", "--server", &self.url()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It never ends by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

// === impl Agent ===

impl Agent {
    /// Starts it with its state in a directory, and waits until it observes.
    pub(crate) fn start(collector: &str, state: &Path, more: &[&str]) -> Agent {
        let metrics = free_address();
        let mut child = Command::new(executable::product())
            .args(["agent", "--collector", collector, "--metrics-addr"])
            .arg(metrics.to_string())
            .arg("--state-dir")
            .arg(state)
            .args(more)
            .env_remove("EBPF_HELLO_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let agent = Agent {
            stderr: child.stderr.take().map(Stream::read),
            child,
            metrics,
        };
        agent.await_log("the start of `agent`", |line| line.contains(" running "));
        agent
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on stderr, whenever it came.
    pub(crate) fn await_log(&self, what: &str, fits: impl Fn(&str) -> bool) {
        let stderr = self.stderr.as_ref().unwrap();
        stderr.find_line(what, 0, fits);
    }

    /// What it answers now.
    pub(crate) fn get(&self, path: &str) -> Answer {
        get(self.metrics, path).unwrap()
    }

    /// Waits until it answers so, and the answer contains this.
    pub(crate) fn await_answer(&self, path: &str, status: u16, contains: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(path);
            if answer.status == status && answer.text.contains(contains) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{path} is not {status} with {contains:?}, but {answer:?}"
            );
            thread::sleep(LOOK);
        }
    }

    /// A metric's value, by its name and labels as they are written; the test fails without it.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text;
        metric(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Waits until a metric has a value that fits.
    pub(crate) fn await_metric(&self, name: &str, fits: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let value = self.metric(name);
            if fits(value) {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {value}");
            thread::sleep(LOOK);
        }
    }

    /// The thread of this name.
    pub(crate) fn thread(&self, name: &str) -> i32 {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        fs::read_dir(tasks)
            .unwrap()
            .map(|task| task.unwrap())
            .find(|task| fs::read_to_string(task.path().join("comm")).unwrap().trim() == name)
            .unwrap_or_else(|| panic!("there is no thread {name}"))
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Ends it, and says what it left: its log and its ledger.
    pub(crate) fn end(mut self) -> (Vec<String>, Ledger) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "`agent` does not end");
            thread::sleep(LOOK);
        };
        let lines: Vec<String> = self
            .stderr
            .take()
            .unwrap()
            .into_lines()
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        assert!(status.success(), "{status}:\n{}", lines.join("\n"));
        let ledger = Ledger::parse(&lines);
        (lines, ledger)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Only a failed test leaves one that runs; it has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A value in a text of metrics.
pub(crate) fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(' ')?.trim().parse().ok()
}
