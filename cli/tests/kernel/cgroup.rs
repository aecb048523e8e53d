//! A cgroup v2 directory of our own.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
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

    /// As the generator takes it.
    pub(crate) fn argument(&self) -> &str {
        self.0.to_str().expect("test cgroups have plain names")
    }

    /// Its path from the root of the mount, as a filter names it.
    pub(crate) fn name(&self) -> String {
        let name = self.0.strip_prefix(mount()).unwrap();
        format!("/{}", name.display())
    }

    /// As events name it.
    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    /// A new cgroup in this one.
    pub(crate) fn child(&self, name: &str) -> Cgroup {
        let path = self.0.join(name);
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
        Cgroup(path)
    }

    /// Moves a process here.
    pub(crate) fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
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
