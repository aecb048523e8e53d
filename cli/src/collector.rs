//! `ebpf-hello collector`: takes what agents publish, keeps it, serves it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;
use ebpf_hello_collector::{
    access::{
        Door, Limits, Listen, Reload, TlsFiles, check_plain, connections_within, raise_open_files,
    },
    caller::{Authenticate, Trusted},
    fleet::Peers,
    ingest::Enrol,
    kubernetes::Kubernetes,
    lease::LeaseOptions,
    log::{DEFAULT_MEMORY, Log, Memory, Nats, NatsOptions, Store, StoreOptions},
    metrics::CollectorMetrics,
    serve::{Collector, Handshake, Listener, Options, serve},
    status::StatusWriter,
};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    access::{self, AccessArguments},
    args::duration,
    monitor::{self, Health},
    socket,
};

#[derive(Debug, Args)]
pub(crate) struct CollectorArguments {
    /// Addresses to serve agents and consumers on: HOST:PORT, :PORT, or unix:///PATH.
    #[arg(long, value_name = "ADDR", default_value = ":7443")]
    listen: Vec<Listen>,
    /// Where events are kept. Without it only in memory: gone at the end.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Bytes of events that are kept, as compressed.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    store_size: ByteSize,
    /// Age of events that are kept.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
    store_age: Duration,
    /// What shares events out: memory, for one collector; nats://HOST:PORT or tls://HOST:PORT, for any number.
    #[arg(long, value_name = "HUB", default_value = "memory")]
    hub: String,
    /// Credentials file for NATS (JWT and nkey seed).
    #[arg(long, value_name = "FILE")]
    hub_credentials: Option<PathBuf>,
    /// Authorities, PEM, that the NATS server's certificate may be from.
    #[arg(long, value_name = "FILE")]
    hub_ca: Option<PathBuf>,
    /// Certificate for NATS, PEM.
    #[arg(long, value_name = "FILE", requires = "hub_key")]
    hub_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "hub_cert")]
    hub_key: Option<PathBuf>,
    /// Metrics and health.
    #[arg(long, value_name = "ADDR", default_value = "[::]:9464")]
    metrics_addr: SocketAddr,
    /// Connections at once from one address: as many agents as come through one, where something translates theirs.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_address)]
    connections_per_address: usize,
    #[command(flatten)]
    access: AccessArguments,
    #[command(flatten)]
    kubernetes: KubernetesArguments,
    /// Origins whose pages may read events in a browser; none by default.
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
}

/// Which cluster it is part of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
struct KubernetesArguments {
    /// Asks an API server, and writes the status of filters there.
    #[arg(long)]
    kubernetes: bool,
    /// How to reach the API server [default: as the pod's ServiceAccount].
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of this collector and its agents [default: the pod's, or the kubeconfig's].
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    namespace: Option<String>,
    /// DaemonSet of the agents: it says which nodes should run one.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-agent")]
    agent_daemonset: String,
    /// Lease whose holder, one of several collectors, writes status.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-collector")]
    lease: String,
}

/// A collector's health: it runs, or its process has ended.
struct Running(Arc<Collector>);

impl CollectorArguments {
    /// Whether other collectors have the same events.
    fn is_hub_shared(&self) -> bool {
        self.hub.starts_with("nats://") || self.hub.starts_with("tls://")
    }
}

pub(crate) fn run(arguments: &CollectorArguments) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?
        .block_on(collect(arguments))
}

async fn collect(arguments: &CollectorArguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let kubernetes = kubernetes(&arguments.kubernetes).await?;
    let access = access::set_up(&arguments.access, kubernetes.as_ref()).await?;
    let defaults = Options::default();
    let options = Options {
        origins: arguments.cors_origin.clone(),
        max_connections: connections_within(raise_open_files(), defaults.max_connections),
        ..defaults
    };
    let (log, nats) = log(arguments).await?;
    let enrol = access
        .enrollment
        .map(|enrollment| Arc::new(enrollment) as Arc<dyn Enrol>);
    let collector = Collector::new(log, enrol, options);
    let _peers = nats.map(|nats| Peers::start(&nats, collector.fleet().clone()));
    let (listeners, _socket) = listeners(arguments, access.tls, access.authenticate).await?;

    let mut registry = Registry::default();
    CollectorMetrics::register(&mut registry, collector.clone(), env!("CARGO_PKG_VERSION"));
    let status = kubernetes.map(|kubernetes| {
        let KubernetesArguments {
            agent_daemonset,
            lease,
            ..
        } = &arguments.kubernetes;
        let lease = LeaseOptions::new(lease);
        StatusWriter::start(
            &kubernetes,
            collector.fleet().clone(),
            agent_daemonset,
            lease,
        )
    });
    if let Some(status) = &status {
        status.register(&mut registry);
    }
    let health: Arc<dyn Health> = Arc::new(Running(collector.clone()));
    let monitor = monitor::serve(arguments.metrics_addr, registry, health).await?;
    tokio::spawn(monitor);

    let mut serving = tokio::spawn(serve(collector.clone(), listeners));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ended = &mut serving => return ended.context("the server panicked")?.context("cannot serve"),
    }
    // First: agents that lose their stream because we end are not missing.
    if let Some(status) = status {
        status.stop().await;
    }
    collector.stop();
    serving
        .await
        .context("the server panicked")?
        .context("cannot serve")
}

