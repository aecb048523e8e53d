//! Policies that change under load: every call is one policy's or the other's, and never a bit of
//! both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use ebpf_hello_proto::v1::{Event, event::Kind};

use crate::{
    cgroup::Cgroup,
    events::{assert_no_gap, left_out, time},
    filter::FilterFile,
    generator::{Commanded, Made, command},
    instance::{Ended, Instance},
};

const EDITS: u64 = 200;
/// From the end of the edit to the first event under it: half of them, and nearly all.
const HALF: Duration = Duration::from_millis(50);
const NEARLY_ALL: Duration = Duration::from_millis(200);

/// The calls of the cgroup that is edited, and how many a second.
const EDITED: [&str; 4] = [
    "nfsservctl=200000",
    "timer_delete=1000",
    "connect=500",
    "lookup_dcookie=500",
];
/// What is asked of them in turn: each call has another handler, rule or sampling.
const POLICIES: [&str; 2] = [
    "  - {syscalls: [nfsservctl], handler: Count}
  - {syscalls: [timer_delete], handler: Trace}
  - {syscalls: [lookup_dcookie], handler: Trace, sampling: 10}
  - {syscalls: [connect], handler: Sock}
",
    "  - {syscalls: [connect], handler: Trace, sampling: 2}
  - {syscalls: [lookup_dcookie], handler: Count}
  - {syscalls: [nfsservctl], handler: Count}
  - {syscalls: [timer_delete], handler: Timer}
",
];
/// How many of the calls that are sampled become events, by policy.
const SAMPLING: [(&str, u64); 2] = [("lookup_dcookie", 10), ("connect", 2)];

/// The calls of the cgroup that is left alone, and how many a second.
const ALONE: [&str; 3] = ["io_cancel=200000", "tee=1500", "kcmp=500"];
const ALONE_POLICY: &str = "  - {syscalls: [io_cancel], handler: Count}
  - {syscalls: [tee], handler: Trace}
  - {syscalls: [kcmp], handler: Trace, sampling: 5}
";
const ALONE_SAMPLING: u64 = 5;

fn filter(name: &str, cgroup: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: {name}}}\n\
         spec:\n  matchCgroup: {}\n  rules:\n{rules}",
        cgroup.name()
    )
}

fn load(calls: &[&str], cgroup: &Cgroup) -> Commanded {
    let mut arguments = vec![
        "mix",
        "--threads",
        "2",
        "--pin",
        "--cgroup",
        cgroup.argument(),
    ];
    arguments.extend(calls);
    command(&arguments)
}

/// What was edited and made meanwhile, and what became of it.
struct Edited {
    ended: Ended,
    events: Vec<Event>,
    edited: (u64, Made),
    alone: (u64, Made),
    /// When each edit was complete, nanoseconds of the wall clock.
    edits: Vec<u64>,
}

/// Edits under load, each as soon as the one before is applied and `pause` has passed.
fn edit(arguments: &[&str], pause: Duration) -> Edited {
    let cgroups = ["edited", "alone"].map(Cgroup::make);
    let files = FilterFile::with_text(&filter("edited", &cgroups[0], POLICIES[0]));
    let directory = Path::new(files.path());
    let alone = filter("alone", &cgroups[1], ALONE_POLICY);
    fs::write(directory.join("alone.yaml"), alone).unwrap();
    let always = ["--filters", files.path(), "--process-events", "off"];
    let shown = ["-o", "json", "-v", "--counts", "200ms"];
    let run = Instance::run(&[&always[..], &shown, arguments].concat());
    let generators = [load(&EDITED, &cgroups[0]), load(&ALONE, &cgroups[1])];
    thread::sleep(Duration::from_millis(200));
    let mut edits = Vec::new();
    for number in 1..=EDITS {
        let policy = POLICIES[number as usize % 2];
        let text = filter("edited", &cgroups[0], policy);
        fs::write(directory.join("filter.yaml"), text).unwrap();
        edits.push(now());
        run.await_log("the edit", |line| line.contains("are applied"));
        thread::sleep(pause);
    }
    let made = generators.map(Commanded::end);
    // The table of counts that is printed last is of after the last call.
    for (made, call) in made.iter().zip(["nfsservctl", "io_cancel"]) {
        let count = made.of(call).to_string();
        let row = [call, std::env::consts::ARCH, &count];
        run.await_log("the last table of counts", |line| {
            line.split_whitespace().eq(row)
        });
    }
    let ended = run.end();
    let ids = cgroups.each_ref().map(Cgroup::id);
    let [edited, alone] = made;
    Edited {
        events: ended.events(),
        ended,
        edited: (ids[0], edited),
        alone: (ids[1], alone),
        edits,
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_nanos()).unwrap()
}

