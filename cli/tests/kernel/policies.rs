//! Policies: who they are for, how much of it they let through, what they add, and how they change.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use ebpf_hello_proto::v1::{Event, event::Kind};

use crate::{
    cgroup::Cgroup,
    events::{left_out, of_process, syscall},
    filter::{FilterFile, UNUSED_CALL},
    generator::{command, generate},
    instance::{Ended, Instance},
};

/// `-ENOSYS`: what a call answers that Linux never implemented.
const NOT_IMPLEMENTED: i64 = -38;

fn run(filter: &FilterFile) -> Instance {
    let path = filter.path();
    Instance::run(&[
        "--filters",
        path,
        "--process-events",
        "off",
        "-o",
        "json",
        "-v",
    ])
}

fn complete(run: Instance) -> Ended {
    let ended = run.end();
    ended.ledger().assert_complete();
    ended
}

pub(crate) fn one_call_in_ten_is_an_event_and_the_others_are_counted() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Trace, sampling: 10}}\n"
    ));
    let run = run(&filter);
    let made = generate(&["call", UNUSED_CALL, "1000"]);
    let ended = complete(run);
    let ledger = ended.ledger();
    assert_eq!(
        (ledger.get("delivered"), ledger.get("suppressed")),
        (100, 900)
    );
    let events = ended.events();
    let calls = of_process(&events, made.pid());
    assert_eq!(calls.len(), 100);
    let told = left_out(&events, calls[0].cgroup_id);
    assert_eq!(told.into_values().collect::<Vec<_>>(), [900]);
}

pub(crate) fn a_rate_limit_lets_its_burst_through_and_accounts_for_the_rest() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Trace, rateLimit: {{eventsPerSecond: 1, burst: 10}}}}\n"
    ));
    let run = run(&filter);
    generate(&["call", UNUSED_CALL, "100000"]);
    let ended = complete(run);
    let ledger = ended.ledger();
    assert_eq!(
        ledger.get("seen") - ledger.get("self") - ledger.get("canary"),
        100_000
    );
    // The burst, and one more for each second that the calls may have taken.
    assert!(
        (10..=20).contains(&ledger.get("delivered")),
        "{}",
        ledger.get("delivered")
    );
}

pub(crate) fn a_joined_call_tells_what_it_returned() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Trace, returns: true}}\n"
    ));
    let run = run(&filter);
    let made = generate(&["call", UNUSED_CALL, "100"]);
    let ended = complete(run);
    let events = ended.events();
    let returned: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| syscall(event)?.return_value)
        .collect();
    assert_eq!(returned, [NOT_IMPLEMENTED; 100]);
}

pub(crate) fn a_failed_exec_is_one_event_with_its_errno() {
    let filter = FilterFile::of("  - {syscalls: [execve], handler: Exec, returns: true}\n");
    let run = Instance::run(&["--filters", filter.path(), "-o", "json", "-v"]);
    let missing = format!("/nonexistent/ebpf-hello-{}", std::process::id());
    // The shell execs the path it is given, once.
    let status = Command::new("/bin/sh")
        .args(["-c", "\"$0\" 'an argument'", &missing])
        .stderr(Stdio::null())
        .status();
    assert!(!status.unwrap().success());
    let ended = complete(run);
    let errors: Vec<_> = ended
        .events()
        .into_iter()
        .filter_map(|event| match event.kind {
            Some(Kind::Exec(exec)) if exec.filename == missing => Some((exec.argv, exec.errno)),
            _ => None,
        })
        .collect();
    assert_eq!(
        errors,
        [(vec![missing.clone(), "an argument".to_owned()], Some(2))]
    );
}

pub(crate) fn a_path_is_told_as_it_was_asked_for() {
    let filter = FilterFile::of("  - {syscalls: [openat], handler: Path, returns: true}\n");
    let run = run(&filter);
    let missing = format!("/nonexistent/ebpf-hello-{}", std::process::id());
    let status = Command::new("cat")
        .arg(&missing)
        .stderr(Stdio::null())
        .status();
    assert!(!status.unwrap().success());
    let ended = complete(run);
    let paths: Vec<_> = ended
        .events()
        .into_iter()
        .filter_map(|event| match event.kind {
            Some(Kind::Path(path)) if path.path == missing => Some((path.name, path.return_value)),
            _ => None,
        })
        .collect();
    assert_eq!(paths, [("openat".to_owned(), Some(-2))]);
}

