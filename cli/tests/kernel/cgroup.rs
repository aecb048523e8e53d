//! A cgroup v2 directory of our own.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Empty, and gone when this is dropped.
pub(crate) struct Cgroup(PathBuf);

// === impl Cgroup ===

impl Cgroup {
    pub(crate) fn make(name: &str) -> Cgroup {
        let path = mount().join(format!("ebpf-hello-test-{}-{name}", std::process::id()));
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
        Cgroup(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Left behind at worst, and empty.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where cgroup v2 is mounted (proc_pid_mountinfo(5)).
fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right
                .starts_with("cgroup2 ")
                .then(|| left.split(' ').nth(4))?
        })
        .map(PathBuf::from)
        .expect("cgroup v2 is mounted somewhere")
}
