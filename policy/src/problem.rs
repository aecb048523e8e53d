//! What is wrong with a filter: one shape for files, for the API server's objects and for status.

use std::fmt;

use serde::Serialize;

/// One mistake, or one thing worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{path}: {message}")]
pub struct Problem {
    /// Whether the filter is refused for it.
    pub severity: Severity,
    /// Its kind, for programs.
    pub reason: Reason,
    /// Where in the object: `spec.rules[0].syscalls[2]`.
    pub path: Path,
    /// What is wrong and what was expected, for people.
    pub message: String,
    /// The field's name is meant, not its value.
    #[serde(skip)]
    pub(crate) on_key: bool,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The filter is refused.
    Error,
    /// The filter is accepted, and may not do what its author thinks.
    Warning,
}

/// Why a filter is not accepted: the `reason` of its `Accepted=False` condition. Names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub enum Reason {
    /// Not YAML, or more of it than is read.
    InvalidYaml,
    /// An unknown, missing or repeated field, or a value of the wrong type or out of bounds: what
    /// the CRD's schema says. Objects that the API server took do not have this one.
    InvalidSchema,
    /// Not one of our kinds or versions, or a name that no object can have.
    InvalidObject,
    /// No architecture has a system call of this name.
    UnknownSyscall,
    /// There is no group of this name.
    UnknownGroup,
    /// `except` contradicts `syscalls`, or has no group to take from.
    InvalidException,
    /// A rule is left with no system call.
    EmptyRule,
    /// The handler cannot decode a call, or is not valid on execve and execveat.
    HandlerCannotDecode,
    /// `rateLimit`, `sampling`, `returns` or `denied` where nothing can be limited or joined, or
    /// out of bounds with each other.
    InvalidLimit,
    /// An item of `matchUids` is not a user id or a range of them.
    InvalidUidRange,
    /// An item of `matchBinaries` is not an absolute path with at most one `*`, at its end.
    InvalidBinaryPattern,
    /// A label selector, container name or `matchCgroup` glob cannot match anything.
    InvalidSelector,
    /// Another filter of the same kind and name was read before (files only).
    DuplicateFilter,
    /// A selected call mostly never enters the kernel (vDSO). A warning.
    VdsoCall,
    /// Something written has no effect. A warning.
    NoEffect,
}

/// The way from an object's root to one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct Path(pub(crate) Vec<Step>);

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

// === impl Problem ===

impl Problem {
    pub(crate) fn error(reason: Reason, path: Path, message: impl Into<String>) -> Self {
        Problem {
            severity: Severity::Error,
            reason,
            path,
            message: message.into(),
            on_key: false,
        }
    }

    pub(crate) fn warning(reason: Reason, path: Path, message: impl Into<String>) -> Self {
        Problem {
            severity: Severity::Warning,
            ..Problem::error(reason, path, message)
        }
    }

    /// The problem is with the field's name.
    pub(crate) fn on_key(self) -> Self {
        Problem {
            on_key: true,
            ..self
        }
    }
}

// === impl Reason ===

impl Reason {
    /// The word that status conditions and JSON carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidYaml => "InvalidYaml",
            Reason::InvalidSchema => "InvalidSchema",
            Reason::InvalidObject => "InvalidObject",
            Reason::UnknownSyscall => "UnknownSyscall",
            Reason::UnknownGroup => "UnknownGroup",
            Reason::InvalidException => "InvalidException",
            Reason::EmptyRule => "EmptyRule",
            Reason::HandlerCannotDecode => "HandlerCannotDecode",
            Reason::InvalidLimit => "InvalidLimit",
            Reason::InvalidUidRange => "InvalidUidRange",
            Reason::InvalidBinaryPattern => "InvalidBinaryPattern",
            Reason::InvalidSelector => "InvalidSelector",
            Reason::DuplicateFilter => "DuplicateFilter",
            Reason::VdsoCall => "VdsoCall",
            Reason::NoEffect => "NoEffect",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Path ===

impl Path {
    /// The path of field `key` below this one.
    pub(crate) fn key(&self, key: &str) -> Path {
        self.with(Step::Key(key.to_owned()))
    }

    /// The path of item `index` (from 0) below this one.
    pub(crate) fn index(&self, index: usize) -> Path {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Path {
        let mut steps = self.0.clone();
        steps.push(step);
        Path(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if self.0.is_empty() {
            f.write_str("(document)")
        } else {
            Ok(())
        }
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.to_string()
    }
}
