//! The promises, for any log. Each starts with a log that holds nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ebpf_hello_collector::log::{Appended, BatchKey, Entry, Log, LogError, Next, Reader};
use ebpf_hello_proto::v1;
use prost::Message as _;

pub(crate) fn key(epoch: u64, number: u64) -> BatchKey {
    BatchKey { epoch, number }
}

/// A batch of so many events, each of 100 bytes or a few more that hardly compress.
pub(crate) fn batch(node: &str, key: BatchKey, events: u32) -> Bytes {
    let mut noise = key.epoch ^ (key.number << 20) ^ node.len() as u64;
    let event = |sequence: u32| v1::BatchedEvent {
        event: Some(v1::Event {
            sequence: u64::from(sequence) + 1,
            kind: Some(v1::event::Kind::Exec(v1::Exec {
                argv: vec![
                    (0..100)
                        .map(|_| {
                            noise = noise
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1_442_695_040_888_963_407);
                            char::from(b' ' + (noise >> 58) as u8)
                        })
                        .collect(),
                ],
                ..v1::Exec::default()
            })),
            ..v1::Event::default()
        }),
        ..v1::BatchedEvent::default()
    };
    let batch = v1::Batch {
        node: node.into(),
        epoch: key.epoch,
        number: key.number,
        events: (0..events).map(event).collect(),
        ..v1::Batch::default()
    };
    batch.encode_to_vec().into()
}

pub(crate) async fn append(log: &dyn Log, node: &str, key: BatchKey, events: u32) -> u64 {
    match log.append(node, key, batch(node, key, events)).await {
        Ok(Appended::Stored(position)) => position,
        other => panic!("{node} {key:?}: {other:?}"),
    }
}

pub(crate) fn name(entry: &Entry) -> (String, BatchKey) {
    let batch = &entry.batch;
    (batch.node.clone(), key(batch.epoch, batch.number))
}

/// Reads until an entry comes, at most a minute.
pub(crate) async fn read(reader: &mut dyn Reader) -> Next {
    let next = async {
        loop {
            match reader.next().await.unwrap() {
                Next::End => reader.wait().await,
                next => return next,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), next)
        .await
        .expect("nothing came in a minute")
}

pub(crate) async fn read_entry(reader: &mut dyn Reader) -> Arc<Entry> {
    match read(reader).await {
        Next::Entry(entry) => entry,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn keeps_the_order(log: &dyn Log) {
    let mut appended = Vec::new();
    for number in 1..=20 {
        for node in ["n1", "node.with.dots", "n3"] {
            let key = key(7, number);
            let position = append(log, node, key, 3).await;
            appended.push((position, (node.to_owned(), key)));
        }
    }
    assert!(appended.is_sorted_by(|a, b| a.0 < b.0));
    let mut reader = log.reader(0).await.unwrap();
    for expected in &appended {
        let entry = read_entry(&mut *reader).await;
        assert_eq!((entry.position, name(&entry)), *expected);
        assert_eq!(entry.batch.events.len(), 3);
    }
    assert!(matches!(reader.next().await.unwrap(), Next::End));
    let range = log.range().await.unwrap();
    assert_eq!(range.oldest, appended[0].0);
    assert!(range.end > appended[59].0);
    assert!(range.oldest_stored.unwrap() <= range.newest_stored.unwrap());
    // From the middle, and from between two entries.
    let mut reader = log.reader(appended[30].0).await.unwrap();
    assert_eq!(read_entry(&mut *reader).await.position, appended[30].0);
    let mut reader = log.reader(appended[30].0 + 1).await.unwrap();
    assert_eq!(read_entry(&mut *reader).await.position, appended[31].0);
    let mut reader = log.reader(range.end).await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), Next::End));
}

pub(crate) async fn appends_a_batch_once(log: &dyn Log) {
    assert_eq!(log.last("n1").await.unwrap(), None);
    append(log, "n1", key(5, 1), 1).await;
    append(log, "n1", key(5, 2), 1).await;
    append(log, "n2", key(4, 1), 1).await;
    has_once(log).await;
    // A later run of the agent counts from 1 again.
    append(log, "n1", key(6, 1), 1).await;
    assert_eq!(log.last("n1").await.unwrap(), Some(key(6, 1)));
}

/// What [`appends_a_batch_once`] left, before its last batch: also what must hold after a restart.
pub(crate) async fn has_once(log: &dyn Log) {
    assert_eq!(log.last("n1").await.unwrap(), Some(key(5, 2)));
    assert_eq!(log.last("n2").await.unwrap(), Some(key(4, 1)));
    assert_eq!(log.last("n3").await.unwrap(), None);
    for again in [key(5, 2), key(5, 1), key(4, 9)] {
        let appended = log.append("n1", again, batch("n1", again, 1)).await;
        assert_eq!(appended.unwrap(), Appended::Duplicate, "{again:?}");
    }
    let mut reader = log.reader(0).await.unwrap();
    for expected in [("n1", key(5, 1)), ("n1", key(5, 2)), ("n2", key(4, 1))] {
        let (node, key) = name(&*read_entry(&mut *reader).await);
        assert_eq!((node.as_str(), key), expected);
    }
    assert!(matches!(reader.next().await.unwrap(), Next::End));
}

