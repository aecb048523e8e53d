//! The benchmarks' smoke form: they run, and tell every name. What the figures are is no test's business.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::executable;

const NAMES: [&str; 31] = [
    "cpu/collector",
    "cpu/consumer",
    "cpu/publisher",
    "cpu/publisher/making-events",
    "edit/close-to-first-event/p50",
    "edit/close-to-first-event/p99",
    "latency/exec-to-consumer/p50",
    "latency/exec-to-consumer/p99",
    "process/exec/events-off",
    "process/exec/events-on",
    "process/exec/nothing-attached",
    "process/fork-exec-exit/events-off",
    "process/fork-exec-exit/events-on",
    "process/fork-exec-exit/nothing-attached",
    "record/first-to-stdout/p50",
    "record/first-to-stdout/p99",
    "record/last-of-burst-to-stdout/p50",
    "record/last-of-burst-to-stdout/p99",
    "syscall/count",
    "syscall/empty-program",
    "syscall/nothing-attached",
    "syscall/openat/empty-program",
    "syscall/openat/nothing-attached",
    "syscall/openat/path",
    "syscall/rate-limited",
    "syscall/selected-elsewhere",
    "syscall/trace",
    "syscall/unselected/20-filters",
    "syscall/unselected/20-filters-and-sys-exit",
    "throughput/kernel-without-loss",
    "throughput/synthetic",
];

pub(crate) fn every_name_is_measured_and_what_is_measured_happened() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path().join("results.json");
    // It fails by itself when calls were not counted, suppressed or delivered as a name says.
    let status = Command::new(executable::bench())
        .args(["--quick", "--results"])
        .arg(&results)
        .env("EBPF_HELLO_BIN", executable::product())
        .env("EBPF_HELLO_GENERATOR", executable::generator())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let figures: Vec<Value> = serde_json::from_slice(&fs::read(results).unwrap()).unwrap();
    let names: BTreeSet<&str> = figures
        .iter()
        .map(|figure| figure["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(NAMES));
    for figure in &figures {
        let number = |field: &str| figure[field].as_f64().unwrap();
        assert!(
            0.0 < number("min") && number("min") <= number("median"),
            "{figure}"
        );
        assert!(number("median") <= number("max"), "{figure}");
        if let Some(baseline) = figure["baseline"].as_str() {
            assert!(names.contains(baseline), "{figure}");
            assert!(number("ratio") > 0.0, "{figure}");
        }
    }
}
