//! The process that is all agents of a fleet: of each the enrolment, the batcher and the publisher as they are, and
//! events that no kernel made.
//!
//! On stdout a line of JSON five times a second, until stdin ends; then it drains and says the last.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use ebpf_hello_agent::{
    Accounts, Item, Outcome,
    enrolment::{Enrolment, EnrolmentOptions},
    epoch,
    publish::{PublishOptions, Publisher},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::v1;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use crate::publisher::item;

/// Bytes of batches that an agent keeps in memory while the collector is away: a minute of its events.
const MEMORY: usize = 1 << 20;
const STATE: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(60);
/// Agents that start at once: a cluster does not come up in one millisecond either.
const STARTING: u64 = 20;

#[derive(Debug, Args)]
pub(crate) struct AgentsArguments {
    /// Where to publish, with TLS.
    #[arg(long)]
    collector: String,
    /// Holds the bootstrap token.
    #[arg(long)]
    token_file: PathBuf,
    /// The collector's authority.
    #[arg(long)]
    ca: PathBuf,
    /// Where the agents keep their identities.
    #[arg(long)]
    directory: PathBuf,
    /// How many.
    #[arg(long)]
    agents: u64,
    /// Pods of each.
    #[arg(long)]
    pods: u64,
    /// Events a second of each.
    #[arg(long)]
    rate: u64,
}

/// What they are at.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct State {
    pub(crate) connected: u64,
    pub(crate) offered: u64,
    pub(crate) delivered: u64,
    /// Events that ended in any other way.
    pub(crate) lost: u64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
}

struct Agent {
    publisher: Publisher,
    accounts: Arc<Accounts>,
    offered: AtomicU64,
}

pub(crate) fn run(arguments: &AgentsArguments) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, connecting says so.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the event loop")?
        .block_on(simulate(arguments))
}

async fn simulate(arguments: &AgentsArguments) -> anyhow::Result<()> {
    let ending = stdin_ends();
    let mut agents = Vec::new();
    for number in 0..arguments.agents {
        agents.push(Arc::new(start(arguments, number).await?));
        if number % STARTING == STARTING - 1 {
            // As they connect: a backlog of handshakes would be this simulation's own.
            let enough = number.saturating_sub(10 * STARTING);
            while state(&agents).connected < enough && !ending.load(Ordering::Acquire) {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    // Only then: events of the first would take the processor that the last enrol with.
    let offer = |agent: &Arc<Agent>| {
        let (agent, ending) = (Arc::clone(agent), Arc::clone(&ending));
        tokio::spawn(offer(agent, arguments.pods, arguments.rate, ending))
    };
    let offering: Vec<_> = agents.iter().map(offer).collect();
    while !ending.load(Ordering::Acquire) {
        say(&state(&agents))?;
        sleep(STATE).await;
    }
    for task in offering {
        task.await.context("an agent panicked")?;
    }
    let mut last = state(&agents);
    let deadline = Instant::now() + DRAIN;
    while last.delivered + last.lost < last.offered && Instant::now() < deadline {
        sleep(STATE).await;
        last = state(&agents);
    }
    last.cpu = crate::publisher::cpu();
    say(&last)
}

async fn start(arguments: &AgentsArguments, number: u64) -> anyhow::Result<Agent> {
    let node = format!("node-{number}");
    let enrolment = Enrolment::open(EnrolmentOptions {
        collector: arguments.collector.clone(),
        token: Some(arguments.token_file.clone()),
        authorities: Some(arguments.ca.clone()),
        directory: arguments.directory.join(&node),
        node: node.clone(),
    })
    .await?;
    let accounts = Arc::new(Accounts::default());
    let publisher = Publisher::start(
        PublishOptions {
            node: node.clone(),
            epoch: epoch::from_clock(),
            version: "bench".into(),
            memory: MEMORY,
            spool: None,
            compress: true,
        },
        Arc::new(enrolment),
        Arc::clone(&accounts),
    )
    .context("cannot start publishing")?;
    publisher
        .reports()
        .send_replace(Some(report(node, arguments.pods)));
    Ok(Agent {
        publisher,
        accounts,
        offered: AtomicU64::new(0),
    })
}

/// A few events ten times a second, out of step with the other agents.
async fn offer(agent: Arc<Agent>, pods: u64, rate: u64, ending: Arc<AtomicBool>) {
    const TICK: Duration = Duration::from_millis(100);
    let begin = tokio::time::Instant::now() + TICK.mul_f64(fastrand::f64());
    let mut tick = interval_at(begin, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0;
    let mut ticks = 0;
    while !ending.load(Ordering::Acquire) {
        tick.tick().await;
        ticks += 1;
        let until = ticks * rate / 10;
        let batch: Vec<Item> = (number..until).map(|number| of_pod(number, pods)).collect();
        agent.offered.fetch_add(until - number, Ordering::Release);
        number = until;
        if !batch.is_empty() {
            agent.publisher.offer(batch, Duration::ZERO);
        }
    }
}

fn of_pod(number: u64, pods: u64) -> Item {
    let mut item = item(number + 1);
    item.event.pod = Some(pod(number % pods));
    item
}

fn pod(number: u64) -> v1::Pod {
    v1::Pod {
        namespace: "shop".into(),
        name: format!("cart-{number}"),
        uid: format!("{number:08x}-0000-4000-8000-000000000000"),
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        workload: Some(v1::Workload {
            kind: "Deployment".into(),
            name: "cart".into(),
        }),
        container: Some(v1::Container {
            name: "web".into(),
            id: format!("{number:064x}"),
            image: "cart:1".into(),
        }),
    }
}

/// As an agent's, with a row for each pod.
fn report(node: String, pods: u64) -> v1::NodeReport {
    let pods = (0..pods).map(|number| v1::PodCounters {
        namespace: "shop".into(),
        pod: format!("cart-{number}"),
        counters: Some(v1::Counters::default()),
    });
    v1::NodeReport {
        node: Some(v1::Node {
            name: node,
            version: "bench".into(),
            ..v1::Node::default()
        }),
        pods: pods.collect(),
        ..v1::NodeReport::default()
    }
}

fn state(agents: &[Arc<Agent>]) -> State {
    let mut state = State::default();
    for agent in agents {
        state.connected += u64::from(agent.publisher.state().connected);
        state.offered += agent.offered.load(Ordering::Acquire);
        let ended = |outcome| agent.accounts.settled(Handler::Trace, outcome);
        let delivered = ended(Outcome::Delivered);
        state.delivered += delivered;
        state.lost += Outcome::ALL.into_iter().map(ended).sum::<u64>() - delivered;
    }
    state.cpu = crate::publisher::cpu();
    state
}

fn say(state: &State) -> anyhow::Result<()> {
    let line = serde_json::to_string(state).context("cannot tell how it is")?;
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

fn stdin_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&ended);
    thread::spawn(move || {
        // Nothing comes; an error is an end, too.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        shared.store(true, Ordering::Release);
    });
    ended
}
