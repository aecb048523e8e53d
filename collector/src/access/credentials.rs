//! From a connection's certificate and a request's token to a caller.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use http::{HeaderMap, header::AUTHORIZATION};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Failures, ReaderCredential, ReaderVerifier, Refused, failures::Proven};
use crate::{
    caller::{Authenticate, Caller, Certified, Peer, Publisher},
    refusal,
};

/// Finds callers by certificates and tokens.
#[derive(Debug)]
pub struct Credentials {
    readers: Option<Arc<dyn ReaderVerifier>>,
    failures: Failures,
    proven: Proven,
    /// Without TLS no node can prove who it is: anybody may publish, because the operator said so.
    plain: bool,
}

// === impl Credentials ===

impl Credentials {
    /// For a port with TLS. Without `readers` nobody may read through it.
    #[must_use]
    pub fn new(readers: Option<Arc<dyn ReaderVerifier>>) -> Self {
        Credentials {
            readers,
            failures: Failures::default(),
            proven: Proven::default(),
            plain: false,
        }
    }

    /// For a port without TLS whose readers have tokens. Anybody who reaches it may publish.
    #[must_use]
    pub fn plain(readers: Arc<dyn ReaderVerifier>) -> Self {
        Credentials {
            readers: Some(readers),
            failures: Failures::default(),
            proven: Proven::default(),
            plain: true,
        }
    }

    async fn find(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Status> {
        // A Unix socket's mode has decided.
        let Some(address) = peer.address else {
            return Ok(Caller::trusted());
        };
        let credential = match peer.certificate.as_deref() {
            Some(Certified::Node(node)) => {
                return Ok(Caller {
                    name: Some(format!("node {node}")),
                    reads: None,
                    publishes: Some(Publisher::Node(node.clone())),
                });
            }
            // What a request shows itself goes before what its connection does.
            certificate => match (bearer(headers)?, certificate) {
                (Some(token), _) => ReaderCredential::Token(token),
                (None, Some(Certified::Reader(name))) => ReaderCredential::Certificate(name),
                (None, _) => {
                    return Ok(Caller {
                        publishes: self.plain.then_some(Publisher::Any),
                        ..Caller::default()
                    });
                }
            },
        };
        let address = address.ip();
        let token = match credential {
            ReaderCredential::Token(token) => Some(token),
            // Its key was shown: nothing to guess.
            ReaderCredential::Certificate(_) => None,
        };
        if let Some(wait) = self.failures.wait(Some(address))
            && token.is_some_and(|token| !self.proven.has(address, token))
        {
            return Err(too_often(wait));
        }
        let Some(readers) = &self.readers else {
            return Err(refusal::unauthenticated(
                "this server knows no readers: start it with --readers, or --kubernetes",
            ));
        };
        match readers.verify(credential).await {
            Ok((name, reads)) => {
                if let Some(token) = token {
                    self.proven.add(address, token);
                }
                Ok(Caller {
                    name: Some(name),
                    reads,
                    publishes: None,
                })
            }
            Err(refused) => {
                if !matches!(refused, Refused::Unavailable(_)) {
                    self.failures.add(Some(address));
                    if let Some(token) = token {
                        self.proven.remove(address, token);
                    }
                }
                Err(refuse(credential, &refused))
            }
        }
    }
}

#[async_trait]
impl Authenticate for Credentials {
    async fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Status> {
        let caller = self.find(peer, headers).await?;
        if caller.name.is_some() || caller.publishes.is_some() {
            peer.recognition.recognise();
        }
        Ok(caller)
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(refusal::unauthenticated(
            "header authorization: expected `Bearer TOKEN`",
        )),
    }
}

pub(super) fn refuse(credential: ReaderCredential<'_>, refused: &Refused) -> Status {
    let what = match credential {
        ReaderCredential::Token(_) => "the token".to_owned(),
        ReaderCredential::Certificate(name) => format!("the certificate's name {name:?}"),
    };
    match refused {
        Refused::Unknown => refusal::because(
            Code::Unauthenticated,
            "UNKNOWN_CREDENTIALS",
            format!(
                "{what} is unknown here: ask whoever runs the collector for one, and check that it is this collector's"
            ),
        ),
        Refused::Expired => refusal::because(
            Code::Unauthenticated,
            "EXPIRED_CREDENTIALS",
            format!("{what} has expired: get a new one"),
        ),
        Refused::Audience { others, command } => refusal::because(
            Code::Unauthenticated,
            "WRONG_AUDIENCE",
            format!("{what} is for {others}, not for this collector: get one with `{command}`"),
        ),
        Refused::NotAllowed(why) => refusal::denied(why.clone()),
        Refused::Unavailable(why) => refusal::because(
            Code::Unavailable,
            "VERIFIER_UNAVAILABLE",
            format!("{what} cannot be verified now: {why}"),
        ),
    }
}

/// RESOURCE_EXHAUSTED, with the time after which to try again.
pub(super) fn too_often(wait: std::time::Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(wait));
    details.set_error_info(
        "TOO_MANY_FAILURES",
        refusal::DOMAIN,
        std::collections::HashMap::new(),
    );
    Status::with_error_details(
        Code::ResourceExhausted,
        format!(
            "too many credentials from this address were not good: try again in {} s",
            wait.as_secs() + 1
        ),
        details,
    )
}

impl fmt::Debug for ReaderCredential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReaderCredential::Token(_) => f.write_str("Token"),
            ReaderCredential::Certificate(name) => {
                f.debug_tuple("Certificate").field(name).finish()
            }
        }
    }
}
