//! What a crash of the machine leaves of a store.

use std::path::Path;

use ebpf_hello_collector::log::StoreOptions;
use tempfile::TempDir;

/// The store in a directory as it is now, in the machine's next boot: what is appended from now on is lost.
pub(crate) fn crash(store: &Path) -> (StoreOptions, TempDir) {
    let left = tempfile::tempdir().unwrap();
    copy(store, left.path());
    let mut options = StoreOptions::new(left.path());
    options.boot_id = "the next boot".into();
    (options, left)
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
