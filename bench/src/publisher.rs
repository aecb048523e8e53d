//! The process that publishes in the throughput's measurement: the agent's own batcher and publisher, fed with events
//! that no kernel made.
//!
//! It keeps a window: no more events are on their way than the consumer's queue at the collector holds, so that
//! nothing is dropped for a consumer that is slower than it.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use ebpf_hello_agent::{
    Accounts, Batch, Item, Outcome,
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::{
    Timestamp,
    v1::{self, Event, event::Kind},
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tonic::transport::Endpoint;

/// Events handed on at once, as the agent's reader does.
const BATCH: u64 = 512;
/// Processes and CPUs that they are of.
const PROCESSES: u64 = 16;
const CPUS: u64 = 2;
/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct PublisherArguments {
    /// Where to publish.
    #[arg(long)]
    collector: String,
    /// How many events.
    #[arg(long)]
    events: u64,
    /// Events that may be on their way; stdin says how many have come, as 64-bit little-endian numbers.
    #[arg(long)]
    window: u64,
    /// Compress what is sent, with zstd.
    #[arg(long)]
    compress: bool,
}

/// What it did; times are of `CLOCK_MONOTONIC`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Published {
    /// Nanoseconds at the first event.
    pub(crate) started: u64,
    pub(crate) delivered: u64,
    /// Seconds of processor time from then on.
    pub(crate) cpu: f64,
    /// Of these, for making the events.
    pub(crate) making: f64,
}

pub(crate) fn run(arguments: &PublisherArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let accounts = Arc::new(Accounts::default());
    let options = PublishOptions {
        node: "node-1".into(),
        epoch: ebpf_hello_agent::epoch::from_clock(),
        version: "bench".into(),
        memory: MEMORY,
        spool: None,
        compress: arguments.compress,
    };
    let endpoint = Endpoint::from_shared(arguments.collector.clone())
        .with_context(|| format!("--collector {}", arguments.collector))?;
    let publisher = {
        let _runtime = runtime.enter();
        Publisher::start(options, endpoint, Arc::clone(&accounts))
            .context("cannot start publishing")?
    };
    let come = follow_consumer();
    // The consumer's first number says that it listens.
    await_number(&come, |come| come > 0)?;
    let (started, before) = (nanoseconds(ClockId::Monotonic), cpu());
    let mut making = 0.0;
    for first in (1..=arguments.events).step_by(BATCH as usize) {
        let last = (first + BATCH).min(arguments.events + 1);
        // The first number is 1 more than what has come.
        await_number(&come, |come| last <= come + arguments.window)?;
        let since = thread_cpu();
        let batch: Batch = (first..last).map(item).collect();
        making += thread_cpu() - since;
        publisher.offer(batch, DEADLINE);
    }
    runtime.block_on(publisher.drain(DEADLINE));
    let published = Published {
        started,
        delivered: accounts.settled(Handler::Trace, Outcome::Delivered),
        cpu: cpu() - before,
        making,
    };
    let line = serde_json::to_string(&published).context("cannot tell what was published")?;
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

/// What the consumer says on stdin, plus one; 0 until it says anything, and at most what fits after it ended.
fn follow_consumer() -> Arc<AtomicU64> {
    let come = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&come);
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut number = [0; 8];
        while stdin.read_exact(&mut number).is_ok() {
            shared.store(
                u64::from_le_bytes(number).saturating_add(1),
                Ordering::Release,
            );
        }
        shared.store(u64::MAX / 2, Ordering::Release);
    });
    come
}

fn await_number(come: &AtomicU64, is_enough: impl Fn(u64) -> bool) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_micros(100);
    let mut waited = Duration::ZERO;
    while !is_enough(come.load(Ordering::Acquire)) {
        ensure!(
            waited < DEADLINE,
            "the consumer got nothing for {DEADLINE:?}"
        );
        thread::sleep(LOOK);
        waited += LOOK;
    }
    Ok(())
}

/// An event as the handler `trace` makes it, of one of a few processes.
pub(crate) fn item(number: u64) -> Item {
    let process = number / 8 % PROCESSES;
    let pid = 1000 + process as u32;
    let event = Event {
        time: Some(Timestamp::from_unix_nanos(
            1_795_341_600_000_000_000 + number * 1000,
        )),
        cpu: Some((number % CPUS) as u32),
        sequence: number.div_ceil(CPUS),
        cgroup_id: 1000 + process,
        process: Some(v1::Process {
            pid,
            tid: pid,
            parent_pid: 1,
            uid: Some(0),
            gid: Some(0),
            comm: "worker".into(),
            binary: "/usr/local/bin/worker".into(),
            exec_id: format!("{process:016x}"),
            start_time: Some(Timestamp::from_unix_nanos(1_795_341_000_000_000_000)),
            ..v1::Process::default()
        }),
        policy: Some(v1::Policy {
            filter: "shop/cart-timers".into(),
            rule: 1,
            table: 3,
            generation: 7,
            suppressed_since_last: 0,
        }),
        kind: Some(Kind::Syscall(v1::Syscall {
            name: "getppid".into(),
            number: Some(110),
            abi: v1::Abi::X8664.into(),
            args: vec![0x7ffe_1234_5678, 3, 0, 0, 1, 0],
            ..v1::Syscall::default()
        })),
        ..Event::default()
    };
    Item {
        handler: Some(Handler::Trace),
        event,
    }
}

/// Seconds of processor time of this process.
pub(crate) fn cpu() -> f64 {
    nanoseconds(ClockId::ProcessCPUTime) as f64 / 1e9
}

fn thread_cpu() -> f64 {
    nanoseconds(ClockId::ThreadCPUTime) as f64 / 1e9
}

pub(crate) fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // None of the clocks asked for here shows a time before its zero.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
