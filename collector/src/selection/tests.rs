use super::*;
use crate::refusal::Invalid;

/// A batch of n1: execs and an openat of two pods and the host, and a loss.
fn batch() -> wire::Batch {
    let process = |pid, comm: &str, binary: &str, uid| v1::Process {
        pid,
        tid: pid,
        comm: comm.into(),
        binary: binary.into(),
        uid: Some(uid),
        ..v1::Process::default()
    };
    let pod = |namespace: &str, name: &str, app: &str, container: &str| v1::Pod {
        namespace: namespace.into(),
        name: name.into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        container: Some(v1::Container {
            name: container.into(),
            ..v1::Container::default()
        }),
        ..v1::Pod::default()
    };
    let event = |second: u64, kind| {
        Some(v1::Event {
            time: Some(Timestamp::from_unix_nanos(second * 1_000_000_000)),
            cpu: Some(0),
            sequence: second,
            kind: Some(kind),
            ..v1::Event::default()
        })
    };
    use v1::event::Kind;
    let path = |name: &str| {
        Kind::Path(v1::Path {
            name: name.into(),
            ..v1::Path::default()
        })
    };
    let batch = v1::Batch {
        node: "n1".into(),
        epoch: 1,
        number: 1,
        processes: vec![
            process(10, "sh", "/usr/bin/dash", 0),
            process(20, "nginx", "/usr/sbin/nginx", 1000),
        ],
        pods: vec![
            pod("shop", "cart-0", "cart", "web"),
            pod("bank", "safe-0", "safe", "db"),
        ],
        policies: vec![],
        events: [
            (event(1, Kind::Exec(v1::Exec::default())), 1, 1),
            (event(2, path("openat")), 2, 2),
            (event(3, Kind::Exit(v1::Exit::default())), 1, 0),
            (event(4, Kind::Loss(v1::Loss::default())), 0, 0),
            (event(5, path("unlink")), 2, 1),
        ]
        .into_iter()
        .map(|(event, process, pod)| v1::BatchedEvent {
            event,
            process,
            pod,
            ..v1::BatchedEvent::default()
        })
        .collect(),
    };
    wire::Batch::decode(batch.encode_to_vec().as_slice()).unwrap()
}

