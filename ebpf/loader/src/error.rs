//! What can go wrong between an object file and a running program.

use crate::btf::{BtfError, LayoutError, LookupError};

/// Why the programs could not be loaded, attached or read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not use BPF.
    #[error("no privilege to load BPF programs: {0}")]
    Privilege(String),
    /// The running kernel lacks something that cannot be done without.
    #[error("this kernel lacks something ebpf-hello needs: {0}")]
    Kernel(String),
    /// The verifier refused a program.
    #[error("the kernel rejected program `{program}`: {error}\nthe verifier's last lines:\n{log}")]
    Rejected {
        /// Which program.
        program: &'static str,
        /// What BPF_PROG_LOAD answered.
        error: std::io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// A program could not be attached.
    #[error("cannot attach program `{program}` to raw tracepoint `{tracepoint}`")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where to.
        tracepoint: &'static str,
        /// Why.
        #[source]
        error: aya::programs::ProgramError,
    },
    /// This program could not be executed once more, to see that execs are reported.
    #[error("cannot execute /proc/self/exe, to see that execs are reported")]
    Canary(#[source] std::io::Error),
    /// An option lies outside its range.
    #[error("{option} must be {expected}, not {value}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        value: String,
    },
    /// The kernel describes its types in a way this program does not understand.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The object could not be parsed, or its maps not be made.
    #[error("cannot set up the BPF object")]
    Object(#[source] aya::EbpfError),
    /// A map operation failed.
    #[error("BPF map `{map}`")]
    Map {
        /// Which map.
        map: &'static str,
        /// Why.
        #[source]
        error: aya::maps::MapError,
    },
    /// A program operation other than loading or attaching failed.
    #[error("BPF program `{program}`")]
    Program {
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        error: aya::programs::ProgramError,
    },
    /// The object that was built in lacks a map or program: it does not fit this loader.
    #[error("the BPF object has no {kind} named `{name}`: it was built from another version")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was tried, on what.
        what: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

impl From<BtfError> for LoadError {
    fn from(error: BtfError) -> Self {
        LoadError::Kernel(error.to_string())
    }
}

impl From<LookupError> for LoadError {
    fn from(error: LookupError) -> Self {
        LoadError::Kernel(error.to_string())
    }
}

impl LoadError {
    /// For `map_err`: names the map that an operation failed on.
    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> LoadError {
        move |error| LoadError::Map { map, error }
    }

    /// For `map_err`: names what was tried.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LoadError {
        let what = what.into();
        move |error| LoadError::System { what, error }
    }
}
