//! `ebpf-hello observe`: events from a server, as lines.
//!
//! ```text
//! feed ─▶ renderer ─▶ chunks of lines ─▶ writer thread ─▶ stdout
//!                                        └─▶ bookmark (the place after what is out)
//! ```
//! Events go to stdout, everything else to stderr. A slow reader of stdout holds up the stream, never
//! signals; what the server drops meanwhile it tells as `loss`.

mod bookmark;
mod writer;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use ebpf_hello_proto::v1::{Event, ObserveRequest, ObserverHello, event::Kind};
use tokio::time::{MissedTickBehavior, interval};

use self::{
    bookmark::Bookmark,
    writer::{Chunk, Writer},
};
use crate::{
    args::Output,
    client::{
        Ending,
        feed::{Feed, FeedOptions, Update},
        instant, runtime,
        selection::SelectionArgs,
    },
    connect::ConnectArgs,
    page,
    render::{Renderer, human},
};

/// How often is looked whether anybody still reads stdout.
const LOOK: Duration = Duration::from_millis(500);
/// How long whoever reads stdout may take for the rest when it is time to end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// `observe`'s command line.
#[derive(Debug, Args)]
pub(crate) struct ObserveArgs {
    /// Go on with live events.
    #[arg(short, long)]
    follow: bool,
    /// The last N selected events, 1 to 100000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with_all = ["since", "resume"])]
    last: Option<u32>,
    /// Events since a span ago (10m) or a time (2026-11-22T10:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = instant::parse, conflicts_with = "resume")]
    since: Option<ebpf_hello_proto::Timestamp>,
    /// Events before a span ago or a time.
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    until: Option<ebpf_hello_proto::Timestamp>,
    /// Go on after the place that this file remembers, and keep it up to date.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// How events are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Compact)]
    output: Output,
    /// Only these fields of each event, such as process.comm,exec.argv.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    mask: Vec<String>,
    /// A stream without a sign of life for this long is dead.
    #[arg(long, value_name = "DURATION", default_value = "45s", value_parser = crate::args::duration, hide = true)]
    silence: Duration,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What is shown, and what came of it.
struct Observation {
    renderer: Renderer,
    writer: Writer,
    /// Events that were lost, as the stream told.
    lost: u64,
    /// Losses whose number nobody knows.
    lost_unknown: u64,
    /// As the last heartbeat said.
    cel_errors: u64,
    /// A hello was there already.
    greeted: bool,
    /// The connection is interrupted.
    interrupted: bool,
}

pub(crate) fn run(arguments: &ObserveArgs) -> anyhow::Result<()> {
    runtime()?.block_on(observe(arguments))
}

async fn observe(arguments: &ObserveArgs) -> anyhow::Result<()> {
    let mut ending = Ending::new()?;
    let bookmark = arguments.resume.clone().map(Bookmark::new);
    let mut feed = Feed::start(FeedOptions {
        connect: arguments.connect.settled(),
        request: arguments.request(bookmark.as_ref())?,
        silence: arguments.silence,
    });
    let stdout = io::stdout();
    // NO_COLOR, CLICOLOR and TERM=dumb are heeded.
    let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let mut observation = Observation {
        renderer: Renderer::new(arguments.output, colour),
        writer: Writer::start(bookmark)?,
        lost: 0,
        lost_unknown: 0,
        cel_errors: 0,
        greeted: false,
        interrupted: false,
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        tokio::select! {
            () = ending.wait() => break Ok(()),
            _ = look.tick() => if observation.writer.is_unread() { break Ok(()) },
            update = feed.next() => match update {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(update)) => tokio::select! {
                    // A reader that does not read must not make us deaf.
                    () = ending.wait() => break Ok(()),
                    alive = observation.show(update) => if !alive? { break Ok(()) },
                },
            },
        }
    };
    observation.finish(result).await
}

// === impl ObserveArgs ===

