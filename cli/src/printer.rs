//! Events to stdout, on a thread of their own.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::Context as _;
use ebpf_hello_agent::{Accounts, Batch, Outcome};
use ebpf_hello_loader::abi::Handler;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

use crate::{args::Output, render::Renderer};

/// Bytes gathered before they are written, within a batch.
const CHUNK: usize = 1 << 16;

struct Printer {
    renderer: Renderer,
    /// Not std's stdout: its buffer would hide how much is out.
    out: File,
    accounts: Arc<Accounts>,
    lines: Vec<u8>,
    /// Where each line of `lines` ends, and whose it is.
    ends: Vec<(usize, Option<Handler>)>,
    /// Taken when stdout takes no more.
    gone: Option<oneshot::Sender<()>>,
}

/// Prints until the events end. The receiver hears when stdout takes no more.
pub(crate) fn start(
    output: Output,
    events: impl Iterator<Item = Batch> + Send + 'static,
    accounts: Arc<Accounts>,
) -> anyhow::Result<(JoinHandle<()>, oneshot::Receiver<()>)> {
    let stdout = io::stdout();
    // NO_COLOR, CLICOLOR and TERM=dumb are heeded.
    let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let (gone, stdout_gone) = oneshot::channel();
    let mut printer = Printer {
        renderer: Renderer::new(output, colour),
        out: File::from(
            stdout
                .as_fd()
                .try_clone_to_owned()
                .context("cannot duplicate stdout")?,
        ),
        accounts,
        lines: Vec::with_capacity(CHUNK + 4096),
        ends: Vec::new(),
        gone: Some(gone),
    };
    if stdout.is_terminal()
        && let Some(header) = printer.renderer.header()
    {
        printer.lines.extend_from_slice(header.as_bytes());
        printer.lines.push(b'\n');
    }
    let thread = std::thread::Builder::new()
        .name("printer".into())
        .spawn(move || printer.run(events))
        .context("cannot start the printer's thread")?;
    Ok((thread, stdout_gone))
}

// === impl Printer ===

impl Printer {
    fn run(mut self, events: impl Iterator<Item = Batch>) {
        for batch in events {
            for item in batch {
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
        let written = if self.gone.is_some() {
            self.write_lines()
        } else {
            0
        };
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

    fn write_lines(&mut self) -> usize {
        let mut written = 0;
        while written < self.lines.len() {
            match self.out.write(&self.lines[written..]) {
                Ok(0) => return self.give_up(written, &io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Somebody who shares our stdout made it non-blocking. A failed wait is met
                    // again by the next write.
                    let _ = poll(&mut [PollFd::new(&self.out, PollFlags::OUT)], None);
                }
                Err(error) => return self.give_up(written, &error),
            }
        }
        written
    }

    fn give_up(&mut self, written: usize, error: &io::Error) -> usize {
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::error!(%error, "cannot write events to stdout");
        }
        if let Some(gone) = self.gone.take() {
            // Nobody listens any more when the end has begun already.
            let _ = gone.send(());
        }
        written
    }
}
