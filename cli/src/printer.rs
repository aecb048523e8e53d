//! Events to stdout.
//!
//! ```text
//! batches ─▶ printer thread ─── lines ──▶ writer thread ─▶ stdout
//!            says what became ◀─ bytes ─┘
//!            of each event
//! ```
//! A write may wait for its reader for ever, and nothing wakes it. So it has a thread of its own, which
//! nobody waits for at the end. The printer waits for it no longer than it wants, and what is not out by
//! then it counts as lost: everything is settled when the printer has ended.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    mem,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use ebpf_hello_agent::{Accounts, Batch, Outcome};
use ebpf_hello_loader::abi::Handler;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

use crate::{args::Output, render::Renderer};

/// Bytes gathered before they are written, within a batch.
const CHUNK: usize = 1 << 16;
/// How long whoever reads stdout may take for what is handed over at once, when it is time to end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The printer's thread, as seen from the event loop.
pub(crate) struct Printer {
    thread: JoinHandle<()>,
    words: Sender<Word>,
}

/// What the printer's thread hears while lines are being written.
enum Word {
    /// It is time to end.
    End,
    /// The writer is done with its lines.
    Written(Written),
}

/// What became of some lines.
struct Written {
    /// The lines, to be used again.
    lines: Vec<u8>,
    /// How much of them is out.
    bytes: usize,
    /// Why that is not all.
    result: io::Result<()>,
}

/// What the printer's thread works with.
struct Printing {
    renderer: Renderer,
    accounts: Arc<Accounts>,
    lines: Vec<u8>,
    /// Where each line of `lines` ends, and whose it is.
    ends: Vec<(usize, Option<Handler>)>,
    /// The writer's thread; `None` once stdout takes no more, or not in time.
    writer: Option<SyncSender<Vec<u8>>>,
    words: Receiver<Word>,
    /// It is time to end. Before that, a reader may be as slow as it likes.
    ending: bool,
    /// Taken when stdout takes no more.
    gone: Option<oneshot::Sender<()>>,
}

/// Prints until the events end. The receiver hears when stdout takes no more.
///
/// # Errors
///
/// Stdout cannot be duplicated, or a thread not be started.
pub(crate) fn start(
    output: Output,
    events: impl Iterator<Item = Batch> + Send + 'static,
    accounts: Arc<Accounts>,
) -> anyhow::Result<(Printer, oneshot::Receiver<()>)> {
    let stdout = io::stdout();
    // NO_COLOR, CLICOLOR and TERM=dumb are heeded.
    let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    // Not std's stdout: its buffer would hide how much is out.
    let out = File::from(
        stdout
            .as_fd()
            .try_clone_to_owned()
            .context("cannot duplicate stdout")?,
    );
    let (words, heard) = channel();
    let (gone, stdout_gone) = oneshot::channel();
    let mut printing = Printing {
        renderer: Renderer::new(output, colour),
        accounts,
        lines: Vec::with_capacity(CHUNK + 4096),
        ends: Vec::new(),
        writer: Some(start_writer(out, words.clone())?),
        words: heard,
        ending: false,
        gone: Some(gone),
    };
    if stdout.is_terminal()
        && let Some(header) = printing.renderer.header()
    {
        printing.lines.extend_from_slice(header.as_bytes());
        printing.lines.push(b'\n');
    }
    let thread = thread::Builder::new()
        .name("printer".into())
        .spawn(move || printing.run(events))
        .context("cannot start the printer's thread")?;
    Ok((Printer { thread, words }, stdout_gone))
}

/// Starts the thread that writes. It is handed lines only when it is done with the last.
fn start_writer(mut out: File, words: Sender<Word>) -> anyhow::Result<SyncSender<Vec<u8>>> {
    let (writer, chunks) = sync_channel::<Vec<u8>>(1);
    thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            for lines in chunks {
                let (bytes, result) = write_lines(&mut out, &lines);
                // Nobody listens any more when we took too long.
                let _ = words.send(Word::Written(Written {
                    lines,
                    bytes,
                    result,
                }));
            }
        })
        .context("cannot start the writer's thread")?;
    Ok(writer)
}

/// Writes lines, or as much of them as stdout takes; says how much, and why not more.
fn write_lines(out: &mut File, lines: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < lines.len() {
        match out.write(&lines[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Somebody who shares our stdout made it non-blocking. A failed wait is met
                // again by the next write.
                let _ = poll(&mut [PollFd::new(&*out, PollFlags::OUT)], None);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

// === impl Printer ===

impl Printer {
    /// Says that it is time to end: from now on a reader that is stuck costs events, not time. To be
    /// called before the events are made to end, because who makes them may wait for the printer.
    pub(crate) fn end(&self) {
        // A thread that has ended needs no telling.
        let _ = self.words.send(Word::End);
    }

    /// Waits until the events have ended and each is settled.
    ///
    /// # Errors
    ///
    /// The thread panicked.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the printer's thread panicked"))
    }
}

// === impl Printing ===

impl Printing {
    fn run(mut self, events: impl Iterator<Item = Batch>) {
        for batch in events {
            for item in batch {
                if self.writer.is_none() {
                    self.accounts.settle(item.handler, Outcome::OutputFailed);
                    continue;
                }
                let start = self.lines.len();
                match self.renderer.line(&item.event, &mut self.lines) {
                    Ok(()) => self.ends.push((self.lines.len(), item.handler)),
                    Err(error) => {
                        tracing::error!(%error, "an event cannot be written");
                        self.lines.truncate(start);
                        self.accounts.settle(item.handler, Outcome::OutputFailed);
                    }
                }
                if self.lines.len() >= CHUNK {
                    self.write();
                }
            }
            self.write();
        }
    }

    /// Writes the gathered lines; those wholly written are delivered.
    fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let written = self.hand_over();
        for (end, handler) in self.ends.drain(..) {
            let outcome = if end <= written {
                Outcome::Delivered
            } else {
                Outcome::OutputFailed
            };
            self.accounts.settle(handler, outcome);
        }
        self.lines.clear();
    }

    /// Has the gathered lines written; says how much of them is out.
    fn hand_over(&mut self) -> usize {
        let lines = mem::take(&mut self.lines);
        if self
            .writer
            .as_ref()
            .is_none_or(|writer| writer.send(lines).is_err())
        {
            self.give_up();
            return 0;
        }
        // How much a write that still waits has put out nobody can tell: nothing of it counts as delivered.
        let Some(written) = self.await_written() else {
            tracing::warn!("the last events are missing: stdout does not take them");
            self.give_up();
            return 0;
        };
        self.lines = written.lines;
        if let Err(error) = written.result {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::error!(%error, "cannot write events to stdout");
            }
            self.give_up();
        }
        written.bytes
    }

    /// Waits for the writer; `None` when it is time to end and that takes too long.
    fn await_written(&mut self) -> Option<Written> {
        loop {
            let word = if self.ending {
                self.words.recv_timeout(LAST_LINES).ok()?
            } else {
                self.words.recv().ok()?
            };
            match word {
                Word::End => self.ending = true,
                Word::Written(written) => return Some(written),
            }
        }
    }

    fn give_up(&mut self) {
        self.writer = None;
        if let Some(gone) = self.gone.take() {
            // Nobody listens any more when the end has begun already.
            let _ = gone.send(());
        }
    }
}
