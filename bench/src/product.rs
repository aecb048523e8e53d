//! A running `ebpf-hello run -o json`: its lines, and when each came.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use ebpf_hello_proto::{Timestamp, v1::Event};

use crate::executable;

/// It observes from here on, and says so on stderr.
const READY: &str = "running; Ctrl-C ends";
/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Product {
    child: Child,
    lines: Receiver<Line>,
}

/// One line of stdout.
struct Line {
    arrived: SystemTime,
    text: Vec<u8>,
}

/// An event, and when its line was read from the pipe.
pub(crate) struct Arrival {
    pub(crate) arrived: SystemTime,
    pub(crate) event: Event,
}

// === impl Product ===

impl Product {
    /// Starts it with these filters and waits until it observes.
    pub(crate) fn run(filters: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(executable::product()?)
            .args(["run", "-o", "json", "--process-events", "off", "--filters"])
            .arg(filters)
            .env_remove("EBPF_HELLO_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ebpf-hello")?;
        let stdout = child.stdout.take().context("ebpf-hello has no stdout")?;
        let stderr = child.stderr.take().context("ebpf-hello has no stderr")?;
        let (sender, lines) = channel();
        thread::spawn(move || read(BufReader::new(stdout), &sender));
        let (said, log) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // What is said later interests nobody, and must be read all the same.
                let _ = said.send(line);
            }
        });
        // Killed by its Drop should it not become ready.
        let product = Product { child, lines };
        let mut heard = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(READY) => return Ok(product),
                Ok(line) => heard.push(line),
                Err(_) => bail!("ebpf-hello does not start:\n{}", heard.join("\n")),
            }
        }
    }

    /// The next event.
    pub(crate) fn next(&self) -> anyhow::Result<Arrival> {
        let line = self
            .lines
            .recv_timeout(DEADLINE)
            .with_context(|| format!("no event in {DEADLINE:?}"))?;
        line.parse()
    }

    /// Passes over the events that have come so far; the generation of the last one.
    pub(crate) fn skip(&self) -> anyhow::Result<Option<u64>> {
        let last = self.lines.try_iter().last();
        last.map(|line| Ok(line.parse()?.generation())).transpose()
    }

    /// Fails when events are waiting: what comes next is then no answer to what is done next.
    pub(crate) fn expect_silence(&self) -> anyhow::Result<()> {
        ensure!(
            self.lines.try_recv().is_err(),
            "an event came that nobody here made"
        );
        Ok(())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // Nothing of it stays in the kernel when it is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut pipe: impl std::io::BufRead, lines: &Sender<Line>) {
    loop {
        let mut text = Vec::new();
        if !pipe
            .read_until(b'\n', &mut text)
            .is_ok_and(|length| length > 0)
        {
            return;
        }
        let arrived = SystemTime::now();
        if lines.send(Line { arrived, text }).is_err() {
            return;
        }
    }
}

// === impl Line ===

impl Line {
    fn parse(self) -> anyhow::Result<Arrival> {
        let event = serde_json::from_slice(&self.text)
            .with_context(|| format!("no event: {}", String::from_utf8_lossy(&self.text)))?;
        Ok(Arrival {
            arrived: self.arrived,
            event,
        })
    }
}

// === impl Arrival ===

impl Arrival {
    /// Milliseconds from the kernel's record to the line.
    pub(crate) fn delay(&self) -> anyhow::Result<f64> {
        let time = self.event.time.context("an event without its time")?;
        Ok(milliseconds(
            nanoseconds(self.arrived.into()) - nanoseconds(time),
        ))
    }

    /// Milliseconds from `start` to the line.
    pub(crate) fn since(&self, start: SystemTime) -> f64 {
        milliseconds(nanoseconds(self.arrived.into()) - nanoseconds(start.into()))
    }

    /// The policy's generation; 0 without one.
    pub(crate) fn generation(&self) -> u64 {
        self.event
            .policy
            .as_ref()
            .map_or(0, |policy| policy.generation)
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn milliseconds(nanoseconds: i128) -> f64 {
    nanoseconds as f64 / 1e6
}
