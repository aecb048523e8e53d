//! `ebpf-hello top`: who makes which calls, and how often, live.
//!
//! ```text
//! feed (events, losses) ─▶ model (rates by row) ─▶ app (order, filter, pause) ─▶ view ─▶ screen
//! counters (differences) ─┘                        keys ─┘
//! ```

mod app;
mod counted;
mod model;
mod rate;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use crossterm::event::Event as Input;
use ebpf_hello_proto::v1::ObserveRequest;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use self::{
    app::{Action, App, Counted, Link},
    counted::Added,
    model::{Grouping, Sort},
    screen::Screen,
};
use crate::{
    client::{
        Ending,
        feed::{Feed, FeedOptions, SILENCE, Update},
        runtime,
        selection::SelectionArgs,
    },
    connect::ConnectArgs,
    page,
};

/// What a row is made of: the server sends no more.
const FIELDS: [&str; 11] = [
    "process.pid",
    "process.comm",
    "pod.namespace",
    "pod.name",
    "policy.suppressed_since_last",
    "exec.errno",
    "syscall.name",
    "timer.name",
    "path.name",
    "sock.name",
    "loss",
];

/// Intervals that `--once` waits at most.
const PATIENCE: u32 = 5;

/// `top`'s command line.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often the rows change.
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = crate::args::duration)]
    interval: Duration,
    /// Print one table after one interval, and end; so it is also where stdout is no terminal.
    #[arg(long)]
    once: bool,
    /// The order of the rows.
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
    /// What a row is of.
    #[arg(long, value_enum, default_value_t = Grouping::Pod)]
    by: Grouping,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What comes in from outside.
struct Sources {
    feed: Feed,
    /// Ended where counters cannot be selected as events are.
    counted: mpsc::Receiver<anyhow::Result<Vec<Added>>>,
    /// How often they were read.
    readings: u32,
    ending: Ending,
    tick: Interval,
    ticked: Instant,
}

/// What happened.
enum Happened {
    Tick,
    News,
    End,
}

pub(crate) fn run(arguments: &TopArgs) -> anyhow::Result<()> {
    runtime()?.block_on(top(arguments))
}

async fn top(arguments: &TopArgs) -> anyhow::Result<()> {
    let counted = if arguments.selection.is_finer_than_place() {
        let why = "they are kept by node, namespace and pod only";
        Counted::Missing(why.to_owned())
    } else {
        Counted::Shown
    };
    let mut sources = Sources::start(arguments, counted == Counted::Shown)?;
    let server = arguments.connect.url();
    let mut app = App::new(server, arguments.by, arguments.sort, counted);
    if arguments.once || !io::stdout().is_terminal() {
        return once(&mut sources, &mut app).await;
    }
    // What is wrong from the start is told on an ordinary screen.
    if !sources.connected(&mut app).await? {
        return Ok(());
    }
    watch(&mut sources, &mut app).await
}

/// One table after one interval.
async fn once(sources: &mut Sources, app: &mut App) -> anyhow::Result<()> {
    if !sources.connected(app).await? {
        return Ok(());
    }
    let mut ticks = 0;
    loop {
        match sources.next(app).await? {
            Happened::News => continue,
            Happened::End => return Ok(()),
            Happened::Tick => ticks += 1,
        }
        // What was counted is a difference: it needs its second reading, which may be a little late.
        if app.counted != Counted::Shown || sources.readings >= 2 || ticks >= PATIENCE {
            break;
        }
    }
    page::print(view::text(app).as_bytes()).map(drop)
}

