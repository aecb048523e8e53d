//! The terminal: taken when this is made, given back when it goes, also in a panic.

use std::{io, thread, time::Duration};

use anyhow::Context as _;
use crossterm::event::{Event, poll, read};
use ratatui::DefaultTerminal;
use tokio::sync::mpsc;

/// How long the keys' thread waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that wait at most.
const QUEUE: usize = 64;

/// The whole screen, and what is typed.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
    /// Keys, and changes of the size.
    pub(super) input: mpsc::Receiver<Event>,
}

// === impl Screen ===

impl Screen {
    /// Takes the terminal. A panic gives it back before it is told.
    pub(super) fn take() -> anyhow::Result<Self> {
        let (sender, input) = mpsc::channel(QUEUE);
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        let screen = Screen {
            terminal: terminal.context("cannot take the terminal")?,
            input,
        };
        thread::Builder::new()
            .name("keys".into())
            .spawn(move || listen(&sender))
            .context("cannot start the keys' thread")?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
        // The cursor was hidden while we drew.
        let _ = self.terminal.show_cursor();
    }
}

/// Until nobody listens, or the terminal is gone: then its hangup ends us.
fn listen(keys: &mpsc::Sender<Event>) {
    while !keys.is_closed() {
        match next() {
            Ok(None) => {}
            Ok(Some(event)) => {
                if keys.blocking_send(event).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn next() -> io::Result<Option<Event>> {
    if poll(LOOK)? {
        read().map(Some)
    } else {
        Ok(None)
    }
}
