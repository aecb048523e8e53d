//! The collector's own certificate authority: it vouches for nodes and, unless the operator brings one, for the
//! server.
//!
//! Kept as two PEM texts: every certificate that is trusted, and one key. The certificate the key belongs to issues;
//! the others are authorities that were, or will be. So an authority is replaced in three steps, each at least a node
//! certificate's life after the one before: add the new certificate; put the new key in place of the old; take the old
//! certificate out. At no step does a connection end.

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AccessError, name, reload::read_bounded};

/// How far before now a certificate begins to be valid: a machine whose clock is behind takes it all the same.
pub(super) const BACKDATE: Duration = Duration::from_secs(3600);

/// How long an authority made here is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How the common name of an authority made here begins.
pub(super) const COMMON_NAME: &str = "ebpf-hello authority ";

/// Certificates that may be trusted at once.
const MAX_AUTHORITIES: usize = 16;

/// An authority as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityPem {
    /// Certificates that are trusted, PEM. One of them is the key's.
    pub certificates: Vec<u8>,
    /// The key, PKCS #8 as PEM.
    pub key: Vec<u8>,
}

/// Keeps an authority: in a directory, or where every replica of a collector finds it.
#[async_trait]
pub trait KeepAuthority: Send + Sync + fmt::Debug {
    /// Where it is kept, for messages.
    fn place(&self) -> String;

    /// What is kept now; `None` when nothing ever was.
    ///
    /// # Errors
    /// It cannot be read.
    async fn read(&self) -> Result<Option<AuthorityPem>, AccessError>;

    /// Keeps a new authority unless there is one by now, and returns the one there is: of two that start at the same
    /// time, one wins and both use its authority.
    ///
    /// # Errors
    /// It cannot be written.
    async fn create(&self, new: &AuthorityPem) -> Result<AuthorityPem, AccessError>;
}

/// A directory (mode 0700) with `ca.crt` and `ca.key` (mode 0600).
#[derive(Clone, Debug)]
pub struct Directory(pub PathBuf);

/// An authority in use.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: Vec<CertificateDer<'static>>,
    expires: SystemTime,
}

/// A certificate just issued.
pub(super) struct Issued {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) expires: SystemTime,
}

// === impl AuthorityPem ===

impl AuthorityPem {
    /// Makes a new authority: an ECDSA key on P-256 and its certificate, valid for ten years, that may issue no
    /// further authority.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, AccessError> {
        let failed = |source| AccessError::Issue {
            name: "a new certificate authority".into(),
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        // Two authorities must be told apart by name while one replaces the other.
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
        let short: String = digest.as_ref()[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = common_name(&format!("{COMMON_NAME}{short}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(AuthorityPem {
            certificates: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        })
    }
}

/// Without the key.
impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem").finish_non_exhaustive()
    }
}

// === impl Authority ===

impl Authority {
    /// Reads an authority; `place` says where it is from.
    ///
    /// # Errors
    /// It is not PEM, the key belongs to none of the certificates, or its certificate has expired.
    pub fn read(pem: &AuthorityPem, place: &str) -> Result<Self, AccessError> {
        let problem = |problem: String| AccessError::Authority {
            what: place.to_owned(),
            problem,
        };
        let bundle = certificates(&pem.certificates, place)?;
        let key = key_pair(&pem.key, place)?;
        for der in &bundle {
            let (_, parsed) = X509Certificate::from_der(der)
                .map_err(|error| problem(format!("not a certificate: {error}")))?;
            if parsed.public_key().subject_public_key.data != key.public_key_raw() {
                continue;
            }
            let expires = system_time(parsed.validity().not_after.timestamp());
            if expires <= SystemTime::now() {
                return Err(problem(format!(
                    "its certificate ended at {}: replace it",
                    parsed.validity().not_after
                )));
            }
            let issuer = Issuer::from_ca_cert_der(der, key)
                .map_err(|error| problem(format!("its certificate cannot issue: {error}")))?;
            return Ok(Authority {
                issuer,
                bundle,
                expires,
            });
        }
        Err(problem(
            "the key belongs to none of the certificates: put the key's own certificate among them"
                .into(),
        ))
    }

