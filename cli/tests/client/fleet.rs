//! `status` of a server, and as a probe.

use ebpf_hello_proto::v1::{
    CollectorLedger, FilterState, GetLedgerResponse, Ledger, ListFiltersResponse,
    ListNodesResponse, Node, NodeLedger,
};
use serde_json::Value;

use crate::{
    command::{assert_done, assert_refused, command, output},
    server::{Answers, Server},
};

fn node(name: &str, connected: bool) -> Node {
    Node {
        name: name.into(),
        connected,
        version: "0.1.0".into(),
        ..Node::default()
    }
}

fn server() -> Server {
    let mut answers = Answers {
        serving: true,
        ..Answers::default()
    };
    // Asked twice: as text, as JSON.
    for _ in 0..2 {
        for (name, next) in [("n1", "p2"), ("n2", "")] {
            answers.nodes.push_back(ListNodesResponse {
                nodes: vec![node(name, name == "n1")],
                next_page_token: next.into(),
            });
        }
        answers.filters.push_back(ListFiltersResponse {
            filters: vec![FilterState {
                node: "n2".into(),
                filter: "shop/cart".into(),
                reason: "TablesExhausted".into(),
                ..FilterState::default()
            }],
            ..ListFiltersResponse::default()
        });
        answers.ledgers.push_back(GetLedgerResponse {
            nodes: vec![NodeLedger {
                node: "n1".into(),
                ledger: Some(Ledger {
                    seen: 8,
                    delivered: 8,
                    ..Ledger::default()
                }),
                ..NodeLedger::default()
            }],
            collector: Some(CollectorLedger {
                received: 8,
                stored: 8,
                ..CollectorLedger::default()
            }),
            ..GetLedgerResponse::default()
        });
    }
    Server::start(answers)
}

#[test]
fn a_server_tells_its_nodes_filters_and_ledgers() {
    let server = server();
    let text = assert_done(&output(&["status", "--server", &server.url()]));
    for words in [
        "1 of 2 nodes connected",
        "n2    no",
        "shop/cart  n2",
        "TablesExhausted",
        "n1: ledger: seen=8 delivered=8",
        "collector: received=8 stored=8",
    ] {
        assert!(text.contains(words), "{words} in:\n{text}");
    }
    let json: Value = serde_json::from_str(&assert_done(
        &command(&["status", "-o", "json"])
            .env("EBPF_HELLO_SERVER", server.url())
            .output()
            .unwrap(),
    ))
    .unwrap();
    assert_eq!(json["nodes"][1]["name"], "n2");
    assert_eq!(json["filters"][0]["reason"], "TablesExhausted");
    assert_eq!(json["ledgers"][0]["ledger"]["seen"], "8");
    assert_eq!(json["collector"]["stored"], "8");
}

#[test]
fn a_probe_succeeds_only_if_the_server_serves() {
    let mut server = server();
    let probe = |server: &Server| output(&["status", "--server", &server.url(), "--probe"]);
    assert_eq!(assert_done(&probe(&server)), "");
    server.answers().serving = false;
    server.stop();
    server.resume();
    assert_refused(&probe(&server), 1, &["NOT_SERVING"]);
    server.stop();
    assert_refused(&probe(&server), 6, &["server.sock"]);
}
