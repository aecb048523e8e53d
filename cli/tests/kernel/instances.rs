//! Several instances on one kernel, and one that is killed.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    events::{exit, of_process, pid_of, process, syscall},
    executable,
    filter::{UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
    kernel_object::{Objects, objects_of},
    stream::DEADLINE,
};

pub(crate) fn two_instances_neither_disturb_nor_feed_each_other() {
    let filter = filter("Trace", &[UNUSED_CALL]);
    let everything = Instance::trace_everything();
    let chosen = Instance::run(&["--filters", filter.path(), "-o", "json", "-v"]);
    let pids = [everything.pid(), chosen.pid()];
    let output = Command::new(executable::product())
        .arg("status")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--instance PID") && pids.iter().all(|pid| said.contains(&pid.to_string())),
        "which of them is to be chosen: {said}"
    );
    let both = generate(&["call", UNUSED_CALL, "500"]);
    for (instance, pid) in [(&everything, pids[0]), (&chosen, pids[1])] {
        assert_eq!(instance.status()["pid"], pid, "each answers for itself");
    }
    let everything = everything.end();
    let one = generate(&["call", UNUSED_CALL, "300"]);
    let chosen = chosen.end();

    everything.ledger().assert_balanced();
    chosen.ledger().assert_complete();
    assert_eq!(
        chosen.ledger().row("trace").delivered,
        800,
        "another's end disturbs nothing"
    );
    let calls = |events: &[_], pid| {
        of_process(events, pid)
            .into_iter()
            .filter_map(syscall)
            .filter(|call| call.name == UNUSED_CALL)
            .count()
    };
    let (everything, chosen) = (everything.events(), chosen.events());
    assert_eq!(calls(&everything, both.pid()), 500);
    assert_eq!(calls(&chosen, both.pid()), 500);
    assert_eq!(calls(&chosen, one.pid()), 300);
    let starter = fs::read_to_string("/proc/thread-self/comm").unwrap();
    for event in everything.iter().chain(&chosen) {
        // Between its fork and its exec a new instance is still its starter's image.
        let is_ours = pids.contains(&pid_of(event)) && process(event).comm != starter.trim_end();
        assert!(!is_ours, "an instance reports an instance: {event:?}");
    }
}

pub(crate) fn a_killed_instance_leaves_no_program_map_or_link() {
    let run = Instance::run(&["--default", "count"]);
    let held = objects_of(run.pid());
    let status = run.status();
    let ids = |list: &str| -> BTreeSet<u32> {
        let rows = status[list].as_array().unwrap();
        let id = |row: &Value| u32::try_from(row["id"].as_u64().unwrap()).unwrap();
        rows.iter().map(id).collect()
    };
    let objects = Objects {
        programs: &held.programs | &ids("programs"),
        maps: &held.maps | &ids("maps"),
        links: held.links,
    };
    assert!(objects.programs.len() >= 10 && objects.maps.len() >= 10 && objects.links.len() >= 5);
    assert_eq!(objects.alive(), objects, "all of them are there before");

    run.signal(Signal::KILL);
    assert!(!run.await_end().status.success());
    // The kernel frees them a grace period after the last descriptor.
    let deadline = Instant::now() + DEADLINE;
    while objects.alive() != Objects::default() {
        assert!(
            Instant::now() < deadline,
            "left behind: {:?}",
            objects.alive()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn status_lists_what_the_kernel_has_of_the_instance() {
    let run = Instance::run(&["--default", "count"]);
    let status = run.status();
    let held = objects_of(run.pid());
    let programs = status["programs"].as_array().unwrap();
    let ids: BTreeSet<_> = programs
        .iter()
        .map(|program| u32::try_from(program["id"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(ids, held.programs);
    assert_eq!(status["execSource"]["source"], "sched_process_exec");
    let socket = format!("/run/ebpf-hello/{}.sock", run.pid());
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{socket} is for root alone");

    let output = Command::new(executable::product())
        .args(["status", "--instance", &run.pid().to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for program in programs {
        let (id, name) = (program["id"].to_string(), program["name"].as_str().unwrap());
        let tag = program["tag"].as_str().unwrap();
        let shown = rows
            .iter()
            .any(|row| row.starts_with(&[&id, name]) && row.contains(&tag));
        assert!(shown, "no row of {program} in:\n{text}");
    }
    run.end();
    assert!(
        !fs::exists(&socket).unwrap(),
        "{socket} goes with its instance"
    );
}

pub(crate) fn sigusr1_prints_the_ledger_and_sigterm_ends_with_it() {
    let run = Instance::run(&["--default", "ignore"]);
    run.signal(Signal::USR1);
    run.await_log("the ledger of a running instance", |line| {
        line.starts_with("ledger: ")
    });
    run.signal(Signal::TERM);
    let ended = run.await_end();
    assert!(ended.status.success(), "{}", ended.status);
    let ledgers = ended
        .stderr
        .iter()
        .filter(|line| line.starts_with("ledger: "));
    assert_eq!(ledgers.count(), 2, "{:?}", ended.stderr);
    ended.ledger().assert_complete();
}

pub(crate) fn an_instance_after_a_killed_one_starts_afresh() {
    let killed = Instance::run(&["--default", "ignore", "-o", "json"]);
    killed.signal(Signal::KILL);
    killed.await_end();
    let run = Instance::run(&["--default", "ignore", "-o", "json"]);
    let made = generate(&["burst", "3", "--", "/bin/true"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    for child in made.processes() {
        let own = of_process(&events, child.pid);
        assert_eq!(own.iter().filter(|event| exit(event).is_some()).count(), 1);
    }
}
