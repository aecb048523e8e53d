use std::time::Instant;

use ebpf_hello_proto::{Timestamp, v1};
use prost::Message as _;

use super::*;

fn exec(argv: &[&str]) -> v1::Event {
    v1::Event {
        time: Some(Timestamp::from_unix_nanos(1_800_000_000_000_000_000)),
        node: "n1".into(),
        cpu: Some(0),
        process: Some(v1::Process {
            pid: 42,
            uid: Some(0),
            comm: "sh".into(),
            ..v1::Process::default()
        }),
        pod: Some(v1::Pod {
            namespace: "shop".into(),
            labels: [("app".to_owned(), "cart".to_owned())].into(),
            ..v1::Pod::default()
        }),
        kind: Some(v1::event::Kind::Exec(v1::Exec {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            source: v1::ExecSource::SchedProcessExec.into(),
            ..v1::Exec::default()
        })),
        ..v1::Event::default()
    }
}

fn holds(expression: &str, event: &v1::Event) -> Result<bool, Failed> {
    Expression::compile(expression)
        .unwrap_or_else(|error| panic!("{expression}: {error}"))
        .holds(&event.encode_to_vec())
}

#[test]
fn reads_fields_by_their_names_and_what_is_not_set_has_a_default() {
    let event = exec(&["curl", "-s", "example.org"]);
    let counters = v1::Event {
        kind: Some(v1::event::Kind::Counters(v1::Counters {
            execs: vec![v1::ExecCount {
                uid: Some(7),
                count: 3,
            }],
            ..v1::Counters::default()
        })),
        ..v1::Event::default()
    };
    for (expression, expected) in [
        ("true", true),
        ("event.process.pid == 42", true),
        ("event.process.pid == 42u", true),
        ("event.process.pid in [1, 42]", true),
        ("event.process.uid == 0 && event.process.pid > 41", true),
        ("has(event.process.uid)", true),
        ("has(event.process.gid)", false),
        ("has(event.exec)", true),
        ("has(event.exit)", false),
        ("has(event.exit.code)", false),
        ("event.exit.signal == ''", true),
        ("event.exec.argv.exists(a, a.contains(\"curl\"))", true),
        ("event.exec.argv.all(a, a.size() > 2)", false),
        ("event.exec.argv[0] == 'curl'", true),
        (
            "size(event.exec.argv.filter(a, a.startsWith('-'))) == 1",
            true,
        ),
        (
            "event.exec.argv.map(a, a + '!') == ['curl!', '-s!', 'example.org!']",
            true,
        ),
        ("event.exec.argv.exists_one(a, a.matches('^ex.*g$'))", true),
        (
            "event.exec.source == 'EXEC_SOURCE_SCHED_PROCESS_EXEC'",
            true,
        ),
        ("event.pod.labels.app == 'cart'", true),
        ("event.pod.labels['app'] == 'cart'", true),
        (
            "has(event.pod.labels.app) && !has(event.pod.labels.tier)",
            true,
        ),
        ("'app' in event.pod.labels", true),
        ("event.time > timestamp('2026-01-01T00:00:00Z')", true),
        ("event.node == 'n1' ? event.cpu == 0 : false", true),
    ] {
        assert_eq!(holds(expression, &event), Ok(expected), "{expression}");
    }
    let any = "event.counters.execs.exists(e, e.uid == 7 && e.count > 2)";
    assert_eq!(holds(any, &counters), Ok(true));
    assert_eq!(
        holds("event.exec.argv.exists(a, a == 'x')", &counters),
        Ok(false)
    );
    assert_eq!(holds("event.process.pid == 0", &counters), Ok(true));
}

#[test]
fn says_what_it_does_not_understand_and_where() {
    let long = "a".repeat(MAX_LENGTH + 1);
    let deep = format!("{}true{}", "(".repeat(1500), ")".repeat(1500));
    let bangs = format!("{}true", "!".repeat(4000));
    let minus = format!("{}1 == 1", "- ".repeat(2000));
    let selects = format!("event{}", ".pod".repeat(1000));
    let index = format!("event.exec.argv{}", "[0]".repeat(1300));
    let lists = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let ternary = format!("{}true", "true ? true : ".repeat(290));
    for (expression, expected) in [
        ("", "1:"),
        ("event.process.pid ==", "1:"),
        (
            "event.process.pidd == 1",
            "1:1: Process has no field \"pidd\": expected one of pid",
        ),
        (
            "true &&\n event.nod == 'x'",
            "2:2: Event has no field \"nod\"",
        ),
        (
            "event.process.parentPid == 1",
            "it is called \"parent_pid\" here",
        ),
        ("event == event", "event is a message"),
        ("event['node'] == 'n1'", "event is a message"),
        ("event.process == 1", "name one of its fields"),
        ("event.node.x == 1", "\"node\" has no fields"),
        ("foo == 1", "1:1: nothing is called \"foo\" here"),
        ("event.node.frobnicate()", "12: no function \"frobnicate\""),
        (
            "event.node.matches(event.node)",
            "with the pattern written out",
        ),
        ("event.node.matches('(')", "no regular expression"),
        (
            "event.node.matches('((a{100}){100}){100}')",
            "no regular expression",
        ),
        ("[1].exists(event, event == 1)", "cannot be called event"),
        ("Foo{a: 1} == 1", "messages cannot be made"),
        (
            "[1].all(a, [1].all(b, [1].all(c, a + b + c > 0)))",
            "more than 2 comprehensions",
        ),
        (&long, "4097 characters"),
        (&deep, "1:"),
        (&bangs, ""),
        (&minus, ""),
        (&selects, "1:1: Pod has no field \"pod\""),
        (&index, "1:"),
        (&lists, "1:"),
        (&ternary, "1:"),
        ("\u{0}", "1:"),
        ("'unterminated", "1:"),
        (
            "1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 == 18",
            "additions",
        ),
    ] {
        let shown: String = expression.chars().take(60).collect();
        match Expression::compile(expression) {
            Err(error) => assert!(error.contains(expected), "{shown}: {error}"),
            // An even number of signs is a short expression in the end.
            Ok(_) => assert_eq!(expected, "", "{shown} compiles"),
        }
    }
}

#[test]
fn an_event_it_fails_on_is_told_apart_from_one_it_refuses() {
    let event = exec(&["ls"]);
    for expression in [
        "event.node",
        "event.process.pid / 0 == 1",
        "event.exec.argv[7] == 'x'",
        "event.pod.labels.absent == 'x'",
        "event.node > 1",
    ] {
        assert_eq!(holds(expression, &event), Err(Failed), "{expression}");
    }
}

#[test]
fn an_expression_cannot_run_for_long() {
    let many: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let event = exec(&many);
    let started = Instant::now();
    for expression in [
        "event.exec.argv.all(a, event.exec.argv.exists(b, b == a + 'x') || true)",
        "event.exec.argv.map(a, event.exec.argv.map(b, a + b)).size() == 0",
    ] {
        assert_eq!(holds(expression, &event), Err(Failed), "{expression}");
    }
    assert_eq!(
        holds("event.exec.argv.exists(a, a == '1999')", &event),
        Ok(true)
    );
    // Generous: the machine may be busy. Without a bound the first takes minutes.
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}