pub(crate) async fn refuses_what_is_no_batch_of_the_node(log: &dyn Log) {
    let one = key(1, 1);
    for (bytes, expected) in [
        (Bytes::from_static(b"\xff\xff\xff"), "not a batch: "),
        (batch("n2", one, 1), "of node \"n2\", announced as"),
        (batch("n1", key(1, 2), 1), "batch 1/2 of"),
        (batch("n1", one, 0), "no events"),
    ] {
        let error = log.append("n1", one, bytes).await.unwrap_err();
        assert!(matches!(error, LogError::Malformed(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(log.last("n1").await.unwrap(), None);
    append(log, "n1", one, 1).await;
}

pub(crate) async fn finds_positions_by_time(log: &dyn Log) {
    let start = SystemTime::now() - Duration::from_secs(60);
    let end = log.range().await.unwrap().end;
    assert_eq!(log.position_at(start).await.unwrap(), end);
    let mut positions = Vec::new();
    for number in 1..=30 {
        positions.push(append(log, "n1", key(1, number), 2).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let mut reader = log.reader(0).await.unwrap();
    let mut stored = Vec::new();
    for _ in &positions {
        stored.push(read_entry(&mut *reader).await.stored);
    }
    assert!(stored.is_sorted());
    for (position, stored) in positions.iter().zip(&stored) {
        assert_eq!(log.position_at(*stored).await.unwrap(), *position);
        let before = *stored - Duration::from_micros(1);
        assert_eq!(log.position_at(before).await.unwrap(), *position);
    }
    assert_eq!(log.position_at(start).await.unwrap(), positions[0]);
    let later = stored[29] + Duration::from_micros(1);
    let end = log.range().await.unwrap().end;
    assert_eq!(log.position_at(later).await.unwrap(), end);
}

pub(crate) async fn wakes_readers_that_wait(log: Arc<dyn Log>) {
    let mut reader = log.reader(0).await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), Next::End));
    let mut wait = Box::pin(reader.wait());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut wait).await;
    assert!(early.is_err(), "woke with nothing to read");
    let appender = tokio::spawn({
        let log = log.clone();
        async move { append(&*log, "n1", key(1, 1), 1).await }
    });
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap();
    assert_eq!(read_entry(&mut *reader).await.batch.number, 1);
    appender.await.unwrap();
    // Dropping a wait loses nothing.
    for number in 2..=50 {
        drop(tokio::time::timeout(Duration::ZERO, reader.wait()).await);
        append(&*log, "n1", key(1, number), 1).await;
        drop(tokio::time::timeout(Duration::ZERO, reader.wait()).await);
        assert_eq!(read_entry(&mut *reader).await.batch.number, number);
    }
}

pub(crate) async fn shows_every_reader_everything(log: Arc<dyn Log>) {
    const NODES: u64 = 8;
    const BATCHES: u64 = 50;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            let mut reader = log.reader(0).await.unwrap();
            let mut seen = HashMap::<String, u64>::new();
            let mut position = 0;
            for _ in 0..NODES * BATCHES {
                let entry = read_entry(&mut *reader).await;
                assert!(entry.position > position);
                position = entry.position;
                let number = seen.entry(entry.batch.node.clone()).or_default();
                *number += 1;
                assert_eq!(entry.batch.number, *number);
            }
            assert!(matches!(reader.next().await.unwrap(), Next::End));
        }));
    }
    for node in 0..NODES {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            for number in 1..=BATCHES {
                append(&*log, &format!("n{node}"), key(1, number), 5).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// For a log that keeps less than 500 batches of 1 to 20 events, and counts.
pub(crate) async fn counts_what_is_gone(log: &dyn Log) {
    let mut reader = log.reader(0).await.unwrap();
    let mut appended = 0;
    let mut read_events = 0;
    let mut newest = 0;
    for number in 1..=500 {
        let events = 1 + (number as u32 * 7) % 20;
        newest = append(log, "n1", key(1, number), events).await;
        appended += u64::from(events);
        if number == 3 {
            for _ in 0..3 {
                read_events += read_entry(&mut *reader).await.batch.events.len() as u64;
            }
        }
    }
    // A log that others share hears of its own appends a moment later.
    read_entry(&mut *log.reader(newest).await.unwrap()).await;
    let mut tallies = Vec::new();
    for mut reader in [reader, log.reader(0).await.unwrap()] {
        let Next::Gone { from, to, events } = read(&mut *reader).await else {
            panic!("500 batches are all there");
        };
        assert!(from < to);
        let mut number = 0;
        let mut kept = 0;
        while let Next::Entry(entry) = reader.next().await.unwrap() {
            assert!(number == 0 || entry.batch.number == number + 1);
            number = entry.batch.number;
            kept += entry.batch.events.len() as u64;
        }
        assert_eq!(number, 500);
        tallies.push((events.unwrap(), kept));
    }
    assert_eq!(read_events + tallies[0].0 + tallies[0].1, appended);
    assert_eq!(tallies[1].0 + tallies[1].1, appended);
}

/// The promises that need only an empty log; `$log` makes one, with what must outlive it.
macro_rules! promises {
    ($log:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn keeps_the_order() {
            let (log, _kept) = $log.await;
            crate::suite::keeps_the_order(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn appends_a_batch_once() {
            let (log, _kept) = $log.await;
            crate::suite::appends_a_batch_once(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn refuses_what_is_no_batch_of_the_node() {
            let (log, _kept) = $log.await;
            crate::suite::refuses_what_is_no_batch_of_the_node(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn finds_positions_by_time() {
            let (log, _kept) = $log.await;
            crate::suite::finds_positions_by_time(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn wakes_readers_that_wait() {
            let (log, _kept) = $log.await;
            crate::suite::wakes_readers_that_wait(log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn shows_every_reader_everything() {
            let (log, _kept) = $log.await;
            crate::suite::shows_every_reader_everything(log).await;
        }
    };
}
pub(crate) use promises;
