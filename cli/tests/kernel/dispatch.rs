//! Dispatch: what reaches a handler, what never does, and when nothing is asked at all.

use crate::{
    events::{of_process, syscall},
    filter::{FilterFile, UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
    kernel_object::tracepoints_of,
};

/// Arguments of the generator's calls.
const ARGUMENTS: [i64; 6] = [-1, -2, -3, -4, -5, -6];

pub(crate) fn a_traced_call_has_its_name_number_and_raw_arguments() {
    let filter = filter("Trace", &[UNUSED_CALL]);
    let run = Instance::run(&["--filters", filter.path(), "-o", "json"]);
    let made = generate(&["call", UNUSED_CALL, "100"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let calls: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| Some((event, syscall(event)?)))
        .collect();
    assert_eq!(calls.len(), 100);
    for (event, call) in calls {
        assert_eq!(call.name, UNUSED_CALL);
        assert!(call.number.is_some());
        assert_eq!(call.args, ARGUMENTS.map(i64::cast_unsigned), "{call:?}");
        let policy = event.policy.as_ref().unwrap();
        assert_eq!((policy.filter.as_str(), policy.rule), ("kernel-test", 1));
    }
}

/// The noisy ones of the built-in policy that fail at once with the generator's arguments.
#[cfg(target_arch = "x86_64")]
const IGNORED_CALLS: &str = "access,mremap,fcntl,flock,getrusage,ptrace,utimensat,epoll_ctl";

#[cfg(target_arch = "x86_64")]
pub(crate) fn an_ignored_call_is_no_event_where_every_other_is() {
    let run = Instance::trace_everything();
    let calls = format!("{UNUSED_CALL},{IGNORED_CALLS}");
    let made = generate(&["call", &calls, "50"]);
    let ended = run.end();
    ended.ledger().assert_balanced();
    let events = ended.events();
    let traced: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| Some(syscall(event)?.name.as_str()))
        .collect();
    for ignored in IGNORED_CALLS.split(',') {
        assert!(
            !traced.contains(&ignored),
            "{ignored} is ignored by the built-in policy"
        );
    }
    let other = traced.iter().filter(|name| **name == UNUSED_CALL).count();
    assert_eq!(other, 50, "an unnamed call is an event");
}

pub(crate) fn a_call_ignored_by_a_rule_is_in_no_account() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Ignore}}\n  - {{syscalls: [lookup_dcookie], handler: Count}}\n"
    ));
    let run = Instance::run(&["--filters", filter.path(), "--process-events", "off", "-v"]);
    generate(&["call", &format!("{UNUSED_CALL},lookup_dcookie"), "1000"]);
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_complete();
    assert_eq!(ledger.get("seen"), 1000, "the counted call alone is seen");
    assert_eq!(ledger.row("count").counted, 1000);
    assert!(ended.stdout.is_empty());
}

pub(crate) fn numbers_out_of_range_are_counted_and_never_dispatched() {
    // Negative, the first above the tables, the x32 bit on a call that does nothing (getpid).
    let numbers = "-1,-2147483648,511,512,4096,0x40000027,0x7fffffff";
    let run = Instance::trace_everything();
    let made = generate(&["call", numbers, "300", "--threads", "4", "--pin"]);
    let in_range = generate(&["call", "510", "7"]);
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_balanced();
    assert_eq!(ledger.get("out_of_range"), made.total());

    let events = ended.events();
    let odd: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(syscall)
        .filter(|call| call.name.starts_with("syscall_") || call.args.starts_with(&[u64::MAX]))
        .collect();
    assert!(odd.is_empty(), "dispatched: {odd:?}");
    let highest = of_process(&events, in_range.pid())
        .into_iter()
        .filter_map(syscall)
        .filter(|call| call.number == Some(510))
        .count();
    assert_eq!(highest, 7, "the highest number in range is dispatched");
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn a_32_bit_call_is_dispatched_by_its_own_number_name_and_arguments() {
    use ebpf_hello_proto::v1::Abi;
    // ia32's nfsservctl is 169; 180, x86_64's, is ia32's pread64 and not asked for.
    let filter = filter("Trace", &[UNUSED_CALL]);
    let run = Instance::run(&["--filters", filter.path(), "-o", "json"]);
    let made = generate(&["int80", "169,180", "25"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let calls: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(syscall)
        .collect();
    assert_eq!(calls.len(), 25, "{calls:?}");
    for call in calls {
        assert_eq!(
            (call.abi(), call.name.as_str(), call.number),
            (Abi::Ia32, UNUSED_CALL, Some(169))
        );
        // The sixth is ebp, which belongs to the compiler.
        let expected = ARGUMENTS.map(|argument| u64::from(argument as u32));
        assert_eq!(call.args[..5], expected[..5], "{call:?}");
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn a_32_bit_call_that_64_bits_do_not_have_is_reported_by_its_own_name() {
    // ia32's ugetrlimit is 191; x86_64 has no such call, and 191 there is getxattr.
    let filter = filter("Trace", &["ugetrlimit"]);
    let run = Instance::run(&["--filters", filter.path(), "-o", "json"]);
    let made = generate(&["int80", "191", "25"]);
    let native = generate(&["call", "191", "25"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let names = |pid| -> Vec<_> {
        let calls = of_process(&events, pid).into_iter().filter_map(syscall);
        calls.map(|call| (call.abi(), call.name.as_str())).collect()
    };
    let expected = (ebpf_hello_proto::v1::Abi::Ia32, "ugetrlimit");
    assert_eq!(names(made.pid()), [expected; 25]);
    assert_eq!(names(native.pid()), []);
}

pub(crate) fn sys_enter_is_attached_only_while_a_call_is_wanted() {
    let ignoring = filter("Ignore", &[UNUSED_CALL]);
    for (arguments, attached) in [
        (["--default", "ignore"], false),
        (["--filters", ignoring.path()], false),
        (["--default", "count"], true),
    ] {
        let run = Instance::run(&arguments);
        let status = run.status();
        assert_eq!(status["sysEnterAttached"], attached, "{arguments:?}");
        let program = status["programs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|program| program["name"] == "sys_enter")
            .unwrap();
        assert_eq!(program["attachedTo"] == "sys_enter", attached, "{program}");
        let tracepoints = tracepoints_of(run.pid());
        assert_eq!(
            tracepoints.iter().any(|name| name == "sys_enter"),
            attached,
            "the kernel's own answer to {arguments:?}: {tracepoints:?}"
        );
        assert!(
            tracepoints.iter().any(|name| name == "sched_process_exec"),
            "process events are on: {tracepoints:?}"
        );
        run.end().ledger().assert_balanced();
    }
}
