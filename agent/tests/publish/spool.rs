use super::*;
use ebpf_hello_agent::publish::SpoolOptions;

fn spooling(epoch: u64, collector: &Collector, bytes: u64) -> PublishOptions {
    PublishOptions {
        memory: 1 << 20,
        spool: Some(SpoolOptions {
            directory: collector.directory(),
            bytes,
        }),
        ..options(epoch)
    }
}

/// Offers events at a pace that the spool's thread can follow.
async fn offer(publisher: &Publisher, epoch: u64, count: u64) {
    for first in (1..=count).step_by(500) {
        publisher.offer(batch(epoch, first..first + 500), LONG);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_memory_cannot_hold_goes_through_the_spool_in_order() {
    let mut collector = Collector::new();
    let (publisher, accounts) = start(spooling(7, &collector, 64 << 20), &collector);
    // Some 5 MiB, with room for one.
    offer(&publisher, 7, 40_000).await;
    until("memory is spooled", || {
        publisher.state().memory_bytes <= 1 << 20
    })
    .await;
    assert!(
        publisher.state().spool_bytes > 2 << 20,
        "{:?}",
        publisher.state()
    );
    collector.arrive();
    until("the spool is empty", || {
        settled(&accounts, Outcome::Delivered) >= 39_000
    })
    .await;
    publisher.offer(batch(7, 40_001..=40_500), LONG);
    publisher.drain(LONG).await;
    assert_eq!(settled(&accounts, Outcome::Delivered), 40_500);
    assert_eq!(collector.sequences(), (1..=40_500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_run_delivers_what_the_one_before_left() {
    let mut collector = Collector::new();
    let (publisher, accounts) = start(spooling(7, &collector, 64 << 20), &collector);
    offer(&publisher, 7, 10_000).await;
    let drained = publisher.drain(Duration::ZERO).await;
    // In the ledger they are in flight: neither delivered nor lost.
    assert_eq!(drained.spooled, 10_000);
    for outcome in Outcome::ALL {
        assert_eq!(settled(&accounts, outcome), 0, "{outcome:?}");
    }
    let (publisher, accounts) = start(spooling(8, &collector, 64 << 20), &collector);
    publisher.offer(batch(8, 1..=100), LONG);
    collector.arrive();
    publisher.drain(LONG).await;
    assert_eq!(settled(&accounts, Outcome::Delivered), 100, "of this run");
    let keys: Vec<_> = collector
        .behaviour()
        .events
        .iter()
        .map(|event| (event.epoch, event.sequence))
        .collect();
    let expected = (1..=10_000).map(|sequence| (7, sequence));
    let expected: Vec<_> = expected
        .chain((1..=100).map(|sequence| (8, sequence)))
        .collect();
    assert!(keys == expected, "{} events", keys.len());
    let (publisher, _) = start(spooling(9, &collector, 64 << 20), &collector);
    assert_eq!(
        publisher.state().spool_batches,
        0,
        "what is delivered is forgotten"
    );
    publisher.drain(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_the_newest_and_tells_it_exactly() {
    let mut collector = Collector::new();
    let (publisher, accounts) = start(spooling(7, &collector, 2 << 20), &collector);
    for first in (1..=60_000).step_by(500) {
        publisher.offer(batch(7, first..first + 500), Duration::from_millis(20));
    }
    let early = settled(&accounts, Outcome::SpoolFull);
    assert!(early > 10_000, "{early} dropped");
    assert!(publisher.state().spool_bytes <= 2 << 20);
    collector.arrive();
    publisher.drain(LONG).await;
    // The last of them may only be closed by the end.
    let full = settled(&accounts, Outcome::SpoolFull);
    assert!(full >= early, "{full} after {early}");
    assert_eq!(settled(&accounts, Outcome::Delivered), 60_000 - full);
    let losses = collector.losses();
    assert_eq!(losses.iter().map(|(_, loss)| loss.count).sum::<u64>(), full);
    assert_whole(&collector, 60_000, v1::LossReason::SpoolFull);
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_is_done_without() {
    let mut collector = Collector::new();
    std::fs::write(collector.directory(), "a file").unwrap();
    let (publisher, accounts) = start(spooling(7, &collector, 1 << 20), &collector);
    assert!(publisher.state().spool_error.unwrap().contains("as spool"));
    publisher.offer(batch(7, 1..=100), Duration::ZERO);
    collector.arrive();
    publisher.drain(LONG).await;
    assert_eq!(settled(&accounts, Outcome::Delivered), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_something_again_is_no_longer_complained_of() {
    let mut collector = Collector::new();
    let (publisher, accounts) = start(spooling(7, &collector, 64 << 20), &collector);
    // Nothing was written yet: the first segment finds no directory, and none can be made.
    std::fs::remove_dir_all(collector.directory()).unwrap();
    std::fs::write(collector.directory(), "a file").unwrap();
    publisher.offer(batch(7, 1..=500), LONG);
    until("the spool is refused", || {
        publisher.state().spool_error.is_some()
    })
    .await;
    // With nothing to write any more.
    collector.arrive();
    until("all is delivered", || {
        settled(&accounts, Outcome::Delivered) == 500
    })
    .await;
    std::fs::remove_file(collector.directory()).unwrap();
    until("the spool is well", || {
        publisher.state().spool_error.is_none()
    })
    .await;
    publisher.drain(LONG).await;
}
