//! Lines to stdout, on a thread of their own: a write may wait for its reader for ever.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::bookmark::Bookmark;

/// Chunks between the stream and stdout; each holds the lines of one message.
const QUEUE: usize = 2;

/// Some lines.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    /// Events in them.
    pub(crate) lines: u64,
    /// Stands for the place after them; empty: none.
    pub(crate) token: String,
}

/// What became of the lines.
#[derive(Debug)]
pub(crate) struct Written {
    /// Events whose lines are out.
    pub(crate) lines: u64,
    /// Why not all of them are; whoever closed stdout had seen enough, which is none.
    pub(crate) result: anyhow::Result<()>,
}

/// The thread, as seen from the event loop.
pub(crate) struct Writer {
    /// Taken at the end.
    chunks: Option<mpsc::Sender<Chunk>>,
    lines: watch::Receiver<u64>,
    /// The thread's last word. The thread itself is not waited for: it may be stuck in a write.
    ended: oneshot::Receiver<anyhow::Result<()>>,
    stdout: OwnedFd,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn start(bookmark: Option<Bookmark>) -> anyhow::Result<Self> {
        let duplicate = || io::stdout().as_fd().try_clone_to_owned();
        let stdout = duplicate().context("cannot duplicate stdout")?;
        // Not std's stdout: its buffer would hide how much is out.
        let out = File::from(duplicate().context("cannot duplicate stdout")?);
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let (sender, lines) = watch::channel(0);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let result = write(out, receiver, &sender, bookmark);
                // Nobody waits any more when we took too long.
                let _ = end.send(result);
            })
            .context("cannot start the writer's thread")?;
        Ok(Writer {
            chunks: Some(chunks),
            lines,
            ended,
            stdout,
        })
    }

    /// Hands over lines, when there is room; false when stdout takes no more.
    pub(crate) async fn write(&self, chunk: Chunk) -> bool {
        match &self.chunks {
            Some(chunks) => chunks.send(chunk).await.is_ok(),
            None => false,
        }
    }

    /// Whether stdout is a pipe or socket that nobody reads any more.
    pub(crate) fn is_unread(&self) -> bool {
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // A terminal that hung up says HUP only: its signal ends us.
        poll(&mut stdout, Some(&now)).is_ok() && stdout[0].revents().contains(PollFlags::ERR)
    }

    /// Waits until the rest is out, but no longer than this.
    pub(crate) async fn finish(mut self, patience: Duration) -> Written {
        self.chunks = None;
        let result = match timeout(patience, &mut self.ended).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(anyhow::anyhow!("the writer's thread panicked")),
            Err(_) => {
                tracing::warn!("the last lines are missing: nobody reads stdout");
                Ok(())
            }
        };
        let lines = *self.lines.borrow();
        Written { lines, result }
    }
}

/// The thread: until the lines end, or stdout takes no more.
fn write(
    mut out: File,
    mut chunks: mpsc::Receiver<Chunk>,
    lines: &watch::Sender<u64>,
    mut bookmark: Option<Bookmark>,
) -> anyhow::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        match write_all(&mut out, &chunk.bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            result => result.context("cannot write to stdout")?,
        }
        lines.send_modify(|lines| *lines += chunk.lines);
        if let Some(bookmark) = &mut bookmark {
            bookmark.advance(chunk.token);
            bookmark.write(false)?;
        }
    }
    match &mut bookmark {
        Some(bookmark) => bookmark.write(true),
        None => Ok(()),
    }
}

/// As [`io::Write::write_all`], also where somebody who shares our stdout made it non-blocking.
fn write_all(out: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A failed wait is met again by the next write.
                let _ = poll(&mut [PollFd::new(&*out, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
