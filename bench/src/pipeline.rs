//! The processes of the way through a collector: it and whoever publishes and consumes, each on its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::executable;

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// A process; killed when it is dropped.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) child: Child,
}

/// A collector with a store on disk, on a Unix socket.
pub(crate) struct Collector {
    process: Process,
    directory: TempDir,
}

// === impl Process ===

impl Process {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .env("EBPF_HELLO_LOG", "warn")
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        Ok(Process { name, child })
    }

    /// A role of this executable.
    pub(crate) fn role(name: &'static str, arguments: &[String]) -> anyhow::Result<Command> {
        let this = std::env::current_exe().context("cannot tell where this executable is")?;
        let mut command = Command::new(this);
        command.arg(name).args(arguments);
        Ok(command)
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("cannot end the {}", self.name))?;
        self.await_end()
    }

    /// Waits until it ended by itself.
    pub(crate) fn await_end(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + 2 * DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the {} failed: {status}", self.name);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the {} does not end", self.name);
            thread::sleep(LOOK);
        }
    }

    /// What it says as its last line on a pipe, once it has ended.
    pub(crate) fn report<T: DeserializeOwned>(
        &mut self,
        mut pipe: impl std::io::Read,
    ) -> anyhow::Result<T> {
        let mut text = String::new();
        pipe.read_to_string(&mut text)
            .with_context(|| format!("cannot read from the {}", self.name))?;
        self.await_end().with_context(|| text.clone())?;
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("the {} said {text:?}", self.name))
    }

    /// Seconds of processor time of all its threads, as `/proc/PID/schedstat` has them (nanoseconds, the first number).
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut nanoseconds = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let path = task?.path().join("schedstat");
            // A thread may end meanwhile; what it used is then missing. The collector's last as long as it.
            let text = fs::read_to_string(&path).unwrap_or_default();
            let first = text.split_whitespace().next().unwrap_or("0");
            nanoseconds += first.parse::<u64>().context("schedstat")?;
        }
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Waits for a line on stderr that says so, and leaves the rest to a thread.
    pub(crate) fn await_log(&mut self, says: &str) -> anyhow::Result<()> {
        let stderr = self.child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut heard = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            if line.contains(says) {
                thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
            heard.push(line);
        }
        bail!("the {} does not start:\n{}", self.name, heard.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended, or there was an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Collector ===

impl Collector {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory for the collector")?;
        let mut command = Command::new(executable::product()?);
        command
            .args(["collector", "--metrics-addr", "127.0.0.1:0", "--listen"])
            .arg(url(directory.path()))
            .arg("--store")
            .arg(directory.path().join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Process::start("collector", &mut command)?;
        let socket = socket(directory.path());
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(&socket).is_err() {
            ensure!(
                Instant::now() < deadline,
                "the collector does not listen on {}",
                socket.display()
            );
            thread::sleep(LOOK);
        }
        Ok(Collector { process, directory })
    }

    /// Where agents and consumers reach it.
    pub(crate) fn url(&self) -> String {
        url(self.directory.path())
    }

    /// A directory that goes with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        self.process.cpu()
    }

    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.process.end()
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("collector.sock")
}

fn url(directory: &Path) -> String {
    format!("unix://{}", socket(directory).display())
}
