//! What can be wrong with what an operator configured.

use std::{io, net::SocketAddr, path::PathBuf};

/// Access cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than anything meant for it.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes it may have.
        limit: u64,
    },
    /// What was to be PEM is not, or holds something else.
    #[error("{what}: expected {expected}: {found}")]
    Pem {
        /// The file or the thing.
        what: String,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        found: String,
    },
    /// The authority cannot be used.
    #[error("certificate authority {what}: {problem}")]
    Authority {
        /// Where it is kept.
        what: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The API server refused, or could not be reached.
    #[error("cannot {verb} {what}{}", hint(source))]
    Cluster {
        /// `get` or `patch`.
        verb: &'static str,
        /// The object.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server said nothing in time.
    #[error("cannot {verb} {what}: the API server does not answer")]
    NoAnswer {
        /// `get` or `patch`.
        verb: &'static str,
        /// The object.
        what: String,
    },
    /// A certificate cannot be issued.
    #[error("cannot issue a certificate for {name}")]
    Issue {
        /// For whom.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// Certificate and key do not make a server.
    #[error("cannot serve TLS with {what}")]
    Tls {
        /// Where the certificate is from.
        what: String,
        /// Why.
        source: rustls::Error,
    },
    /// A line of a file of secrets is not one.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what was expected. Never the secret.
        problem: String,
    },
    /// Neither an authority nor a certificate is there to serve TLS with.
    #[error(
        "TLS needs a certificate: name a directory for an own authority, or a certificate and its key"
    )]
    NoCertificate,
    /// An address that others can reach is to be served without TLS.
    #[error(
        "{0} can be reached from other machines, and without TLS whoever can reach it reads and forges events: give a \
         certificate (--tls-dir, or --tls-cert and --tls-key), listen on loopback or a Unix socket, or say --insecure"
    )]
    Plain(SocketAddr),
    /// Not an address to listen on.
    #[error(
        "{given:?} is no address to listen on: expected unix:///PATH or HOST:PORT such as [::]:7443: {problem}"
    )]
    Listen {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
}

// === impl AccessError ===

impl AccessError {
    /// Whether the API server gave no answer, rather than a refusal.
    pub(super) fn is_unanswered(&self) -> bool {
        match self {
            AccessError::NoAnswer { .. } => true,
            AccessError::Cluster { source, .. } => {
                !matches!(**source, kube::Error::Api(ref status) if status.code < 500 && status.code != 429)
            }
            _ => false,
        }
    }
}

/// What to do about the commonest refusals.
fn hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            " (it is not there: make it empty; the collector fills it)"
        }
        kube::Error::Api(status) if status.code == 403 => {
            " (the collector's ServiceAccount needs the rights to get and patch it)"
        }
        _ => "",
    }
}
