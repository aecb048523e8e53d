//! The stage with pods, cgroups and a clock that the test decides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_loader::abi::{CgroupChange, Handler};
use ebpf_hello_policy::Arch;
use ebpf_hello_proto::v1::{Event, event::Kind};

use super::{Stage, WAITING};
use crate::{
    Accounts, Item, Outcome, Redactor,
    cgroups::{Cgroup, Change},
    event::Origin,
    identity::{
        Container, ContainerScope, Identity, IdentityOptions, Link, Pod, Pods, figures::Level,
    },
};

const WAIT: Duration = Duration::from_secs(2);
const HOST: u64 = 2;
/// A cgroup of the container `c1` of the pod `p1`.
const WEB: u64 = 11;
/// The cgroup of the pod itself.
const POD: u64 = 10;

struct Fixture {
    identity: Identity,
    accounts: Arc<Accounts>,
    stage: Stage,
    start: Instant,
}

fn fixture(scope: Option<Arc<dyn ContainerScope>>) -> Fixture {
    let identity = Identity::new(IdentityOptions {
        pods: Arc::new(Pods::default()),
        wait: WAIT,
        scope,
    });
    let origin = Arc::new(Origin {
        node: "n1".into(),
        epoch: 7,
        arch: Arch::X86_64,
        policies: Arc::default(),
        suppressed: Arc::default(),
        redactor: Redactor::default(),
    });
    let accounts = Arc::new(Accounts::default());
    let stage = Stage::new(&identity, origin, Arc::clone(&accounts));
    let cgroups = [(1, "/"), (HOST, "/system.slice"), (3, "/kubepods")].map(|(id, path)| Cgroup {
        id,
        path: path.to_owned(),
    });
    identity.paths.walked(&cgroups, Instant::now());
    Fixture {
        identity,
        accounts,
        stage,
        start: Instant::now(),
    }
}

impl Fixture {
    fn make_cgroup(&self, id: u64, parent: u64, name: &str) {
        self.identity.paths.follow(&Change {
            what: CgroupChange::Made,
            id,
            parent,
            name: name.to_owned(),
        });
    }

    fn make_cgroups(&self) {
        self.make_cgroup(POD, 3, "podp1");
        self.make_cgroup(WEB, POD, "c1");
    }

    fn put_pod(&mut self, label: &str, ids: &[&str]) {
        let pods = &self.identity.options.pods;
        pods.put(Pod {
            uid: "p1".into(),
            cgroup_uid: "p1".into(),
            namespace: "shop".into(),
            name: "cart-0".into(),
            labels: [("app".to_owned(), label.to_owned())].into(),
            containers: vec![Container {
                name: "web".into(),
                ids: ids.iter().map(|id| (*id).to_owned()).collect(),
                image: "web:1".into(),
            }],
            ..Pod::default()
        });
        self.stage.renew(*pods.changes().borrow());
    }

    fn take(&mut self, cgroup: u64, sequence: u64, after: Duration) {
        let item = Item {
            handler: Some(Handler::Trace),
            event: Event {
                cgroup_id: cgroup,
                sequence,
                ..Event::default()
            },
        };
        self.stage.take(item, self.start + after);
    }

    /// What came out: `SEQUENCE NAMESPACE/POD CONTAINER`, or of an identity event the events it is for.
    fn out(&mut self) -> Vec<String> {
        let told = |item: Item| {
            let event = item.event;
            let pod = event.pod.unwrap_or_default();
            let container = pod.container.unwrap_or_default();
            let what = match event.kind {
                Some(Kind::Identity(identity)) => {
                    assert_eq!(
                        (event.node.as_str(), event.epoch, item.handler),
                        ("n1", 7, None)
                    );
                    format!("{} of {}", identity.unresolved_events, identity.cgroup_path)
                }
                _ => event.sequence.to_string(),
            };
            format!("{what} {}/{} {}", pod.namespace, pod.name, container.name)
        };
        self.stage.out().into_iter().map(told).collect()
    }

    fn unresolved(&self) -> (u64, u64) {
        let figures = &self.identity.figures;
        (
            figures.unresolved(Level::Pod),
            figures.unresolved(Level::Container),
        )
    }
}

fn after(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn what_is_known_passes_at_once() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    fixture.put_pod("a", &["c1"]);
    for (sequence, cgroup) in [(1, HOST), (2, WEB), (3, POD), (4, 0)] {
        fixture.take(cgroup, sequence, after(0));
    }
    assert_eq!(
        fixture.out(),
        ["1 / ", "2 shop/cart-0 web", "3 shop/cart-0 ", "4 / "]
    );
    assert!(!fixture.stage.is_waiting() && !fixture.stage.is_open());
    // A pod's labels are those of now.
    fixture.put_pod("b", &["c1"]);
    fixture.take(WEB, 5, after(0));
    let event = fixture.stage.out().remove(0).event;
    assert_eq!(event.pod.unwrap().labels["app"], "b");
    assert_eq!(fixture.unresolved(), (0, 0));
}