pub(crate) fn a_rule_for_other_users_or_executables_lets_nothing_through() {
    let all = "spec:\n  host: true\n";
    for condition in [
        "  matchUids: [\"12345\"]\n",
        "  matchBinaries: [\"/usr/bin/nothing-*\"]\n",
    ] {
        let filter = FilterFile::with_text(&format!(
            "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: kernel-test}}\n\
             {all}{condition}  rules:\n  - {{syscalls: [{UNUSED_CALL}], handler: Trace}}\n"
        ));
        let run = run(&filter);
        generate(&["call", UNUSED_CALL, "500"]);
        let ended = complete(run);
        let ledger = ended.ledger();
        assert_eq!(
            (ledger.get("delivered"), ledger.get("suppressed")),
            (0, 500),
            "{condition}"
        );
    }
}

pub(crate) fn a_process_moved_into_a_filtered_cgroup_has_its_policy_at_once() {
    let cgroup = Cgroup::make("entered");
    let home = Cgroup::make("left");
    let filter = FilterFile::with_text(&in_cgroup(&cgroup.name(), "Trace"));
    let run = run(&filter);
    let mut process = command(&["obey"]);
    process.call(UNUSED_CALL, 7);
    for _ in 0..50 {
        cgroup.add(process.pid());
        process.call(UNUSED_CALL, 2);
        home.add(process.pid());
        process.call(UNUSED_CALL, 3);
    }
    let made = process.end();
    // The next instruction after its own write is the first call.
    let itself = generate(&["call", UNUSED_CALL, "1", "--cgroup", cgroup.argument()]);
    let ended = complete(run);
    let events = ended.events();
    let calls = of_process(&events, made.pid());
    assert!(calls.iter().all(|event| event.cgroup_id == cgroup.id()));
    assert_eq!(calls.len(), 100);
    assert_eq!(of_process(&events, itself.pid()).len(), 1);
}

fn in_cgroup(name: &str, handler: &str) -> String {
    format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: kernel-test}}\n\
         spec:\n  matchCgroup: {name}\n  rules:\n  - {{syscalls: [{UNUSED_CALL}], handler: {handler}}}\n"
    )
}

pub(crate) fn a_child_made_under_a_filtered_cgroup_has_its_policy_at_once() {
    let parent = Cgroup::make("filtered");
    let name = format!("/{}", parent.path().file_name().unwrap().to_str().unwrap());
    let filter = FilterFile::with_text(&in_cgroup(&name, "Trace"));
    let run = run(&filter);
    let child = parent.path().join("child");
    fs::create_dir(&child).unwrap();
    let inside = generate(&[
        "call",
        UNUSED_CALL,
        "20",
        "--cgroup",
        child.to_str().unwrap(),
    ]);
    let outside = generate(&["call", UNUSED_CALL, "20"]);
    fs::remove_dir(&child).unwrap();
    let ended = complete(run);
    let events = ended.events();
    assert_eq!(of_process(&events, inside.pid()).len(), 20);
    assert_eq!(of_process(&events, outside.pid()).len(), 0);
}

pub(crate) fn an_edited_filter_is_applied_and_a_mistake_leaves_the_last_good_one() {
    let cgroup = Cgroup::make("edited");
    let name = format!("/{}", cgroup.path().file_name().unwrap().to_str().unwrap());
    let filter = FilterFile::with_text(&in_cgroup(&name, "Trace"));
    let file = Path::new(filter.path()).join("filter.yaml");
    let run = run(&filter);
    let call = || {
        let directory = cgroup.path().to_str().unwrap();
        generate(&["call", UNUSED_CALL, "10", "--cgroup", directory]).pid()
    };
    let before = call();
    fs::write(&file, in_cgroup(&name, "Count")).unwrap();
    run.await_log("the change", |line| line.contains("are applied"));
    let counted = call();
    fs::write(&file, "spec: [").unwrap();
    run.await_log("the refusal", |line| line.contains("are not applied"));
    let still_counted = call();
    fs::write(&file, in_cgroup(&name, "Trace")).unwrap();
    run.await_log("the change", |line| line.contains("are applied"));
    let after = call();
    let ended = complete(run);
    assert_eq!(ended.ledger().get("counted"), 20);
    let events = ended.events();
    let of = |pid| of_process(&events, pid).len();
    assert_eq!(
        [before, counted, still_counted, after].map(of),
        [10, 0, 0, 10]
    );
    let generation = |event: &Event| event.policy.as_ref().map(|policy| policy.generation);
    let first = of_process(&events, before)
        .into_iter()
        .map(generation)
        .max();
    let last = of_process(&events, after).into_iter().map(generation).min();
    assert!(first < last, "{first:?} {last:?}");
}
