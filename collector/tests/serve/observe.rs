use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_hello_collector::{log::Memory, serve::Options};
use ebpf_hello_proto::{
    Timestamp,
    v1::{
        self, event::Kind, observe_response::Message,
        observer_service_client::ObserverServiceClient,
    },
};
use prost_types::FieldMask;
use tokio::sync::watch;

use crate::server::*;

fn at(sequence: u64) -> Option<Timestamp> {
    Some(Timestamp::from_unix_nanos(
        (1_700_000_000 + sequence) * 1_000_000_000,
    ))
}

fn of_shop() -> Option<v1::Selection> {
    Some(v1::Selection {
        namespaces: vec!["shop".into()],
        ..v1::Selection::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_subscriber_loses_only_its_own_events_and_hears_how_many() {
    const BATCHES: u64 = 400;
    const EVENTS: u64 = 250;
    let options = Options {
        queue_bytes: 1 << 20,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(256 << 20)), options).await;
    let mut stalled = open(
        &mut ObserverServiceClient::new(server.channel(64 << 10).await),
        live(),
    )
    .await;
    // Half of the events are another's: they are not counted as its loss.
    let narrow = v1::ObserveRequest {
        selection: of_shop(),
        ..live()
    };
    let mut stalled_narrow = open(
        &mut ObserverServiceClient::new(server.channel(64 << 10).await),
        narrow,
    )
    .await;
    let mut client = server.observer().await;
    let mut fast = open(&mut client, live()).await;
    let (progress, mut seen) = watch::channel(0_u64);
    let reader = tokio::spawn(async move {
        let mut expected = 0;
        while expected < BATCHES * EVENTS {
            let response = next(&mut fast).await.unwrap().unwrap();
            if let Some(Message::Events(list)) = response.message {
                for event in list.events {
                    expected += 1;
                    assert_eq!(event.sequence, expected, "in order, none left out");
                }
            }
            progress.send_replace(expected);
        }
    });
    for number in 1..=BATCHES {
        server.append(&batch(number, EVENTS)).await;
        // As fast as the fast one is, so that only the stalled ones are slow.
        seen.wait_for(|seen| seen + 4 * EVENTS >= number * EVENTS)
            .await
            .unwrap();
    }
    reader.await.unwrap();

    for (stream, offered) in [
        (&mut stalled, BATCHES * EVENTS),
        (&mut stalled_narrow, BATCHES * EVENTS / 3 + 1),
    ] {
        let (mut got, mut lost, mut last) = (0, 0, 0);
        while got + lost < offered {
            let response = next(stream).await.unwrap().unwrap();
            let Some(Message::Events(list)) = response.message else {
                continue;
            };
            for loss in losses(&list.events) {
                assert_eq!(loss.stage(), v1::LossStage::Subscriber);
                assert_eq!(loss.reason(), v1::LossReason::QueueFull);
                assert_eq!(
                    (loss.node.as_str(), loss.first_sequence > last),
                    ("n1", true)
                );
                last = loss.last_sequence;
                lost += loss.count;
            }
            for event in list.events {
                if event.sequence > 0 {
                    assert!(event.sequence > last, "what was lost was told before");
                    last = event.sequence;
                    got += 1;
                }
            }
        }
        assert_eq!(got + lost, offered);
        assert!(lost > 0 && got > 0, "{got} + {lost}");
    }
    // The ledger, after the last bytes have gone out.
    let started = std::time::Instant::now();
    let ledger = loop {
        let ledger = client.get_ledger(v1::GetLedgerRequest::default()).await;
        let ledger = ledger.unwrap().into_inner().collector.unwrap();
        // The fast one has gone; the server hears of it when it has read that.
        if ledger.subscribers == 3 - 1 {
            break ledger;
        }
        assert!(started.elapsed() < PATIENCE, "{ledger:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(ledger.offered, ledger.sent + ledger.dropped + ledger.queued);
    assert!(ledger.dropped > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_neither_loses_nor_repeats() {
    let server = start().await;
    for number in 1..=50 {
        server.append(&batch(number, 300)).await;
    }
    let mut client = server.observer().await;
    for selection in [None, of_shop()] {
        let request = v1::ObserveRequest {
            selection,
            ..everything()
        };
        let whole = sequences(&all(&mut client, request.clone()).await);
        let mut events = Vec::new();
        let mut token = String::new();
        for _ in 0..100 {
            let request = v1::ObserveRequest {
                resume_token: token.clone(),
                ..request.clone()
            };
            let mut stream = open(&mut client, request).await;
            // One message, then the connection is given up.
            match next(&mut stream).await.unwrap() {
                Some(response) => {
                    token = response.resume_token;
                    match response.message {
                        Some(Message::Events(list)) => events.extend(list.events),
                        _ => break,
                    }
                }
                None => break,
            }
        }
        assert_eq!(sequences(&events), whole);
        // At the end the token stands for the end, whatever was selected.
        let rest = v1::ObserveRequest {
            resume_token: token,
            ..everything()
        };
        assert_eq!(all(&mut client, rest).await, []);
    }
}

#[tokio::test]
async fn since_until_and_last_bound_the_history() {
    let server = start().await;
    for number in 1..=300 {
        server.append(&batch(number, 10)).await;
    }
    let mut client = server.observer().await;
    let bounded = v1::ObserveRequest {
        since: at(1000),
        until: at(1100),
        ..everything()
    };
    assert_eq!(
        sequences(&all(&mut client, bounded).await),
        (1000..1100).collect::<Vec<u64>>()
    );
    for last in [1, 7, 10, 1234, 2999, 3000, 100_000] {
        let request = v1::ObserveRequest {
            last,
            ..everything()
        };
        let first = 3001_u64.saturating_sub(last.into()).max(1);
        assert_eq!(
            sequences(&all(&mut client, request).await),
            (first..=3000).collect::<Vec<u64>>(),
            "last {last}"
        );
    }
    let of_shop = v1::ObserveRequest {
        last: 20,
        selection: of_shop(),
        ..everything()
    };
    let expected: Vec<u64> = (1..=3000).filter(|n| n % 3 == 1).collect();
    assert_eq!(
        sequences(&all(&mut client, of_shop).await),
        expected[expected.len() - 20..]
    );
}

#[tokio::test]
async fn following_goes_on_where_history_ends() {
    let server = start().await;
    server.append(&batch(1, 5)).await;
    let mut client = server.observer().await;
    let request = v1::ObserveRequest {
        last: 2,
        follow: true,
        ..everything()
    };
    let mut stream = open(&mut client, request).await;
    let mut got = Vec::new();
    for number in 2..=4 {
        while got.last() != Some(&((number - 1) * 5)) {
            let response = next(&mut stream).await.unwrap().unwrap();
            if let Some(Message::Events(list)) = response.message {
                got.extend(sequences(&list.events));
            }
        }
        server.append(&batch(number, 5)).await;
    }
    assert_eq!(got, (4..=15).collect::<Vec<u64>>());
}

#[tokio::test]
async fn following_ends_when_until_has_passed() {
    let server = start().await;
    let mut client = server.observer().await;
    let soon = std::time::SystemTime::now() + Duration::from_millis(200);
    let request = v1::ObserveRequest {
        until: Some(soon.into()),
        ..live()
    };
    assert_eq!(all(&mut client, request).await, []);
}

#[tokio::test]
async fn a_mask_leaves_the_key_and_the_kind() {
    let server = start().await;
    server.append(&batch(1, 1)).await;
    let request = v1::ObserveRequest {
        mask: Some(FieldMask {
            paths: vec!["process.comm".into()],
        }),
        ..everything()
    };
    let events = all(&mut server.observer().await, request).await;
    let expected = v1::Event {
        time: at(1),
        node: "n1".into(),
        cpu: Some(0),
        sequence: 1,
        epoch: 1,
        process: Some(v1::Process {
            comm: "sh".into(),
            ..v1::Process::default()
        }),
        kind: Some(v1::event::Kind::Exec(v1::Exec::default())),
        ..v1::Event::default()
    };
    assert_eq!(events, [expected]);
}

#[tokio::test]
async fn an_expression_selects_and_its_failures_are_counted() {
    let server = start().await;
    server.append(&batch(1, 9)).await;
    let request = v1::ObserveRequest {
        selection: Some(v1::Selection {
            cel: "event.sequence > 4 && event.sequence / (event.sequence - 7) != 100".into(),
            ..v1::Selection::default()
        }),
        ..everything()
    };
    let mut stream = open(&mut server.observer().await, request).await;
    let events = next(&mut stream).await.unwrap().unwrap();
    let Some(Message::Events(list)) = events.message else {
        panic!("{events:?}");
    };
    assert_eq!(sequences(&list.events), [5, 6, 8, 9]);
    let end = next(&mut stream).await.unwrap().unwrap();
    let Some(Message::Heartbeat(heartbeat)) = end.message else {
        panic!("{end:?}");
    };
    assert_eq!(heartbeat.cel_errors, 1);
}

#[tokio::test]
async fn trimmed_history_is_told_with_its_count() {
    // Room for few batches.
    let server = start_with(Arc::new(Memory::new(200_000)), Options::default()).await;
    server.append(&batch(1, 100)).await;
    let mut client = server.observer().await;
    let mut stream = open(&mut client, everything()).await;
    let token = next(&mut stream).await.unwrap().unwrap().resume_token;
    for number in 2..=60 {
        server.append(&batch(number, 100)).await;
    }
    let request = |selection| v1::ObserveRequest {
        resume_token: token.clone(),
        selection,
        ..everything()
    };
    let events = all(&mut client, request(None)).await;
    let loss = &losses(&events)[0];
    assert_eq!(
        (loss.stage(), loss.reason()),
        (v1::LossStage::Hub, v1::LossReason::HistoryGone)
    );
    assert_eq!(
        loss.count + events.len() as u64 - 1,
        5900,
        "every event is there or counted"
    );
    assert!(loss.count > 0 && matches!(events[0].kind, Some(v1::event::Kind::Loss(_))));
    // How many of a selection are gone, nobody knows.
    let events = all(&mut client, request(of_shop())).await;
    assert_eq!(losses(&events)[0].count, 0);
}

/// A collector whose store went with its pod: nobody can tell what a reader missed, so it hears that, and gets
/// everything there is.
#[tokio::test]
async fn a_token_of_a_replaced_log_goes_on_with_all_of_the_new_one() {
    let (new, request) = replaced().await;
    let events = all(&mut new.observer().await, request).await;
    let told = losses(&events);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].reason(), v1::LossReason::HistoryGone);
    assert!(matches!(events[0].kind, Some(Kind::Loss(_))), "it is first");
    let expected = all(&mut new.observer().await, everything()).await;
    assert_eq!(sequences(&events[1..]), sequences(&expected));
}

/// What agents got an acknowledgement for before the end is not in the next collector's store.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_before_the_end_is_still_sent() {
    // A farewell has two seconds: a machine that stands still as long is asked again.
    while !is_told_before_the_end().await {}
}

async fn is_told_before_the_end() -> bool {
    let server = start().await;
    let mut stream = open(&mut server.observer().await, live()).await;
    server.append(&batch(1, 5)).await;
    next(&mut stream).await.unwrap().unwrap();
    for number in 2..=20 {
        server.append(&batch(number, 300)).await;
    }
    let stopped = std::time::Instant::now();
    server.collector.stop();
    let mut events = Vec::new();
    let status = loop {
        match next(&mut stream).await {
            Ok(response) => match response.expect("it ends with a reason").message {
                Some(Message::Events(list)) => events.extend(list.events),
                other => assert!(matches!(other, Some(Message::Heartbeat(_))), "{other:?}"),
            },
            Err(status) => break status,
        }
    };
    let is_whole = status.code() == tonic::Code::Unavailable && events.len() == 19 * 300;
    let took = stopped.elapsed();
    assert!(
        is_whole || took > Duration::from_secs(2),
        "{} events in {took:?}: {status:?}",
        events.len()
    );
    is_whole
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_is_alive() {
    let options = Options {
        heartbeat: Duration::from_millis(50),
        scope: "node n7".into(),
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let mut client = server.observer().await;
    let mut stream = client.observe(live()).await.unwrap().into_inner();
    let hello = next(&mut stream).await.unwrap().unwrap();
    let Some(Message::Hello(hello)) = hello.message else {
        panic!("{hello:?}");
    };
    assert_eq!(
        (hello.scope.as_str(), hello.all_namespaces),
        ("node n7", true)
    );
    // Filtered out: the token moves on all the same.
    let mut tokens = std::collections::BTreeSet::new();
    let mut number = 0;
    while tokens.len() < 2 {
        let response = next(&mut stream).await.unwrap().unwrap();
        assert!(!response.resume_token.is_empty());
        tokens.insert(response.resume_token);
        number += 1;
        server.append(&batch(number, 1)).await;
    }
}

#[tokio::test]
async fn a_hello_to_who_may_see_all_has_the_version_and_how_far_the_store_reaches() {
    let server = start().await;
    let mut client = server.observer().await;
    let mut hello = async || {
        let mut stream = client.observe(everything()).await.unwrap().into_inner();
        match next(&mut stream).await.unwrap().unwrap().message {
            Some(Message::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    };
    let empty = hello().await;
    assert_eq!((empty.store_oldest, empty.store_newest), (None, None));
    let order = |time: Timestamp| (time.seconds, time.nanos);
    let now = || order(SystemTime::now().into());
    let mut times = vec![now()];
    for number in 1..=3 {
        server.append(&batch(number, 1)).await;
        times.push(now());
    }
    let hello = hello().await;
    assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
    // When they were stored: their own times are of 2023.
    let oldest = hello.store_oldest.map(order).unwrap();
    let newest = hello.store_newest.map(order).unwrap();
    assert!((times[0]..=times[1]).contains(&oldest), "{hello:?}");
    assert!((times[2]..=times[3]).contains(&newest), "{hello:?}");
}

#[tokio::test]
async fn a_reader_of_one_namespace_sees_it_only() {
    let server = start().await;
    server.append(&batch(1, 9)).await;
    let channel = server.tcp_channel().await;
    let as_shop = |mut request: tonic::Request<()>| {
        let token = "Bearer shop".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        Ok::<_, tonic::Status>(request)
    };
    let mut client = ObserverServiceClient::with_interceptor(channel, as_shop);
    let mut stream = client.observe(everything()).await.unwrap().into_inner();
    let Some(Message::Hello(hello)) = next(&mut stream).await.unwrap().unwrap().message else {
        panic!("hello");
    };
    assert_eq!(
        (hello.namespaces.as_slice(), hello.all_namespaces),
        (&["shop".to_owned()][..], false)
    );
    let Some(Message::Events(list)) = next(&mut stream).await.unwrap().unwrap().message else {
        panic!("events");
    };
    assert_eq!(sequences(&list.events), [1, 4, 7]);
    let ledger = client
        .get_ledger(v1::GetLedgerRequest::default())
        .await
        .unwrap();
    assert_eq!(ledger.into_inner().collector, None);
}
