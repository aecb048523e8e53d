//! What Prometheus reads of the status writer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector as AtScrape,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::lease::Holding;

/// Counts of one writer.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Statuses that the API server took.
    pub(super) written: AtomicU64,
    /// Refused because the object had changed.
    pub(super) outdated: AtomicU64,
    /// Failed for another reason.
    pub(super) failed: AtomicU64,
    /// Events that were left out, to send no more than are useful.
    pub(super) events_left_out: AtomicU64,
    /// A watch broke and is not yet open again.
    pub(super) is_cut: AtomicBool,
}

/// The numbers, read when asked.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) counts: Arc<Counts>,
    pub(super) holding: Holding,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }
}

impl AtScrape for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = [
            (
                "ebpf_hello_status_writes",
                "Statuses of filters that were written",
                &self.counts.written,
            ),
            (
                "ebpf_hello_status_conflicts",
                "Statuses that were refused because the filter had changed",
                &self.counts.outdated,
            ),
            (
                "ebpf_hello_status_failures",
                "Statuses that could not be written",
                &self.counts.failed,
            ),
            (
                "ebpf_hello_status_events_left_out",
                "Kubernetes events that were not sent, because there were too many",
                &self.counts.events_left_out,
            ),
        ];
        for (name, help, value) in counters {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value.load(Relaxed)).encode(metric)?;
        }
        let gauges = [
            (
                "ebpf_hello_lease_held",
                "Whether this collector writes status: 1 or 0",
                self.holding.term().is_some(),
            ),
            (
                "ebpf_hello_api_server_up",
                "Whether the API server answers this collector: 1 or 0",
                self.holding.is_answered() && !self.counts.is_cut.load(Relaxed),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::from(value)).encode(metric)?;
        }
        Ok(())
    }
}
