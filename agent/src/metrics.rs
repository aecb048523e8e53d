//! What Prometheus reads of a node: read from the kernel and the ledger at each scrape, so that nothing is
//! kept twice.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ebpf_hello_loader::ProgramStatus;
use ebpf_hello_proto::v1::{self, HandlerLedger, Ledger, LossReason, LossStage, LostCount};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelValue, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    Node, Status,
    kubernetes::{Kubernetes, Reach},
    ledger,
    publish::{PublishState, Publisher, StateWatch},
};

/// Seconds from a changed policy to its table in the kernel.
const APPLY_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Measurements that only who makes them knows.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    filter_apply: Histogram,
}

/// A publisher's numbers, read when asked.
#[derive(Debug)]
pub struct Publishing(StateWatch);

/// Whether the API server answers, read when asked.
#[derive(Debug)]
pub struct ApiServer(Reach);

/// The kernel's and the ledger's numbers, read when asked.
struct AtScrape {
    node: Arc<Node>,
    version: &'static str,
    /// The last error, so that one that stays is logged once.
    failed: Mutex<Option<String>>,
}

// === impl NodeMetrics ===

impl NodeMetrics {
    /// Registers everything `ebpf_hello_…` that a node knows.
    pub fn register(registry: &mut Registry, node: Arc<Node>, version: &'static str) -> Self {
        let filter_apply = Histogram::new(APPLY_BUCKETS);
        registry.register_with_unit(
            "ebpf_hello_filter_apply",
            "Time from a changed policy to its table in the kernel",
            Unit::Seconds,
            filter_apply.clone(),
        );
        if let Some(identity) = &node.identity {
            identity.register(registry);
        }
        registry.register_collector(Box::new(AtScrape {
            node,
            version,
            failed: Mutex::default(),
        }));
        NodeMetrics { filter_apply }
    }

    /// Notes how long a policy change took.
    pub fn observe_apply(&self, took: Duration) {
        self.filter_apply.observe(took.as_secs_f64());
    }
}

// === impl AtScrape ===

impl AtScrape {
    fn encode_rings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        family(
            encoder,
            "ebpf_hello_ringbuf_bytes",
            "Bytes that wait in a ring buffer",
            MetricType::Gauge,
            (0_u32..)
                .zip(self.node.ring_bytes_waiting())
                .map(|(shard, bytes)| ([("shard", shard)], bytes)),
        )
    }
}

impl fmt::Debug for AtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtScrape").finish_non_exhaustive()
    }
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.node.state(self.version);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Ok((status, _)) => {
                *failed = None;
                encode_status(&status, &mut encoder)?;
                gauge(
                    &mut encoder,
                    "ebpf_hello_invalid_filters",
                    "Filters that are invalid as they are: the last good one stays, where there was one",
                    self.node.invalid_filters(),
                )?;
                self.encode_rings(&mut encoder)
            }
            Err(error) => {
                // The metrics that are missing tell; a scrape that failed as a whole would hide the rest.
                let error = error.to_string();
                if failed.as_deref() != Some(&error) {
                    tracing::error!(%error, "the node's metrics cannot be read");
                    *failed = Some(error);
                }
                Ok(())
            }
        }
    }
}

// === impl Publishing ===

impl Publishing {
    /// Registers everything `ebpf_hello_…` that a publisher knows.
    pub fn register(registry: &mut Registry, publisher: &Publisher) {
        registry.register_collector(Box::new(Publishing(publisher.watch())));
    }
}

