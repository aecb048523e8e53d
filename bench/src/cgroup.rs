//! A cgroup v2 directory of our own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use procfs::process::Process;

/// Gone when this is dropped, if its processes are.
pub(crate) struct Cgroup {
    directory: PathBuf,
    name: String,
}

// === impl Cgroup ===

impl Cgroup {
    pub(crate) fn make(purpose: &str) -> anyhow::Result<Self> {
        let mounts = Process::myself()
            .and_then(|me| me.mountinfo())
            .context("cannot read /proc/self/mountinfo")?;
        let mount = mounts
            .into_iter()
            .find(|mount| mount.fs_type == "cgroup2")
            .context(
                "no cgroup v2 hierarchy is mounted: what selects by cgroup cannot be measured",
            )?
            .mount_point;
        let name = format!("ebpf-hello-bench-{}-{purpose}", std::process::id());
        let directory = mount.join(&name);
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make cgroup {}", directory.display()))?;
        Ok(Cgroup { directory, name })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// As filters name it in `matchCgroup`.
    pub(crate) fn pattern(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Left behind at worst, and empty.
        let _ = fs::remove_dir(&self.directory);
    }
}
