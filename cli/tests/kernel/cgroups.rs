//! Cgroups that come while a policy is in force: whose they are from the first call on, and that
//! nobody else's are.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, thread, time::Duration};

use ebpf_hello_loader::{
    Exclusion, Handler, Kernel, Options, SlotSpec, TableSpec,
    abi::CgroupChange,
    {CgroupView, HalfSpec, Record, RecordError, Sink},
};

use crate::{
    cgroup::Cgroup,
    events::of_process,
    filter::{FilterFile, UNUSED_CALL},
    generator::generate,
    instance::Instance,
};

/// Long for the kernel's word to reach the policy, short beside the second between two sweeps.
const SOON: Duration = Duration::from_millis(150);

fn run(glob: &str) -> (Instance, FilterFile) {
    let filter = FilterFile::with_text(&format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: kernel-test}}\n\
         spec:\n  matchCgroup: {glob:?}\n  rules:\n  - {{syscalls: [{UNUSED_CALL}], handler: Trace}}\n"
    ));
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
        "-v",
    ]);
    (run, filter)
}

fn name(cgroup: &Cgroup) -> String {
    let name = cgroup.path().file_name().unwrap();
    name.to_str().unwrap().to_owned()
}

/// Makes calls in a cgroup that is made for them.
fn call_in(cgroup: &Path, pause: Duration) -> u32 {
    fs::create_dir(cgroup).unwrap();
    thread::sleep(pause);
    let made = generate(&[
        "call",
        UNUSED_CALL,
        "20",
        "--cgroup",
        cgroup.to_str().unwrap(),
    ]);
    fs::remove_dir(cgroup).unwrap();
    made.pid()
}

pub(crate) fn a_new_cgroup_that_a_glob_matches_has_its_policy_before_the_next_sweep() {
    const CGROUPS: usize = 12;
    let parent = Cgroup::make("globbed");
    let (run, _filter) = run(&format!("/{}/app-*", name(&parent)));
    let inside: Vec<_> = (0..CGROUPS)
        .map(|number| call_in(&parent.path().join(format!("app-{number}")), SOON))
        .collect();
    let outside = call_in(&parent.path().join("other"), SOON);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let of = |pid: &u32| of_process(&events, *pid).len();
    let told: Vec<_> = inside.iter().map(of).collect();
    // A machine that stands still may take it from one; the sweeps, a second apart, would explain two.
    let whole = told.iter().filter(|count| **count == 20).count();
    assert!(whole >= CGROUPS - 2, "{told:?}");
    assert_eq!(of(&outside), 0);
}

pub(crate) fn a_cgroup_that_a_filter_spells_out_has_its_policy_from_its_first_call_on() {
    const TIMES: usize = 20;
    let (here, elsewhere) = (Cgroup::make("here"), Cgroup::make("elsewhere"));
    let (run, _filter) = run(&format!("/{}/web", name(&here)));
    assert_eq!(run.status()["cgroups"]["foretold"], 1);
    let inside: Vec<_> = (0..TIMES)
        .map(|_| call_in(&here.path().join("web"), Duration::ZERO))
        .collect();
    let outside = call_in(&elsewhere.path().join("web"), Duration::ZERO);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let of = |pid: &u32| of_process(&events, *pid).len();
    assert_eq!(inside.iter().map(of).collect::<Vec<_>>(), [20; TIMES]);
    assert_eq!(of(&outside), 0, "the same name under another parent");
}

/// Notes what the kernel tells of cgroups.
#[derive(Default)]
struct Changes(Vec<(CgroupChange, u64, u64, String)>);

impl Sink for Changes {
    fn record(&mut self, record: Record<'_>) {
        panic!("no program of a record is attached: {record:?}");
    }
    fn cgroup(&mut self, change: CgroupView<'_>) {
        let name = String::from_utf8(change.name.to_vec()).unwrap();
        self.0.push((change.change, change.id, change.parent, name));
    }
    fn malformed(&mut self, error: RecordError) {
        panic!("{error}");
    }
    fn flush(&mut self) {}
}

