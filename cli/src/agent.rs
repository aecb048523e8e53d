//! `ebpf-hello agent`: what the DaemonSet runs on each node. Publishes to a collector, and serves this node's
//! observers beside.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;
use ebpf_hello_agent::{
    Events, Node, NodeOptions, Policy, Redactor,
    enrolment::{Enrolment, EnrolmentOptions},
    epoch,
    identity::Pods,
    kubernetes::FilterWatch,
    metrics::{ApiServer, NodeMetrics, Publishing},
    publish::{
        Connect, ConnectError, MEMORY, PublishOptions, Publisher, SpoolOptions, spooled_epoch,
    },
};
use ebpf_hello_loader::Exclusion;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::spawn_blocking,
    time::{interval, sleep},
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    args::{NodeArguments, host_name},
    control::Control,
    filters::{self, Watcher},
    ledger,
    local::Local,
    monitor, page,
    pods::PodArguments,
    readiness,
};

/// How often new cgroups are looked for, and the node's state is told.
const TICK: Duration = Duration::from_secs(1);
/// Between two reports of changed policies.
const GAP: Duration = Duration::from_millis(100);
/// Time for what is on its way at the end.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// Where to publish: https://HOST:PORT; http://HOST:PORT or unix:///PATH without TLS.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://ebpf-hello-collector:7443"
    )]
    collector: String,
    /// Name of this node [default: the host's].
    #[arg(long = "node", value_name = "NAME", env = "EBPF_HELLO_NODE")]
    name: Option<String>,
    /// Files or folders with ClusterSyscallFilters.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    filters: Vec<PathBuf>,
    /// Where the node's certificate and state are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ebpf-hello")]
    state_dir: PathBuf,
    /// Where events wait on disk while the collector is away. `none`: only memory [default: STATE_DIR/spool].
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Bytes on disk for them.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    spool_size: ByteSize,
    /// Token to enrol with.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities, PEM, that the collector's certificate may be from.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Publish without TLS to an address that is not this machine's.
    #[arg(long)]
    insecure: bool,
    /// Metrics and health.
    #[arg(long, value_name = "ADDR", default_value = "[::]:9464")]
    metrics_addr: SocketAddr,
    /// Events per second that the SyscallFilters of one namespace may make on this node, at most 1000000; what is over
    /// is counted. 0: no bound.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    namespace_rate: u32,
    #[command(flatten)]
    pods: PodArguments,
    #[command(flatten)]
    node: NodeArguments,
}

/// The way to the collector.
enum Way {
    /// With TLS, as this node.
    Identified(Arc<Enrolment>),
    /// As anybody.
    Plain(Box<Endpoint>),
}

pub(crate) fn run(arguments: &AgentArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let name = arguments.name.clone().unwrap_or_else(host_name);
    let kubernetes = runtime.block_on(arguments.pods.connect(&name))?;
    let pods = Arc::new(Pods::default());
    let mut filters = kubernetes.as_ref().map(|kubernetes| {
        FilterWatch::new(kubernetes.clone(), Arc::clone(&pods), &arguments.state_dir)
    });
    let options = NodeOptions {
        load: ebpf_hello_loader::Options {
            namespace_rate: arguments.namespace_rate,
            ..arguments.node.load_options(Exclusion::SelfOnly)?
        },
        node: name,
        epoch: run_epoch(arguments),
        policy: match &mut filters {
            Some(filters) => filters.policy(),
            None => Policy::of(filters::load(&arguments.filters)?),
        },
        redactor: Redactor::new(&arguments.node.redact)?,
        identity: kubernetes.is_some().then(|| arguments.pods.identity(&pods)),
    };
    // Before anything is attached: a collector that cannot be named is no reason to slow a machine down.
    let connect = runtime.block_on(connect(arguments, &options.node))?;
    if let Some(kubernetes) = &kubernetes {
        let _runtime = runtime.enter();
        arguments.pods.follow(kubernetes, &pods);
    }
    let (node, events) = Node::start(options).context("cannot start")?;
    let node = Arc::new(node);
    let publisher = {
        let _runtime = runtime.enter();
        Publisher::start(publish_options(arguments, &node), connect, node.accounts())
            .context("cannot start publishing")?
    };
    let publisher = Arc::new(publisher);
    let local = Arc::new(runtime.block_on(Local::start(&node, None))?);
    let offering = offer(events, Arc::clone(&publisher), Arc::clone(&local))?;
    let result = runtime.block_on(watch(arguments, &node, filters, &publisher, &local));
    node.drain().context("cannot drain")?;
    if offering.join().is_err() {
        bail!("the publishing thread panicked");
    }
    if let Some(local) = Arc::into_inner(local) {
        runtime.block_on(local.drain())?;
    }
    if let Some(publisher) = Arc::into_inner(publisher) {
        let drained = runtime.block_on(publisher.drain(DRAIN));
        tracing::info!(spooled = drained.spooled, "drained");
    }
    page::tell(&ledger::line(&node.ledger()?));
    result
}

fn spool_directory(arguments: &AgentArguments) -> Option<PathBuf> {
    match &arguments.spool {
        None => Some(arguments.state_dir.join("spool")),
        Some(directory) if directory == Path::new("none") => None,
        Some(directory) => Some(directory.clone()),
    }
}

