//! Counts: exact, whoever counts first, however many at once, and when the map is full.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use ebpf_hello_agent::{
    GONE, Node, NodeOptions, Outcome, Policy, Redactor,
    identity::{Container, IdentityOptions, Pod, Pods},
};
use ebpf_hello_loader::{
    DEFAULT_OUTCOME, Exclusion, HalfSpec, Handler, Kernel, Options, SlotSpec, TableSpec,
    abi::{self, Fate},
};

use crate::{
    cgroup::Cgroup,
    filter::{UNUSED_CALL, filter},
    generator::{Made, generate},
    instance::Instance,
    ledger::Row,
};

/// Calls that fail at once with the generator's arguments and that hardly anything else makes: ten
/// rows fit the table that `--counts` prints.
const RARE_CALLS: [&str; 10] = [
    UNUSED_CALL,
    "lookup_dcookie",
    "remap_file_pages",
    "kcmp",
    "tee",
    "vmsplice",
    "io_destroy",
    "io_cancel",
    "mq_notify",
    "pkey_free",
];

fn count(filter: &crate::filter::FilterFile) -> Instance {
    Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "--counts",
        "200ms",
        "-v",
    ])
}

/// Waits until the printed table has exactly this row: `SYSCALL ABI CALLS`, or `UID EXECS`.
fn await_row(run: &Instance, cells: &[&str]) {
    run.await_log(&format!("the row {cells:?}"), |line| {
        line.split_whitespace().eq(cells.iter().copied())
    });
}

fn native_abi() -> &'static str {
    std::env::consts::ARCH
}

pub(crate) fn ten_million_calls_of_sixteen_threads_are_ten_million() {
    const EACH: u64 = 625_000;
    let filter = filter("Count", &[UNUSED_CALL]);
    let run = count(&filter);
    let each = EACH.to_string();
    let made = generate(&["call", UNUSED_CALL, &each, "--threads", "16", "--pin"]);
    assert_eq!(made.total(), 10_000_000);
    await_row(&run, &[UNUSED_CALL, native_abi(), "10000000"]);
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_complete();
    let row = Row {
        seen: made.total(),
        counted: made.total(),
        ..Row::default()
    };
    assert_eq!(ledger.row("count"), row);
    assert!(ended.stdout.is_empty(), "a counted call makes no event");
}

pub(crate) fn keys_that_sixteen_threads_meet_first_at_the_same_time_lose_nothing() {
    let filter = filter("Count", &RARE_CALLS);
    let run = count(&filter);
    let calls = RARE_CALLS.join(",");
    let made = generate(&["call", &calls, "1000", "--threads", "16", "--pin"]);
    for call in RARE_CALLS {
        await_row(&run, &[call, native_abi(), "16000"]);
    }
    let ledger = run.end().ledger();
    ledger.assert_complete();
    assert_eq!(ledger.row("count").counted, made.total());
}

pub(crate) fn exec_attempts_are_counted_by_user() {
    const USER: &str = "54322";
    let run = Instance::run(&["--process-events", "off", "--counts", "200ms", "-v"]);
    generate(&["burst", "50", "--uid", USER, "--", "/bin/true"]);
    await_row(&run, &[USER, "50"]);
    let ledger = run.end().ledger();
    ledger.assert_complete();
    let row = ledger.row("exec");
    assert_eq!(
        row.seen,
        row.counted + row.self_excluded,
        "an attempt is no event"
    );
    assert!(row.counted >= 50, "{row:?}");
}

/// No flag makes the counting map this small: the loader is asked, below the product.
pub(crate) fn a_full_map_counts_the_rest_beside_it_and_the_sum_is_exact() {
    const ENTRIES: u32 = 64;
    // Numbers that no kernel has a call for yet: nothing else makes them.
    let numbers = 470..511u16;
    let options = Options {
        count_entries: ENTRIES,
        process_events: false,
        exclusion: Exclusion::Nobody,
        ..Options::default()
    };
    let (mut kernel, _reader) = Kernel::load(options).unwrap();
    let slot = SlotSpec::new(Handler::Count, 1);
    let table = TableSpec {
        native: HalfSpec {
            default: None,
            slots: numbers
                .clone()
                .map(|number| (number, slot.clone()))
                .collect(),
        },
        ..TableSpec::default()
    };
    kernel.set_outcome(DEFAULT_OUTCOME, &table, 1).unwrap();

    // A key is a cgroup and a number: 3 × 41 of them for 64 entries.
    let list: Vec<_> = numbers.map(|number| number.to_string()).collect();
    let list = list.join(",");
    let made: u64 = ["a", "b", "c"]
        .iter()
        .map(|name| Cgroup::make(name))
        .map(|cgroup| {
            let directory = cgroup.path().to_str().unwrap().to_owned();
            generate(&[
                "call",
                &list,
                "100",
                "--threads",
                "16",
                "--pin",
                "--cgroup",
                &directory,
            ])
        })
        .map(|made: Made| made.total())
        .sum();
    kernel.detach().unwrap();

    let counts = kernel.counts().unwrap();
    let entries = counts.calls.len() + counts.out_of_range.len();
    assert_eq!(entries, ENTRIES as usize, "the map is full");
    let in_map: u64 = counts.calls.iter().map(|count| count.calls).sum();
    assert!(counts.calls_overflow > 0);
    assert_eq!(in_map + counts.calls_overflow, made);
    let counted = kernel
        .ledger()
        .unwrap()
        .get(abi::Handler::Count, Fate::Counted);
    assert_eq!(counted, made);
}