/// Below the product, where nobody corrects what the kernel does by itself.
pub(crate) fn a_bound_name_counts_in_its_parent_or_everywhere_and_every_change_is_told() {
    const IN_PARENT: u32 = 7;
    const ANYWHERE: u32 = 8;
    const INHERITED: u32 = 9;
    let options = Options {
        process_events: false,
        exclusion: Exclusion::Nobody,
        ..Options::default()
    };
    let (mut kernel, reader) = Kernel::load(options).unwrap();
    let table = TableSpec {
        native: HalfSpec {
            default: None,
            slots: vec![(510, SlotSpec::new(Handler::Count, 1))],
        },
        ..TableSpec::default()
    };
    for (outcome, generation) in [(IN_PARENT, 1), (ANYWHERE, 2), (INHERITED, 3)] {
        kernel.set_outcome(outcome, &table, generation).unwrap();
    }
    let (here, elsewhere) = (Cgroup::make("bound"), Cgroup::make("unbound"));
    let id = |path: &Path| fs::metadata(path).unwrap().ino();
    let longest = "p".repeat(127);
    let too_long = "p".repeat(128);
    kernel
        .bind_name(Some(id(here.path())), "web", IN_PARENT)
        .unwrap();
    kernel.bind_name(None, "web", ANYWHERE).unwrap();
    kernel.bind_name(None, &longest, ANYWHERE).unwrap();
    let error = kernel.bind_name(None, &too_long, ANYWHERE).unwrap_err();
    assert!(error.to_string().contains("cgroup name must be"), "{error}");
    kernel
        .bind_cgroup(id(elsewhere.path()), INHERITED, false)
        .unwrap();
    kernel.attach_standing().unwrap();

    let mut expected = Vec::new();
    let mut come_and_go = |kernel: &Kernel, parent: &Cgroup, name: &str, outcome| {
        let path = parent.path().join(name);
        fs::create_dir(&path).unwrap();
        let (id, parent) = (id(&path), id(parent.path()));
        assert_eq!(kernel.outcome_of(id).unwrap(), outcome, "{name}");
        fs::remove_dir(&path).unwrap();
        assert_eq!(kernel.outcome_of(id).unwrap(), None, "{name} is gone");
        for change in [CgroupChange::Made, CgroupChange::Removed] {
            expected.push((change, id, parent, name.to_owned()));
        }
    };
    come_and_go(&kernel, &here, "web", Some(IN_PARENT));
    come_and_go(&kernel, &elsewhere, "web", Some(ANYWHERE));
    come_and_go(&kernel, &elsewhere, "web2", Some(INHERITED));
    come_and_go(&kernel, &here, "web2", None);
    come_and_go(&kernel, &here, &longest, Some(ANYWHERE));
    // Cut to what fits a key it would be `longest`.
    come_and_go(&kernel, &here, &too_long, None);
    kernel.unbind_name(Some(id(here.path())), "web");
    come_and_go(&kernel, &here, "web", Some(ANYWHERE));
    kernel.detach().unwrap();

    let mut changes = Changes::default();
    reader.stop_handle().stop().unwrap();
    reader.run(&mut changes).unwrap();
    let parents = [id(here.path()), id(elsewhere.path())];
    changes
        .0
        .retain(|(_, _, parent, _)| parents.contains(parent));
    // Those of several CPUs may come in another order.
    let sorted = |mut changes: Vec<(CgroupChange, u64, u64, String)>| {
        changes.sort_by_key(|(change, id, ..)| (*id, *change as u16));
        changes
    };
    assert_eq!(sorted(changes.0), sorted(expected));
    let ledger = kernel.ledger().unwrap();
    assert_eq!(
        ledger.sequences().iter().sum::<u64>(),
        0,
        "no event was made"
    );
}
