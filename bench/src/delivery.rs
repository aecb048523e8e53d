//! How much goes through a collector to a consumer, what it costs each of them, and how soon it is there.
//!
//! ```text
//! publisher.rs ─▶ ebpf-hello collector (store on disk) ─▶ consumer.rs      pipeline.rs  the processes
//! ebpf-hello agent ─▶ the same
//! ```

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    consumer::Consumed,
    executable,
    pipeline::{Collector, Process},
    publisher::Published,
    results::Measurement,
    statistics::{Summary, percentile},
    suite::Selection,
};

/// Nothing else makes this call: Linux never implemented it.
const CALL: &str = "nfsservctl";
/// The queue of a consumer at the collector has 4 MiB, an event there has at most 256 bytes.
const WINDOW: u64 = 16_384;
/// The first rate tried, and the factor between two.
const FIRST_RATE: u64 = 20_000;
const RATE_FACTOR: f64 = 1.25;
const RATE_MOST: u64 = 2_000_000;
/// Execs a second: with fork and exit a thousand events.
const EXECS: u32 = 333;
/// After the last of what was made, in milliseconds.
const SILENCE: u64 = 10_000;

const THROUGHPUT: &str = "throughput/synthetic";
const KERNEL: &str = "throughput/kernel-without-loss";
const COSTS: [&str; 4] = [
    "cpu/publisher",
    "cpu/publisher/making-events",
    "cpu/collector",
    "cpu/consumer",
];
const DELAYS: [&str; 2] = [
    "latency/exec-to-consumer/p50",
    "latency/exec-to-consumer/p99",
];

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    repetitions: u32,
    events: u64,
    /// How long each rate is tried.
    seconds: u64,
    rates: u32,
    execs: u32,
}

// === impl Extent ===

impl Extent {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Extent {
                repetitions: 1,
                events: 200_000,
                seconds: 1,
                rates: 1,
                execs: 100,
            }
        } else {
            Extent {
                repetitions: 5,
                events: 5_000_000,
                seconds: 4,
                rates: u32::MAX,
                execs: 1_000,
            }
        }
    }
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    [THROUGHPUT, KERNEL].into_iter().chain(COSTS).chain(DELAYS)
}

pub(crate) fn measure(selection: &Selection, extent: Extent) -> anyhow::Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    if selection.has(THROUGHPUT) || COSTS.iter().any(|name| selection.has(name)) {
        measurements.extend(throughput(extent)?);
    }
    if selection.has(KERNEL) {
        measurements.push(highest_rate(extent)?);
    }
    if DELAYS.iter().any(|name| selection.has(name)) {
        measurements.extend(delays(extent)?);
    }
    Ok(measurements)
}

fn measurement(
    name: &'static str,
    unit: &'static str,
    figures: &[f64],
    target: Option<f64>,
) -> anyhow::Result<Measurement> {
    let Summary { median, min, max } = Summary::of(figures).context("there was no repetition")?;
    Ok(Measurement {
        name,
        unit,
        median,
        min,
        max,
        runs: figures.len(),
        baseline: None,
        ratio: None,
        target,
    })
}

/// Synthetic events, as many as go through.
fn throughput(extent: Extent) -> anyhow::Result<Vec<Measurement>> {
    let millions = extent.events as f64 / 1e6;
    let mut rates = Vec::new();
    let mut costs: [Vec<f64>; COSTS.len()] = Default::default();
    for _ in 0..extent.repetitions {
        let collector = Collector::start()?;
        let mut consumer = Process::start(
            "consumer",
            Process::role(
                "consumer",
                &[
                    format!("--server={}", collector.url()),
                    format!("--events={}", extent.events),
                ],
            )?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
        )?;
        let come = consumer.child.stdout.take().context("no stdout")?;
        let consumed = consumer.child.stderr.take().context("no stderr")?;
        let before = collector.cpu()?;
        let mut publisher = Process::start(
            "publisher",
            Process::role(
                "publisher",
                &[
                    format!("--collector={}", collector.url()),
                    format!("--events={}", extent.events),
                    format!("--window={WINDOW}"),
                ],
            )?
            .stdin(come)
            .stdout(Stdio::piped()),
        )?;
        let published = publisher.child.stdout.take().context("no stdout")?;
        let consumed: Consumed = consumer.report(consumed)?;
        let cpu = collector.cpu()? - before;
        let published: Published = publisher.report(published)?;
        collector.end()?;
        ensure!(
            (consumed.events, consumed.lost, published.delivered)
                == (extent.events, 0, extent.events),
            "{} events came and {} were lost, {} of {} were acknowledged",
            consumed.events,
            consumed.lost,
            published.delivered,
            extent.events
        );
        let seconds = (consumed.ended - published.started) as f64 / 1e9;
        rates.push(extent.events as f64 / seconds);
        let all = [published.cpu, published.making, cpu, consumed.cpu];
        for (figures, cost) in costs.iter_mut().zip(all) {
            figures.push(cost / millions);
        }
    }
    let rate = measurement(THROUGHPUT, "events/s", &rates, Some(1e6))?;
    let costs = COSTS
        .into_iter()
        .zip(&costs)
        .map(|(name, figures)| measurement(name, "s", figures, None));
    std::iter::once(Ok(rate)).chain(costs).collect()
}

