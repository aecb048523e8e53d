//! Events to rows.

use ebpf_hello_proto::v1::{Exec, Loss, Pod, Policy, Process, Syscall};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn event(pod: Option<&str>, comm: &str, kind: Kind) -> Event {
    Event {
        node: "n1".into(),
        process: Some(Process {
            pid: 7,
            comm: comm.into(),
            ..Process::default()
        }),
        pod: pod.map(|name| Pod {
            namespace: "shop".into(),
            name: name.into(),
            ..Pod::default()
        }),
        kind: Some(kind),
        ..Event::default()
    }
}

fn call(name: &str) -> Kind {
    Kind::Syscall(Syscall {
        name: name.into(),
        ..Syscall::default()
    })
}

fn exec() -> Kind {
    Kind::Exec(Exec::default())
}

fn brief(rows: &[Row]) -> Vec<(&str, &str, u64)> {
    rows.iter()
        .map(|row| (row.subject.name.as_str(), row.call.as_str(), row.total))
        .collect()
}

#[test]
fn a_row_is_a_pod_and_a_call_with_rate_total_and_execs() {
    let mut model = Model::default();
    for _ in 0..6 {
        model.add(&event(Some("cart-0"), "sh", call("openat")));
    }
    for _ in 0..2 {
        model.add(&event(Some("cart-0"), "sh", exec()));
    }
    model.add(&event(None, "bash", exec()));
    model.tick(SECOND * 2);
    let rows = model.rows(Sort::Rate, "");
    assert_eq!(
        brief(&rows),
        [
            ("shop/cart-0", "openat", 6),
            ("shop/cart-0", "exec", 2),
            ("bash", "exec", 1)
        ]
    );
    assert_eq!((rows[0].rate, rows[0].execs), (3.0, 1.0));
    assert_eq!(rows[0].subject.node, "n1");
    // The next second is quiet: the rate falls to nothing, the average slowly, the total never.
    model.tick(SECOND);
    let rows = model.rows(Sort::Total, "");
    assert_eq!((rows[0].rate, rows[0].total), (0.0, 6));
    assert!(rows[0].average > 0.0 && rows[0].average < 3.0);
}

#[test]
fn rows_are_grouped_as_asked() {
    let subject = |grouping| {
        let mut model = Model::new(grouping);
        model.add(&event(Some("cart-0"), "sh", exec()));
        model.add_counted("n1", "shop", "cart-0", "read", 1);
        model.add_counted("n1", "", "", "read", 1);
        let mut rows = brief(&model.rows(Sort::Name, ""))
            .iter()
            .map(|row| format!("{} {}", row.0, row.1))
            .collect::<Vec<_>>();
        rows.sort();
        rows
    };
    assert_eq!(
        subject(Grouping::Pod),
        [
            "(all processes) read",
            "shop/cart-0 exec",
            "shop/cart-0 read"
        ]
    );
    assert_eq!(
        subject(Grouping::Namespace),
        ["(no pod) read", "shop exec", "shop read"]
    );
    assert_eq!(subject(Grouping::Node), ["n1 exec", "n1 read"]);
    assert_eq!(
        subject(Grouping::Process),
        ["(all processes) read", "sh 7 exec"]
    );
}

#[test]
fn what_is_lost_or_left_out_is_counted_and_is_no_row() {
    let mut model = Model::default();
    for count in [5, 0] {
        model.add(&event(
            None,
            "",
            Kind::Loss(Loss {
                count,
                ..Loss::default()
            }),
        ));
    }
    model.add(&Event {
        policy: Some(Policy {
            suppressed_since_last: 9,
            ..Policy::default()
        }),
        ..event(None, "sh", call("read"))
    });
    assert_eq!(
        (model.lost, model.lost_unknown, model.suppressed),
        (5, 1, 9)
    );
    assert_eq!(brief(&model.rows(Sort::Rate, "")), [("sh", "read", 1)]);
}

#[test]
fn a_filter_finds_names_and_calls_in_any_case() {
    let mut model = Model::default();
    model.add(&event(Some("cart-0"), "sh", call("openat")));
    model.add(&event(Some("web-0"), "sh", call("read")));
    assert_eq!(model.rows(Sort::Rate, "CART").len(), 1);
    assert_eq!(model.rows(Sort::Rate, "read").len(), 1);
    assert_eq!(model.rows(Sort::Rate, "n1").len(), 2);
    assert_eq!(model.rows(Sort::Rate, "nosuch").len(), 0);
}

#[test]
fn a_hundred_thousand_names_are_bounded_and_every_call_is_in_the_totals() {
    let mut model = Model::default();
    let busy = event(None, "busy", call("read"));
    let mut made = 0u64;
    for round in 0..50 {
        for name in 0..2_000 {
            model.add(&event(None, &format!("c{round}-{name}"), call("read")));
        }
        for _ in 0..10 {
            model.add(&busy);
        }
        made += 2_010;
        model.tick(SECOND);
        assert!(model.rows.len() <= MAX_ROWS);
    }
    let rows = model.rows(Sort::Total, "");
    assert!(rows.len() <= MAX_ROWS + 1);
    assert_eq!(
        brief(&rows)[0],
        ("busy", "read", 500),
        "the busiest row is kept"
    );
    assert_eq!(rows.last().unwrap().subject.name, "(others)");
    let total: u64 = rows.iter().map(|row| row.total).sum();
    assert_eq!((total, model.events.total()), (made, made));
}