/// Which of the policies made this event; `None` if neither could.
fn policy_of(event: &Event) -> Option<usize> {
    let rule = event.policy.as_ref()?.rule;
    match (event.kind.as_ref()?, rule) {
        (Kind::Syscall(call), 2) if call.name == "timer_delete" => Some(0),
        (Kind::Syscall(call), 3) if call.name == "lookup_dcookie" => Some(0),
        (Kind::Sock(call), 4) if call.name == "connect" => Some(0),
        (Kind::Syscall(call), 1) if call.name == "connect" => Some(1),
        (Kind::Timer(call), 4) if call.name == "timer_delete" => Some(1),
        _ => None,
    }
}

fn name_of(event: &Event) -> &str {
    match &event.kind {
        Some(Kind::Syscall(call)) => &call.name,
        Some(Kind::Timer(call)) => &call.name,
        Some(Kind::Sock(call)) => &call.name,
        _ => "",
    }
}

// === impl Edited ===

impl Edited {
    /// The events that calls made in a cgroup, in the order of each CPU.
    fn of(&self, cgroup: u64) -> Vec<&Event> {
        let calls = self.events.iter();
        let mut calls: Vec<_> = calls
            .filter(|event| event.cgroup_id == cgroup && event.sequence > 0)
            .collect();
        calls.sort_by_key(|event| (event.cpu, event.sequence));
        calls
    }

