//! The JSON of an event is canonical proto3 JSON and loses nothing: by the example people rely on,
//! and field by field against another implementation (prost-reflect, which works from the `.proto`).

mod sample;
mod schema;

use ebpf_hello_proto::v1::{
    Abi, Event, Exec, ExecSource, Exit, Loss, LossReason, LossStage, Path, Process, Sock, Syscall,
    Timer, event::Kind,
};
use ebpf_hello_proto::{Duration, Timestamp};
use prost::Message as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value, json};

/// The example of the interface description, with real values where it has an ellipsis.
fn example() -> Value {
    json!({
        "time": "2026-11-22T10:00:00.123456789Z", "node": "n1", "cpu": 3, "sequence": "88",
        "epoch": "1", "cgroupId": "2856",
        "process": {
            "pid": 4242, "tid": 4242, "parentPid": 4200, "uid": 1000, "gid": 1000, "comm": "bash",
            "binary": "/usr/bin/bash", "execId": "a1b2", "startTime": "2026-11-22T09:59:59.500Z"
        },
        "pod": {
            "namespace": "shop", "name": "cart-0", "uid": "8c4f", "labels": {"app": "cart"},
            "workload": {"kind": "Deployment", "name": "cart"},
            "container": {"name": "web", "id": "ab12", "image": "cart:1"}
        },
        "policy": {"filter": "shop/cart-timers", "rule": 1, "table": 3, "generation": "7"},
        "exec": {
            "filename": "/usr/bin/ls", "argv": ["ls", "-la"], "cwd": "/home/a",
            "source": "EXEC_SOURCE_SCHED_PROCESS_EXEC"
        }
    })
}

fn to_json(event: &Event) -> Value {
    serde_json::to_value(event).unwrap_or_else(|error| panic!("{event:?}: {error}"))
}

fn of(kind: Kind) -> Event {
    Event {
        kind: Some(kind),
        ..Event::default()
    }
}

#[test]
fn documented_example_round_trips() {
    let event: Event = serde_json::from_value(example()).expect("the example parses");
    assert_eq!(
        event.time,
        Some(Timestamp {
            seconds: 1_795_341_600,
            nanos: 123_456_789
        })
    );
    assert_eq!(event.cgroup_id, 2856);
    let Some(Kind::Exec(exec)) = &event.kind else {
        panic!("not an exec: {:?}", event.kind)
    };
    assert_eq!(exec.source(), ExecSource::SchedProcessExec);
    assert_eq!(to_json(&event), example());
}

