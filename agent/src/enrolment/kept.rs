//! A certificate with its key, as it is kept between runs.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{EnrolmentError, RETRY};

/// Bytes a file of certificates may have.
const MAX_FILE: u64 = 1 << 20;

/// How far before its issue a certificate of the collector's begins, for machines whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A new certificate is renewed after a twentieth of its life at the earliest, whatever the clock says.
const EARLIEST: u32 = 20;

/// From when to when a certificate is good, by the collector's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    issued: SystemTime,
    expires: SystemTime,
}

/// A node's certificate and key, and whom to trust.
pub(super) struct Kept {
    /// Leaf first.
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
    life: Life,
}

// === impl Life ===

impl Life {
    /// How long until it is to be renewed: between 45 and 55 hundredths of it after the issue, as `jitter` (0 to 1)
    /// says.
    pub(super) fn due(self, now: SystemTime, jitter: f64) -> Duration {
        let when = self.issued + self.length().mul_f64(0.45 + jitter / 10.0);
        when.duration_since(now).unwrap_or_default()
    }

    /// The least time from its arrival here to its renewal. Where the clock here is ahead by half of a life,
    /// [`due`](Self::due) says of every new certificate that its time has come.
    pub(super) fn least(self) -> Duration {
        (self.length() / EARLIEST).max(RETRY.0)
    }

    /// How far the clock is past the issue; zero where it is behind.
    pub(super) fn age(self, now: SystemTime) -> Duration {
        now.duration_since(self.issued).unwrap_or_default()
    }

    fn length(self) -> Duration {
        self.expires.duration_since(self.issued).unwrap_or_default()
    }
}

// === impl Kept ===

impl Kept {
    /// Checks what the collector sent: it is for this node and this key.
    pub(super) fn new(
        key: &KeyPair,
        chain: Vec<Vec<u8>>,
        authorities: Vec<Vec<u8>>,
        node: &str,
    ) -> Result<Self, String> {
        let der = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
        let (chain, authorities): (Vec<_>, Vec<_>) = (der(chain), der(authorities));
        for authority in &authorities {
            X509Certificate::from_der(authority)
                .map_err(|error| format!("an authority is no certificate: {error}"))?;
        }
        Self::checked(
            chain,
            PrivatePkcs8KeyDer::from(key.serialize_der()),
            key,
            authorities,
            node,
        )
    }

    /// Reads what is kept; `None` when nothing is.
    pub(super) async fn read(directory: &Path, node: &str) -> Result<Option<Self>, EnrolmentError> {
        let path = directory.join("node.pem");
        let text = match read_text(&path, MAX_FILE).await {
            // Below a file there is nothing either; that nothing can be kept there is said where it is tried.
            Err(EnrolmentError::File { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            other => other?,
        };
        let wrong = |problem: String| EnrolmentError::Invalid {
            what: path.display().to_string(),
            problem,
        };
        let chain = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(error.to_string()))?;
        let secret = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong(format!("no key: {error}")))?;
        let key = KeyPair::try_from(&secret).map_err(|error| wrong(format!("no key: {error}")))?;
        let authorities = match read_certificates(&directory.join("authorities.pem")).await {
            Err(EnrolmentError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Vec::new()
            }
            other => other?,
        };
        Self::checked(chain, secret, &key, authorities, node)
            .map(Some)
            .map_err(wrong)
    }

    fn checked(
        chain: Vec<CertificateDer<'static>>,
        secret: PrivatePkcs8KeyDer<'static>,
        key: &KeyPair,
        authorities: Vec<CertificateDer<'static>>,
        node: &str,
    ) -> Result<Self, String> {
        let leaf = chain.first().ok_or("no certificate")?;
        let (_, leaf) = X509Certificate::from_der(leaf)
            .map_err(|error| format!("not a certificate: {error}"))?;
        if leaf.public_key().subject_public_key.data != key.public_key_raw() {
            return Err("the certificate is for another key".into());
        }
        let wanted = format!("ebpf-hello://node/{node}");
        let names = leaf.subject_alternative_name().ok().flatten();
        if !names.is_some_and(|names| {
            names
                .value
                .general_names
                .contains(&GeneralName::URI(&wanted))
        }) {
            return Err(format!("the certificate is another's: expected {wanted}"));
        }
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        let expires = time(leaf.validity().not_after.timestamp());
        // Of a certificate that is not backdated the beginning is the better guess.
        let issued = time(leaf.validity().not_before.timestamp()) + BACKDATE;
        let issued = if issued < expires {
            issued
        } else {
            issued - BACKDATE
        };
        Ok(Kept {
            key: secret,
            authorities,
            life: Life { issued, expires },
            chain,
        })
    }

