//! Events as lines.

mod escape;
mod json;
mod words;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use ebpf_hello_proto::{
    Timestamp,
    v1::{Event, event::Kind},
};
use jiff::tz::TimeZone;

use crate::args::Output;

/// Prints events in one of the output formats.
pub(crate) struct Renderer {
    output: Output,
    colour: bool,
    zone: TimeZone,
}

// === impl Renderer ===

impl Renderer {
    /// Times are shown in the machine's time zone.
    pub(crate) fn new(output: Output, colour: bool) -> Self {
        Renderer {
            output,
            colour,
            zone: TimeZone::system(),
        }
    }

    /// The line above the events, for people.
    pub(crate) fn header(&self) -> Option<&'static str> {
        match self.output {
            Output::Compact => Some("TIME              PID    UID COMM             WHAT"),
            Output::Wide => Some(
                "TIME            NODE             CPU     PID     TID    PPID    UID     CGROUP COMM             POLICY                 WHAT",
            ),
            Output::Json => None,
        }
    }

    /// Writes one event as one line.
    pub(crate) fn line(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match self.output {
            Output::Json => json::write(event, out),
            Output::Compact => self.compact(event, out),
            Output::Wide => self.wide(event, out),
        }
    }

    fn compact(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        let process = event.process.clone().unwrap_or_default();
        let style = if self.colour {
            style(event)
        } else {
            Style::new()
        };
        writeln!(
            out,
            "{} {:>7} {:>6} {:<16} {style}{}{style:#}",
            self.time(event.time),
            process.pid,
            process.uid.unwrap_or_default(),
            escape::human(&process.comm),
            words::what(event, false),
        )
    }

    fn wide(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        let process = event.process.clone().unwrap_or_default();
        let style = if self.colour {
            style(event)
        } else {
            Style::new()
        };
        let policy = event.policy.as_ref().map_or_else(String::new, |policy| {
            format!(
                "{}#{}@{}",
                escape::human(&policy.filter),
                policy.rule,
                policy.generation
            )
        });
        writeln!(
            out,
            "{} {:<16} {:>3} {:>7} {:>7} {:>7} {:>6} {:>10} {:<16} {:<22} {style}{}{style:#}",
            self.time(event.time),
            event.node,
            event
                .cpu
                .map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
            process.pid,
            process.tid,
            process.parent_pid,
            process.uid.unwrap_or_default(),
            event.cgroup_id,
            escape::human(&process.comm),
            policy,
            words::what(event, true),
        )
    }

    /// Local wall-clock time with milliseconds.
    fn time(&self, time: Option<Timestamp>) -> String {
        let time = time.unwrap_or_default();
        jiff::Timestamp::new(time.seconds, time.nanos).map_or_else(
            |_| "--:--:--.---".to_owned(),
            |time| {
                time.to_zoned(self.zone.clone())
                    .strftime("%H:%M:%S.%3f")
                    .to_string()
            },
        )
    }
}

fn style(event: &Event) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match &event.kind {
        Some(Kind::Exec(exec)) if exec.errno.is_some() => colour(AnsiColor::Red),
        Some(Kind::Exec(_)) => colour(AnsiColor::Green),
        Some(Kind::Exit(exit))
            if !exit.signal.is_empty() || exit.code.is_some_and(|code| code != 0) =>
        {
            colour(AnsiColor::Red)
        }
        Some(Kind::Exit(_) | Kind::Fork(_)) => Style::new().dimmed(),
        Some(Kind::Timer(_)) => colour(AnsiColor::Cyan),
        Some(Kind::Loss(_)) => colour(AnsiColor::Red).bold(),
        _ => Style::new(),
    }
}
