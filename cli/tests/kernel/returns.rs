//! What only the end of a call tells: what seccomp answered, what lay on a page that was not there,
//! what the kernel filled in.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_policy::{Abi, Arch, syscall};
use ebpf_hello_proto::v1::event::Kind;

use crate::{
    events::{self, of_process},
    filter::{FilterFile, UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
    stream::DEADLINE,
};

fn run(filter: &FilterFile) -> Instance {
    Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
    ])
}

pub(crate) fn a_call_that_seccomp_refuses_is_reported_with_its_errno() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Trace, denied: true}}\n  \
         - {{syscalls: [lookup_dcookie], handler: Trace}}\n"
    ));
    let run = run(&filter);
    let made = generate(&["denied", &format!("{UNUSED_CALL},lookup_dcookie"), "20"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let errno = made.value("errno").as_i64().unwrap();
    let events = ended.events();
    let calls: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(events::syscall)
        .collect();
    let told = |name: &str| -> Vec<_> {
        let calls = calls.iter().filter(|call| call.name == name);
        calls.map(|call| (call.denied, call.return_value)).collect()
    };
    // What was entered is told at once: nobody asked what it returned.
    let expected = [[(false, None); 20], [(true, Some(-errno)); 20]].concat();
    assert_eq!(told(UNUSED_CALL), expected);
    // Nobody asked what was refused of this one.
    assert_eq!(told("lookup_dcookie"), [(false, None); 20]);
    let refused = calls.iter().find(|call| call.denied).unwrap();
    let arguments = [-1i64, -2, -3, -4, -5, -6].map(i64::cast_unsigned);
    assert_eq!(refused.args, arguments);
}

pub(crate) fn a_call_that_outlives_its_policy_returns_under_it() {
    let waiting = "  - {syscalls: [flock], handler: Trace, returns: true}\n";
    let filter = FilterFile::of(waiting);
    let file = Path::new(filter.path()).join("filter.yaml");
    let run = run(&filter);
    let lock = tempfile::NamedTempFile::new().unwrap();
    lock.as_file().lock().unwrap();
    let mut process = Command::new("flock")
        .arg(lock.path())
        .arg("true")
        .spawn()
        .unwrap();
    // It waits before the policy changes.
    let flock = syscall::number(Arch::host(), Abi::Native, "flock").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_to_string(format!("/proc/{}/syscall", process.id()))
        .unwrap()
        .starts_with(&format!("{flock} "))
    {
        assert!(Instant::now() < deadline, "it does not ask for the lock");
        thread::sleep(Duration::from_millis(10));
    }
    let text = fs::read_to_string(&file).unwrap();
    let other = format!("  - {{syscalls: [{UNUSED_CALL}], handler: Trace}}\n");
    fs::write(&file, text.replace(waiting, &other)).unwrap();
    run.await_log("the change", |line| line.contains("are applied"));
    let began = run.status();
    assert_eq!(began["sysExitAttached"], true, "a call waits");
    lock.as_file().unlock().unwrap();
    assert!(process.wait().unwrap().success());
    let deadline = Instant::now() + DEADLINE;
    while run.status()["sysExitAttached"] == true {
        assert!(Instant::now() < deadline, "nothing waits any more");
        thread::sleep(Duration::from_millis(100));
    }
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let returned: Vec<_> = of_process(&events, process.id())
        .into_iter()
        .filter_map(|event| {
            Some((
                events::syscall(event)?.return_value,
                event.policy.as_ref()?.rule,
            ))
        })
        .collect();
    assert_eq!(returned, [(Some(0), 1)]);
}

pub(crate) fn a_path_on_an_untouched_page_is_told() {
    let filter = filter("Path", &["openat"]);
    let run = run(&filter);
    // A file system in memory has nothing to bring in.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let missing = format!("/nonexistent/ebpf-hello-cold-{}", std::process::id());
    let made: Vec<_> = (0..20)
        .map(|number| {
            let file = directory.path().join(number.to_string());
            generate(&["open-cold", file.to_str().unwrap(), &missing])
        })
        .collect();
    let ended = run.end();
    ended.ledger().assert_complete();
    let cold: u64 = made.iter().map(|made| 1 - made.number("resident")).sum();
    assert!(cold > 0, "every page stayed in memory: nothing is shown");
    let events = ended.events();
    for made in made {
        assert_eq!(made.value("errno"), 2);
        let paths: Vec<_> = of_process(&events, made.pid())
            .into_iter()
            .filter_map(|event| match &event.kind {
                Some(Kind::Path(path)) if path.path == missing => Some(path),
                _ => None,
            })
            .collect();
        assert_eq!(paths.len(), 1);
        // It was read at the call's end, and so says what that was.
        assert_eq!(
            (paths[0].unreadable, paths[0].return_value),
            (false, Some(-2))
        );
    }
}

pub(crate) fn who_was_accepted_is_told() {
    let filter = filter("Sock", &["accept", "accept4"]);
    let run = run(&filter);
    let made = generate(&["accept"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let told: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Sock(sock)) => Some(serde_json::json!({
                "family": sock.family, "address": sock.address, "port": sock.port,
            })),
            _ => None,
        })
        .collect();
    assert!(!told.is_empty());
    assert_eq!(&serde_json::Value::from(told), made.value("peers"));
}
