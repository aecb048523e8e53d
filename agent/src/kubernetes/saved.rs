//! The last good policy on disk: programmed at the next start before the API server answers, if it ever does.
//!
//! What it holds is checked as if it came from outside: too long, not JSON, of another node or version, it is as if
//! there were none; filters are validated again.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ebpf_hello_policy::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{identity::Pod, private};

/// In the directory of the agent's state.
const FILE: &str = "policy.json";
/// What this build writes and reads.
const VERSION: u32 = 1;
/// Bytes that are read: room for 250 pods and as many filters of the largest kind.
const MAX: u64 = 64 << 20;

/// Everything that decides what the node does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    pub(super) version: u32,
    pub(super) node: String,
    pub(super) node_labels: Labels,
    /// `None` where nobody asked for them.
    pub(super) namespaces: Option<HashMap<String, Labels>>,
    /// Objects of both kinds, each in its last good version.
    pub(super) filters: Vec<Value>,
    pub(super) pods: Vec<Pod>,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    node: String,
}

// === impl Saved ===

impl Saved {
    /// Whether it says the same, whoever wrote it.
    pub(super) fn says(&self, other: &Saved) -> bool {
        (
            &self.node_labels,
            &self.namespaces,
            &self.filters,
            &self.pods,
        ) == (
            &other.node_labels,
            &other.namespaces,
            &other.filters,
            &other.pods,
        )
    }
}

// === impl Place ===

impl Place {
    pub(super) fn new(directory: &Path, node: &str) -> Self {
        Place {
            directory: directory.to_path_buf(),
            node: node.to_owned(),
        }
    }

    /// What was saved; `None` where nothing was, or nothing of use.
    pub(super) fn read(&self) -> Option<Saved> {
        let path = self.directory.join(FILE);
        match read(&path, &self.node) {
            Ok(saved) => saved,
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "the saved policy is of no use");
                None
            }
        }
    }

    /// Replaces it as a whole: a machine that stops meanwhile has the one or the other.
    pub(super) fn write(&self, saved: &Saved) -> io::Result<()> {
        let saved = Saved {
            version: VERSION,
            node: self.node.clone(),
            ..saved.clone()
        };
        let text = serde_json::to_vec(&saved)?;
        if text.len() as u64 > MAX {
            return Err(io::Error::other(format!(
                "{} bytes are more than would be read back ({MAX})",
                text.len()
            )));
        }
        private::directory(&self.directory)?;
        let next = self.directory.join(format!("{FILE}.next"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            // Labels of pods are nobody's business.
            .mode(0o600)
            .open(&next)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&next, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()
    }
}

fn read(path: &Path, node: &str) -> Result<Option<Saved>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX {
        return Err(format!("it has more than {MAX} bytes"));
    }
    let saved: Saved = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if saved.version != VERSION {
        return Err(format!(
            "it is of version {}: expected {VERSION}",
            saved.version
        ));
    }
    if saved.node != node {
        return Err(format!("it is of node {:?}: expected {node:?}", saved.node));
    }
    Ok(Some(saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(&directory.path().join("state"), "n1");
        assert_eq!(place.read(), None);
        let saved = Saved {
            node_labels: [("zone".to_owned(), "a".to_owned())].into(),
            pods: vec![Pod {
                cgroup_uid: "u1".to_owned(),
                ..Pod::default()
            }],
            ..Saved::default()
        };
        place.write(&saved).unwrap();
        let read = place.read().unwrap();
        assert_eq!(
            (read.node_labels, read.pods),
            (saved.node_labels, saved.pods)
        );

        let path = directory.path().join("state").join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for (damaged, problem) in [
            (text[..text.len() - 1].to_owned(), "EOF"),
            (
                text.replace("\"version\":1", "\"version\":2"),
                "of version 2",
            ),
            (text.replace("n1", "n2"), "of node \"n2\": expected \"n1\""),
            ("x".repeat(64), "expected value"),
        ] {
            fs::write(&path, damaged).unwrap();
            let found = super::read(&path, "n1").unwrap_err();
            assert!(found.contains(problem), "{found}");
            assert_eq!(place.read(), None);
        }
        place.write(&Saved::default()).unwrap();
        assert!(place.read().is_some());
    }
}
