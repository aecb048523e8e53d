//! The path of every cgroup by its id: what the kernel tells and what a walk finds, kept a while after it went.
//!
//! A map of its own beside the tree that the policy is placed by: that one is held while policy is programmed, and its
//! cgroups are gone when they go, while their last events are still in a ring. Here a name hangs below its parent's
//! id, so that records of several CPUs may come in any order.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ebpf_hello_loader::abi::CgroupChange;

use crate::cgroups::{Cgroup, Change};

/// How long a cgroup is still known after it went.
const GRACE: Duration = Duration::from_secs(60);
/// Cgroups that are known at most, those included that went.
const MOST: usize = 65_536;
/// Deepest nesting that is followed; the kernel's own limit is `cgroup.max.depth`.
const DEPTH: usize = 64;

/// The cgroups, shared by who hears of them and who asks.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    nodes: RwLock<HashMap<u64, Node>>,
    version: AtomicU64,
}

#[derive(Debug)]
struct Node {
    /// `None` for the root.
    parent: Option<u64>,
    name: String,
    heard: Instant,
    gone: Option<Instant>,
}

// === impl Paths ===

impl Paths {
    /// Takes in what the kernel told.
    pub(crate) fn follow(&self, change: &Change) {
        let now = Instant::now();
        let mut nodes = self.write();
        if change.what == CgroupChange::Removed {
            if let Some(node) = nodes.get_mut(&change.id) {
                node.gone.get_or_insert(now);
            }
            return;
        }
        if nodes.len() >= MOST {
            nodes.retain(|_, node| node.gone.is_none());
        }
        if nodes.len() < MOST {
            nodes.entry(change.id).or_insert_with(|| Node {
                parent: Some(change.parent),
                name: change.name.clone(),
                heard: now,
                gone: None,
            });
        }
        drop(nodes);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Takes in what a walk found that began at `began`, parents before children.
    pub(crate) fn walked(&self, cgroups: &[Cgroup], began: Instant) {
        let mut ids: HashMap<&str, u64> = HashMap::with_capacity(cgroups.len());
        let mut is_news = false;
        let mut nodes = self.write();
        for cgroup in cgroups {
            ids.insert(&cgroup.path, cgroup.id);
            if let Some(node) = nodes.get_mut(&cgroup.id) {
                node.gone = None;
                continue;
            }
            let (parent, name) = match cgroup.path.rsplit_once('/') {
                _ if cgroup.path == "/" => (None, ""),
                Some((parent, name)) => {
                    let parent = if parent.is_empty() { "/" } else { parent };
                    (ids.get(parent).copied(), name)
                }
                None => (None, ""),
            };
            if nodes.len() < MOST {
                is_news = true;
                nodes.insert(
                    cgroup.id,
                    Node {
                        parent,
                        name: name.to_owned(),
                        heard: began,
                        gone: None,
                    },
                );
            }
        }
        let found: std::collections::HashSet<u64> = ids.into_values().collect();
        let now = Instant::now();
        nodes.retain(|id, node| {
            // What came after the walk began may not be in it; what is not in it and came before is gone, or another
            // node's on the same kernel.
            if !found.contains(id) && node.heard < began {
                node.gone.get_or_insert(now);
            }
            node.gone.is_none_or(|gone| now - gone < GRACE)
        });
        drop(nodes);
        if is_news {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The path of a cgroup from the root of the mount.
    pub(crate) fn path(&self, id: u64) -> Option<String> {
        let nodes = self.read();
        let mut names = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let node = nodes.get(&id)?;
            names.push(node.name.as_str());
            next = node.parent;
            if names.len() > DEPTH {
                return None;
            }
        }
        // The root's name is empty.
        if names.len() == 1 {
            return Some("/".to_owned());
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// Whether it is known, also if it went a short while ago.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.read().contains_key(&id)
    }

    /// Grows with every cgroup that comes.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<u64, Node>> {
        // Nothing panics while it is held.
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Node>> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(what: CgroupChange, id: u64, parent: u64, name: &str) -> Change {
        Change {
            what,
            id,
            parent,
            name: name.to_owned(),
        }
    }

    fn walked(paths: &Paths, cgroups: &[(u64, &str)], began: Instant) {
        let cgroups: Vec<Cgroup> = cgroups
            .iter()
            .map(|(id, path)| Cgroup {
                id: *id,
                path: (*path).to_owned(),
            })
            .collect();
        paths.walked(&cgroups, began);
    }

    #[test]
    fn a_path_is_known_in_whatever_order_its_parts_came() {
        let paths = Paths::default();
        paths.follow(&change(CgroupChange::Made, 7, 6, "c"));
        assert_eq!(paths.path(7), None);
        paths.follow(&change(CgroupChange::Made, 6, 5, "b"));
        walked(&paths, &[(1, "/"), (5, "/a")], Instant::now());
        assert_eq!(paths.path(7).as_deref(), Some("/a/b/c"));
        let before = paths.version();
        walked(&paths, &[(1, "/"), (5, "/a")], Instant::now());
        assert_eq!(paths.version(), before, "nothing new");
    }

    #[test]
    fn what_went_is_known_for_a_while() {
        let paths = Paths::default();
        walked(&paths, &[(1, "/"), (5, "/a"), (6, "/a/b")], Instant::now());
        assert_eq!(
            (paths.path(1).as_deref(), paths.path(6).as_deref()),
            (Some("/"), Some("/a/b"))
        );
        paths.follow(&change(CgroupChange::Made, 8, 6, "c"));
        paths.follow(&change(CgroupChange::Removed, 8, 6, "c"));
        paths.follow(&change(CgroupChange::Made, 9, 99, "foreign"));
        assert_eq!(
            (paths.path(8).as_deref(), paths.path(9)),
            (Some("/a/b/c"), None)
        );
        // It was made while the walk went on, and is not in it.
        walked(
            &paths,
            &[(1, "/"), (5, "/a")],
            Instant::now() - Duration::from_secs(1),
        );
        assert_eq!(paths.path(8).as_deref(), Some("/a/b/c"));
        assert!(paths.knows(8) && !paths.knows(10));
    }
}
