//! Who this node is to the collector: a short-lived certificate, got for a bootstrap token and renewed with itself.
//!
//! ```text
//! token ─Enroll─▶ certificate, on disk if that can be ─▶ every connection to the collector
//!                     ▲      │ half of its life
//!                     └─Enroll┘
//! ```
//!
//! The key is made here, anew for each certificate, and never leaves the node. Trusted is what the collector said
//! last and what the operator's file says, so that an authority can be replaced under a running fleet.

mod kept;
mod tls;

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use ebpf_hello_proto::v1::{
    EnrollRequest, EnrollResponse, collector_service_client::CollectorServiceClient,
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use tonic::transport::{Channel, Endpoint, Uri};

use self::kept::Kept;
use crate::publish::{Connect, ConnectError};

/// Time for a connection to come about, its TLS handshake included.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for an answer to Enroll.
const ANSWER: Duration = Duration::from_secs(10);
/// A quiet connection is asked for a sign of life this often; shorter than what the collector allows a connection
/// to be quiet.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Shortest and longest wait before another attempt to renew.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Bytes a token's file may have.
const MAX_TOKEN: u64 = 8192;
/// Certificates of a chain or of authorities that are taken from the collector.
const MAX_CERTIFICATES: usize = 16;

/// Where a node's identity comes from.
#[derive(Clone, Debug)]
pub struct EnrolmentOptions {
    /// Name of the node.
    pub node: String,
    /// The collector: `https://HOST:PORT`.
    pub collector: String,
    /// Holds the bootstrap token; read at every enrolment, so that it can be rotated.
    pub token: Option<PathBuf>,
    /// Authorities, PEM, that the collector's certificate may be from. Needed until the collector has named its own.
    pub authorities: Option<PathBuf>,
    /// Keeps `node.pem` (key and certificate, mode 0600) and `authorities.pem`. Made with mode 0700. Where it cannot be
    /// made or written, a certificate serves as long as the process, and the next run has to enrol again.
    pub directory: PathBuf,
}

/// There is no identity, or no connection with it.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The collector's address is not one.
    #[error("collector {given:?}: expected https://HOST:PORT: {problem}")]
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// `read`, `write` or `make`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something is not what it should be.
    #[error("{what}: {problem}")]
    Invalid {
        /// The file, or what the collector sent.
        what: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// There is neither a certificate nor a token to get one for.
    #[error("node {node:?} has no valid certificate in {} and no bootstrap token to get one for: give --token-file", directory.display())]
    NoToken {
        /// The node.
        node: String,
        /// Where a certificate would be.
        directory: PathBuf,
    },
    /// The collector cannot be reached.
    #[error("cannot connect to {collector}{}", hint(source))]
    Connect {
        /// The collector.
        collector: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The collector refused.
    #[error("the collector at {collector} gives node {node:?} no certificate: {} ({:?})", status.message(), status.code())]
    Refused {
        /// The collector.
        collector: String,
        /// The node.
        node: String,
        /// Its answer.
        status: Box<tonic::Status>,
    },
}

/// A node's identity, and connections with it.
#[derive(Debug)]
pub struct Enrolment {
    options: EnrolmentOptions,
    /// Host and port.
    target: (String, u16),
    kept: RwLock<Option<Arc<Kept>>>,
}

// === impl Enrolment ===

impl Enrolment {
    /// Takes up what the directory holds. What it holds and cannot be used is logged and left until a new certificate
    /// replaces it; so is a directory that cannot be made.
    ///
    /// # Errors
    /// The address is none.
    pub async fn open(options: EnrolmentOptions) -> Result<Self, EnrolmentError> {
        let target = target(&options.collector)?;
        if let Err(error) = kept::make(&options.directory).await {
            tracing::warn!(
                error = chain(&error),
                "there is no place to keep this node's certificate"
            );
        }
        let kept = match Kept::read(&options.directory, &options.node).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "the kept identity cannot be used: the node enrols again");
                None
            }
        };
        Ok(Enrolment {
            options,
            target,
            kept: RwLock::new(kept.map(Arc::new)),
        })
    }

    /// When the present certificate ends.
    pub fn expires(&self) -> Option<SystemTime> {
        self.kept().map(|kept| kept.expires())
    }

    /// A new connection to the collector as this node; enrols first where there is no valid certificate, or none that
    /// the collector takes: it may have another authority than the one that this node's is from.
    ///
    /// # Errors
    /// As [`EnrolmentError`] says.
    pub async fn connect(&self) -> Result<Channel, EnrolmentError> {
        let Some(kept) = self.kept().filter(|kept| kept.is_valid()) else {
            let new = self.enrol().await?;
            return self.channel(Some(&new)).await;
        };
        match self.channel(Some(&kept)).await {
            Err(error) if self.options.token.is_some() && tls::refuses_us(&error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the collector does not take this node's certificate: the node enrols again"
                );
                let new = self.enrol().await?;
                self.channel(Some(&new)).await
            }
            connected => connected,
        }
    }

    /// Renews the certificate at about half of its life, for ever. Errors are logged, and the present one serves
    /// meanwhile. Where there is none, or no longer, it waits until [`connect`](Self::connect) has got one: a token
    /// that is refused is not tried from two sides. However wrong the clock is, there is a pause after each renewal.
    pub async fn keep(&self) {
        let mut wait = RETRY.0;
        let (mut is_renewed, mut is_told) = (false, false);
        loop {
            let Some(kept) = self.kept().filter(|kept| kept.is_valid()) else {
                tokio::time::sleep(RETRY.0).await;
                continue;
            };
            let (life, now) = (kept.life(), SystemTime::now());
            let mut pause = life.due(now, fastrand::f64());
            if is_renewed && pause < life.least() {
                pause = life.least();
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(
                        ahead = ?life.age(now),
                        next = ?pause,
                        "this node's certificate is new and is to be renewed already: check this machine's clock"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            if !kept.is_valid() {
                continue;
            }
            let renewed = self.renew().await;
            is_renewed = renewed.is_ok();
            match renewed {
                Ok(()) => wait = RETRY.0,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(error, expires = ?self.expires(), "cannot renew this node's certificate");
                    tokio::time::sleep(wait.mul_f64(1.0 + fastrand::f64())).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Gets a new certificate for the present one, or where that has ended, for the token.
    ///
    /// # Errors
    /// As [`EnrolmentError`] says; the present certificate stays.
    pub async fn renew(&self) -> Result<(), EnrolmentError> {
        match self.kept().filter(|kept| kept.is_valid()) {
            Some(kept) => self.request(Some(&kept), String::new()).await.map(|_| ()),
            None => self.enrol().await.map(|_| ()),
        }
    }

    async fn enrol(&self) -> Result<Arc<Kept>, EnrolmentError> {
        let Some(path) = &self.options.token else {
            return Err(EnrolmentError::NoToken {
                node: self.options.node.clone(),
                directory: self.options.directory.clone(),
            });
        };
        let token = kept::read_text(path, MAX_TOKEN).await?.trim().to_owned();
        if token.is_empty() {
            return Err(EnrolmentError::Invalid {
                what: path.display().to_string(),
                problem: "empty: expected a bootstrap token".into(),
            });
        }
        self.request(None, token).await
    }

    async fn request(
        &self,
        kept: Option<&Kept>,
        token: String,
    ) -> Result<Arc<Kept>, EnrolmentError> {
        let invalid = |what: &str, problem: String| EnrolmentError::Invalid {
            what: what.to_owned(),
            problem,
        };
        let failed = |error: rcgen::Error| invalid("a new key", error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let request = CertificateParams::default()
            .serialize_request(&key)
            .map_err(failed)?;
        let channel = self.channel(kept).await?;
        let mut message = tonic::Request::new(EnrollRequest {
            node: self.options.node.clone(),
            token,
            certificate_request: request.der().to_vec(),
        });
        message.set_timeout(ANSWER);
        let answer: EnrollResponse = CollectorServiceClient::new(channel)
            .enroll(message)
            .await
            .map_err(|status| EnrolmentError::Refused {
                collector: self.options.collector.clone(),
                node: self.options.node.clone(),
                status: Box::new(status),
            })?
            .into_inner();
        if answer.certificates.len() > MAX_CERTIFICATES
            || answer.authorities.len() > MAX_CERTIFICATES
        {
            return Err(invalid(
                "the collector's answer",
                format!("more than {MAX_CERTIFICATES} certificates"),
            ));
        }
        let new = Kept::new(
            &key,
            answer.certificates,
            answer.authorities,
            &self.options.node,
        )
        .map_err(|problem| invalid("the collector's answer", problem))?;
        let new = Arc::new(new);
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(new.clone());
        tracing::info!(node = self.options.node, expires = %ebpf_hello_proto::Timestamp::from(new.expires()), "has a certificate");
        // It serves also where it cannot be kept: only the next run misses it. The next renewal tries again.
        if let Err(error) = new.write(&self.options.directory).await {
            tracing::warn!(
                error = chain(&error),
                "this node's certificate is not kept: after a restart the node has to enrol again"
            );
        }
        Ok(new)
    }

    async fn channel(&self, kept: Option<&Kept>) -> Result<Channel, EnrolmentError> {
        let more = match &self.options.authorities {
            Some(path) => match kept::read_certificates(path).await {
                // What the collector named itself is enough, should the file be away.
                Err(error) if kept.is_some_and(|kept| !kept.authorities().is_empty()) => {
                    tracing::warn!(
                        error = chain(&error),
                        "trusts only what the collector named"
                    );
                    Vec::new()
                }
                more => more?,
            },
            None => Vec::new(),
        };
        let config = tls::config(kept, more, &self.options)?;
        let (host, port) = self.target.clone();
        let name = tls::server_name(&host).map_err(|problem| EnrolmentError::Address {
            given: self.options.collector.clone(),
            problem,
        })?;
        let connector = tower::service_fn(move |_: Uri| {
            let (config, name, host) = (config.clone(), name.clone(), host.clone());
            async move {
                tls::connect(config, name, &host, port)
                    .await
                    .map(TokioIo::new)
            }
        });
        let wrong = |error: &dyn std::error::Error| EnrolmentError::Address {
            given: self.options.collector.clone(),
            problem: chain(error),
        };
        let origin: Uri = self
            .options
            .collector
            .parse()
            .map_err(|error| wrong(&error))?;
        // The connector makes TLS; an `https` endpoint would ask for tonic's own.
        Endpoint::from_shared(self.options.collector.replacen("https://", "http://", 1))
            .map_err(|error| wrong(&error))?
            .origin(origin)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|source| EnrolmentError::Connect {
                collector: self.options.collector.clone(),
                source,
            })
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        self.kept
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Each connection shows the certificate of its moment.
impl Connect for Arc<Enrolment> {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send + '_>> {
        Box::pin(async move { Ok(Enrolment::connect(self).await?) })
    }
}

/// Host and port of a collector's address.
fn target(given: &str) -> Result<(String, u16), EnrolmentError> {
    let wrong = |problem: &str| EnrolmentError::Address {
        given: given.to_owned(),
        problem: problem.to_owned(),
    };
    let uri: Uri = given
        .parse()
        .map_err(|error: tonic::codegen::http::uri::InvalidUri| wrong(&error.to_string()))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("a node's identity is a certificate, and needs TLS"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("nothing may follow the port"));
    }
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| wrong("no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(7443)))
}

/// What to do about the commonest reasons.
fn hint(error: &tonic::transport::Error) -> &'static str {
    let text = chain(error);
    if text.contains("UnknownIssuer") {
        " (its certificate is of an authority that is not trusted here: give the collector's with --ca)"
    } else if text.contains("not valid for name") {
        " (its certificate is for other names: use one of them, or add this one at the collector)"
    } else if text.contains("not valid yet") {
        " (its certificate is not valid yet: check this machine's clock)"
    } else if text.contains("certificate expired") {
        " (its certificate has expired: check this machine's clock, then the collector)"
    } else {
        ""
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_named_by_host_and_port() {
        assert_eq!(target("https://a.b:1").unwrap(), ("a.b".into(), 1));
        assert_eq!(target("https://[::1]:2").unwrap(), ("::1".into(), 2));
        assert_eq!(target("https://a").unwrap(), ("a".into(), 7443));
        for bad in ["http://a:1", "a:1", "https://a/b", "https://:1", ""] {
            let error = target(bad).unwrap_err().to_string();
            assert!(error.contains("expected https://HOST:PORT"), "{error}");
        }
    }
}