    /// Calls that were counted, as the last printed table says.
    fn counted(&self, call: &str) -> u64 {
        let rows = self.ended.stderr.iter().rev();
        let row = rows
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.len() == 3 && row[0] == call && row[1] == std::env::consts::ARCH);
        row.map_or(0, |row| row[2].parse().unwrap())
    }

    /// Everything but how fast it was.
    fn assert_whole(&self) {
        let ledger = self.ended.ledger();
        ledger.assert_complete();
        assert_no_gap(&self.events, &ledger.sequences);
        self.assert_each_event_is_of_its_generation();
        self.assert_no_thread_goes_back();
        self.assert_sampled();
        self.assert_accounted();
        self.assert_left_alone();
    }

    /// Generations from before the edits: of the cgroup that is edited, and the last of all. Which cgroup has its
    /// policy first is as the kernel lists them.
    fn first_generations(&self) -> (u64, u64) {
        let first = |cgroup| {
            let events = self.of(cgroup);
            events.iter().map(|event| generation(event)).min().unwrap()
        };
        let edited = first(self.edited.0);
        (edited, edited.max(first(self.alone.0)))
    }

    fn assert_each_event_is_of_its_generation(&self) {
        let first = self.first_generations();
        for event in self.of(self.edited.0) {
            let number = edit_of(first, generation(event));
            assert!(number <= EDITS, "{event:?}");
            let expected = usize::try_from(number % 2).unwrap();
            assert_eq!(policy_of(event), Some(expected), "{event:?}");
        }
    }

    fn assert_no_thread_goes_back(&self) {
        let mut last: BTreeMap<u32, (Option<u32>, u64)> = BTreeMap::new();
        for event in self.of(self.edited.0) {
            let tid = event.process.as_ref().unwrap().tid;
            let now = (event.cpu, generation(event));
            let before = last.insert(tid, now).unwrap_or(now);
            assert_eq!(before.0, now.0, "the thread is pinned to its CPU");
            assert!(before.1 <= now.1, "{before:?} {event:?}");
        }
        assert_eq!(last.len(), 2, "threads");
    }

    /// In each generation the first of so many calls is an event, and no other.
    fn assert_sampled(&self) {
        let left_out = left_out(&self.events, self.edited.0);
        let first = self.first_generations();
        let mut sampled: BTreeMap<u64, u64> = BTreeMap::new();
        for event in self.of(self.edited.0) {
            let (name, _) = SAMPLING[policy_of(event).unwrap()];
            *sampled.entry(generation(event)).or_default() += u64::from(name_of(event) == name);
        }
        for (generation, events) in sampled {
            let (_, sampling) = SAMPLING[usize::try_from(edit_of(first, generation) % 2).unwrap()];
            let calls = events + left_out.get(&generation).copied().unwrap_or(0);
            assert_eq!(events, calls.div_ceil(sampling), "generation {generation}");
        }
    }

    fn assert_accounted(&self) {
        for (cgroup, made) in [&self.edited, &self.alone] {
            let counted: u64 = ["nfsservctl", "lookup_dcookie", "io_cancel"]
                .iter()
                .filter(|call| made.value("made").get(call).is_some())
                .map(|call| self.counted(call))
                .sum();
            let suppressed: u64 = left_out(&self.events, *cgroup).values().sum();
            let delivered = self.of(*cgroup).len() as u64;
            assert_eq!(made.total(), delivered + counted + suppressed);
        }
        assert_eq!(self.counted("nfsservctl"), self.edited.1.of("nfsservctl"));
    }

    fn assert_left_alone(&self) {
        let (cgroup, made) = &self.alone;
        let events = self.of(*cgroup);
        let under: BTreeSet<_> = events
            .iter()
            .filter_map(|event| event.policy.as_ref())
            .map(|policy| (policy.table, policy.generation))
            .collect();
        assert_eq!(under.len(), 1, "tables and generations: {under:?}");
        let of = |name| events.iter().filter(|event| name_of(event) == name).count() as u64;
        assert_eq!(of("tee"), made.of("tee"));
        assert_eq!(of("kcmp"), made.of("kcmp").div_ceil(ALONE_SAMPLING));
        assert_eq!(self.counted("io_cancel"), made.of("io_cancel"));
    }

    /// From the end of each edit to the first event under it, sorted. An edit that was edited away
    /// before the next call has none.
    fn latencies(&self) -> Vec<Duration> {
        let first = self.first_generations();
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for event in self.of(self.edited.0) {
            let at = seen
                .entry(edit_of(first, generation(event)))
                .or_insert(u64::MAX);
            *at = time(event).min(*at);
        }
        let edits = (1..).zip(&self.edits);
        let mut latencies: Vec<_> = edits
            .filter_map(|(number, edit)| Some(seen.get(&number)?.saturating_sub(*edit)))
            .map(Duration::from_nanos)
            .collect();
        latencies.sort();
        latencies
    }

    fn report(&self, what: &str) -> Vec<Duration> {
        let latencies = self.latencies();
        let rate = |made: &Made| {
            made.total() * 1_000_000_000 / (made.number("end") - made.number("start"))
        };
        eprintln!(
            "{what}: {} edits under {} and {} calls a second (202000 asked for): p50 {:?} (target \
             {HALF:?}), p99 {:?} (target {NEARLY_ALL:?}), slowest {:?}",
            latencies.len(),
            rate(&self.edited.1),
            rate(&self.alone.1),
            latencies[latencies.len() / 2],
            latencies[latencies.len() * 99 / 100],
            latencies.last().unwrap(),
        );
        latencies
    }
}

/// The edit that made a generation of the cgroup that is edited, from 1: each makes one. 0 before the first.
fn edit_of((first, last): (u64, u64), generation: u64) -> u64 {
    if generation == first {
        0
    } else {
        generation - last
    }
}

fn generation(event: &Event) -> u64 {
    let policy = event.policy.as_ref();
    policy.expect("every call here has a policy").generation
}

pub(crate) fn two_hundred_edits_under_load_tear_no_event_and_leave_others_alone() {
    let edited = edit(&[], Duration::from_millis(20));
    let latencies = edited.report("256 tables");
    edited.assert_whole();
    assert_eq!(latencies.len() as u64, EDITS, "each edit has its events");
    let half = latencies[latencies.len() / 2];
    assert!(half <= HALF, "p50 {half:?}");
}

pub(crate) fn tables_that_are_refilled_at_once_tear_no_event() {
    // The default's, one for each cgroup, and one to change.
    let edited = edit(&["--tables", "4"], Duration::ZERO);
    edited.report("4 tables, refilled at once");
    edited.assert_whole();
}