impl Collector for Publishing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let PublishState {
            connected,
            memory_bytes,
            spool_bytes,
            spool_batches,
            spool_error,
            ..
        } = self.0.state();
        let gauges = [
            (
                "ebpf_hello_publisher_connected",
                "1 while a collector takes what is published",
                u64::from(connected),
            ),
            (
                "ebpf_hello_publisher_memory_bytes",
                "Bytes of batches in memory that no collector has acknowledged",
                memory_bytes as u64,
            ),
            (
                "ebpf_hello_spool_bytes",
                "Bytes of the spool on disk",
                spool_bytes,
            ),
            (
                "ebpf_hello_spool_batches",
                "Batches in the spool",
                spool_batches as u64,
            ),
            (
                "ebpf_hello_spool_failed",
                "1 while the spool cannot be opened or written",
                u64::from(spool_error.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

// === impl ApiServer ===

impl ApiServer {
    /// Registers `ebpf_hello_api_server_up`.
    pub fn register(registry: &mut Registry, kubernetes: &Kubernetes) {
        registry.register_collector(Box::new(ApiServer(kubernetes.reach.clone())));
    }
}

impl Collector for ApiServer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        gauge(
            &mut encoder,
            "ebpf_hello_api_server_up",
            "Whether the API server answers this agent: 1 or 0",
            u64::from(self.0.away().is_none()),
        )
    }
}

fn encode_status(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    family(
        encoder,
        "ebpf_hello_build_info",
        "Always 1; the labels say what runs",
        MetricType::Gauge,
        [([("version", status.version.as_str())], 1)],
    )?;
    encode_ledger(&status.ledger, encoder)?;
    let tables = &status.tables;
    let live = tables.live as u64;
    family(
        encoder,
        "ebpf_hello_tables",
        "Tail-call tables by state",
        MetricType::Gauge,
        [
            ([("state", "live")], live),
            (
                [("state", "free")],
                u64::from(tables.capacity).saturating_sub(live),
            ),
        ],
    )?;
    encode_programs(&status.programs, encoder)
}

/// Run statistics, while the kernel keeps them.
fn encode_programs(programs: &[ProgramStatus], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let measured = || {
        programs
            .iter()
            .filter_map(|program| Some((program, program.runs?)))
    };
    family(
        encoder,
        "ebpf_hello_program_run_count",
        "Runs of an eBPF program, while kernel.bpf_stats_enabled is 1",
        MetricType::Counter,
        measured().map(|(program, runs)| ([("program", program.name.as_str())], runs)),
    )?;
    let mut metric = encoder.encode_descriptor(
        "ebpf_hello_program_run",
        "Time in an eBPF program, while kernel.bpf_stats_enabled is 1",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for (program, runs) in measured() {
        let nanoseconds = program.average_nanoseconds.unwrap_or_default() as f64 * runs as f64;
        ConstCounter::new(nanoseconds / 1e9)
            .encode(metric.encode_family(&[("program", program.name.as_str())])?)?;
    }
    Ok(())
}

/// Every term of the ledger, by handler: the equation can be checked on what Prometheus stores.
fn encode_ledger(ledger: &Ledger, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Term = (&'static str, &'static str, fn(&HandlerLedger) -> u64);
    const TERMS: [Term; 6] = [
        (
            "ebpf_hello_events_seen",
            "Calls and process records of this node whose fate was decided",
            |row| row.seen,
        ),
        (
            "ebpf_hello_events_delivered",
            "Events printed, or taken by the collector",
            |row| row.delivered,
        ),
        (
            "ebpf_hello_events_counted",
            "Calls counted in the kernel instead of reported",
            |row| row.counted,
        ),
        (
            "ebpf_hello_events_self",
            "Made by ebpf-hello itself and not reported",
            |row| row.self_,
        ),
        ("ebpf_hello_events_canary", "Readiness canaries", |row| {
            row.canary
        }),
        (
            "ebpf_hello_events_table_miss",
            "Calls of a cgroup whose policy found no table",
            |row| row.table_miss,
        ),
    ];
    for (name, help, term) in TERMS {
        family(
            encoder,
            name,
            help,
            MetricType::Counter,
            ledger
                .handlers
                .iter()
                .map(|row| ([("handler", row.handler().label())], term(row))),
        )?;
    }
    family(
        encoder,
        "ebpf_hello_events_suppressed",
        "Events left out on request",
        MetricType::Counter,
        ledger.handlers.iter().flat_map(|row| {
            row.suppressed.iter().map(|suppressed| {
                let labels = [
                    ("handler", row.handler().label()),
                    ("reason", suppressed.reason().label()),
                ];
                (labels, suppressed.count)
            })
        }),
    )?;
    let lost = |handler: v1::Handler, rows: &[LostCount], (stage, reason)| {
        let labels = [
            ("handler", handler.label()),
            ("stage", LossStage::label(stage)),
            ("reason", LossReason::label(reason)),
        ];
        let row = rows
            .iter()
            .find(|row| (row.stage(), row.reason()) == (stage, reason));
        (labels, row.map_or(0, |row| row.count))
    };
    // All that there can be: who asks how a row grew does not see what it began with.
    let known = ledger::losses();
    let of_handlers = ledger.handlers.iter().flat_map(|row| {
        known
            .iter()
            .map(|loss| lost(row.handler(), &row.lost, *loss))
    });
    let of_none = lost(v1::Handler::Unspecified, &ledger.lost, ledger::MALFORMED);
    family(
        encoder,
        "ebpf_hello_events_lost",
        "Events lost against everyone's wish",
        MetricType::Counter,
        of_handlers.chain([of_none]),
    )
}

/// One metric with one number.
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

/// One metric with a row for each set of labels.
fn family<V: EncodeLabelValue, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: impl IntoIterator<Item = ([(&'static str, V); N], u64)>,
) -> fmt::Result {
    let mut metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let row = metric.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value).encode(row)?,
            // A number of tables, or 1.
            _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(row)?,
        }
    }
    Ok(())
}