/// No flag makes the counting map this small: the agent is asked, below the product.
pub(crate) fn cgroups_and_policies_that_are_gone_make_room_and_their_counts_stay_in_their_rows() {
    /// Of which each pod and each policy takes ten.
    const ENTRIES: u32 = 64;
    const ROUNDS: usize = 40;
    let pods = Arc::new(Pods::default());
    let options = NodeOptions {
        load: Options {
            count_entries: ENTRIES,
            process_events: false,
            exclusion: Exclusion::Nobody,
            ..Options::default()
        },
        node: "n1".into(),
        epoch: 1,
        policy: Policy::default(),
        redactor: Redactor::default(),
        identity: Some(IdentityOptions {
            pods: Arc::clone(&pods),
            wait: Duration::ZERO,
            scope: None,
        }),
    };
    let (node, events) = Node::start(options).unwrap();
    let accounts = node.accounts();
    let consumer = thread::spawn(move || {
        for item in events.flatten() {
            accounts.settle(item.handler, Outcome::Delivered);
        }
    });

    let parent = Cgroup::make("node");
    let kubepods = parent.child("kubepods");
    let start = |name: &str| {
        pods.put(Pod {
            uid: name.into(),
            cgroup_uid: name.into(),
            namespace: "shop".into(),
            name: name.into(),
            containers: vec![Container {
                name: "main".into(),
                ..Container::default()
            }],
            ..Pod::default()
        });
        kubepods.child(&format!("pod{name}"))
    };
    let call = |cgroup: &Cgroup| {
        let calls = RARE_CALLS.join(",");
        generate(&["call", &calls, "10", "--cgroup", cgroup.argument()]).total()
    };
    let web = start("web");
    let (mut made, mut made_by_web) = (0, 0);
    for round in 0..ROUNDS {
        let job = start(&format!("job-{round}"));
        // Another policy for all of them, under which the same is counted.
        node.apply(counting(&RARE_CALLS, round)).unwrap();
        let calls = call(&web);
        made_by_web += calls;
        made += calls + call(&job);
        drop(job);
        let before = rows(&node);
        node.sweep().unwrap();
        let after = rows(&node);
        assert_eq!(after.values().sum::<u64>(), made, "round {round}");
        assert_eq!(after["web"], made_by_web);
        // A pod that is gone long goes to that row as a whole; nothing else moves.
        for (pod, calls) in after.iter().filter(|(pod, _)| *pod != GONE) {
            assert_eq!(before.get(pod), Some(calls), "{pod} in round {round}");
        }
    }
    assert!(rows(&node).contains_key(GONE) && rows(&node).len() < ROUNDS);
    let counters = node.counters().unwrap();
    assert_eq!(
        counters.syscalls_overflow, 0,
        "the map had room all the time"
    );
    node.drain().unwrap();
    assert_eq!(node.ledger().unwrap().counted, made);
    drop(node);
    consumer.join().unwrap();
}

/// For every pod; another one for each number.
fn counting(calls: &[&str], number: usize) -> Policy {
    let text = format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\n\
         metadata: {{name: counting}}\nspec:\n  rules:\n\
         \x20 - {{syscalls: [{}], handler: Count}}\n\
         \x20 - {{syscalls: [clock_adjtime], handler: Trace, sampling: {}}}\n",
        calls.join(", "),
        number + 2,
    );
    let documents = ebpf_hello_policy::read("counting", &text).unwrap();
    Policy::of(
        documents
            .into_iter()
            .map(|document| document.filter)
            .collect(),
    )
}

/// Calls of each pod that made any.
fn rows(node: &Node) -> BTreeMap<String, u64> {
    let report = node.report("test").unwrap();
    let rows = report.pods.into_iter().map(|row| {
        let calls = row.counters.unwrap().syscalls;
        (row.pod, calls.iter().map(|call| call.count).sum())
    });
    rows.filter(|(_, calls)| *calls > 0).collect()
}
