use std::collections::BTreeSet;

use super::*;
use crate::caller::Reader;

fn fleet() -> (Arc<Fleet>, Vec<Session>) {
    let fleet = Arc::new(Fleet::new(Duration::from_secs(3600)));
    let sessions = ["n2", "n1"]
        .map(|node| {
            let session = fleet.connect(v1::AgentHello {
                node: node.into(),
                epoch: 3,
                version: "0.1.0".into(),
            });
            let counters = |count| {
                Some(v1::Counters {
                    execs: vec![v1::ExecCount {
                        uid: Some(0),
                        count,
                    }],
                    ..v1::Counters::default()
                })
            };
            let pod = |namespace: &str, pod: &str, count| v1::PodCounters {
                namespace: namespace.into(),
                pod: pod.into(),
                counters: counters(count),
            };
            let filter = |name: &str| v1::FilterState {
                filter: name.into(),
                ..v1::FilterState::default()
            };
            assert!(session.report(v1::NodeReport {
                node: Some(v1::Node {
                    kernel: "6.12".into(),
                    epoch: 3,
                    ..v1::Node::default()
                }),
                programs: vec![v1::Program {
                    name: "sys_enter".into(),
                    id: 7,
                    ..v1::Program::default()
                }],
                filters: vec![filter("shop/cart"), filter("everything"), filter("bank/x")],
                ledger: Some(v1::Ledger::default()),
                counters: counters(9),
                pods: vec![
                    pod("shop", "cart-0", 1),
                    pod("bank", "safe-0", 2),
                    pod("", "", 6)
                ],
                ..v1::NodeReport::default()
            }));
            session
        })
        .into();
    (fleet, sessions)
}

fn shop() -> Reader {
    Reader::Namespaces(Arc::new(BTreeSet::from(["shop".to_owned()])))
}

#[test]
fn who_may_see_everything_does_and_in_order() {
    let (fleet, _sessions) = fleet();
    let all = &Reader::All;
    let nodes = fleet.list_nodes(all, &Default::default()).unwrap().nodes;
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2"]);
    assert!(nodes[0].connected && nodes[0].last_seen.is_some());
    assert_eq!(
        (nodes[0].kernel.as_str(), nodes[0].version.as_str()),
        ("6.12", "0.1.0")
    );
    let programs = fleet.list_programs(all, &Default::default()).unwrap();
    assert_eq!(programs.programs[1].node, "n2");
    let filters = fleet
        .list_filters(all, &Default::default())
        .unwrap()
        .filters;
    let order: Vec<(&str, &str)> = filters
        .iter()
        .map(|row| (row.filter.as_str(), row.node.as_str()))
        .collect();
    assert_eq!(
        order,
        [
            ("bank/x", "n1"),
            ("bank/x", "n2"),
            ("everything", "n1"),
            ("everything", "n2"),
            ("shop/cart", "n1"),
            ("shop/cart", "n2")
        ]
    );
    assert_eq!(
        fleet
            .get_counters(all, &Default::default())
            .unwrap()
            .rows
            .len(),
        6
    );
    assert_eq!(
        fleet
            .get_ledgers(all, &Default::default())
            .unwrap()
            .nodes
            .len(),
        2
    );
}

#[test]
fn a_reader_of_one_namespace_sees_only_its_part() {
    let (fleet, _sessions) = fleet();
    let shop = &shop();
    let nodes = fleet.list_nodes(shop, &Default::default()).unwrap().nodes;
    assert_eq!((nodes.len(), nodes[0].kernel.as_str()), (2, ""));
    assert!(nodes[0].connected && nodes[0].last_seen.is_none());
    assert!(
        fleet
            .list_programs(shop, &Default::default())
            .unwrap()
            .programs
            .is_empty()
    );
    assert!(
        fleet
            .get_ledgers(shop, &Default::default())
            .unwrap()
            .nodes
            .is_empty()
    );
    let filters = fleet
        .list_filters(shop, &Default::default())
        .unwrap()
        .filters;
    assert!(filters.len() == 2 && filters.iter().all(|row| row.filter == "shop/cart"));
    let rows = fleet.get_counters(shop, &Default::default()).unwrap().rows;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.pod == "cart-0"));
}

