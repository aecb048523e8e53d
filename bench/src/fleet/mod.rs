//! How many agents one collector carries: each with a TLS connection, a certificate, pods and reports of its own.
//!
//! ```text
//! fleet ── starts, kills, starts again ─▶ ebpf-hello collector ◀── 5,000 TLS connections ── agents.rs, one process
//! ```

pub(crate) mod agents;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use self::agents::State;
use crate::{executable, pipeline::Process};

const TOKEN: &str = "bootstrap-token-of-the-fleet";
const LOOK: Duration = Duration::from_millis(50);
/// Time for a fleet to come, at the first start and after a restart.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(crate) struct FleetArguments {
    /// Agents.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=15_000))]
    agents: u64,
    /// Pods of each agent.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pods: u64,
    /// Events a second of each agent.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,
    /// Seconds before and after the collector is killed.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    agents: u64,
    pods_per_agent: u64,
    events_per_second_asked: u64,
    /// Until all were enrolled and connected.
    first_connected_seconds: f64,
    /// Acknowledged, in the seconds before the kill.
    events_per_second_delivered: f64,
    /// Processor time in these seconds, of a processor.
    collector_processors: f64,
    agents_processors: f64,
    /// Resident memory by the number of agents, KiB: all of the collector's, and what it has more than before they came.
    collector_kib_per_agent: f64,
    collector_kib_per_agent_above_idle: f64,
    agent_kib: f64,
    /// From SIGKILL until all were connected to the next process.
    reconnected_seconds: f64,
    offered: u64,
    delivered: u64,
    lost: u64,
}

struct Collector {
    process: Process,
    idle: u64,
}

pub(crate) fn run(arguments: &FleetArguments) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    fs::write(directory.path().join("tokens"), format!("{TOKEN}\n"))?;
    fs::write(directory.path().join("token"), TOKEN)?;
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .context("no free port")?;
    let collector = start_collector(&directory, address)?;
    let idle = collector.idle;
    let began = Instant::now();
    let mut agents = start_agents(arguments, &directory, address)?;
    let state = follow(&mut agents)?;
    let now = || *state.lock().unwrap_or_else(PoisonError::into_inner);

    await_all(&now, arguments.agents)?;
    let first_connected_seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "fleet: {} connected after {first_connected_seconds:.1} s",
        arguments.agents
    );
    let (before, cpu) = (now(), collector.process.cpu()?);
    let steady = Instant::now();
    thread::sleep(Duration::from_secs(arguments.seconds));
    let after = now();
    let seconds = steady.elapsed().as_secs_f64();
    let collector_processors = (collector.process.cpu()? - cpu) / seconds;
    let collector_kib = resident(&collector.process)?;
    let agents_kib = resident(&agents)?;

    drop(collector);
    let killed = Instant::now();
    let collector = start_collector(&directory, address)?;
    // What they last said was before the kill.
    let gone = Instant::now();
    while now().connected == arguments.agents && gone.elapsed() < Duration::from_secs(5) {
        thread::sleep(LOOK);
    }
    await_all(&now, arguments.agents)?;
    let reconnected_seconds = killed.elapsed().as_secs_f64();
    eprintln!("fleet: all connected again after {reconnected_seconds:.1} s");
    thread::sleep(Duration::from_secs(arguments.seconds));
    drop(agents.child.stdin.take());
    agents.await_end()?;
    let last = now();
    drop(collector);

    let each = |kib: u64| kib as f64 / arguments.agents as f64;
    let figures = Figures {
        agents: arguments.agents,
        pods_per_agent: arguments.pods,
        events_per_second_asked: arguments.agents * arguments.rate,
        first_connected_seconds,
        events_per_second_delivered: (after.delivered - before.delivered) as f64 / seconds,
        collector_processors,
        agents_processors: (after.cpu - before.cpu) / seconds,
        collector_kib_per_agent: each(collector_kib),
        collector_kib_per_agent_above_idle: each(collector_kib.saturating_sub(idle)),
        agent_kib: each(agents_kib),
        reconnected_seconds,
        offered: last.offered,
        delivered: last.delivered,
        lost: last.lost,
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    ensure!(
        last.lost == 0 && last.delivered == last.offered,
        "{} of {} events were not delivered",
        last.offered - last.delivered,
        last.offered
    );
    Ok(())
}

fn start_collector(directory: &TempDir, address: SocketAddr) -> anyhow::Result<Collector> {
    let file = |name: &str| directory.path().join(name);
    let mut command = Command::new(executable::product()?);
    command
        .args(["collector", "--metrics-addr", "127.0.0.1:0", "--listen"])
        .arg(address.to_string())
        .args(["--connections-per-address", "20000", "--store-size", "2GiB"])
        .arg("--store")
        .arg(file("store"))
        .arg("--tls-dir")
        .arg(file("tls"))
        .arg("--bootstrap-tokens")
        .arg(file("tokens"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let process = Process::start("collector", &mut command)?;
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        ensure!(
            began.elapsed() < PATIENCE,
            "the collector does not listen on {address}"
        );
        thread::sleep(LOOK);
    }
    let idle = resident(&process)?;
    Ok(Collector { process, idle })
}

fn start_agents(
    arguments: &FleetArguments,
    directory: &TempDir,
    address: SocketAddr,
) -> anyhow::Result<Process> {
    let file = |name: &str| directory.path().join(name).display().to_string();
    let mut command = Process::role(
        "agents",
        &[
            "--collector".to_owned(),
            format!("https://{address}"),
            "--token-file".to_owned(),
            file("token"),
            "--ca".to_owned(),
            file("tls/ca.crt"),
            "--directory".to_owned(),
            file("identities"),
            "--agents".to_owned(),
            arguments.agents.to_string(),
            "--pods".to_owned(),
            arguments.pods.to_string(),
            "--rate".to_owned(),
            arguments.rate.to_string(),
        ],
    )?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Process::start("agents", &mut command)
}

/// What the agents said last.
fn follow(agents: &mut Process) -> anyhow::Result<Arc<Mutex<State>>> {
    let stdout = agents.child.stdout.take().context("no stdout")?;
    let state = Arc::new(Mutex::new(State::default()));
    let shared = Arc::clone(&state);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(said) = serde_json::from_str(&line) {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = said;
            }
        }
    });
    Ok(state)
}

fn await_all(now: &impl Fn() -> State, agents: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    while now().connected < agents {
        ensure!(
            began.elapsed() < PATIENCE,
            "{} of {agents} agents are connected after {PATIENCE:?}",
            now().connected
        );
        thread::sleep(LOOK);
    }
    Ok(())
}

/// KiB of memory that a process has in use.
fn resident(process: &Process) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id()))
        .with_context(|| format!("the {} has ended", process.name))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("no VmRSS")
}
