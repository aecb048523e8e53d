//! A bootstrap token and a certificate request in, a node's certificate out.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ebpf_hello_proto::v1::{EnrollRequest, EnrollResponse};
use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::CertificateSigningRequestDer;
use tonic::{Code, Status};

use super::{
    Failures, Refused, Reload, TlsFiles, TokenNode, TokenVerifier, check_node,
    credentials::too_often, kubernetes::AGENT_AUDIENCE, reload::chain, secrets::MAX_TOKEN,
};
use crate::{
    caller::{Certified, Peer},
    ingest::Enrol,
    refusal::{self, Invalid},
};

/// Bytes of a certificate request; one for a key on a curve has about 300.
const MAX_REQUEST: usize = 8 << 10;

/// How certificates of nodes are issued.
#[derive(Clone, Debug)]
pub struct EnrollmentOptions {
    /// How long one is valid. Agents renew theirs at half of it.
    pub life: Duration,
}

/// Issues certificates to nodes.
#[derive(Debug)]
pub struct Enrollment {
    tls: Arc<Reload<TlsFiles>>,
    tokens: Option<Arc<dyn TokenVerifier>>,
    options: EnrollmentOptions,
    failures: Failures,
}

// === impl EnrollmentOptions ===

impl Default for EnrollmentOptions {
    fn default() -> Self {
        EnrollmentOptions {
            life: Duration::from_secs(86_400),
        }
    }
}

// === impl Enrollment ===

impl Enrollment {
    /// Issues from the authority of `tls`. Without `tokens` certificates are only renewed.
    #[must_use]
    pub fn new(
        tls: Arc<Reload<TlsFiles>>,
        tokens: Option<Arc<dyn TokenVerifier>>,
        options: EnrollmentOptions,
    ) -> Self {
        Enrollment {
            tls,
            tokens,
            options,
            failures: Failures::default(),
        }
    }

    async fn redeem(&self, peer: &Peer, request: &EnrollRequest) -> Result<(), Status> {
        let address = peer.address.map(|address| address.ip());
        if let Some(wait) = self.failures.wait(address) {
            return Err(too_often(wait));
        }
        let Some(tokens) = &self.tokens else {
            return Err(refusal::unauthenticated(
                "this collector takes no bootstrap tokens: start it with --bootstrap-tokens, or --kubernetes",
            ));
        };
        let verified = if request.token.len() > MAX_TOKEN {
            Err(Refused::Unknown)
        } else {
            tokens.verify(&request.token).await
        };
        match verified {
            Ok(TokenNode::Any) => Ok(()),
            Ok(TokenNode::Only(node)) if node == request.node => Ok(()),
            Ok(TokenNode::Only(node)) => {
                self.fail(peer, request, "another node's token");
                Err(refusal::because(
                    Code::PermissionDenied,
                    "TOKEN_OF_ANOTHER_NODE",
                    format!(
                        "the token is node {node:?}'s and cannot enrol node {:?}",
                        request.node
                    ),
                ))
            }
            Err(Refused::Unknown) => {
                self.fail(peer, request, "an unknown token");
                Err(refusal::because(
                    Code::Unauthenticated,
                    "UNKNOWN_CREDENTIALS",
                    "the bootstrap token is unknown: put this node's token where the agent reads it",
                ))
            }
            Err(Refused::Expired) => {
                self.fail(peer, request, "an expired token");
                Err(refusal::because(
                    Code::Unauthenticated,
                    "EXPIRED_CREDENTIALS",
                    "the bootstrap token has expired: give the agent a new one",
                ))
            }
            Err(Refused::Audience { others, .. }) => {
                self.fail(peer, request, "a token for another audience");
                Err(refusal::because(
                    Code::Unauthenticated,
                    "WRONG_AUDIENCE",
                    format!(
                        "the token is for {others}, not for this collector: mount one with audience {AGENT_AUDIENCE} \
                         (volume serviceAccountToken)"
                    ),
                ))
            }
            Err(Refused::NotAllowed(why)) => {
                self.fail(peer, request, "a token of somebody else");
                Err(refusal::denied(why))
            }
            Err(Refused::Unavailable(why)) => Err(refusal::because(
                Code::Unavailable,
                "VERIFIER_UNAVAILABLE",
                format!("the bootstrap token cannot be verified now: {why}"),
            )),
        }
    }

