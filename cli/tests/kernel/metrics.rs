//! The agent's metrics: the names that dashboards rely on, and the ledger's equation in them.

use crate::{
    agent::{Agent, Collector},
    filter::{UNUSED_CALL, filter},
    generator::generate,
    monitor::metric_names,
};

/// What a node has from its start on.
const NAMES: [&str; 19] = [
    "ebpf_hello_build_info",
    "ebpf_hello_events_canary_total",
    "ebpf_hello_events_counted_total",
    "ebpf_hello_events_delivered_total",
    "ebpf_hello_events_lost_total",
    "ebpf_hello_events_seen_total",
    "ebpf_hello_events_self_total",
    "ebpf_hello_events_suppressed_total",
    "ebpf_hello_events_table_miss_total",
    "ebpf_hello_filter_apply_seconds",
    "ebpf_hello_invalid_filters",
    "ebpf_hello_program_run_count_total",
    "ebpf_hello_program_run_seconds_total",
    "ebpf_hello_publisher_connected",
    "ebpf_hello_publisher_memory_bytes",
    "ebpf_hello_ringbuf_bytes",
    "ebpf_hello_spool_batches",
    "ebpf_hello_spool_bytes",
    "ebpf_hello_tables",
];

pub(crate) fn the_endpoint_has_the_documented_names_and_the_ledgers_equation() {
    let state = tempfile::tempdir().unwrap();
    let collector = Collector::start();
    let filters = filter("Trace", &[UNUSED_CALL]);
    let agent = Agent::start(
        &collector.url(),
        state.path(),
        &["--filters", filters.path()],
    );
    agent.await_answer("/readyz", 200, "ok");
    let made = generate(&["call", UNUSED_CALL, "1000"]).of(UNUSED_CALL);
    agent.await_metric(
        "ebpf_hello_events_delivered_total{handler=\"trace\"}",
        |it| it as u64 == made,
    );
    let text = agent.get("/metrics").text;
    let told = metric_names(&text);
    for name in NAMES {
        assert!(told.contains(name), "no {name} in {told:?}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("ebpf_hello_"), "{line}");
        value.parse::<f64>().unwrap();
    }
    assert!(text.contains("ebpf_hello_ringbuf_bytes{shard=\"0\"} "));
    assert!(text.contains("ebpf_hello_tables{state=\"live\"} 1"));

    // One scrape is one look at the ledger: what is in none of the fates is on its way.
    let sum = |name: &str| -> f64 {
        let prefix = format!("ebpf_hello_events_{name}_total{{");
        text.lines()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    };
    let fates = [
        "delivered",
        "counted",
        "suppressed",
        "self",
        "canary",
        "table_miss",
        "lost",
    ];
    let settled: f64 = fates.iter().map(|fate| sum(fate)).sum();
    let on_the_way = sum("seen") - settled;
    assert!((0.0..10_000.0).contains(&on_the_way), "{on_the_way}");
    assert!(sum("seen") >= made as f64);
    let (_, ledger) = agent.end();
    ledger.assert_balanced();
    assert_eq!(ledger.get("lost"), 0, "{ledger:?}");
}