/// The highest rate at which nothing is lost between the kernel and a consumer: each is tried until one loses twice.
fn highest_rate(extent: Extent) -> anyhow::Result<Measurement> {
    let mut best = Vec::new();
    let mut rate = FIRST_RATE;
    for _ in 0..extent.rates {
        let kept = match try_rate(rate, extent.seconds)? {
            None => try_rate(rate, extent.seconds)?,
            kept => kept,
        };
        let Some(kept) = kept else { break };
        best = vec![kept];
        // The generator keeps whole thousands.
        rate = ((rate as f64 * RATE_FACTOR) as u64).next_multiple_of(1_000);
        if rate > RATE_MOST {
            break;
        }
    }
    ensure!(!best.is_empty(), "{FIRST_RATE} events/s are too many");
    measurement(KERNEL, "events/s", &best, None)
}

/// Events a second that came, if all did.
fn try_rate(rate: u64, seconds: u64) -> anyhow::Result<Option<f64>> {
    let events = rate * seconds;
    let collector = Collector::start()?;
    let agent = agent(&collector, &["--process-events", "off"])?;
    let (mut consumer, consumed) = consume(&collector, events, None)?;
    let started = Instant::now();
    let made = Command::new(executable::generator()?)
        .args([
            "call",
            CALL,
            &events.to_string(),
            "--rate",
            &rate.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start the generator")?;
    ensure!(made.success(), "the generator failed: {made}");
    let took = started.elapsed().as_secs_f64();
    let consumed: Consumed = consumer.report(consumed)?;
    drop(agent);
    collector.end()?;
    let all = consumed.events == events && consumed.lost == 0;
    eprintln!(
        "{rate} events/s: {} of {events} came, {} were told as lost; they were made in {took:.1} s",
        consumed.events, consumed.lost
    );
    Ok(all.then_some(events as f64 / took))
}

/// Execs at an ordinary rate, and when each was known to a consumer.
fn delays(extent: Extent) -> anyhow::Result<Vec<Measurement>> {
    let mut figures: [Vec<f64>; DELAYS.len()] = Default::default();
    let target = executable::generator()?;
    for _ in 0..extent.repetitions.min(3) {
        let collector = Collector::start()?;
        let agent = agent(&collector, &[])?;
        let (mut consumer, consumed) = consume(&collector, u64::from(extent.execs), Some(&target))?;
        let start = Instant::now();
        for exec in 1..=extent.execs {
            let mut child = Command::new(&target)
                .args(["exit", "0"])
                .stdin(Stdio::null())
                .spawn()
                .context("cannot start the generator")?;
            child.wait().context("cannot wait for the generator")?;
            let due = start + Duration::from_secs(1) * exec / EXECS;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let consumed: Consumed = consumer.report(consumed)?;
        drop(agent);
        collector.end()?;
        ensure!(
            consumed.delays.len() == extent.execs as usize,
            "{} of {} execs came",
            consumed.delays.len(),
            extent.execs
        );
        for (figures, percent) in figures.iter_mut().zip([50.0, 99.0]) {
            figures.extend(percentile(&consumed.delays, percent));
        }
    }
    DELAYS
        .into_iter()
        .zip(&figures)
        .map(|(name, figures)| measurement(name, "ms", figures, None))
        .collect()
}

/// An agent that publishes to the collector and is ready.
fn agent(collector: &Collector, more: &[&str]) -> anyhow::Result<Process> {
    let filter = collector.directory().join("filter.yaml");
    write_filter(&filter)?;
    let mut command = Command::new(executable::product()?);
    command
        .args(["agent", "--metrics-addr", "127.0.0.1:0", "--spool", "none"])
        .arg("--collector")
        .arg(collector.url())
        .arg("--state-dir")
        .arg(collector.directory().join("state"))
        .arg("--filters")
        .arg(&filter)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command
        .env("EBPF_HELLO_LOG", "info")
        .spawn()
        .context("cannot start the agent")?;
    let mut agent = Process {
        name: "agent",
        child,
    };
    agent.await_log("ready: canaries come through")?;
    Ok(agent)
}

/// A consumer that listens already.
fn consume(
    collector: &Collector,
    events: u64,
    execs_of: Option<&Path>,
) -> anyhow::Result<(Process, std::process::ChildStderr)> {
    let mut arguments = vec![
        format!("--server={}", collector.url()),
        format!("--events={events}"),
        format!("--silence={SILENCE}"),
    ];
    if let Some(path) = execs_of {
        arguments.push(format!("--execs-of={}", path.display()));
    }
    let mut command = Process::role("consumer", &arguments)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut consumer = Process::start("consumer", &mut command)?;
    let mut come = consumer.child.stdout.take().context("no stdout")?;
    let consumed = consumer.child.stderr.take().context("no stderr")?;
    // Its first number says that it listens; the others are of no interest.
    std::io::Read::read_exact(&mut come, &mut [0; 8]).context("the consumer does not listen")?;
    thread::spawn(move || std::io::copy(&mut come, &mut std::io::sink()));
    Ok((consumer, consumed))
}

fn write_filter(path: &Path) -> anyhow::Result<()> {
    let text = format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: bench}}\n\
         spec:\n  host: true\n  rules:\n  - {{syscalls: [{CALL}], handler: Trace}}\n"
    );
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
