//! The log on disk.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_hello_collector::{
    log::{Log, Next, Place, Store, StoreOptions},
    token,
};
use tempfile::TempDir;

use crate::{
    crash::crash,
    killed, rates,
    suite::{self, append, key, read_entry},
};

async fn open(directory: &Path) -> Arc<dyn Log> {
    Arc::new(Store::open(StoreOptions::new(directory)).await.unwrap())
}

async fn empty() -> (Arc<dyn Log>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (open(directory.path()).await, directory)
}

mod promises {
    crate::promises!(super::empty());
}

/// The same with almost nothing in memory: readers read from the disk.
mod promises_from_disk {
    crate::promises!(async {
        let directory = tempfile::tempdir().unwrap();
        let mut options = ebpf_hello_collector::log::StoreOptions::new(directory.path());
        options.tail = 1;
        let store = ebpf_hello_collector::log::Store::open(options)
            .await
            .unwrap();
        let log: std::sync::Arc<dyn ebpf_hello_collector::log::Log> = std::sync::Arc::new(store);
        (log, directory)
    });
}

#[tokio::test]
async fn counts_what_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(directory.path());
    (options.max_bytes, options.tail) = (256 << 10, 16 << 10);
    suite::counts_what_is_gone(&Store::open(options).await.unwrap()).await;
}

#[tokio::test]
async fn keeps_everything_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&*log, "n1", key(5, 1), 1).await;
    append(&*log, "n1", key(5, 2), 1).await;
    append(&*log, "n2", key(4, 1), 1).await;
    let range = log.range().await.unwrap();
    let id = log.id().to_owned();
    let place = Place {
        position: 2,
        event: 0,
    };
    let token = token::encode(&*log, place);
    drop(log);
    let log = open(directory.path()).await;
    assert_eq!((log.id(), log.range().await.unwrap()), (&*id, range));
    assert_eq!(token::decode(&*log, &token), Ok(place));
    suite::has_once(&*log).await;
    assert_eq!(append(&*log, "n1", key(6, 1), 1).await, range.end);
}