#[test]
fn what_happened_is_the_last_field_of_the_line() {
    let event: Event = serde_json::from_value(example()).expect("the example parses");
    let line = serde_json::to_string(&event).expect("prints");
    assert!(!line.contains('\n'), "{line}");
    assert!(line.starts_with(r#"{"time":"2026-11-22T10:00:00.123456789Z","node":"n1","cpu":3,"#));
    assert!(
        line.ends_with(r#""source":"EXEC_SOURCE_SCHED_PROCESS_EXEC"}}"#),
        "{line}"
    );
}

#[test]
fn a_set_zero_prints_where_zero_means_something() {
    let event = Event {
        cpu: Some(0),
        process: Some(Process {
            uid: Some(0),
            gid: Some(0),
            login_uid: Some(0),
            ..Process::default()
        }),
        kind: Some(Kind::Exit(Exit {
            code: Some(0),
            ..Exit::default()
        })),
        ..Event::default()
    };
    assert_eq!(
        to_json(&event),
        json!({"cpu": 0, "process": {"uid": 0, "gid": 0, "loginUid": 0}, "exit": {"code": 0}})
    );

    let syscall = Syscall {
        number: Some(0),
        return_value: Some(0),
        args: vec![0, 0],
        ..Syscall::default()
    };
    assert_eq!(
        to_json(&of(Kind::Syscall(syscall))),
        json!({"syscall": {"number": 0, "returnValue": "0", "args": ["0", "0"]}})
    );
    let failed = Exec {
        errno: Some(0),
        ..Exec::default()
    };
    assert_eq!(
        to_json(&of(Kind::Exec(failed))),
        json!({"exec": {"errno": 0}})
    );
    let path = Path {
        dirfd: Some(0),
        owner: Some(0),
        ..Path::default()
    };
    assert_eq!(
        to_json(&of(Kind::Path(path))),
        json!({"path": {"dirfd": 0, "owner": 0}})
    );
    let sock = Sock {
        port: Some(0),
        fd: Some(0),
        ..Sock::default()
    };
    assert_eq!(
        to_json(&of(Kind::Sock(sock))),
        json!({"sock": {"port": 0, "fd": 0}})
    );
    let timer = Timer {
        timer_id: Some(0),
        interval: Some(Duration::default()),
        initial: Some(Duration::default()),
        ..Timer::default()
    };
    assert_eq!(
        to_json(&of(Kind::Timer(timer))),
        json!({"timer": {"timerId": 0, "interval": "0s", "initial": "0s"}})
    );
}

#[test]
fn empty_fields_are_left_out_and_an_empty_kind_is_not() {
    assert_eq!(to_json(&Event::default()), json!({}));
    assert_eq!(
        to_json(&of(Kind::Exit(Exit::default()))),
        json!({"exit": {}})
    );
}

#[test]
fn integers_of_64_bits_are_strings_to_the_last_digit() {
    let event = Event {
        sequence: u64::MAX,
        cgroup_id: 9_007_199_254_740_993, // 2^53 + 1: a double loses it
        kind: Some(Kind::Syscall(Syscall {
            args: vec![u64::MAX],
            return_value: Some(i64::MIN),
            ..Syscall::default()
        })),
        ..Event::default()
    };
    let expected = json!({
        "sequence": "18446744073709551615", "cgroupId": "9007199254740993",
        "syscall": {"args": ["18446744073709551615"], "returnValue": "-9223372036854775808"}
    });
    assert_eq!(to_json(&event), expected);
    assert_eq!(
        serde_json::from_value::<Event>(expected).expect("parses"),
        event
    );
}

#[test]
fn an_enum_value_from_a_newer_version_keeps_its_number() {
    let loss = Loss {
        stage: LossStage::Hub.into(),
        reason: 4711,
        count: 2,
        ..Loss::default()
    };
    let event = of(Kind::Loss(loss));
    let expected = json!({"loss": {"stage": "LOSS_STAGE_HUB", "reason": 4711, "count": "2"}});
    assert_eq!(to_json(&event), expected);
    assert_eq!(
        serde_json::from_value::<Event>(expected).expect("parses"),
        event
    );

    // A known value may come as its number, too.
    let event: Event = serde_json::from_value(json!({"loss": {"reason": 9}})).expect("parses");
    let Some(Kind::Loss(loss)) = event.kind else {
        panic!("not a loss")
    };
    assert_eq!(loss.reason(), LossReason::HistoryGone);
}

#[test]
fn an_enum_name_nobody_defined_is_refused() {
    let parsed = serde_json::from_value::<Event>(json!({"syscall": {"abi": "ABI_VAX"}}));
    assert!(parsed.is_err(), "{parsed:?}");
}

#[test]
fn two_kinds_in_one_event_are_refused() {
    let parsed = serde_json::from_value::<Event>(json!({"exit": {}, "fork": {}}));
    assert!(parsed.is_err(), "{parsed:?}");
}

#[test]
fn a_value_of_the_wrong_type_or_range_is_refused() {
    for bad in [
        json!({"cpu": -1}),
        json!({"cpu": 4_294_967_296_u64}),
        json!({"sequence": "18446744073709551616"}),
        json!({"sequence": "1x"}),
        json!({"time": "yesterday"}),
        json!({"time": "2026-13-01T00:00:00Z"}),
        json!({"exit": {"lifetime": "12"}}),
        json!({"node": 1}),
        json!([]),
    ] {
        let parsed = serde_json::from_value::<Event>(bad.clone());
        assert!(parsed.is_err(), "{bad} gave {parsed:?}");
    }
}

#[test]
fn a_field_from_a_newer_version_is_skipped() {
    let parsed: Event = serde_json::from_value(json!({"node": "n1", "fromTheFuture": {"a": [1]}}))
        .expect("unknown fields are skipped");
    assert_eq!(
        parsed,
        Event {
            node: "n1".into(),
            ..Event::default()
        }
    );
}

#[test]
fn control_characters_and_escapes_survive() {
    let argv = vec![
        "\u{1b}[31m".into(),
        "a\nb".into(),
        r"\xff\x5c".into(),
        "ü\u{202e}".into(),
    ];
    let event = of(Kind::Exec(Exec {
        argv,
        ..Exec::default()
    }));
    let line = serde_json::to_string(&event).expect("prints");
    assert!(
        line.chars().all(|character| !character.is_ascii_control()),
        "{line:?}"
    );
    assert_eq!(serde_json::from_str::<Event>(&line).expect("parses"), event);
}

/// Every field of every kind, as prost-reflect prints it, is what this crate prints and reads.
#[test]
fn every_field_prints_as_another_implementation_prints_it() {
    let pool = schema::pool();
    let descriptor = pool
        .get_message_by_name("ebpfhello.v1.Event")
        .expect("Event is defined");
    let kinds = descriptor
        .oneofs()
        .find(|oneof| oneof.name() == "kind")
        .expect("Event.kind");
    let names: Vec<String> = kinds
        .fields()
        .map(|field| field.name().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "exec", "exit", "fork", "syscall", "timer", "path", "sock", "counters", "loss",
            "identity"
        ]
    );
    for kind in kinds.fields() {
        let full = sample::full_message(&descriptor, Some(&kind));
        same_json::<Event>(&full);
    }
}

#[test]
fn every_field_of_a_ledger_prints_as_another_implementation_prints_it() {
    let pool = schema::pool();
    let descriptor = pool
        .get_message_by_name("ebpfhello.v1.Ledger")
        .expect("Ledger is defined");
    let full = sample::full_message(&descriptor, None);
    same_json::<ebpf_hello_proto::v1::Ledger>(&full);
    let ours = ebpf_hello_proto::v1::Ledger::decode(full.encode_to_vec().as_slice());
    let ours = serde_json::to_value(ours.expect("decodes")).expect("prints");
    for key in [
        "self",
        "canary",
        "tableMiss",
        "inFlight",
        "outOfRange",
        "foreign",
        "handlers",
    ] {
        assert!(ours.get(key).is_some(), "no {key} in {ours}");
    }
}

/// Fails unless `reference` and `M` agree in both directions, on the wire and in JSON.
fn same_json<M>(reference: &DynamicMessage)
where
    M: prost::Message
        + Default
        + PartialEq
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let bytes = reference.encode_to_vec();
    let ours = M::decode(bytes.as_slice()).expect("the reference's bytes decode");
    let mut theirs = Vec::new();
    reference
        .serialize_with_options(
            &mut serde_json::Serializer::new(&mut theirs),
            &SerializeOptions::new(),
        )
        .expect("the reference prints");
    let theirs: Value = serde_json::from_slice(&theirs).expect("the reference prints JSON");
    assert_eq!(serde_json::to_value(&ours).expect("prints"), theirs);
    let back: M = serde_json::from_value(theirs).expect("parses");
    assert_eq!(back, ours);
    // Nothing the schema defines is unknown to the generated types.
    assert_eq!(back.encoded_len(), bytes.len());
}

#[test]
fn an_enum_field_names_its_abi() {
    for (abi, name) in [
        (Abi::X8664, "ABI_X86_64"),
        (Abi::Ia32, "ABI_IA32"),
        (Abi::Aarch64, "ABI_AARCH64"),
    ] {
        let event = of(Kind::Syscall(Syscall {
            abi: abi.into(),
            ..Syscall::default()
        }));
        assert_eq!(to_json(&event), json!({"syscall": {"abi": name}}));
    }
}
