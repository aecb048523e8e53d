//! What is done with a selected system call: the handler a rule names, the default of a filter.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a rule does with its system calls. Each is one eBPF program in the tail-call table.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[non_exhaustive]
pub enum Handler {
    /// execve and execveat only: count attempts per user. A successful exec is reported by the
    /// process events; with `returns: true` a failed one is, with its errno.
    Exec,
    /// Timer calls, decoded: clock, timer id, interval.
    Timer,
    /// Any call but execve and execveat: its number and six raw arguments.
    Trace,
    /// Calls that take a path, decoded: path as asked, directory descriptor, flags.
    Path,
    /// Calls that take a socket address, decoded: family, address, port.
    Sock,
    /// Count the calls, exactly; no event.
    Count,
    /// Do nothing at all.
    Ignore,
}

/// What happens to a system call that no rule of any selected filter names.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum DefaultAction {
    /// Do nothing at all.
    #[default]
    Ignore,
    /// Count the calls, exactly; no event.
    Count,
    /// Number and six raw arguments; execve and execveat go to `Exec`.
    Trace,
}

/// How much a handler lets somebody see. The order is that of DESIGN: an event says more than a
/// count, a count more than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    Nothing,
    Count,
    Event,
}

/// The calls that become another program; only `Exec`, `Count` and `Ignore` are valid on them,
/// because one exec must never be two events.
pub const EXEC_CALLS: [&str; 2] = ["execve", "execveat"];

// === impl Handler ===

impl Handler {
    /// Every handler, in the order of the documentation.
    pub const ALL: [Handler; 7] = [
        Handler::Exec,
        Handler::Timer,
        Handler::Trace,
        Handler::Path,
        Handler::Sock,
        Handler::Count,
        Handler::Ignore,
    ];

    /// As written in a filter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Handler::Exec => "Exec",
            Handler::Timer => "Timer",
            Handler::Trace => "Trace",
            Handler::Path => "Path",
            Handler::Sock => "Sock",
            Handler::Count => "Count",
            Handler::Ignore => "Ignore",
        }
    }

    /// Whether a selected call becomes an event; `Count` and `Ignore` make none, so there is
    /// nothing of theirs to limit, sample or join.
    pub const fn makes_events(self) -> bool {
        !matches!(self, Handler::Count | Handler::Ignore)
    }

    pub(crate) const fn strength(self) -> Strength {
        match self {
            Handler::Ignore => Strength::Nothing,
            Handler::Count => Strength::Count,
            _ => Strength::Event,
        }
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl DefaultAction ===

impl DefaultAction {
    /// As written in a filter.
    pub const fn as_str(self) -> &'static str {
        match self {
            DefaultAction::Ignore => "Ignore",
            DefaultAction::Count => "Count",
            DefaultAction::Trace => "Trace",
        }
    }

    /// The handler this default means for the system call `name`.
    pub fn handler_for(self, name: &str) -> Handler {
        match self {
            DefaultAction::Ignore => Handler::Ignore,
            DefaultAction::Count => Handler::Count,
            DefaultAction::Trace if EXEC_CALLS.contains(&name) => Handler::Exec,
            DefaultAction::Trace => Handler::Trace,
        }
    }

    pub(crate) const fn strength(self) -> Strength {
        match self {
            DefaultAction::Ignore => Strength::Nothing,
            DefaultAction::Count => Strength::Count,
            DefaultAction::Trace => Strength::Event,
        }
    }
}

impl fmt::Display for DefaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
