use super::*;
use tonic::codec::CompressionEncoding;

/// The longest that a collector can ask for.
const SECOND: Duration = Duration::from_secs(1);

fn lingering(linger: Duration) -> v1::Settings {
    let nanos = u64::try_from(linger.as_nanos()).unwrap();
    v1::Settings {
        linger: Some(ebpf_hello_proto::Duration::from_nanos(nanos)),
        ..v1::Settings::default()
    }
}

/// How long it takes until an event that comes alone is delivered.
async fn delivery(publisher: &Publisher, accounts: &Accounts, sequence: u64) -> Duration {
    let offered = std::time::Instant::now();
    publisher.offer(batch(7, [sequence]), Duration::ZERO);
    until("delivered", || {
        settled(accounts, Outcome::Delivered) == sequence
    })
    .await;
    offered.elapsed()
}

#[tokio::test]
async fn every_event_arrives_as_it_was_and_is_delivered_once() {
    let mut collector = Collector::new();
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    for first in (1..=20_000).step_by(500) {
        publisher.offer(batch(7, first..first + 500), LONG);
    }
    let drained = publisher.drain(LONG).await;
    assert_eq!(drained.spooled, 0);
    assert_eq!(settled(&accounts, Outcome::Delivered), 20_000);
    let behaviour = collector.behaviour();
    let expected: Vec<_> = (1..=20_000).map(|sequence| event(7, sequence)).collect();
    assert!(
        behaviour.events == expected,
        "{} events",
        behaviour.events.len()
    );
    let numbers: Vec<_> = behaviour
        .batches
        .iter()
        .map(|(_, number)| *number)
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(behaviour.encodings, [Some("zstd".to_owned())]);
}

#[tokio::test]
async fn an_event_alone_does_not_wait_for_others() {
    let mut collector = Collector::new();
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    publisher.offer(batch(7, [1]), Duration::ZERO);
    until("delivered", || settled(&accounts, Outcome::Delivered) == 1).await;
    assert_eq!(publisher.state().unacknowledged, 0);
}

#[tokio::test]
async fn an_event_waits_for_others_as_long_as_the_collector_says() {
    let mut collector = Collector::new();
    collector.behaviour().settings = Some(lingering(SECOND));
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    let took = delivery(&publisher, &accounts, 1).await;
    assert!((SECOND..SECOND * 5).contains(&took), "{took:?}");
}

#[tokio::test]
async fn settings_that_come_later_replace_those_of_the_start() {
    let mut collector = Collector::new();
    collector.behaviour().settings = Some(lingering(SECOND));
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    assert!(delivery(&publisher, &accounts, 1).await >= SECOND);
    collector.change(lingering(Duration::from_millis(5)));
    // Acknowledged behind the settings: with it they have been heard.
    delivery(&publisher, &accounts, 2).await;
    let mut quickest = LONG;
    for sequence in 3..=5 {
        quickest = quickest.min(delivery(&publisher, &accounts, sequence).await);
    }
    assert!(quickest < SECOND, "{quickest:?}");
}

#[tokio::test]
async fn a_shorter_time_is_for_a_batch_that_is_open_too() {
    let mut collector = Collector::new();
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    let mut quickest = LONG;
    for sequence in [1, 3, 5] {
        collector.change(lingering(SECOND));
        // Acknowledged behind the settings: with it they have been heard.
        delivery(&publisher, &accounts, sequence).await;
        let offered = std::time::Instant::now();
        publisher.offer(batch(7, [sequence + 1]), Duration::ZERO);
        collector.change(lingering(Duration::from_millis(5)));
        until("delivered", || {
            settled(&accounts, Outcome::Delivered) == sequence + 1
        })
        .await;
        quickest = quickest.min(offered.elapsed());
    }
    assert!(quickest < SECOND, "{quickest:?}");
}

#[tokio::test]
async fn a_compression_the_collector_does_not_know_is_left_out() {
    for (accepts, expected) in [
        (Some(CompressionEncoding::Gzip), Some("gzip".to_owned())),
        (None, None),
    ] {
        let mut collector = Collector::accepting(accepts);
        collector.arrive();
        let (publisher, accounts) = start(options(7), &collector);
        publisher.offer(batch(7, 1..=10), Duration::ZERO);
        publisher.drain(LONG).await;
        assert_eq!(settled(&accounts, Outcome::Delivered), 10);
        assert_eq!(collector.behaviour().encodings.last(), Some(&expected));
    }
}

