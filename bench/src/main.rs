//! `ebpf-hello-bench`: what ebpf-hello costs whom, measured so that a busy machine changes the figures
//! little and their relation less.
//!
//! ```text
//! suite.rs     what is measured: names, workloads, baselines, targets
//! rounds.rs    every variant once per round, in random order; ratios within a round
//! syscalls.rs  variants: nothing, an empty program, policies       processes.rs  variants: process events
//! latency.rs   the product from the outside: edits, first record, last of a burst     product.rs
//! delivery.rs  through a collector: throughput, its cost, delays     publisher.rs  consumer.rs  pipeline.rs
//! fleet/       how many agents a collector carries: a subcommand, no part of a whole run
//! workload.rs  the generator, pinned, that makes and times the calls
//! statistics.rs   results.rs (JSON)   page.rs (docs/PERFORMANCE.md)   machine.rs   executable.rs
//! ```

#![allow(unreachable_pub, reason = "an executable exports nothing")]

mod cgroup;
mod consumer;
mod delivery;
mod executable;
mod fleet;
mod latency;
mod machine;
mod page;
mod pipeline;
mod policies;
mod processes;
mod product;
mod publisher;
mod results;
mod rounds;
mod statistics;
mod suite;
mod syscalls;
mod workload;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};

use crate::{
    consumer::ConsumerArguments,
    fleet::{FleetArguments, agents::AgentsArguments},
    latency::Extent,
    publisher::PublisherArguments,
    results::Measurement,
    rounds::Plan,
    suite::Selection,
};

/// Where figures go that are not those of a whole run; git ignores it.
const PARTIAL: &str = "bench/results/partial.json";
const RESULTS: &str = "bench/results/latest.json";
const PAGE: &str = "docs/PERFORMANCE.md";

/// Measures what ebpf-hello costs. Loads eBPF programs: run it as root, on a machine at rest.
///
/// A whole run writes bench/results/latest.json and the tables of docs/PERFORMANCE.md; with --quick or
/// --only the figures go to bench/results/partial.json.
#[derive(Debug, Parser)]
#[command(name = "ebpf-hello-bench", version)]
struct Arguments {
    /// Five short rounds: does it work? Its figures say little.
    #[arg(long)]
    quick: bool,
    /// Only what has NAME in its name, and what that is compared with; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds of every variant; without it 200, or 5 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// Write the JSON to this file.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Write the tables into this page, between its markers.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this executable is when it started itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Publishes events that no kernel made.
    #[command(hide = true)]
    Publisher(PublisherArguments),
    /// Decodes what comes from a collector.
    #[command(hide = true)]
    Consumer(ConsumerArguments),
    /// Runs the agents of many nodes, all but their kernels, against one collector, which is killed in between.
    Fleet(FleetArguments),
    /// Runs these agents.
    #[command(hide = true)]
    Agents(AgentsArguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebpf-hello-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.role {
        Some(Role::Publisher(arguments)) => return publisher::run(arguments),
        Some(Role::Consumer(arguments)) => return consumer::run(arguments),
        Some(Role::Fleet(arguments)) => return fleet::run(arguments),
        Some(Role::Agents(arguments)) => return fleet::agents::run(arguments),
        None => {}
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "it loads eBPF programs: run it as root"
    );
    let selection = Selection::new(&arguments.only)?;
    let whole = !arguments.quick && arguments.only.is_empty();
    let results = match (&arguments.results, whole) {
        (Some(path), _) => path.clone(),
        (None, true) => RESULTS.into(),
        (None, false) => PARTIAL.into(),
    };
    let page = arguments.page.clone().or(whole.then(|| PAGE.into()));
    let plan = Plan::new(arguments.quick, arguments.rounds);
    let place = machine::Place::take()?;
    let before = machine::load();

    let mut measurements: Vec<Measurement> = Vec::new();
    measurements.extend(syscalls::measure(&selection, plan, &place).context("system calls")?);
    measurements.extend(processes::measure(&selection, plan, &place).context("processes")?);
    measurements
        .extend(latency::measure(&selection, Extent::new(arguments.quick)).context("latencies")?);

    let extent = delivery::Extent::new(arguments.quick);
    measurements.extend(delivery::measure(&selection, extent).context("deliveries")?);

    print!("{}", page::text(&measurements));
    results::write(&results, &measurements)?;
    eprintln!("wrote {}", results.display());
    if let Some(page) = page {
        let machine = machine::describe(plan.rounds, &before)?;
        page::write(&page, &measurements, &machine)?;
        eprintln!("wrote {}", page.display());
    }
    Ok(())
}