    fn fail(&self, peer: &Peer, request: &EnrollRequest, showed: &str) {
        self.failures.add(peer.address.map(|address| address.ip()));
        tracing::warn!(%peer, node = request.node, showed, "refused to enrol a node");
    }
}

/// `CollectorService.Enroll`. Who asks is looked at before what is asked: nobody unknown has a certificate request
/// parsed. Besides what the protocol says: UNIMPLEMENTED without authority, RESOURCE_EXHAUSTED after too many
/// failures, UNAVAILABLE where tokens cannot be verified now.
#[async_trait]
impl Enrol for Enrollment {
    async fn enrol(&self, peer: &Peer, request: EnrollRequest) -> Result<EnrollResponse, Status> {
        check_node(&request.node)
            .map_err(|error| Status::from(Invalid::new("node", error.to_string())))?;
        if request.token.is_empty() {
            may_renew(peer, &request.node)?;
        } else {
            self.redeem(peer, &request).await?;
        }
        peer.recognition.recognise();
        let key = public_key(&request.certificate_request)?;
        let tls = self.tls.current();
        let Some(authority) = &tls.authority else {
            return Err(refusal::because(
                Code::Unimplemented,
                "NO_AUTHORITY",
                "this collector has no certificate authority for nodes: start it with --tls-dir",
            ));
        };
        let issued = authority
            .issue_node(&request.node, &key, self.options.life)
            .map_err(|error| refusal::because(Code::Internal, "CANNOT_ISSUE", chain(&error)))?;
        tracing::info!(node = request.node, %peer, renewal = request.token.is_empty(), "issued a certificate");
        Ok(EnrollResponse {
            certificates: vec![issued.certificate.to_vec()],
            // Of a server with a certificate from elsewhere the agent knows the authority already.
            authorities: if tls.own {
                authority.bundle().iter().map(|der| der.to_vec()).collect()
            } else {
                Vec::new()
            },
            expires: Some(issued.expires.into()),
        })
    }
}

/// Renewal: only what the connection's certificate names.
fn may_renew(peer: &Peer, node: &str) -> Result<(), Status> {
    match peer.certificate.as_deref() {
        Some(Certified::Node(own)) if own == node => Ok(()),
        Some(Certified::Node(own)) => Err(refusal::because(
            Code::PermissionDenied,
            "CERTIFICATE_OF_ANOTHER_NODE",
            format!("the certificate is node {own:?}'s and cannot enrol node {node:?}"),
        )),
        _ => Err(refusal::unauthenticated(
            "to enrol a node, send a bootstrap token, or come with the node's present certificate",
        )),
    }
}

/// The key of a certificate request, whose signature shows that the sender has its other half.
fn public_key(der: &[u8]) -> Result<rcgen::PublicKey, Status> {
    let wrong = |problem: String| Status::from(Invalid::new("certificate_request", problem));
    if der.is_empty() || der.len() > MAX_REQUEST {
        return Err(wrong(format!(
            "{} bytes: expected 1 to {MAX_REQUEST}, a certificate request (PKCS #10) as DER",
            der.len()
        )));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| {
                wrong(format!(
                    "not a certificate request (PKCS #10, DER) signed by its own key: {error}"
                ))
            })?;
    let key = request.public_key;
    let allowed = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    if !allowed.contains(&key.algorithm()) {
        return Err(wrong(
            "its key is of another kind: expected ECDSA on P-256 or P-384, or Ed25519".into(),
        ));
    }
    Ok(key)
}