    /// Every certificate that is trusted, the issuing one among them.
    #[must_use]
    pub fn bundle(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// Issues a node's certificate.
    pub(super) fn issue_node(
        &self,
        node: &str,
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<Issued, AccessError> {
        let uri =
            name::node_uri(node)
                .as_str()
                .try_into()
                .map_err(|source| AccessError::Issue {
                    name: node.to_owned(),
                    source,
                })?;
        self.issue(
            node,
            vec![SanType::URI(uri)],
            ExtendedKeyUsagePurpose::ClientAuth,
            key,
            life,
        )
    }

    /// Issues the server's certificate for these DNS names and addresses.
    pub(super) fn issue_server(
        &self,
        names: &[String],
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<Issued, AccessError> {
        let names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name
                    .as_str()
                    .try_into()
                    .map(SanType::DnsName)
                    .map_err(|source| AccessError::Issue {
                        name: name.clone(),
                        source,
                    }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.issue(
            "ebpf-hello collector",
            names,
            ExtendedKeyUsagePurpose::ServerAuth,
            key,
            life,
        )
    }

    fn issue(
        &self,
        subject: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<Issued, AccessError> {
        let now = SystemTime::now();
        // Nothing outlives its issuer. Whole seconds: a certificate has no finer.
        let expires = (now + life).min(self.expires);
        let mut params = CertificateParams::default();
        // X.520 allows 64 characters; the name that counts is the alternative one.
        params.distinguished_name = common_name(&subject.chars().take(64).collect::<String>());
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATE).into();
        params.not_after = expires.into();
        let certificate =
            params
                .signed_by(key, &self.issuer)
                .map_err(|source| AccessError::Issue {
                    name: subject.to_owned(),
                    source,
                })?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            expires,
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("certificates", &self.bundle.len())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

// === impl Directory ===

impl Directory {
    fn certificates(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    fn key(&self) -> PathBuf {
        self.0.join("ca.key")
    }
}

#[async_trait]
impl KeepAuthority for Directory {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    async fn read(&self) -> Result<Option<AuthorityPem>, AccessError> {
        let (certificates, key) = (self.certificates(), self.key());
        let there = |path: &Path| path.try_exists().unwrap_or(true);
        match (there(&certificates), there(&key)) {
            (false, false) => Ok(None),
            (true, true) => Ok(Some(AuthorityPem {
                certificates: read_bounded(&certificates).await?,
                key: read_bounded(&key).await?,
            })),
            (has_certificates, _) => {
                let (has, lacks) = if has_certificates {
                    ("ca.crt", "ca.key")
                } else {
                    ("ca.key", "ca.crt")
                };
                Err(AccessError::Authority {
                    what: self.place(),
                    problem: format!(
                        "{has} is there and {lacks} is not: restore it, or remove {has} to start anew"
                    ),
                })
            }
        }
    }

    async fn create(&self, new: &AuthorityPem) -> Result<AuthorityPem, AccessError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AccessError::Write { path, source }
        };
        tokio::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .await
            .map_err(failed(&self.0))?;
        // The key decides who won: it is linked into place whole, and only where there is none.
        let (certificates, key) = (self.certificates(), self.key());
        let draft = self.0.join(format!(".new-{}", std::process::id()));
        write_new(&draft, &new.key, 0o600)
            .await
            .map_err(failed(&draft))?;
        let linked = tokio::fs::hard_link(&draft, &key).await;
        let removed = tokio::fs::remove_file(&draft).await;
        match linked {
            Ok(()) => {
                removed.map_err(failed(&draft))?;
                write_new(&certificates, &new.certificates, 0o644)
                    .await
                    .map_err(failed(&certificates))?;
                Ok(new.clone())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The other is between its two files at most for a moment.
                for _ in 0..50 {
                    if let Ok(Some(other)) = self.read().await {
                        return Ok(other);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                self.read().await?.ok_or_else(|| AccessError::Authority {
                    what: self.place(),
                    problem: "it appeared and went again".into(),
                })
            }
            Err(source) => Err(AccessError::Write { path: key, source }),
        }
    }
}

/// Writes a file that is not there yet, and to disk.
async fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}

/// Replaces a file with one for its owner only, whole or not at all. Its directory is made, if need be.
pub(super) async fn replace(path: &Path, bytes: &[u8]) -> Result<(), AccessError> {
    let failed = |source| AccessError::Write {
        path: path.to_owned(),
        source,
    };
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let write = async {
        if let Some(directory) = path.parent() {
            tokio::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .await?;
        }
        // Of a process of this number that died here.
        let _ = tokio::fs::remove_file(&draft).await;
        write_new(&draft, bytes, 0o600).await?;
        tokio::fs::rename(&draft, path).await
    };
    write.await.map_err(failed)
}

fn key_pair(pem: &[u8], place: &str) -> Result<KeyPair, AccessError> {
    std::str::from_utf8(pem)
        .map_err(|error| error.to_string())
        .and_then(|text| KeyPair::from_pem(text).map_err(|error| error.to_string()))
        .map_err(|error| AccessError::Authority {
            what: place.to_owned(),
            problem: format!("its key is not PKCS #8 as PEM: {error}"),
        })
}

/// The public half of a key, as a certificate holds it.
pub(super) fn public_key(pem: &[u8], place: &str) -> Result<Vec<u8>, AccessError> {
    Ok(key_pair(pem, place)?.public_key_raw().to_vec())
}

/// Certificates as a PEM text.
pub(super) fn pem_of<'a>(all: impl Iterator<Item = &'a CertificateDer<'static>>) -> Vec<u8> {
    let all: Vec<_> = all
        .map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()))
        .collect();
    pem::encode_many_config(
        &all,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
    .into_bytes()
}

/// The certificates in a PEM text: at least one, at most [`MAX_AUTHORITIES`].
pub(super) fn certificates(
    pem: &[u8],
    what: &str,
) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let wrong = |found: String| AccessError::Pem {
        what: what.to_owned(),
        expected: "certificates as PEM",
        found,
    };
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    match all.len() {
        0 => Err(wrong("there is none".into())),
        1..=MAX_AUTHORITIES => Ok(all),
        more => Err(wrong(format!(
            "{more} certificates, at most {MAX_AUTHORITIES}"
        ))),
    }
}

/// The time this many seconds after 1970.
pub(super) fn system_time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}
