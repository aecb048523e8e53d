//! Readiness by canaries: they reach no consumer, are counted apart, and tell when a way is broken.

use std::{
    fs::File,
    io::Read as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_proto::v1::event::Kind;

use crate::{
    agent::{Agent, Collector},
    executable,
    filter::{UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
};

/// Two looks of the readiness and their patience.
const CANARIES: Duration = Duration::from_secs(40);

pub(crate) fn no_canary_reaches_a_consumer_and_each_is_counted() {
    let state = tempfile::tempdir().unwrap();
    let collector = Collector::start();
    let filters = filter("Trace", &[UNUSED_CALL]);
    let agent = Agent::start(
        &collector.url(),
        state.path(),
        &["--filters", filters.path()],
    );
    agent.await_answer("/readyz", 200, "ok");
    let canary = |handler| {
        agent.metric(&format!(
            "ebpf_hello_events_canary_total{{handler=\"{handler}\"}}"
        ))
    };
    assert!(canary("process_exec") >= 1.0);
    assert!(canary("trace") + canary("dispatch") >= 1.0);
    let made = generate(&["call", UNUSED_CALL, "100"]).of(UNUSED_CALL);
    let (_, ledger) = agent.end();
    ledger.assert_balanced();
    assert!(ledger.get("canary") >= 2, "{ledger:?}");
    let events = collector.events();
    let product = executable::product();
    for event in &events {
        let process = event.process.clone().unwrap_or_default();
        // Another instance on this machine has canaries too, of another file: those are events like others.
        assert_ne!(
            process.binary,
            product.to_str().unwrap(),
            "a consumer met a canary: {event:?}"
        );
    }
    let calls = events
        .iter()
        .filter(|event| matches!(event.kind, Some(Kind::Syscall(_))))
        .count();
    assert_eq!(calls as u64, made, "and everything else");
}

pub(crate) fn a_way_that_breaks_makes_it_unready_until_it_is_whole_again() {
    let (output, stdout) = rustix::pipe::pipe().unwrap();
    let filters = filter("Trace", &[UNUSED_CALL]);
    let mut command = Command::new(executable::product());
    command
        .args(["run", "-o", "json", "--ring-size", "64KiB", "--filters"])
        .arg(filters.path())
        .stdout(stdout);
    let instance = Instance::start(command);
    await_unready(&instance, |unready| unready.is_empty());
    // Nobody reads the output: the printer waits, then the reader, then the rings are full.
    generate(&["call", UNUSED_CALL, "200000"]);
    await_unready(&instance, |unready| {
        unready.len() == 2
            && unready
                .iter()
                .all(|why| why.contains("canary came through"))
    });
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        File::from(output).read_to_end(&mut all).unwrap();
    });
    await_unready(&instance, |unready| unready.is_empty());
    let ended = instance.end();
    reader.join().unwrap();
    let ledger = ended.ledger();
    ledger.assert_balanced();
    assert!(ledger.get("lost") > 0);
}

fn await_unready(instance: &Instance, fits: impl Fn(&[String]) -> bool) {
    let deadline = Instant::now() + CANARIES;
    loop {
        let status = instance.status();
        let unready: Vec<String> = serde_json::from_value(status["unready"].clone()).unwrap();
        if fits(&unready) {
            return;
        }
        assert!(Instant::now() < deadline, "{unready:?}");
        thread::sleep(Duration::from_millis(200));
    }
}
