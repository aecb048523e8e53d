//! Streams over the hole that a crash of the machine leaves in the store.

use std::sync::Arc;

use ebpf_hello_collector::{
    log::{Store, StoreOptions},
    serve::Options,
};
use ebpf_hello_proto::v1::{self, event::Kind};

use crate::{
    crash::crash,
    server::{all, batch, everything, live, losses, next, open, sequences, start_with},
};

#[tokio::test]
async fn who_read_what_is_lost_hears_so_and_gets_all_that_comes_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(directory.path())).await;
    let before = start_with(Arc::new(store.unwrap()), Options::default()).await;
    before.append(&batch(1, 10)).await;
    let mut stream = open(&mut before.observer().await, live()).await;
    let (options, _left) = crash(directory.path());
    // The second is lost; the stream has it.
    before.append(&batch(2, 10)).await;
    let token = next(&mut stream).await.unwrap().unwrap().resume_token;

    let log = Arc::new(Store::open(options).await.unwrap());
    let after = start_with(log.clone(), Options::default()).await;
    let mut client = after.observer().await;
    let resumed = v1::ObserveRequest {
        resume_token: token,
        ..everything()
    };
    let told = all(&mut client, resumed.clone()).await;
    assert_eq!(losses(&told).len(), 1, "before anything new: {told:?}");
    // As many as were there: neither their number nor their positions say that these are others.
    after.append(&batch(3, 10)).await;
    after.append(&batch(4, 10)).await;
    let told = all(&mut client, resumed).await;
    assert!(matches!(told[0].kind, Some(Kind::Loss(_))), "it is first");
    let loss = &losses(&told)[0];
    assert_eq!(loss.reason(), v1::LossReason::HistoryGone);
    assert_eq!(loss.count, 0, "nobody knows");
    assert_eq!(sequences(&told[1..]), (21..=40).collect::<Vec<_>>());
    // Who reads all hears it where it happened.
    let told = all(&mut client, everything()).await;
    assert!(matches!(told[10].kind, Some(Kind::Loss(_))));
    assert_eq!(losses(&told).len(), 1);
    // Looking back finds what is before the hole.
    let last = v1::ObserveRequest {
        last: 25,
        ..everything()
    };
    let told = all(&mut client, last).await;
    let expected: Vec<u64> = (6..=10).chain([0]).chain(21..=40).collect();
    assert_eq!(sequences(&told), expected, "a loss has no sequence");
}
