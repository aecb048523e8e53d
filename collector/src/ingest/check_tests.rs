use ebpf_hello_proto::v1::{self, event::Kind};

use super::*;

fn sample(events: usize) -> v1::Batch {
    v1::Batch {
        node: "n1".into(),
        epoch: 1,
        number: 1,
        processes: vec![v1::Process {
            pid: 42,
            comm: "sh".into(),
            binary: "/usr/bin/dash".into(),
            start_time: Some(Timestamp::from_unix_nanos(77)),
            ..v1::Process::default()
        }],
        pods: vec![v1::Pod {
            namespace: "shop".into(),
            labels: [("app".to_owned(), "cart".to_owned())].into(),
            ..v1::Pod::default()
        }],
        policies: vec![v1::Policy {
            filter: "shop/cart".into(),
            ..v1::Policy::default()
        }],
        events: (0..events)
            .map(|n| v1::BatchedEvent {
                event: Some(v1::Event {
                    time: Some(Timestamp::from_unix_nanos(1_800_000_000_123_456_789)),
                    cpu: Some(3),
                    sequence: n as u64 + 1,
                    cgroup_id: 2856,
                    policy: Some(v1::Policy {
                        suppressed_since_last: 2,
                        ..v1::Policy::default()
                    }),
                    kind: Some(Kind::Syscall(v1::Syscall {
                        name: "openat".into(),
                        number: Some(257),
                        args: vec![u64::MAX, 0x7fff_0000_1234, 0, 0, 0, 0],
                        return_value: Some(-2),
                        ..v1::Syscall::default()
                    })),
                    ..v1::Event::default()
                }),
                process: 1,
                pod: 1,
                policy: 1,
                tid: 43,
            })
            .collect(),
    }
}

fn check(batch: &v1::Batch) -> Result<wire::Batch, Invalid> {
    super::batch(&batch.encode_to_vec().into())
}

#[test]
fn a_good_batch_passes_with_every_kind_of_field() {
    assert_eq!(check(&sample(3)).unwrap().events.len(), 3);
}

#[test]
fn each_rule_is_held_and_the_field_is_named() {
    type Change = fn(&mut v1::Batch);
    fn event(batch: &mut v1::Batch) -> &mut v1::Event {
        batch.events[1].event.as_mut().unwrap()
    }
    let table: &[(&str, &str, Change)] = &[
        ("batch.epoch", "1 or more", |b| b.epoch = 0),
        ("batch.number", "1 or more", |b| b.number = 0),
        ("batch.events", "expected an event", |b| b.events.clear()),
        ("batch.events[1].process", "2: the batch has 1", |b| {
            b.events[1].process = 2
        }),
        ("batch.events[1].pod", "the batch has 1", |b| {
            b.events[1].pod = u32::MAX
        }),
        ("batch.events[1].policy", "the batch has 1", |b| {
            b.events[1].policy = 9
        }),
        ("batch.events[1].event", "has a node", |b| {
            event(b).node = "n2".into()
        }),
        ("batch.events[1].event", "has an epoch", |b| {
            event(b).epoch = 7
        }),
        ("batch.events[1].event", "has a process", |b| {
            event(b).process = Some(v1::Process::default())
        }),
        ("batch.events[1].event", "has a pod", |b| {
            event(b).pod = Some(v1::Pod::default())
        }),
        ("batch.events[1].event", "has a policy", |b| {
            event(b).policy = Some(v1::Policy {
                rule: 1,
                ..v1::Policy::default()
            });
        }),
        ("batch.events[1].event", "out of protobuf's range", |b| {
            event(b).time = Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            });
        }),
        ("batch.processes[0]", "out of protobuf's range", |b| {
            b.processes[0].start_time = Some(Timestamp {
                seconds: 0,
                nanos: -1,
            });
        }),
    ];
    for (field, what, change) in table {
        let mut batch = sample(2);
        change(&mut batch);
        let problem = check(&batch).unwrap_err();
        assert_eq!(problem.field, *field);
        assert!(problem.description.contains(what), "{problem:?}");
    }
}

#[test]
fn bytes_that_are_no_event_are_refused() {
    let good = wire::Batch::decode(sample(1).encode_to_vec().as_slice()).unwrap();
    for (bytes, what) in [
        (&b"\xff\xff\xff\xff"[..], "not the message"),
        (b"\x9a\x01\x05ab", "cut short"),
        // A syscall's name that is not UTF-8.
        (b"\x9a\x01\x03\x0a\x01\xff", "not UTF-8"),
        // The time as a number.
        (b"\x08\x01", "where bytes belong"),
        // cgroup_id as four bytes.
        (b"\x35\x00\x00\x00\x00", "where a number belongs"),
    ] {
        let mut batch = good.clone();
        batch.events[0].event = Bytes::from_static(bytes);
        let problem = super::batch(&batch.encode_to_vec().into()).unwrap_err();
        assert_eq!(problem.field, "batch.events[0].event");
        assert!(problem.description.contains(what), "{problem:?}");
    }
    for bytes in [&b"\xff"[..], b"\x3a\x7f"] {
        let problem = super::batch(&Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(problem.field, "batch");
    }
    let large = Bytes::from(vec![0; MAX_BATCH_BYTES + 1]);
    assert!(
        super::batch(&large)
            .unwrap_err()
            .description
            .contains("at most")
    );
}

#[test]
fn fields_of_a_newer_agent_pass() {
    let mut batch = wire::Batch::decode(sample(1).encode_to_vec().as_slice()).unwrap();
    let mut event = batch.events[0].event.to_vec();
    // Field 31, a message this build does not know.
    event.extend_from_slice(b"\xfa\x01\x02\x08\x01");
    batch.events[0].event = event.into();
    super::batch(&batch.encode_to_vec().into()).unwrap();
}

/// `cargo test --release -p ebpf-hello-collector what_checking_costs -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn what_checking_costs() {
    let bytes: Bytes = sample(512).encode_to_vec().into();
    let time = |what: &str, work: &dyn Fn()| {
        let best = (0..200)
            .map(|_| {
                let started = std::time::Instant::now();
                work();
                started.elapsed()
            })
            .min()
            .unwrap();
        println!("{what}: {} ns per event", best.as_nanos() / 512);
    };
    time("shallow decoding", &|| {
        drop(wire::Batch::decode(bytes.clone()).unwrap())
    });
    time("shallow decoding and checking", &|| {
        drop(super::batch(&bytes).unwrap())
    });
    time("full decoding", &|| {
        drop(v1::Batch::decode(bytes.clone()).unwrap())
    });
}
