//! io_uring: what passes sys_enter by is counted while a policy wants the call.

use ebpf_hello_proto::v1::event::Kind;

use crate::{
    events::of_process, filter::filter, generator::generate, instance::Instance,
    kernel_object::tracepoints_of,
};

pub(crate) fn operations_of_a_call_that_a_rule_names_are_counted() {
    const OPERATIONS: u64 = 137;
    let filter = filter("Path", &["openat"]);
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "--counts",
        "200ms",
        "-o",
        "json",
    ]);
    assert_eq!(run.status()["ioUring"]["attached"], true);
    let count = OPERATIONS.to_string();
    let made = generate(&["io-uring", "openat", &count]);
    generate(&["io-uring", "nop", "55"]);
    run.await_log("the operations' row", |line| {
        line.split_whitespace()
            .eq(["IORING_OP_OPENAT", "io_uring", count.as_str()])
    });
    assert_eq!(run.status()["ioUring"]["operations"], OPERATIONS);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let opened = of_process(&events, made.pid())
        .into_iter()
        .filter(|event| matches!(&event.kind, Some(Kind::Path(path)) if path.path == "/dev/null"))
        .count();
    assert_eq!(opened, 0, "no system call opened it");
}

pub(crate) fn the_tracepoint_is_attached_only_while_a_call_with_an_operation_is_wanted() {
    for (call, attached) in [("getppid", false), ("connect", true)] {
        let filter = filter("Count", &[call]);
        let run = Instance::run(&["--filters", filter.path()]);
        assert_eq!(run.status()["ioUring"]["attached"], attached, "{call}");
        let tracepoints = tracepoints_of(run.pid());
        assert_eq!(
            tracepoints
                .iter()
                .any(|name| name.starts_with("io_uring_submit")),
            attached,
            "the kernel's own answer for {call}: {tracepoints:?}"
        );
        run.end().ledger().assert_balanced();
    }
}