/// The whole screen, until a key or a signal ends it.
async fn watch(sources: &mut Sources, app: &mut App) -> anyhow::Result<()> {
    let mut screen = Screen::take()?;
    loop {
        let now = Instant::now();
        screen
            .terminal
            .draw(|frame| view::draw(frame, app, now))
            .context("cannot draw on the terminal")?;
        // Events are taken in without being drawn: the eye does not follow more than the interval.
        loop {
            tokio::select! {
                // Keys before events, of which there may be many.
                biased;
                input = screen.input.recv() => match input {
                    Some(Input::Key(key)) => match app.key(key) {
                        Action::Quit => return Ok(()),
                        Action::Continue => break,
                    },
                    Some(Input::Resize(..)) => break,
                    Some(_) => {}
                    None => return Ok(()),
                },
                happened = sources.next(app) => match happened? {
                    Happened::News => {}
                    Happened::Tick => break,
                    Happened::End => return Ok(()),
                },
            }
        }
    }
}

// === impl Sources ===

impl Sources {
    fn start(arguments: &TopArgs, counted: bool) -> anyhow::Result<Self> {
        let connect = &arguments.connect;
        let feed = Feed::start(FeedOptions {
            connect: connect.settled(),
            request: ObserveRequest {
                selection: Some(arguments.selection.selection()),
                mask: Some(prost_types::FieldMask {
                    paths: FIELDS.map(str::to_owned).to_vec(),
                }),
                follow: true,
                ..ObserveRequest::default()
            },
            silence: SILENCE,
        });
        let counted = if counted {
            let place = arguments.selection.place.selection();
            counted::start(connect.settled(), place, arguments.interval)
        } else {
            mpsc::channel(1).1
        };
        let mut tick = interval(arguments.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Sources {
            feed,
            counted,
            readings: 0,
            ending: Ending::new()?,
            tick,
            ticked: Instant::now(),
        })
    }

    /// Waits for the server's first word; false when somebody ended it before.
    async fn connected(&mut self, app: &mut App) -> anyhow::Result<bool> {
        while app.link == Link::Connecting {
            if matches!(self.next(app).await?, Happened::End) {
                return Ok(false);
            }
        }
        self.tick.reset();
        self.ticked = Instant::now();
        Ok(true)
    }

    /// Takes in the next thing that happens. Cancellation safe: each branch takes a thing whole.
    async fn next(&mut self, app: &mut App) -> anyhow::Result<Happened> {
        tokio::select! {
            biased;
            () = self.ending.wait() => Ok(Happened::End),
            _ = self.tick.tick() => {
                let now = Instant::now();
                app.model.tick(now.duration_since(self.ticked));
                self.ticked = now;
                app.refresh();
                Ok(Happened::Tick)
            }
            Some(added) = self.counted.recv() => {
                self.readings = self.readings.saturating_add(1);
                take_counted(app, added);
                Ok(Happened::News)
            }
            update = self.feed.next() => match update {
                None => Ok(Happened::End),
                Some(update) => {
                    take(app, update?);
                    Ok(Happened::News)
                }
            },
        }
    }
}

fn take(app: &mut App, update: Update) {
    match update {
        Update::Hello(hello) => {
            app.scope = match hello.scope.as_str() {
                scope if scope.starts_with("node ") => format!("only {scope}"),
                scope => scope.to_owned(),
            };
            app.link = Link::Connected;
        }
        Update::Events { events, .. } => {
            for event in &events {
                app.model.add(event);
            }
        }
        Update::Heartbeat { heartbeat, .. } => app.cel_errors = heartbeat.cel_errors,
        Update::Interrupted { reason, again_in } => {
            app.link = Link::Interrupted {
                reason,
                again_at: Instant::now() + again_in,
            };
        }
    }
}

fn take_counted(app: &mut App, added: anyhow::Result<Vec<Added>>) {
    match added {
        Ok(added) => {
            app.counted = Counted::Shown;
            for added in added {
                let Added {
                    node,
                    namespace,
                    pod,
                    call,
                    calls,
                } = added;
                app.model.add_counted(&node, &namespace, &pod, &call, calls);
            }
        }
        Err(error) => app.counted = Counted::Missing(format!("{error:#}")),
    }
}