/// The number of this run. Where none can be kept it is the clock's: good as long as that is not set back.
fn run_epoch(arguments: &AgentArguments) -> u64 {
    let spooled = spool_directory(arguments).and_then(|directory| spooled_epoch(&directory));
    epoch::next(&arguments.state_dir, spooled).unwrap_or_else(|error| {
        tracing::error!(%error, "the number of this run is the clock's: nothing is published should that have been set back");
        spooled.map_or(1, |spooled| spooled.saturating_add(1)).max(epoch::from_clock())
    })
}

fn publish_options(arguments: &AgentArguments, node: &Node) -> PublishOptions {
    PublishOptions {
        node: node.name().to_owned(),
        epoch: node.epoch(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        memory: MEMORY,
        spool: spool_directory(arguments).map(|directory| SpoolOptions {
            directory,
            bytes: arguments.spool_size.as_u64(),
        }),
        compress: true,
    }
}

/// How to reach the collector: as this node with TLS, or as anybody without.
async fn connect(arguments: &AgentArguments, node: &str) -> anyhow::Result<Way> {
    let url = &arguments.collector;
    let expected = || {
        format!(
            "--collector {url}: expected https://HOST:PORT, or http://HOST:PORT or unix:///PATH without TLS"
        )
    };
    if url.starts_with("https://") {
        let enrolment = Enrolment::open(EnrolmentOptions {
            node: node.to_owned(),
            collector: url.clone(),
            token: arguments.token_file.clone(),
            authorities: arguments.ca.clone(),
            directory: arguments.state_dir.join("identity"),
        })
        .await?;
        let enrolment = Arc::new(enrolment);
        let kept = Arc::clone(&enrolment);
        tokio::spawn(async move { kept.keep().await });
        return Ok(Way::Identified(enrolment));
    }
    let endpoint = Endpoint::from_shared(url.clone()).with_context(expected)?;
    if let Some(address) = url.strip_prefix("http://") {
        let host = endpoint.uri().host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || host
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        if !is_here && !arguments.insecure {
            bail!(
                "--collector {url}: without TLS only to this machine; use https://{address}, or --insecure"
            );
        }
        if !is_here {
            tracing::warn!(
                collector = url,
                "INSECURE: events go out unencrypted, to whoever answers there"
            );
        }
    } else if !url.starts_with("unix:///") {
        bail!(expected());
    }
    Ok(Way::Plain(Box::new(endpoint)))
}

/// Hands events on, on a thread of its own.
fn offer(
    events: Events,
    publisher: Arc<Publisher>,
    local: Arc<Local>,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("publisher".into())
        .spawn(move || {
            for batch in events {
                if local.is_observed() {
                    local.offer(&batch);
                }
                // Never waits: the rings would fill, and the kernel lose what the spool has room for.
                publisher.offer(batch, Duration::ZERO);
            }
        })
        .context("cannot start the publishing thread")
}

async fn watch(
    arguments: &AgentArguments,
    node: &Arc<Node>,
    filters: Option<FilterWatch>,
    publisher: &Publisher,
    local: &Local,
) -> anyhow::Result<()> {
    let control = Control::bind()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut user = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;
    let mut registry = Registry::default();
    let metrics = NodeMetrics::register(&mut registry, Arc::clone(node), env!("CARGO_PKG_VERSION"));
    Publishing::register(&mut registry, publisher);
    if let Some(filters) = &filters {
        ApiServer::register(&mut registry, filters.kubernetes());
    }
    tokio::spawn(monitor::serve(arguments.metrics_addr, registry, Arc::clone(node) as _).await?);
    let mut watcher = Watcher::new(&arguments.filters)?;
    let programmed = Arc::new(Notify::new());
    if let Some(filters) = filters {
        let (metrics, programmed) = (metrics.clone(), Arc::clone(&programmed));
        tokio::spawn(filters.keep(Arc::clone(node), move |took| {
            metrics.observe_apply(took);
            programmed.notify_one();
        }));
    }
    let reports = report_changes(node, publisher, local, &programmed);
    tokio::pin!(reports);
    let mut tick = interval(TICK);
    let serve = control.serve(node);
    tokio::pin!(serve);
    let canaries = readiness::watch(node);
    tokio::pin!(canaries);
    tracing::info!(
        node = node.name(),
        collector = arguments.collector,
        "running"
    );
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = user.recv() => page::tell(&ledger::line(&node.ledger()?)),
            _ = tick.tick() => {
                if let Err(error) = node.sweep() {
                    tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "cannot follow the cgroups");
                }
                let report = node.report(env!("CARGO_PKG_VERSION"))?;
                local.report(report.clone());
                publisher.reports().send_replace(Some(report));
            }
            () = watcher.changed() => {
                let started = std::time::Instant::now();
                crate::filters::reload(&arguments.filters, node);
                metrics.observe_apply(started.elapsed());
            }
            () = &mut serve => {}
            () = &mut canaries => {}
            () = &mut reports => {}
        }
    }
}

/// Tells at once what became of a changed policy; of many, not more often than people can read.
async fn report_changes(
    node: &Arc<Node>,
    publisher: &Publisher,
    local: &Local,
    programmed: &Notify,
) {
    loop {
        programmed.notified().await;
        let node = Arc::clone(node);
        let report = spawn_blocking(move || node.report(env!("CARGO_PKG_VERSION"))).await;
        if let Ok(Ok(report)) = report {
            local.report(report.clone());
            publisher.reports().send_replace(Some(report));
        }
        sleep(GAP).await;
    }
}

// === impl Way ===

impl Connect for Way {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send + '_>> {
        match self {
            Way::Identified(enrolment) => enrolment.connect(),
            Way::Plain(endpoint) => Connect::connect(endpoint.as_ref()),
        }
    }
}