#[tokio::test]
async fn after_a_break_it_goes_on_with_the_first_that_is_not_stored() {
    let mut collector = Collector::new();
    // It stores three batches, and none of them is heard to be.
    collector.behaviour().silent = true;
    collector.behaviour().stop_after = Some(3);
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    for first in (1..=1000).step_by(100) {
        publisher.offer(batch(7, first..first + 100), Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("three batches", || collector.behaviour().batches.len() == 3).await;
    {
        let mut behaviour = collector.behaviour();
        (behaviour.silent, behaviour.stop_after) = (false, None);
    }
    publisher.drain(LONG).await;
    assert_eq!(settled(&accounts, Outcome::Delivered), 1000);
    assert_eq!(collector.sequences(), (1..=1000).collect::<Vec<_>>());
    assert_eq!(
        collector.behaviour().duplicates,
        0,
        "stored before and sent again"
    );
}

#[tokio::test]
async fn a_collector_that_vanishes_and_comes_back_loses_nothing() {
    let mut collector = Collector::new();
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    for round in 0..3 {
        let first = round * 5000 + 1;
        publisher.offer(batch(7, first..first + 2500), LONG);
        tokio::time::sleep(Duration::from_millis(10)).await;
        collector.leave();
        publisher.offer(batch(7, first + 2500..first + 5000), LONG);
        until("noticed", || !publisher.state().connected).await;
        collector.arrive();
    }
    publisher.drain(LONG).await;
    assert_eq!(settled(&accounts, Outcome::Delivered), 15_000);
    assert_eq!(collector.sequences(), (1..=15_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_collectors_window_is_kept() {
    let mut collector = Collector::new();
    collector.behaviour().silent = true;
    collector.behaviour().settings = Some(v1::Settings {
        window_batches: 2,
        ..v1::Settings::default()
    });
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    // Each more than a batch.
    publisher.offer(batch(7, 1..=30_000), Duration::ZERO);
    until("two batches", || collector.behaviour().batches.len() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(collector.behaviour().batches.len(), 2);
    assert_eq!(publisher.state().unacknowledged, 2);
    assert_eq!(settled(&accounts, Outcome::Delivered), 0);
    // What was not acknowledged when it ends is lost, there being no spool.
    publisher.drain(Duration::from_millis(50)).await;
    assert_eq!(settled(&accounts, Outcome::Unsent), 30_000);
}

#[tokio::test]
async fn without_room_events_are_counted_and_told_where_they_are_missing() {
    let mut collector = Collector::new();
    let (publisher, accounts) = start(
        PublishOptions {
            memory: 1 << 20,
            ..options(7)
        },
        &collector,
    );
    for first in (1..=20_000).step_by(500) {
        publisher.offer(batch(7, first..first + 500), Duration::ZERO);
    }
    let dropped = settled(&accounts, Outcome::QueueFull);
    assert!(dropped > 5000, "{dropped} dropped");
    collector.arrive();
    until("the kept ones", || {
        settled(&accounts, Outcome::Delivered) > 0
    })
    .await;
    publisher.offer(batch(7, 20_001..=20_100), LONG);
    publisher.drain(LONG).await;
    let delivered = settled(&accounts, Outcome::Delivered);
    let dropped = settled(&accounts, Outcome::QueueFull);
    assert_eq!(delivered + dropped, 20_100);
    let losses = collector.losses();
    assert_eq!(
        losses.iter().map(|(_, loss)| loss.count).sum::<u64>(),
        dropped
    );
    assert_whole(&collector, 20_100, v1::LossReason::QueueFull);
}

#[tokio::test]
async fn reports_are_sent_at_the_collectors_interval_and_on_each_stream() {
    let mut collector = Collector::new();
    collector.behaviour().settings = Some(v1::Settings {
        report_interval: Some(ebpf_hello_proto::Duration::from_nanos(100_000_000)),
        ..v1::Settings::default()
    });
    collector.arrive();
    let (publisher, _) = start(options(7), &collector);
    let report = |generation| v1::NodeReport {
        node: Some(v1::Node {
            generation,
            ..v1::Node::default()
        }),
        ..v1::NodeReport::default()
    };
    let generations = |collector: &Collector| -> Vec<u64> {
        let behaviour = collector.behaviour();
        let reports = behaviour.reports.iter();
        reports
            .map(|report| report.node.as_ref().unwrap().generation)
            .collect()
    };
    publisher.reports().send_replace(Some(report(1)));
    until("a report", || generations(&collector) == [1]).await;
    // Of many, the last.
    for generation in 2..=50 {
        publisher.reports().send_replace(Some(report(generation)));
    }
    until("the last", || generations(&collector).last() == Some(&50)).await;
    assert!(generations(&collector).len() <= 4);
    collector.leave();
    collector.behaviour().reports.clear();
    collector.arrive();
    until("it is repeated", || generations(&collector) == [50]).await;
}

#[tokio::test]
async fn news_of_a_filter_does_not_wait_for_the_interval() {
    let mut collector = Collector::new();
    collector.behaviour().settings = Some(v1::Settings {
        report_interval: Some(ebpf_hello_proto::Duration::from_nanos(60_000_000_000)),
        ..v1::Settings::default()
    });
    collector.arrive();
    let (publisher, _) = start(options(7), &collector);
    let report = |observed_generation, pods| v1::NodeReport {
        filters: vec![v1::FilterState {
            uid: "u".into(),
            observed_generation,
            programmed: true,
            pods,
            ..v1::FilterState::default()
        }],
        ..v1::NodeReport::default()
    };
    let seen = |collector: &Collector| -> Vec<(i64, u32)> {
        let behaviour = collector.behaviour();
        let filters = behaviour.reports.iter().map(|report| &report.filters[0]);
        filters
            .map(|state| (state.observed_generation, state.pods))
            .collect()
    };
    publisher.reports().send_replace(Some(report(1, 0)));
    until("the first", || seen(&collector) == [(1, 0)]).await;
    // Another count of pods is no news.
    publisher.reports().send_replace(Some(report(1, 5)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(seen(&collector), [(1, 0)]);
    let changed = std::time::Instant::now();
    publisher.reports().send_replace(Some(report(2, 5)));
    until("the change", || seen(&collector) == [(1, 0), (2, 5)]).await;
    assert!(
        changed.elapsed() < Duration::from_secs(30),
        "far below the interval"
    );
}