    /// Keeps it: each file is replaced whole. The directory is made if it is not there.
    pub(super) async fn write(&self, directory: &Path) -> Result<(), EnrolmentError> {
        make(directory).await?;
        let mut all = vec![pem::Pem::new("PRIVATE KEY", self.key.secret_pkcs8_der())];
        all.extend(
            self.chain
                .iter()
                .map(|der| pem::Pem::new("CERTIFICATE", der.as_ref())),
        );
        replace(&directory.join("node.pem"), &pem::encode_many(&all)).await?;
        let authorities: Vec<_> = self
            .authorities
            .iter()
            .map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()))
            .collect();
        replace(
            &directory.join("authorities.pem"),
            &pem::encode_many(&authorities),
        )
        .await
    }

    pub(super) fn expires(&self) -> SystemTime {
        self.life.expires
    }

    /// Whether it can still be shown, with time for a handshake.
    pub(super) fn is_valid(&self) -> bool {
        self.expires() > SystemTime::now() + Duration::from_secs(1)
    }

    pub(super) fn life(&self) -> Life {
        self.life
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    pub(super) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }
}

/// Without the key.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}

/// Makes the directory, for its owner only.
pub(super) async fn make(directory: &Path) -> Result<(), EnrolmentError> {
    tokio::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .await
        .map_err(|source| EnrolmentError::File {
            verb: "make",
            path: directory.to_owned(),
            source,
        })
}

/// Certificates in a PEM file: at least one.
pub(super) async fn read_certificates(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, EnrolmentError> {
    let text = read_text(path, MAX_FILE).await?;
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    all.map_err(|error| EnrolmentError::Invalid {
        what: path.display().to_string(),
        problem: format!("expected certificates as PEM: {error}"),
    })
}

/// A file of at most `limit` bytes of UTF-8.
pub(super) async fn read_text(path: &Path, limit: u64) -> Result<String, EnrolmentError> {
    let failed = |source| EnrolmentError::File {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    file.take(limit + 1)
        .read_to_string(&mut text)
        .await
        .map_err(failed)?;
    if text.len() as u64 > limit {
        return Err(EnrolmentError::Invalid {
            what: path.display().to_string(),
            problem: format!("more than {limit} bytes"),
        });
    }
    Ok(text)
}

async fn replace(path: &Path, text: &str) -> Result<(), EnrolmentError> {
    let failed = |source| EnrolmentError::File {
        verb: "write",
        path: path.to_owned(),
        source,
    };
    let mut draft: PathBuf = path.to_owned();
    draft.set_extension("new");
    let write = async {
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .await?;
        file.write_all(text.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&draft, path).await
    };
    write.await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn life(hours: u32) -> Life {
        let issued = SystemTime::UNIX_EPOCH + HOUR * 1000;
        Life {
            issued,
            expires: issued + HOUR * hours,
        }
    }

    #[test]
    fn a_certificate_is_due_at_about_half_of_its_life() {
        let life = life(20);
        assert_eq!(life.due(life.issued, 0.0), HOUR * 9);
        assert_eq!(life.due(life.issued, 1.0), HOUR * 11);
        assert_eq!(life.due(life.issued + HOUR * 4, 0.0), HOUR * 5);
        // A clock that is behind.
        assert_eq!(life.due(life.issued - HOUR, 0.0), HOUR * 10);
        assert_eq!(life.age(life.issued - HOUR), Duration::ZERO);
    }

    #[test]
    fn a_new_certificate_is_not_renewed_at_once_whatever_the_clock_says() {
        let life = life(20);
        for ahead in [12, 19, 21, 1000] {
            let now = life.issued + HOUR * ahead;
            assert_eq!(life.due(now, 1.0), Duration::ZERO);
            assert_eq!(life.due(now, 1.0).max(life.least()), HOUR);
        }
        // With the right clock it makes no difference.
        assert!(life.least() < life.due(life.issued, 0.0));
        // The shortest life, and one that ended before it began.
        let short = |seconds| Life {
            expires: life.issued + Duration::from_secs(seconds),
            ..life
        };
        assert_eq!(short(10).least(), RETRY.0);
        let backwards = Life {
            issued: life.expires,
            expires: life.issued,
        };
        assert_eq!(backwards.least(), RETRY.0);
    }
}
