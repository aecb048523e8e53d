//! A pipe that is read as it fills, so that a test can wait for a line in it.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Far more than anything here takes, so that a busy machine fails nothing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What came out of a pipe so far.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    read: Mutex<Text>,
    more: Condvar,
}

#[derive(Default)]
struct Text {
    /// Without their newlines.
    lines: Vec<Vec<u8>>,
    /// Those up to the last that was waited for.
    seen: usize,
    ended: bool,
}

// === impl Stream ===

impl Stream {
    /// Reads until the pipe ends.
    pub(crate) fn read(pipe: impl Read + Send + 'static) -> Stream {
        let shared = Arc::new(Shared::default());
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for line in BufReader::new(pipe).split(b'\n') {
                    let Ok(line) = line else { break };
                    shared.lock().lines.push(line);
                    shared.more.notify_all();
                }
                shared.lock().ended = true;
                shared.more.notify_all();
            }
        });
        Stream {
            shared,
            reader: Some(reader),
        }
    }

    /// Waits for a line that fits, behind the one that was waited for last; the test fails without one.
    pub(crate) fn await_line(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let seen = self.shared.lock().seen;
        let (place, line) = self.find_line(what, seen, fits);
        self.shared.lock().seen = place + 1;
        line
    }

    /// Waits for a line that fits, from line `first` on; returns which it is.
    pub(crate) fn find_line(
        &self,
        what: &str,
        first: usize,
        fits: impl Fn(&str) -> bool,
    ) -> (usize, String) {
        let deadline = Instant::now() + DEADLINE;
        let mut looked_at = first;
        let mut text = self.shared.lock();
        loop {
            for (place, line) in text.lines.iter().enumerate().skip(looked_at) {
                let line = String::from_utf8_lossy(line);
                if fits(&line) {
                    return (place, line.into_owned());
                }
            }
            looked_at = text.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !text.ended && !left.is_zero(),
                "{what} did not come; what did:\n{}",
                text.shown()
            );
            text = self
                .shared
                .more
                .wait_timeout(text, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Every line until the pipe's end.
    pub(crate) fn into_lines(mut self) -> Vec<Vec<u8>> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader does not panic");
        }
        std::mem::take(&mut self.shared.lock().lines)
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Text ===

impl Text {
    fn shown(&self) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .rev()
            .take(40)
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
