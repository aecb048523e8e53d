//! What Prometheus reads of a collector: its ledger, read at each scrape.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector as AtScrape,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::serve::Collector;

/// The collector's numbers, read when asked.
#[derive(Debug)]
pub struct CollectorMetrics {
    collector: Arc<Collector>,
    version: &'static str,
}

// === impl CollectorMetrics ===

impl CollectorMetrics {
    /// Registers everything `ebpf_hello_…` that a collector knows.
    pub fn register(registry: &mut Registry, collector: Arc<Collector>, version: &'static str) {
        registry.register_collector(Box::new(CollectorMetrics { collector, version }));
    }
}

impl AtScrape for CollectorMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut info = encoder.encode_descriptor(
            "ebpf_hello_build_info",
            "Always 1; the labels say what runs",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(1_i64).encode(info.encode_family(&[("version", self.version)])?)?;
        let accounts = self.collector.accounts();
        let ledger = accounts.ledger();
        let counters = [
            (
                "ebpf_hello_collector_events_received",
                "Events that agents published here",
                ledger.received,
            ),
            (
                "ebpf_hello_collector_events_stored",
                "Of the received, now in the store",
                ledger.stored,
            ),
            (
                "ebpf_hello_collector_events_duplicate",
                "Of the received, in the store before",
                ledger.duplicates,
            ),
            (
                "ebpf_hello_collector_refusals",
                "Agents' streams that were not opened, and batches that are invalid",
                accounts.refusals(),
            ),
            (
                "ebpf_hello_collector_batch_gaps",
                "Batches that are missing in the numbers of a node's agent",
                accounts.gaps(),
            ),
            (
                "ebpf_hello_subscriber_events_sent",
                "Events written to streams",
                ledger.sent,
            ),
            (
                "ebpf_hello_subscriber_lost",
                "Events dropped because a stream was not read",
                ledger.dropped,
            ),
        ];
        for (name, help, value) in counters {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let gauges = [
            (
                "ebpf_hello_subscribers",
                "Streams of events being read",
                i64::from(ledger.subscribers),
            ),
            (
                "ebpf_hello_subscriber_queue_events",
                "Events that wait for a stream to be read",
                i64::try_from(ledger.queued).unwrap_or(i64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}
