//! A file that remembers how far a reader came.
//!
//! It is written after the lines it stands for, so that a reader that dies in between sees some of them
//! again and misses none.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// How often the file is written at most, but for the end.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of a token at most: far more than a server makes.
const MAX_BYTES: u64 = 16 * 1024;

/// A place in the stream, and the file for it.
#[derive(Debug)]
pub(crate) struct Bookmark {
    path: PathBuf,
    token: String,
    /// `token` is newer than the file.
    stale: bool,
    written: Option<Instant>,
}

// === impl Bookmark ===

impl Bookmark {
    pub(crate) fn new(path: PathBuf) -> Self {
        Bookmark {
            path,
            token: String::new(),
            stale: false,
            written: None,
        }
    }

    /// The place remembered; `None` while there is no file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds no token: one line of printable ASCII.
    pub(crate) fn read(&self) -> anyhow::Result<Option<String>> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("--resume {path}")),
            Ok(metadata) if !metadata.is_file() => {
                bail!("--resume {path}: expected a file, which observe keeps up to date")
            }
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                bail!("--resume {path}: more than {MAX_BYTES} bytes are no resume token")
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(&self.path).with_context(|| format!("--resume {path}"))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!("--resume {path}: expected one line with a resume token, as observe writes it");
        }
        Ok(Some(token.to_owned()))
    }

    /// Moves on; an empty token stands for no place.
    pub(crate) fn advance(&mut self, token: String) {
        if !token.is_empty() {
            self.token = token;
            self.stale = true;
        }
    }

    /// Writes the file when it is time, or now.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn write(&mut self, now: bool) -> anyhow::Result<()> {
        let recent = self.written.is_some_and(|at| at.elapsed() < PERIOD);
        if !self.stale || (recent && !now) {
            return Ok(());
        }
        // Replaced as a whole: a reader that dies while it writes leaves the old place.
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        fs::write(&name, format!("{}\n", self.token))
            .and_then(|()| fs::rename(&name, &self.path))
            .with_context(|| format!("--resume {}: cannot write it", self.path.display()))?;
        self.stale = false;
        self.written = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("place");
        let mut bookmark = Bookmark::new(path.clone());
        assert_eq!(bookmark.read().unwrap(), None);
        bookmark.write(true).unwrap();
        assert!(!path.exists(), "no place, no file");
        bookmark.advance("t1".into());
        bookmark.advance(String::new());
        bookmark.write(false).unwrap();
        assert_eq!(bookmark.read().unwrap().as_deref(), Some("t1"));
        bookmark.advance("t2".into());
        bookmark.written = bookmark.written.map(|at| at + Duration::from_secs(3600));
        bookmark.write(false).unwrap();
        assert_eq!(
            bookmark.read().unwrap().as_deref(),
            Some("t1"),
            "once a second"
        );
        bookmark.write(true).unwrap();
        assert_eq!(bookmark.read().unwrap().as_deref(), Some("t2"));
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("place");
        for wrong in [&b""[..], b"\n", b"two words", b"\xff", &[b'a'; 17 * 1024]] {
            fs::write(&path, wrong).unwrap();
            let error = format!("{:#}", Bookmark::new(path.clone()).read().unwrap_err());
            assert!(
                error.contains("--resume") && error.contains("place"),
                "{error}"
            );
        }
        assert!(Bookmark::new(folder.path().to_owned()).read().is_err());
    }
}
