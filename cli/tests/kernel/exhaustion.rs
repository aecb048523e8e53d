//! More policies than tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    events::syscall,
    filter::{FilterFile, UNUSED_CALL},
    generator::command,
    instance::Instance,
    stream::DEADLINE,
};

const POLICIES: usize = 1_500;
/// Of the 256, one is the default's and one stays free for changes.
const WITH_TABLE: usize = 254;
/// Calls in each cgroup, each round.
const CALLS: u64 = 3;

/// One filter for each cgroup, no two alike; that of `edited` is another than before.
fn filters(parent: &Cgroup, edited: Option<usize>) -> String {
    (0..POLICIES)
        .map(|index| {
            let rate = 1_000 + index + if edited == Some(index) { POLICIES } else { 0 };
            format!(
                "---\napiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\n\
                 metadata: {{name: f{index}}}\nspec:\n  matchCgroup: {}/c{index}\n  rules:\n  \
                 - {{syscalls: [{UNUSED_CALL}], handler: Trace, rateLimit: {{eventsPerSecond: {rate}}}}}\n",
                parent.name()
            )
        })
        .collect()
}

/// The filters that the status says have no table.
fn without_table(status: &Value) -> BTreeSet<String> {
    let filters = status["tables"]["withoutTable"].as_array().unwrap();
    let names = filters.iter().map(|filter| {
        assert_eq!(filter["reason"], "TablesExhausted", "{filter}");
        filter["filter"].as_str().unwrap().to_owned()
    });
    names.collect()
}

pub(crate) fn fifteen_hundred_policies_share_256_tables_and_who_has_none_is_told() {
    let parent = Cgroup::make("many");
    let cgroups: Vec<_> = (0..POLICIES)
        .map(|index| parent.child(&format!("c{index}")))
        .collect();
    let ids: Vec<u64> = cgroups.iter().map(Cgroup::id).collect();
    let filter = FilterFile::with_text(&filters(&parent, None));
    let file = Path::new(filter.path()).join("filter.yaml");
    let started = Instant::now();
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
    ]);
    eprintln!("{POLICIES} policies: started in {:?}", started.elapsed());
    run.await_log("the warning", |line| line.contains("TablesExhausted"));
    let status = run.status();
    let tables = &status["tables"];
    assert_eq!(
        (&tables["capacity"], &tables["live"], &tables["outcomes"]),
        (
            &Value::from(256),
            &Value::from(WITH_TABLE + 1),
            &Value::from(POLICIES + 1)
        )
    );
    let without = without_table(&status);
    assert_eq!(without.len(), POLICIES - WITH_TABLE);

    let mut process = command(&["obey"]);
    let mut call_everywhere = || {
        for cgroup in &cgroups {
            cgroup.add(process.pid());
            process.call(UNUSED_CALL, CALLS);
        }
    };
    call_everywhere();
    // One who has a table changes it; nobody else's is touched, and nobody gets or loses one.
    let edited = (0..POLICIES)
        .find(|index| !without.contains(&format!("f{index}")))
        .unwrap();
    let started = Instant::now();
    fs::write(&file, filters(&parent, Some(edited))).unwrap();
    run.await_log("the change", |line| line.contains("are applied"));
    eprintln!(
        "{POLICIES} policies: one changed in {:?}",
        started.elapsed()
    );
    call_everywhere();
    let status = run.status();
    assert_eq!(without_table(&status), without);
    // One for each policy, and one for the change: nothing is programmed again and again.
    assert_eq!(status["tables"]["generation"], POLICIES + 2);

    // A table that comes free goes to one who waits.
    let freed = (edited + 1..POLICIES)
        .find(|index| !without.contains(&format!("f{index}")))
        .unwrap();
    fs::remove_dir(cgroups[freed].path()).unwrap();
    let heir = await_heir(&run, &without);
    cgroups[heir].add(process.pid());
    process.call(UNUSED_CALL, CALLS);
    process.end();

    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_complete();
    let missed = (POLICIES - WITH_TABLE) as u64 * CALLS * 2;
    assert_eq!(ledger.get("table_miss"), missed);
    // By cgroup: which table and generation its calls were made under, and how many.
    let mut calls: BTreeMap<u64, BTreeMap<(u32, u64), u64>> = BTreeMap::new();
    for event in ended.events() {
        if syscall(&event).is_some() {
            let policy = event.policy.as_ref().unwrap();
            let under = (policy.table, policy.generation);
            let count = calls.entry(event.cgroup_id).or_default();
            *count.entry(under).or_default() += 1;
        }
    }
    for (index, id) in ids.into_iter().enumerate() {
        let under = calls.remove(&id).unwrap_or_default();
        let counts: Vec<_> = under.into_values().collect();
        let expected = if index == heir {
            vec![CALLS]
        } else if without.contains(&format!("f{index}")) {
            vec![]
        } else if index == edited {
            vec![CALLS, CALLS]
        } else {
            vec![2 * CALLS]
        };
        assert_eq!(counts, expected, "f{index}");
    }
    assert!(calls.is_empty(), "events of other cgroups: {calls:?}");
}

/// Waits until one of those without a table has one.
fn await_heir(run: &Instance, without: &BTreeSet<String>) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let now = without_table(&run.status());
        if let Some(name) = without.difference(&now).next() {
            assert_eq!(now.len(), without.len() - 1);
            return name[1..].parse().unwrap();
        }
        assert!(Instant::now() < deadline, "nobody gets the free table");
        thread::sleep(Duration::from_millis(50));
    }
}
