//! The cgroup v2 tree of this machine.

use std::{
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use procfs::process::Process;

/// Deepest nesting that is followed; the kernel's own limit is `cgroup.max.depth`.
const DEPTH: usize = 64;

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cgroup {
    /// Inode of its directory: what `bpf_get_current_cgroup_id` returns.
    pub(crate) id: u64,
    /// Path from the root of the mount, `/` for the root itself.
    pub(crate) path: String,
}

/// Where cgroup v2 is mounted.
pub(crate) fn mount() -> Option<PathBuf> {
    let mounts = Process::myself().ok()?.mountinfo().ok()?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
}

/// Every cgroup below `mount`, parents before children. What goes meanwhile is left out.
pub(crate) fn walk(mount: &Path) -> io::Result<Vec<Cgroup>> {
    let root = Cgroup {
        id: fs::metadata(mount)?.ino(),
        path: "/".to_owned(),
    };
    let mut found = vec![root];
    let mut next = vec![(mount.to_path_buf(), String::new(), 0)];
    while let Some((directory, path, depth)) = next.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            found.push(Cgroup {
                id: entry.ino(),
                path: path.clone(),
            });
            if depth < DEPTH {
                next.push((entry.path(), path, depth + 1));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b/c")).unwrap();
        fs::create_dir_all(directory.path().join("d")).unwrap();
        fs::write(directory.path().join("cgroup.procs"), "").unwrap();
        let paths: Vec<_> = walk(directory.path())
            .unwrap()
            .into_iter()
            .map(|cgroup| cgroup.path)
            .collect();
        let place = |path: &str| paths.iter().position(|found| found == path).unwrap();
        assert_eq!(paths.len(), 5);
        assert!(
            place("/") < place("/a")
                && place("/a") < place("/a/b")
                && place("/a/b") < place("/a/b/c")
        );
    }
}