fn selected(selector: &Selector) -> Vec<usize> {
    let batch = batch();
    let verdict = selector.look_at(&batch);
    let mut scratch = Vec::new();
    (0..batch.events.len())
        .filter(|index| {
            let verdict = selector.judge(&verdict, &batch, *index, &mut scratch);
            matches!(verdict, Verdict::Selected | Verdict::Withheld)
        })
        .map(|index| index + 1)
        .collect()
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn each_field_selects_and_a_loss_is_told_to_everyone() {
    let none = v1::Selection::default;
    #[rustfmt::skip]
    let table: Vec<(&str, v1::Selection, &[usize])> = vec![
        ("everything", none(), &[1, 2, 3, 4, 5]),
        ("node", v1::Selection { nodes: texts(&["n[0-9]"]), ..none() }, &[1, 2, 3, 4, 5]),
        ("other node", v1::Selection { nodes: texts(&["m*"]), ..none() }, &[]),
        ("namespace", v1::Selection { namespaces: texts(&["shop"]), ..none() }, &[1, 4, 5]),
        ("namespaces", v1::Selection { namespaces: texts(&["shop", "bank"]), ..none() }, &[1, 2, 4, 5]),
        ("pod", v1::Selection { pods: texts(&["safe-*"]), ..none() }, &[2, 4]),
        ("labels", v1::Selection { label_selector: "app in (cart)".into(), ..none() }, &[1, 4, 5]),
        ("no label", v1::Selection { label_selector: "!canary".into(), ..none() }, &[1, 2, 4, 5]),
        ("container", v1::Selection { containers: texts(&["db"]), ..none() }, &[2, 4]),
        ("syscall", v1::Selection { syscalls: texts(&["openat"]), ..none() }, &[2, 4]),
        ("exec is execve", v1::Selection { syscalls: texts(&["execve"]), ..none() }, &[1, 4]),
        ("group", v1::Selection { syscalls: texts(&["@file"]), ..none() }, &[2, 4, 5]),
        ("type", v1::Selection { types: texts(&["exit", "exec"]), ..none() }, &[1, 3, 4]),
        ("comm", v1::Selection { comms: texts(&["n*"]), ..none() }, &[2, 4, 5]),
        ("binary", v1::Selection { binaries: texts(&["/usr/*nx"]), ..none() }, &[2, 4, 5]),
        ("uid", v1::Selection { uids: texts(&["0"]), ..none() }, &[1, 3, 4]),
        ("uids", v1::Selection { uids: texts(&["7", "999-1000"]), ..none() }, &[2, 4, 5]),
        ("pid", v1::Selection { pids: vec![10], ..none() }, &[1, 3, 4]),
        ("cel", v1::Selection { cel: "event.process.pid == 20 && event.pod.name == 'cart-0'".into(), ..none() }, &[4, 5]),
        ("and", v1::Selection { pids: vec![20], namespaces: texts(&["shop"]), ..none() }, &[4, 5]),
    ];
    for (name, selection, expected) in table {
        let selector = Selector::compile(&selection, None, None, Reader::All).unwrap();
        assert_eq!(selected(&selector), expected, "{name}");
        assert_eq!(selector.is_everything(), name == "everything", "{name}");
    }
}

#[test]
fn a_reader_of_one_namespace_sees_nothing_else() {
    let reader = Reader::Namespaces(std::sync::Arc::new(["shop".to_owned()].into()));
    let all = Selector::compile(&v1::Selection::default(), None, None, reader.clone()).unwrap();
    assert_eq!(selected(&all), [1, 4, 5]);
    let other = v1::Selection {
        namespaces: texts(&["bank"]),
        ..v1::Selection::default()
    };
    let other = Selector::compile(&other, None, None, reader).unwrap();
    assert_eq!(selected(&other), [4]);
    assert!(!all.takes_pod_name("", ""));
    assert!(all.takes_pod_name("shop", "cart-0"));
}

#[test]
fn a_loss_is_told_whole_to_who_may_see_what_it_took() {
    let loss_of = |reader: &Reader, pod| {
        let selector =
            Selector::compile(&v1::Selection::default(), None, None, reader.clone()).unwrap();
        let mut batch = batch();
        batch.events[3].pod = pod;
        selector.judge(&selector.look_at(&batch), &batch, 3, &mut Vec::new())
    };
    let shop = &Reader::Namespaces(std::sync::Arc::new(["shop".to_owned()].into()));
    assert_eq!(
        [0, 1, 2].map(|pod| loss_of(&Reader::All, pod)),
        [Verdict::Selected; 3]
    );
    assert_eq!(
        [0, 1, 2].map(|pod| loss_of(shop, pod)),
        [Verdict::Withheld, Verdict::Selected, Verdict::Left]
    );
}

#[test]
fn times_are_from_and_before() {
    let at = |second: u64| Some(Timestamp::from_unix_nanos(second * 1_000_000_000));
    let selector = Selector::compile(&v1::Selection::default(), at(2), at(4), Reader::All).unwrap();
    assert_eq!(selected(&selector), [2, 3]);
}

#[test]
fn an_expression_that_fails_is_told_apart() {
    let selection = v1::Selection {
        cel: "event.pod.labels.nothing == ''".into(),
        types: texts(&["exec"]),
        ..v1::Selection::default()
    };
    let selector = Selector::compile(&selection, None, None, Reader::All).unwrap();
    let batch = batch();
    let verdict = selector.look_at(&batch);
    let judged: Vec<Verdict> = (0..5)
        .map(|index| selector.judge(&verdict, &batch, index, &mut Vec::new()))
        .collect();
    use Verdict::{Failed, Left, Selected};
    assert_eq!(judged, [Failed, Left, Left, Selected, Left]);
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    let selection = v1::Selection {
        nodes: texts(&["n1", "[a-"]),
        namespaces: texts(&[""]),
        pods: vec!["x".to_owned(); MAX_VALUES + 1],
        label_selector: "app in cart".into(),
        containers: vec!["c".repeat(MAX_TEXT_BYTES + 1)],
        syscalls: texts(&["openta", "@nothing"]),
        types: texts(&["exek"]),
        uids: texts(&["root", "9-1", "-1", "4294967296"]),
        cel: "event.nod".into(),
        ..v1::Selection::default()
    };
    let time = Some(Timestamp {
        seconds: 1,
        nanos: -1,
    });
    let problems = Selector::compile(&selection, time, None, Reader::All).unwrap_err();
    let fields: Vec<&str> = problems.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "since",
            "selection.nodes[1]",
            "selection.namespaces[0]",
            "selection.pods",
            "selection.label_selector",
            "selection.containers[0]",
            "selection.syscalls[0]",
            "selection.syscalls[1]",
            "selection.types[0]",
            "selection.uids[0]",
            "selection.uids[1]",
            "selection.uids[2]",
            "selection.uids[3]",
            "selection.cel",
        ]
    );
    let Invalid { description, .. } = &problems[13];
    assert!(
        description.starts_with("1:1: Event has no field"),
        "{description}"
    );
}