#[tokio::test]
async fn forgets_what_is_too_old_but_not_its_position() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(directory.path());
    options.max_age = Duration::from_millis(300);
    options.sync = Duration::from_millis(20);
    let store = Store::open(options).await.unwrap();
    append(&store, "n1", key(1, 1), 7).await;
    let mut reader = store.reader(0).await.unwrap();
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while store.range().await.unwrap().oldest == 1 {
        assert!(SystemTime::now() < deadline, "still there after 10 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = reader.next().await.unwrap();
    assert!(
        matches!(
            gone,
            Next::Gone {
                from: 1,
                to: 8,
                events: Some(7)
            }
        ),
        "{gone:?}"
    );
    drop((reader, store));
    let store = open(directory.path()).await;
    assert_eq!(store.last("n1").await.unwrap(), Some(key(1, 1)));
    assert_eq!(append(&*store, "n1", key(1, 2), 1).await, 8);
    let mut reader = store.reader(0).await.unwrap();
    let gone = reader.next().await.unwrap();
    assert!(matches!(gone, Next::Gone { to: 8, .. }), "{gone:?}");
    assert_eq!(read_entry(&mut *reader).await.position, 8);
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let acknowledged = killed::kill_amid("store::appender", place);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        killed::has_all(&*open(directory.path()).await, &acknowledged).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by a_kill_loses_nothing_that_was_acknowledged"]
async fn appender() {
    let directory = std::env::var("LOG_TEST_PLACE").unwrap();
    killed::append_for_ever(open(Path::new(&directory)).await).await;
}

/// A store of five batches of two events that the machine took down, and the position after them.
async fn cut_off() -> (StoreOptions, u64, TempDir) {
    let (log, directory) = empty().await;
    for number in 1..=5 {
        append(&*log, "n1", key(1, number), 2).await;
    }
    let end = log.range().await.unwrap().end;
    let (options, left) = crash(directory.path());
    (options, end, left)
}

#[tokio::test]
async fn after_a_crash_of_the_machine_no_position_is_given_again() {
    for tail in [1 << 20, 1] {
        let (mut options, lost, _left) = cut_off().await;
        options.tail = tail;
        let store = Store::open(options.clone()).await.unwrap();
        let goes_on = store.range().await.unwrap().end;
        assert!(goes_on - lost > 1 << 39, "{lost} to {goes_on}");
        let is_hole = |next: &Next, at: u64| match next {
            Next::Gone { from, to, events } => (*from, *to, *events) == (at, goes_on, None),
            _ => false,
        };
        // Whatever was read before: exactly what is kept, and some of what is lost.
        for at in [lost, lost + 2] {
            let mut reader = store.reader(at).await.unwrap();
            let next = reader.next().await.unwrap();
            assert!(is_hole(&next, at), "{next:?}");
            assert!(matches!(reader.next().await.unwrap(), Next::End));
        }
        for number in [6, 7] {
            append(&store, "n1", key(1, number), 2).await;
        }
        let mut reader = store.reader(0).await.unwrap();
        for number in 1..=5 {
            assert_eq!(read_entry(&mut *reader).await.batch.number, number);
        }
        let next = reader.next().await.unwrap();
        assert!(is_hole(&next, lost), "{next:?}");
        let sixth = read_entry(&mut *reader).await;
        assert_eq!((sixth.batch.number, sixth.position), (6, goes_on));
        assert_eq!(read_entry(&mut *reader).await.batch.number, 7);
        assert!(matches!(reader.next().await.unwrap(), Next::End));
        let mut reader = store.reader(lost + 2).await.unwrap();
        assert!(is_hole(&reader.next().await.unwrap(), lost + 2));
        assert_eq!(read_entry(&mut *reader).await.batch.number, 6);

        assert_eq!(store.position_at(sixth.stored).await.unwrap(), goes_on);
        assert_eq!(store.end_before(goes_on).await.unwrap(), lost);
        assert_eq!(store.end_before(goes_on + 2).await.unwrap(), goes_on + 2);
        let end = store.range().await.unwrap().end;
        drop((reader, store));
        options.boot_id = "one after it was closed".into();
        let store = Store::open(options).await.unwrap();
        assert_eq!(append(&store, "n1", key(1, 8), 1).await, end);
    }
}

#[tokio::test]
async fn what_a_crash_left_is_skipped_once_however_often_it_is_opened() {
    let (mut options, _, _left) = cut_off().await;
    let mut ends = Vec::new();
    for boot in ["a", "b", "c"] {
        options.boot_id = boot.into();
        let store = Store::open(options.clone()).await.unwrap();
        ends.push(store.range().await.unwrap().end);
    }
    assert_eq!(ends, [ends[0]; 3]);
}

#[tokio::test]
async fn a_store_that_was_cut_off_within_one_boot_goes_on_without_a_hole() {
    let (mut options, end, left) = cut_off().await;
    options.boot_id = StoreOptions::new(left.path()).boot_id;
    assert!(options.boot_id.len() >= 32, "the kernel names it");
    let store = Store::open(options).await.unwrap();
    assert_eq!(append(&store, "n1", key(1, 6), 1).await, end);
}

#[tokio::test]
async fn says_what_to_do_about_a_directory_it_cannot_use() {
    let (log, directory) = empty().await;
    let name = directory.path().to_str().unwrap();
    let options = StoreOptions::new(directory.path());
    let error = Store::open(options.clone()).await.unwrap_err().to_string();
    assert!(error.contains("another process has it open"), "{error}");
    for number in 1..=20 {
        append(&*log, "n1", key(1, number), 50).await;
    }
    drop(log);
    // Any file of the database that is cut short or overwritten.
    std::fs::write(directory.path().join("version"), b"garbage").unwrap();
    let error = Store::open(options).await.unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
    assert!(error.contains("cannot be opened"), "{error}");
    assert!(error.contains("move it away"), "{error}");
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = Store::open(StoreOptions::new(&file)).await.unwrap_err();
    assert!(
        error.to_string().contains("file: cannot be opened"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints rates"]
async fn rates() {
    for tail in [1 << 30, 1] {
        let directory = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::new(directory.path());
        options.tail = tail;
        let store = Store::open(options).await.unwrap();
        rates::print(&format!("store, {tail} bytes in memory"), Arc::new(store)).await;
    }
}
