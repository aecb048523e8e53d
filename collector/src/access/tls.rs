//! TLS: what the server shows, and whom it believes.
//!
//! Version 1.3 only, ring underneath. Sessions are not resumed: every connection proves its certificate anew, so an
//! authority that is no longer trusted lets nobody in.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{
    AccessError, Authority, AuthorityPem, KeepAuthority, Source,
    authority::{certificates, system_time},
    name,
    reload::{chain, read_bounded},
};
use crate::caller::Certified;

/// How long a server's certificate from the own authority is valid: renewed at half of it, in memory only.
const SERVER_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Where the server's certificate comes from.
#[derive(Clone, Debug)]
pub enum ServerCertificate {
    /// The own authority issues it, for these DNS names and addresses.
    Own(Vec<String>),
    /// The operator's files, PEM.
    Files {
        /// The certificate and what is between it and its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Where everything is that TLS needs.
#[derive(Debug)]
pub struct TlsFiles {
    /// The authority for nodes; `None`: no node can enrol. Made when nothing is kept yet.
    pub authority: Option<Arc<dyn KeepAuthority>>,
    /// What the server shows.
    pub certificate: ServerCertificate,
    /// Authorities, PEM, whose certificates are readers'.
    pub readers: Option<PathBuf>,
}

/// TLS as it is now.
pub struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) authority: Option<Authority>,
    /// Whether agents find the server's authority in `authority`.
    pub(super) own: bool,
    nodes: Option<Arc<dyn ClientCertVerifier>>,
    readers: Option<Arc<dyn ClientCertVerifier>>,
    /// When the server's certificate is to be made anew.
    renew: Option<SystemTime>,
}

/// What was read.
#[derive(PartialEq)]
pub struct TlsRaw {
    authority: Option<AuthorityPem>,
    /// Certificate and key.
    certificate: Option<(Vec<u8>, Vec<u8>)>,
    readers: Option<Vec<u8>>,
}

// === impl TlsFiles ===

#[async_trait]
impl Source for TlsFiles {
    type Raw = TlsRaw;
    type Value = Tls;

    fn what(&self) -> String {
        "TLS certificates".into()
    }

    async fn read(&self) -> Result<TlsRaw, AccessError> {
        let authority = match &self.authority {
            None => None,
            Some(keeper) => Some(match keeper.read().await? {
                Some(kept) => kept,
                None => {
                    tracing::info!(place = keeper.place(), "made a certificate authority");
                    keeper.create(&AuthorityPem::generate()?).await?
                }
            }),
        };
        let certificate = match &self.certificate {
            ServerCertificate::Own(_) => None,
            ServerCertificate::Files { certificate, key } => {
                Some((read_bounded(certificate).await?, read_bounded(key).await?))
            }
        };
        let readers = match &self.readers {
            None => None,
            Some(path) => Some(read_bounded(path).await?),
        };
        Ok(TlsRaw {
            authority,
            certificate,
            readers,
        })
    }

    fn build(&self, raw: &TlsRaw) -> Result<Tls, AccessError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authority = match (&self.authority, &raw.authority) {
            (Some(keeper), Some(pem)) => Some(Authority::read(pem, &keeper.place())?),
            _ => None,
        };
        let (chain, key, renew, what) = self.server(raw, authority.as_ref())?;
        let reader_roots = match (&self.readers, &raw.readers) {
            (Some(path), Some(pem)) => certificates(pem, &path.display().to_string())?,
            _ => Vec::new(),
        };
        let node_roots = authority.as_ref().map_or(&[][..], Authority::bundle);
        let failed = |source| AccessError::Tls {
            what: what.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?;
        let all: Vec<_> = node_roots.iter().chain(&reader_roots).cloned().collect();
        let builder = match verifier(&all, &provider).map_err(failed)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Tls {
            config: Arc::new(config),
            nodes: verifier(node_roots, &provider).map_err(failed)?,
            readers: verifier(&reader_roots, &provider).map_err(failed)?,
            own: matches!(self.certificate, ServerCertificate::Own(_)),
            authority,
            renew,
        })
    }

    fn is_stale(&self, tls: &Tls) -> bool {
        tls.renew.is_some_and(|renew| renew <= SystemTime::now())
    }
}

