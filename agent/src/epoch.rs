//! The number of an agent's run: greater than that of every earlier run of its node, whatever became of the clock.
//!
//! It is the microsecond of the start. Where there is a place to keep it, it is at least one more than the last one
//! that was kept there, and on the disk before it is used: the collector would take events of a run that came before
//! for events that it has.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::private;

const FILE: &str = "epoch";
const NEW: &str = "epoch.new";

/// Why the epoch could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// What stands there is no epoch.
    #[error(
        "{path} holds {found:?}: expected a number from 1; remove it if nothing else is left of the node's earlier runs"
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text, as far as it is one.
        found: String,
    },
    /// The file cannot be read or written.
    #[error("cannot {what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// By the clock alone: microseconds since 1970.
#[must_use]
pub fn from_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

/// The next one of the node whose state is in a directory, which is made if it is not there; greater than `known`, an
/// epoch that was found elsewhere.
///
/// # Errors
/// What was kept cannot be read, or what is to be kept not written.
pub fn next(directory: &Path, known: Option<u64>) -> Result<u64, EpochError> {
    let path = directory.join(FILE);
    let last = read(&path)?.max(known);
    let epoch = last
        .map_or(1, |last| last.saturating_add(1))
        .max(from_clock());
    write(directory, &path, epoch).map_err(|error| EpochError::File {
        what: "write",
        path,
        error,
    })?;
    Ok(epoch)
}

fn read(path: &Path) -> Result<Option<u64>, EpochError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| EpochError::File {
            what: "read",
            path: path.to_owned(),
            error,
        })?,
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().parse() {
        Ok(epoch) if epoch > 0 => Ok(Some(epoch)),
        _ => Err(EpochError::Invalid {
            path: path.to_owned(),
            found: text.chars().take(40).collect(),
        }),
    }
}

/// Replaces it whole, and returns when the disk has it.
fn write(directory: &Path, path: &Path, epoch: u64) -> io::Result<()> {
    private::directory(directory)?;
    let new = directory.join(NEW);
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{epoch}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_also_when_the_clock_was_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let before = from_clock();
        let first = next(&state, None).unwrap();
        assert!(first >= before);
        // As after a run whose clock was ten years ahead.
        let ahead = first + 10 * 365 * 24 * 3600 * 1_000_000;
        std::fs::write(state.join("epoch"), format!("{ahead}\n")).unwrap();
        assert_eq!(next(&state, None).unwrap(), ahead + 1);
        assert_eq!(next(&state, None).unwrap(), ahead + 2);
        assert_eq!(next(&state, Some(ahead + 10)).unwrap(), ahead + 11);
        assert_eq!(next(&state, Some(5)).unwrap(), ahead + 12);
    }

    #[test]
    fn what_is_no_epoch_is_named_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("epoch");
        for text in ["", "0", "-1", "twelve", "99999999999999999999999"] {
            std::fs::write(&path, text).unwrap();
            let error = next(directory.path(), None).unwrap_err().to_string();
            assert!(error.contains("expected a number from 1"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = next(&file.path().join("state"), None).unwrap_err();
        assert!(error.to_string().starts_with("cannot "), "{error}");
    }
}