#[test]
fn requests_narrow_and_pages_go_on() {
    let (fleet, _sessions) = fleet();
    let request = v1::GetCountersRequest {
        selection: Some(v1::Selection {
            nodes: vec!["n1".into()],
            pods: vec!["*-0".into()],
            ..v1::Selection::default()
        }),
        page_size: 1,
        ..Default::default()
    };
    let first = fleet.get_counters(&Reader::All, &request).unwrap();
    assert_eq!(first.rows[0].namespace, "bank");
    let second = v1::GetCountersRequest {
        page_token: first.next_page_token,
        ..request
    };
    let second = fleet.get_counters(&Reader::All, &second).unwrap();
    assert_eq!(
        (
            second.rows[0].namespace.as_str(),
            second.next_page_token.as_str()
        ),
        ("shop", "")
    );
    let refused = fleet
        .get_counters(
            &Reader::All,
            &v1::GetCountersRequest {
                selection: Some(v1::Selection {
                    cel: "true".into(),
                    ..v1::Selection::default()
                }),
                ..Default::default()
            },
        )
        .unwrap_err();
    assert!(refused.message().contains("selection.cel"), "{refused}");
}

#[tokio::test]
async fn a_newer_stream_of_a_node_ends_the_older_and_stays() {
    let fleet = Arc::new(Fleet::new(Duration::from_secs(3600)));
    let hello = || v1::AgentHello {
        node: "n1".into(),
        ..v1::AgentHello::default()
    };
    let mut older = fleet.connect(hello());
    let newer = fleet.connect(hello());
    older.superseded().await;
    assert!(
        older.report(v1::NodeReport::default()),
        "ignored, not refused"
    );
    drop(older);
    assert_eq!(fleet.connected(), 1);
    drop(newer);
    assert_eq!(fleet.connected(), 0);
    let nodes = fleet
        .list_nodes(&Reader::All, &Default::default())
        .unwrap()
        .nodes;
    assert!(!nodes[0].connected);
}

#[test]
fn a_node_unheard_of_for_longer_than_the_store_keeps_is_forgotten() {
    let fleet = Arc::new(Fleet::new(Duration::ZERO));
    drop(fleet.connect(v1::AgentHello::default()));
    std::thread::sleep(Duration::from_millis(2));
    let nodes = fleet
        .list_nodes(&Reader::All, &Default::default())
        .unwrap()
        .nodes;
    assert!(nodes.is_empty());
}

fn said(node: usize, has_stream: bool) -> Said {
    Said {
        has_stream,
        hello: v1::AgentHello {
            node: format!("n{node}"),
            epoch: 1,
            ..v1::AgentHello::default()
        },
        report: Arc::default(),
    }
}

#[test]
fn nodes_of_other_collectors_publish_too() {
    let fleet = Arc::new(Fleet::new(Duration::from_secs(3600)));
    let ours = fleet.connect(said(0, true).hello);
    for node in 1..=1000 {
        fleet.hear_of("another", said(node, true));
    }
    assert_eq!((fleet.connected(), fleet.publishing()), (1, 1001));
    fleet.hear_of("another", said(1, false));
    assert_eq!(fleet.publishing(), 1000);
    // It is the other's and, for a while, ours.
    fleet.hear_of("another", said(0, true));
    assert_eq!((fleet.connected(), fleet.publishing()), (1, 1000));
    drop(ours);
    assert_eq!((fleet.connected(), fleet.publishing()), (0, 999));
}

#[test]
fn a_clock_that_is_set_makes_no_node_forgotten() {
    let fleet = Arc::new(Fleet::new(Duration::from_secs(3600)));
    fleet.hear_of("another", said(1, true));
    drop(fleet.connect(said(2, true).hello));
    let day = Duration::from_secs(24 * 3600);
    for shift in [SystemTime::now() + day, SystemTime::now() - day] {
        for member in fleet.lock().values_mut() {
            member.last_seen = shift;
        }
        assert_eq!(fleet.agents().len(), 2, "{shift:?}");
    }
}