impl ObserveArgs {
    fn request(&self, bookmark: Option<&Bookmark>) -> anyhow::Result<ObserveRequest> {
        Ok(ObserveRequest {
            selection: Some(self.selection.selection()),
            mask: (!self.mask.is_empty()).then(|| prost_types::FieldMask {
                paths: self.mask.clone(),
            }),
            follow: self.follow,
            since: self.since,
            until: self.until,
            last: self.last.unwrap_or_default(),
            resume_token: match bookmark {
                Some(bookmark) => bookmark.read()?.unwrap_or_default(),
                None => String::new(),
            },
        })
    }
}

// === impl Observation ===

impl Observation {
    /// Shows an update; false when nobody reads any more.
    async fn show(&mut self, update: Update) -> anyhow::Result<bool> {
        match update {
            Update::Hello(hello) => {
                let header = self.greet(&hello);
                Ok(self.writer.write(header).await)
            }
            Update::Events { events, token } => {
                let chunk = self.render(&events, token)?;
                Ok(self.writer.write(chunk).await)
            }
            Update::Heartbeat { heartbeat, token } => {
                if heartbeat.cel_errors > self.cel_errors {
                    self.cel_errors = heartbeat.cel_errors;
                    tracing::warn!(
                        events = self.cel_errors,
                        "--cel failed on events, which are not shown"
                    );
                }
                let chunk = Chunk {
                    token,
                    ..Chunk::default()
                };
                Ok(self.writer.write(chunk).await)
            }
            Update::Interrupted { reason, again_in } => {
                self.interrupted = true;
                // Its count starts again with the next connection.
                self.cel_errors = 0;
                tracing::warn!(
                    reason,
                    again_in = format!("{:.1}s", again_in.as_secs_f64()),
                    "interrupted; it goes on after the last event when the server answers"
                );
                Ok(true)
            }
        }
    }

    /// Says what the server is; gives the line above the events.
    fn greet(&mut self, hello: &ObserverHello) -> Chunk {
        if self.interrupted {
            self.interrupted = false;
            tracing::info!("connected again; going on after the last event");
        }
        if self.greeted {
            return Chunk::default();
        }
        self.greeted = true;
        let scope = human(&hello.scope);
        if scope.starts_with("node ") {
            tracing::info!("only {scope}; ask a collector for the others");
        } else {
            self.renderer.show_origin();
        }
        if !hello.all_namespaces {
            let namespaces = hello.namespaces.join(", ");
            tracing::info!(
                namespaces = human(&namespaces),
                "only pods of the namespaces you may see"
            );
        }
        let mut chunk = Chunk::default();
        if io::stdout().is_terminal()
            && let Some(header) = self.renderer.header()
        {
            chunk.bytes.extend_from_slice(header.as_bytes());
            chunk.bytes.push(b'\n');
        }
        chunk
    }

    fn render(&mut self, events: &[Event], token: String) -> anyhow::Result<Chunk> {
        let mut chunk = Chunk {
            token,
            ..Chunk::default()
        };
        for event in events {
            if let Some(Kind::Loss(loss)) = &event.kind {
                self.lost = self.lost.saturating_add(loss.count);
                self.lost_unknown += u64::from(loss.count == 0);
            }
            self.renderer
                .line(event, &mut chunk.bytes)
                .context("an event cannot be written")?;
            chunk.lines += 1;
        }
        Ok(chunk)
    }

    /// Writes the rest, and says what was shown and what is missing.
    async fn finish(self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        let greeted = self.greeted;
        let written = self.writer.finish(LAST_LINES).await;
        if greeted {
            let unknown = match self.lost_unknown {
                0 => String::new(),
                times => format!(" and {times} times a number that nobody knows"),
            };
            let (lines, lost) = (written.lines, self.lost);
            page::tell(&format!("ebpf-hello: {lines} events, {lost} lost{unknown}"));
        }
        written.result?;
        result
    }
}

#[cfg(test)]
mod tests {
    use crate::{args::duration, client::feed::SILENCE};

    #[test]
    fn a_stream_is_dead_after_three_heartbeats() {
        assert_eq!(duration("45s"), Ok(SILENCE));
    }
}
