//! The store on a disk without room: needs a mount namespace.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use ebpf_hello_collector::log::{Appended, Log as _, Next, Store, StoreOptions};

use crate::suite::{append, batch, key, read_entry};

/// Needs a file system that is soon full: `a_full_disk_…` makes one, and starts this in it.
#[tokio::test]
#[ignore = "is started by a_full_disk_fails_appends_until_there_is_room"]
async fn full_disk() {
    let directory = std::env::var("LOG_TEST_PLACE").unwrap();
    let directory = Path::new(&directory);
    let store = Store::open(StoreOptions::new(directory.join("store")))
        .await
        .unwrap();
    append(&store, "n1", key(1, 1), 10).await;
    let ballast = directory.join("ballast");
    let filled = std::fs::write(&ballast, vec![0; 256 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let (mut number, mut error) = (1, None);
    while error.is_none() {
        number += 1;
        assert!(number < 1000, "nothing fails");
        let key = key(1, number);
        match store.append("n1", key, batch("n1", key, 100)).await {
            Ok(appended) => assert!(matches!(appended, Appended::Stored(_))),
            Err(failed) => error = Some(failed.to_string()),
        }
    }
    let error = error.unwrap();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains(directory.to_str().unwrap()), "{error}");
    std::fs::remove_file(&ballast).unwrap();
    let deadline = SystemTime::now() + Duration::from_secs(20);
    let failed = key(1, number);
    while let Err(error) = store.append("n1", failed, batch("n1", failed, 100)).await {
        assert!(SystemTime::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    append(&store, "n1", key(1, number + 1), 1).await;
    let mut reader = store.reader(0).await.unwrap();
    for expected in 1..=number + 1 {
        assert_eq!(read_entry(&mut *reader).await.batch.number, expected);
    }
    assert!(matches!(reader.next().await.unwrap(), Next::End));
    println!("recovered at {number}");
}

#[test]
fn a_full_disk_fails_appends_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    // A mount namespace of its own: nothing of it is left.
    let script = r#"mount -t tmpfs -o size=24m tmpfs "$LOG_TEST_PLACE" && exec "$0" --exact full_disk::full_disk --ignored --nocapture"#;
    let output = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("LOG_TEST_PLACE", directory.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("recovered at"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