/// A chain, its key, when to make them anew, and where they are from.
type Server = (
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
    Option<SystemTime>,
    String,
);

impl TlsFiles {
    fn server(&self, raw: &TlsRaw, authority: Option<&Authority>) -> Result<Server, AccessError> {
        match (&self.certificate, &raw.certificate, authority) {
            (ServerCertificate::Files { certificate, key }, Some((chain, secret)), _) => {
                let what = certificate.display().to_string();
                let chain = certificates(chain, &what)?;
                let secret =
                    PrivateKeyDer::from_pem_slice(secret).map_err(|error| AccessError::Pem {
                        what: key.display().to_string(),
                        expected: "a private key as PEM",
                        found: error.to_string(),
                    })?;
                Ok((chain, secret, None, what))
            }
            (ServerCertificate::Own(names), _, Some(authority)) => {
                let what = "a certificate of the own authority".to_owned();
                let key = rcgen::KeyPair::generate().map_err(|source| AccessError::Issue {
                    name: what.clone(),
                    source,
                })?;
                let issued = authority.issue_server(names, &key, SERVER_LIFE)?;
                let left = issued
                    .expires
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                Ok((
                    vec![issued.certificate],
                    key,
                    Some(SystemTime::now() + left / 2),
                    what,
                ))
            }
            _ => Err(AccessError::NoCertificate),
        }
    }
}

// === impl Tls ===

impl Tls {
    /// Who a client is by the chain it showed, which the handshake verified, and when that ends. `None`: the
    /// certificate is good and names nobody.
    pub(super) fn certified(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Option<(Certified, SystemTime)> {
        let (leaf, between) = chain.split_first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let expires = system_time(parsed.validity().not_after.timestamp());
        let is_of = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier.as_ref().is_some_and(|verifier| {
                verifier
                    .verify_client_cert(leaf, between, UnixTime::now())
                    .is_ok()
            })
        };
        // Only the own authority's word counts for a node, only the operator's for a reader: an authority for
        // readers that writes a node's name into a certificate gains nothing.
        if is_of(&self.nodes)
            && let Some(node) = node(&parsed)
        {
            return Some((Certified::Node(node), expires));
        }
        if is_of(&self.readers) {
            return Some((Certified::Reader(reader(&parsed)?), expires));
        }
        None
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authority", &self.authority)
            .field("renew", &self.renew)
            .finish_non_exhaustive()
    }
}

fn verifier(
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, rustls::Error> {
    if roots.is_empty() {
        return Ok(None);
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .allow_unauthenticated()
        .build()
        .map(Some)
        .map_err(|error| rustls::Error::General(chain(&error)))
}

/// The node a certificate names: exactly one.
fn node(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut nodes = alternative_names(certificate).filter_map(|general| match general {
        GeneralName::URI(uri) => name::node_of_uri(uri),
        _ => None,
    });
    let first = nodes.next()?;
    nodes.next().is_none().then(|| first.to_owned())
}

/// The reader a certificate names: its common name, else its first alternative one.
fn reader(certificate: &X509Certificate<'_>) -> Option<String> {
    let common = certificate
        .subject()
        .iter_common_name()
        .find_map(|name| name.as_str().ok())
        .filter(|name| !name.is_empty());
    let alternative = || {
        alternative_names(certificate).find_map(|general| match general {
            GeneralName::URI(name) | GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => {
                Some(*name)
            }
            _ => None,
        })
    };
    common.or_else(alternative).map(str::to_owned)
}

fn alternative_names<'a>(
    certificate: &'a X509Certificate<'a>,
) -> impl Iterator<Item = &'a GeneralName<'a>> {
    certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .into_iter()
        .flat_map(|extension| &extension.value.general_names)
}