#[test]
fn a_cgroups_events_wait_in_their_order_and_no_others() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    fixture.take(WEB, 1, after(0));
    fixture.take(HOST, 2, after(1));
    fixture.take(WEB, 3, after(2));
    assert_eq!(fixture.out(), ["2 / "]);
    fixture.put_pod("a", &["c1"]);
    fixture.stage.look_again(fixture.start + after(900));
    assert_eq!(fixture.out(), ["1 shop/cart-0 web", "3 shop/cart-0 web"]);
    assert!(!fixture.stage.is_waiting() && !fixture.stage.is_open());
}

#[test]
fn what_waited_too_long_leaves_and_its_identity_follows() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    fixture.take(WEB, 1, after(0));
    fixture.take(WEB, 2, after(1900));
    fixture.stage.expire(fixture.start + after(1999));
    assert!(fixture.out().is_empty());
    fixture.stage.expire(fixture.start + after(2000));
    fixture.take(WEB, 3, after(2500));
    assert_eq!(fixture.out(), ["1 / ", "2 / ", "3 / "]);
    assert_eq!(fixture.unresolved(), (3, 3));
    // The pod first, its container later: each is told.
    fixture.put_pod("a", &[]);
    fixture.stage.look_again(fixture.start + after(3000));
    fixture.take(WEB, 4, after(3100));
    assert_eq!(
        fixture.out(),
        ["3 of /kubepods/podp1/c1 shop/cart-0 ", "4 shop/cart-0 "]
    );
    fixture.put_pod("a", &["c1"]);
    fixture.stage.look_again(fixture.start + after(4000));
    fixture.take(WEB, 5, after(4100));
    assert_eq!(
        fixture.out(),
        [
            "4 of /kubepods/podp1/c1 shop/cart-0 web",
            "5 shop/cart-0 web"
        ]
    );
    assert_eq!(fixture.unresolved(), (3, 4));
    assert!(!fixture.stage.is_open());
}

#[test]
fn a_containers_log_tells_its_name_before_its_status() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    fixture.put_pod("a", &[]);
    fixture.take(WEB, 1, after(0));
    assert!(fixture.out().is_empty());
    let link = Link {
        namespace: "shop".into(),
        pod: "cart-0".into(),
        container: "web".into(),
    };
    fixture.identity.options.pods.link("c1".into(), link);
    fixture.stage.look_again(fixture.start + after(50));
    assert_eq!(fixture.out(), ["1 shop/cart-0 web"]);
}

#[test]
fn a_cgroup_may_be_told_after_its_events() {
    let mut fixture = fixture(None);
    fixture.put_pod("a", &["c1"]);
    fixture.take(WEB, 1, after(0));
    fixture.take(50, 2, after(0));
    fixture.make_cgroups();
    fixture.make_cgroup(50, HOST, "cron.service");
    fixture.stage.look_again(fixture.start + after(10));
    let mut out = fixture.out();
    out.sort();
    assert_eq!(out, ["1 shop/cart-0 web", "2 / "]);
}

#[test]
fn only_so_many_wait() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    for sequence in 1..=WAITING as u64 {
        fixture.take(WEB, sequence, after(0));
    }
    fixture.take(12, 1, after(1));
    assert!(fixture.out().is_empty() || fixture.stage.waiting <= WAITING);
    fixture.take(WEB, WAITING as u64 + 1, after(1));
    fixture.take(12, 2, after(1));
    let out = fixture.out();
    assert!(out.len() > WAITING, "{} left", out.len());
    let numbers: Vec<u64> = out
        .iter()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    assert!(numbers.is_sorted(), "in their order");
    assert!(fixture.stage.waiting <= WAITING);
}

#[test]
fn what_is_left_at_the_end_goes_out() {
    let mut fixture = fixture(None);
    fixture.make_cgroups();
    fixture.take(WEB, 1, after(0));
    fixture.stage.end(fixture.start);
    assert_eq!(fixture.out(), ["1 / "]);
    assert!(!fixture.stage.is_waiting());
}

#[test]
fn what_nobody_knows_any_more_is_forgotten() {
    let mut fixture = fixture(None);
    fixture.take(WEB, 1, after(0));
    fixture.stage.expire(fixture.start + WAIT);
    fixture.stage.forget(fixture.start + WAIT);
    assert!(fixture.stage.is_open());
    fixture.stage.forget(fixture.start + after(70_000));
    assert!(!fixture.stage.is_open() && fixture.stage.cgroups.is_empty());
}

#[test]
fn a_filter_for_another_container_gets_nothing_of_this() {
    struct Only(&'static str);
    impl ContainerScope for Only {
        fn admits(
            &self,
            _: &mut Event,
            _: &ebpf_hello_proto::v1::Pod,
            container: Option<&str>,
        ) -> bool {
            container == Some(self.0)
        }
    }
    let mut fixture = fixture(Some(Arc::new(Only("log"))));
    fixture.make_cgroups();
    fixture.put_pod("a", &["c1"]);
    fixture.take(WEB, 1, after(0));
    fixture.take(HOST, 2, after(0));
    fixture.make_cgroup(12, POD, "c2");
    fixture.take(12, 3, after(0));
    assert_eq!(fixture.out(), ["2 / "]);
    fixture.stage.expire(fixture.start + WAIT);
    assert!(fixture.out().is_empty(), "not known in time");
    assert_eq!(
        fixture
            .accounts
            .settled(Handler::Trace, Outcome::OutOfScope),
        2
    );
}
