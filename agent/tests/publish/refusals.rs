use super::*;
use tonic::Status;

#[tokio::test]
async fn an_agent_that_is_sent_away_does_not_come_back_at_once() {
    for refusal in [
        Status::aborted("a newer stream of this node"),
        Status::permission_denied("the certificate is of n2"),
    ] {
        let mut collector = Collector::new();
        collector.behaviour().refusal = Some(refusal.clone());
        collector.arrive();
        let (publisher, _) = start(
            PublishOptions {
                compress: false,
                ..options(7)
            },
            &collector,
        );
        until("it was refused", || publisher.state().error.is_some()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(collector.behaviour().encodings.len(), 1, "streams");
        assert_eq!(publisher.state().error.as_deref(), Some(refusal.message()));
        publisher.drain(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_costs_its_own_events_only() {
    let mut collector = Collector::new();
    collector.behaviour().poison = Some(150);
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    until("connected", || publisher.state().connected).await;
    for first in (1..=500).step_by(100) {
        publisher.offer(batch(7, first..first + 100), Duration::ZERO);
        // A batch of its own.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publisher.drain(LONG).await;
    let refused = settled(&accounts, Outcome::Refused);
    assert!((100..500).contains(&refused), "{refused} refused");
    assert_eq!(settled(&accounts, Outcome::Delivered), 500 - refused);
    let losses = collector.losses();
    assert_eq!(losses.len(), 1);
    let (_, loss) = &losses[0];
    assert_eq!(
        (loss.count, loss.reason()),
        (refused, v1::LossReason::Malformed)
    );
    assert!((loss.first_sequence..=loss.last_sequence).contains(&150));
}

#[tokio::test]
async fn a_collector_with_a_later_run_of_the_node_takes_nothing() {
    let mut collector = Collector::new();
    collector.behaviour().batches.push((9, 1));
    collector.arrive();
    let (publisher, accounts) = start(options(7), &collector);
    publisher.offer(batch(7, 1..=10), Duration::ZERO);
    until("it is said", || publisher.state().error.is_some()).await;
    let error = publisher.state().error.unwrap();
    assert!(
        error.contains("run 9") && error.contains("ours, 7"),
        "{error}"
    );
    publisher.drain(Duration::ZERO).await;
    // It must not be taken for stored.
    assert_eq!(settled(&accounts, Outcome::Delivered), 0);
}
