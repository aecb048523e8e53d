//! The cgroup v2 tree of this machine: walked, and followed as the kernel tells of changes.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::Path,
};

use ebpf_hello_loader::{CgroupView, abi::CgroupChange};

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

/// A cgroup that came or went, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) what: CgroupChange,
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) name: String,
}

impl From<CgroupView<'_>> for Change {
    fn from(view: CgroupView<'_>) -> Self {
        Change {
            what: view.change,
            id: view.id,
            parent: view.parent,
            name: String::from_utf8_lossy(view.name).into_owned(),
        }
    }
}

/// The path of every cgroup, by its id.
#[derive(Debug, Default)]
pub(crate) struct Tree(HashMap<u64, String>);

// === impl Tree ===

impl Tree {
    pub(crate) fn of(cgroups: &[Cgroup]) -> Tree {
        let paths = cgroups
            .iter()
            .map(|cgroup| (cgroup.id, cgroup.path.clone()));
        Tree(paths.collect())
    }

    /// Takes in what the kernel told. The path of a new cgroup; `None` for one that went, and for
    /// one whose parent is not known: another node's, or one that the next walk finds.
    pub(crate) fn follow(&mut self, change: &Change) -> Option<String> {
        if change.what == CgroupChange::Removed {
            self.0.remove(&change.id);
            return None;
        }
        let path = below(self.0.get(&change.parent)?, &change.name);
        self.0.insert(change.id, path.clone());
        Some(path)
    }

    pub(crate) fn path(&self, id: u64) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Every cgroup, parents before children.
    pub(crate) fn cgroups(&self) -> Vec<Cgroup> {
        let mut cgroups: Vec<Cgroup> = self
            .0
            .iter()
            .map(|(id, path)| Cgroup {
                id: *id,
                path: path.clone(),
            })
            .collect();
        // A path sorts before those that it begins.
        cgroups.sort_by(|a, b| a.path.cmp(&b.path));
        cgroups
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The path of the directory `name` in the cgroup at `parent`.
pub(crate) fn below(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
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
    fn a_tree_knows_who_came_below_whom_and_who_went() {
        let change = |what, id, parent, name: &str| Change {
            what,
            id,
            parent,
            name: name.to_owned(),
        };
        let mut tree = Tree::of(&[Cgroup {
            id: 1,
            path: "/".to_owned(),
        }]);
        let made = |id, parent, name| change(CgroupChange::Made, id, parent, name);
        assert_eq!(tree.follow(&made(5, 1, "a")).as_deref(), Some("/a"));
        assert_eq!(tree.follow(&made(6, 5, "b")).as_deref(), Some("/a/b"));
        assert_eq!(tree.follow(&made(7, 99, "foreign")), None);
        assert_eq!(tree.follow(&change(CgroupChange::Removed, 5, 1, "a")), None);
        assert_eq!(
            (tree.path(5), tree.path(6), tree.len()),
            (None, Some("/a/b"), 2)
        );
    }

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
