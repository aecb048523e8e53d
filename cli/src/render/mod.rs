//! Events as lines.

mod calls;
mod dict;
mod escape;
mod json;
mod words;

pub(crate) use self::escape::human;

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
    /// Node and pod have columns of their own.
    origin: bool,
}

// === impl Renderer ===

impl Renderer {
    /// Times are shown in the machine's time zone.
    pub(crate) fn new(output: Output, colour: bool) -> Self {
        Renderer {
            output,
            colour,
            zone: TimeZone::system(),
            origin: false,
        }
    }

    /// From now on node and pod have columns of their own in `compact`: there are several.
    pub(crate) fn show_origin(&mut self) {
        self.origin = true;
    }

    /// The line above the events, for people.
    pub(crate) fn header(&self) -> Option<&'static str> {
        match self.output {
            Output::Compact if self.origin => Some(
                "TIME         NODE             POD                                 PID    UID COMM             WHAT",
            ),
            Output::Compact => Some("TIME              PID    UID COMM             WHAT"),
            Output::Wide => Some(
                "TIME            NODE             CPU     PID     TID    PPID    UID     CGROUP COMM             POLICY                 WHAT",
            ),
            Output::Json | Output::Dict => None,
        }
    }

    /// Writes one event as one line; as a paragraph in `dict`.
    pub(crate) fn line(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match self.output {
            Output::Json => json::write(event, out),
            Output::Compact => self.compact(event, out),
            Output::Wide => self.wide(event, out),
            Output::Dict => dict::write(event, out),
        }
    }

    fn compact(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{} ", self.time(event.time))?;
        let pod = pod(event);
        let prefix = if self.origin {
            let pod = pod.as_deref().unwrap_or("-");
            write!(out, "{:<16} {pod:<32} ", human(&event.node))?;
            String::new()
        } else {
            pod.map_or_else(String::new, |pod| format!("{pod}: "))
        };
        let (pid, uid, comm) = who(event);
        let style = self.style(event);
        writeln!(
            out,
            "{pid:>7} {uid:>6} {comm:<16} {prefix}{style}{}{style:#}",
            words::what(event, false),
        )
    }

    fn wide(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        let process = event.process.clone().unwrap_or_default();
        let (pid, uid, comm) = who(event);
        let prefix = pod(event).map_or_else(String::new, |pod| format!("{pod}: "));
        let style = self.style(event);
        let policy = event.policy.as_ref().map_or_else(String::new, |policy| {
            format!(
                "{}#{}@{}",
                human(&policy.filter),
                policy.rule,
                policy.generation
            )
        });
        writeln!(
            out,
            "{} {:<16} {:>3} {:>7} {:>7} {:>7} {:>6} {:>10} {:<16} {:<22} {prefix}{style}{}{style:#}",
            self.time(event.time),
            human(&event.node),
            event
                .cpu
                .map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
            pid,
            process.tid,
            process.parent_pid,
            uid,
            event.cgroup_id,
            comm,
            policy,
            words::what(event, true),
        )
    }

    fn style(&self, event: &Event) -> Style {
        if self.colour {
            style(event)
        } else {
            Style::new()
        }
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

/// Process, user and thread name; a dash for what the event does not have.
fn who(event: &Event) -> (String, String, String) {
    let dash = || "-".to_owned();
    match &event.process {
        Some(process) => (
            process.pid.to_string(),
            process.uid.map_or_else(dash, |uid| uid.to_string()),
            human(&process.comm),
        ),
        None => (dash(), dash(), dash()),
    }
}

/// `NAMESPACE/POD/CONTAINER`, as far as it is known.
fn pod(event: &Event) -> Option<String> {
    let pod = event.pod.as_ref()?;
    let mut text = format!("{}/{}", human(&pod.namespace), human(&pod.name));
    if let Some(container) = &pod.container
        && !container.name.is_empty()
    {
        text.push('/');
        text.push_str(&human(&container.name));
    }
    Some(text)
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