/// The API server, if there is one to ask.
async fn kubernetes(arguments: &KubernetesArguments) -> anyhow::Result<Option<Kubernetes>> {
    if !arguments.kubernetes {
        return Ok(None);
    }
    let (kubeconfig, namespace) = (&arguments.kubeconfig, &arguments.namespace);
    Kubernetes::new(kubeconfig.as_deref(), namespace.as_deref())
        .await
        .context("--kubernetes")
        .map(Some)
}

/// The log, and the NATS server if it is there that the log is.
async fn log(arguments: &CollectorArguments) -> anyhow::Result<(Arc<dyn Log>, Option<Arc<Nats>>)> {
    if arguments.is_hub_shared() {
        let nats = Arc::new(nats(arguments).await?);
        return Ok((nats.clone(), Some(nats)));
    }
    if arguments.hub != "memory" {
        bail!(
            "--hub {}: expected memory, nats://HOST:PORT or tls://HOST:PORT",
            arguments.hub
        );
    }
    let log: Arc<dyn Log> = match &arguments.store {
        None => {
            tracing::info!("events are kept in memory only: they are gone when this process ends");
            Arc::new(Memory::new(DEFAULT_MEMORY))
        }
        Some(directory) => Arc::new(
            Store::open(StoreOptions {
                max_bytes: arguments.store_size.as_u64(),
                max_age: arguments.store_age,
                ..StoreOptions::new(directory)
            })
            .await
            .context("cannot open the store")?,
        ),
    };
    Ok((log, None))
}

async fn nats(arguments: &CollectorArguments) -> anyhow::Result<Nats> {
    if arguments.store.is_some() {
        bail!("--store goes with --hub memory: with NATS the events are in its stream");
    }
    let certificate = arguments.hub_cert.clone().zip(arguments.hub_key.clone());
    Nats::open(NatsOptions {
        credentials: arguments.hub_credentials.clone(),
        authorities: arguments.hub_ca.clone(),
        certificate,
        max_bytes: arguments.store_size.as_u64(),
        max_age: arguments.store_age,
        ..NatsOptions::new(arguments.hub.clone())
    })
    .await
    .context("cannot use the hub")
}

async fn listeners(
    arguments: &CollectorArguments,
    tls: Option<Arc<Reload<TlsFiles>>>,
    authenticate: Arc<dyn Authenticate>,
) -> anyhow::Result<(Vec<Listener>, Option<socket::Served>)> {
    let mut limits = Limits {
        connections_per_address: arguments.connections_per_address,
        ..Limits::default()
    };
    if arguments.is_hub_shared() {
        limits.age = Limits::SHARED_AGE;
    }
    let door: Arc<dyn Handshake> = Arc::new(Door::new(tls.clone(), limits));
    let mut listeners = Vec::new();
    for listen in &arguments.listen {
        if let (Listen::Tcp(address), None) = (listen, &tls) {
            check_plain(*address, arguments.access.is_insecure())?;
        }
        let socket = listen.bind().await?;
        let listener = match listen {
            Listen::Unix(path) => {
                tracing::info!(path = %path.display(), "serving");
                Listener {
                    socket,
                    handshake: None,
                    // Its mode decides who may connect.
                    authenticate: Arc::new(Trusted),
                }
            }
            Listen::Tcp(address) => {
                tracing::info!(%address, tls = tls.is_some(), "serving");
                Listener {
                    socket,
                    handshake: Some(door.clone()),
                    authenticate: authenticate.clone(),
                }
            }
        };
        listeners.push(listener);
    }
    let socket = match socket::bind(None).await {
        Ok((local, socket)) => {
            tracing::info!(server = socket.url(), "serving observers on this machine");
            listeners.push(local);
            Some(socket)
        }
        // Whoever is not root can still be asked at its other addresses.
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "not serving observers on this machine"
            );
            None
        }
    };
    Ok((listeners, socket))
}

// === impl Running ===

impl Health for Running {
    fn ailments(&self) -> Vec<String> {
        Vec::new()
    }

    fn lacks(&self) -> Vec<String> {
        self.0.lacks()
    }
}
