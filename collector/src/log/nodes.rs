//! The last batch of each node: what is not after it was appended before.

use std::collections::HashMap;

use super::BatchKey;

/// Nodes a log remembers the last batch of. Past it, the one that has been silent for longest is forgotten.
pub(super) const MAX_NODES: usize = 65_536;

/// The last batch of each node, at most [`MAX_NODES`].
#[derive(Debug, Default)]
pub(super) struct Nodes(HashMap<Box<str>, Last>);

#[derive(Clone, Copy, Debug)]
struct Last {
    key: BatchKey,
    position: u64,
}

// === impl Nodes ===

impl Nodes {
    pub(super) fn last(&self, node: &str) -> Option<BatchKey> {
        self.0.get(node).map(|last| last.key)
    }

    /// Whether the node's batch of this key was appended before.
    pub(super) fn has(&self, node: &str, key: BatchKey) -> bool {
        self.last(node).is_some_and(|last| key <= last)
    }

    /// Remembers what was appended at a position, and says which node was forgotten for it.
    pub(super) fn set(&mut self, node: &str, key: BatchKey, position: u64) -> Option<Box<str>> {
        let last = Last { key, position };
        if let Some(known) = self.0.get_mut(node) {
            *known = last;
            return None;
        }
        let silent = (self.0.len() >= MAX_NODES)
            .then(|| self.0.iter().min_by_key(|(_, last)| last.position))
            .flatten()
            .map(|(node, _)| node.clone());
        if let Some(silent) = &silent {
            self.0.remove(silent);
        }
        self.0.insert(node.into(), last);
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_node_is_forgotten() {
        let key = BatchKey {
            epoch: 1,
            number: 1,
        };
        let mut nodes = Nodes::default();
        for position in 0..MAX_NODES as u64 {
            assert_eq!(nodes.set(&format!("n{position}"), key, position), None);
        }
        nodes.set("n0", key, MAX_NODES as u64);
        let forgotten = nodes.set("new", key, MAX_NODES as u64 + 1);
        assert_eq!(forgotten.as_deref(), Some("n1"));
        assert!(nodes.has("n0", key) && nodes.has("new", key) && !nodes.has("n1", key));
    }
}
