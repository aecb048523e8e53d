//! Who may come to a collector: from the command line to what checks it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use ebpf_hello_collector::{
    access::{
        Credentials, Directory, Enrollment, EnrollmentOptions, FirstThatKnows, KeepAuthority,
        ReaderFile, ReaderVerifier, Reload, ServerCertificate, TlsFiles, TokenFile, TokenVerifier,
        kubernetes::{
            AgentTokens, Freshness, Readers, Reviews, Rotation, SecretAuthority, SecretOptions,
        },
    },
    caller::{Authenticate, Trusted},
    kubernetes::Kubernetes,
};

use crate::args::duration;

/// How often certificates and tokens are read again.
const RELOAD: Duration = Duration::from_secs(10);

/// Who may come.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArguments {
    /// Keeps an own certificate authority here, made at the first start: agents enrol with it, and the server's
    /// certificate is from it unless --tls-cert says otherwise.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Keeps the authority in this Secret instead, which is there already and may be empty; with --tls-dir also a copy
    /// there, for a start while the API server is away.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    tls_secret: Option<String>,
    /// Publishes the authority's certificates in this ConfigMap, key ca.crt.
    #[arg(long, value_name = "NAME", requires = "tls_secret")]
    ca_configmap: Option<String>,
    /// Age at which the authority in --tls-secret gets a successor; both are trusted while it takes over.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "90d")]
    ca_age: Duration,
    /// Life of a node's certificate; renewed at half of it.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "24h")]
    certificate_life: Duration,
    /// Names and addresses in the server's certificate from the own authority.
    #[arg(long, value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    tls_name: Vec<String>,
    /// The server's certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities whose certificates are readers', PEM.
    #[arg(long, value_name = "FILE")]
    reader_ca: Option<PathBuf>,
    /// Tokens and certificates of readers, a line each: TOKEN,NAMESPACE,… or certificate:NAME,NAMESPACE,…; `*` is
    /// every namespace.
    #[arg(long, value_name = "FILE")]
    readers: Option<PathBuf>,
    /// Tokens that agents enrol with, a line each: TOKEN[,NODE][,expires=TIME].
    #[arg(long, value_name = "FILE")]
    bootstrap_tokens: Option<PathBuf>,
    /// ServiceAccount whose pods' tokens agents enrol with, in --namespace.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-agent")]
    agent_service_account: String,
    /// How long a right that the cluster took away may go on to work; open streams are looked at within it.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    access_limit: Duration,
    /// How long what the API server said last holds while it cannot be asked; then nobody may read.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
    access_grace: Duration,
    /// Serve without TLS on addresses that other machines can reach.
    #[arg(long)]
    insecure: bool,
}

/// What checks who comes.
pub(crate) struct Access {
    pub(crate) tls: Option<Arc<Reload<TlsFiles>>>,
    pub(crate) enrollment: Option<Enrollment>,
    pub(crate) authenticate: Arc<dyn Authenticate>,
}

/// Makes it, and the authority if there is none yet.
pub(crate) async fn set_up(
    arguments: &AccessArguments,
    kubernetes: Option<&Kubernetes>,
) -> anyhow::Result<Access> {
    arguments.check()?;
    let reviews = kubernetes.map(|kubernetes| Arc::new(Reviews::new(kubernetes.client.clone())));
    let authority = authority(arguments, kubernetes);
    let has_authority = authority.is_some();
    let tls = tls(arguments, authority).await?;
    let enrollment = match &tls {
        Some(tls) if has_authority => {
            let tokens = tokens(arguments, kubernetes.zip(reviews.clone())).await?;
            let life = arguments.certificate_life;
            Some(Enrollment::new(
                tls.clone(),
                tokens,
                EnrollmentOptions { life },
            ))
        }
        _ => None,
    };
    let readers = readers(arguments, reviews).await?;
    let authenticate: Arc<dyn Authenticate> = match (&tls, readers) {
        (Some(_), readers) => Arc::new(Credentials::new(readers)),
        (None, Some(readers)) => Arc::new(Credentials::plain(readers)),
        // Loopback, or --insecure, which has been told loudly.
        (None, None) => Arc::new(Trusted),
    };
    Ok(Access {
        tls,
        enrollment,
        authenticate,
    })
}

// === impl AccessArguments ===

impl AccessArguments {
    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure
    }

    fn check(&self) -> anyhow::Result<()> {
        let (life, age) = (self.certificate_life, self.ca_age);
        let words = humantime::format_duration;
        if life < Duration::from_secs(10) {
            bail!("--certificate-life {}: expected 10s or more", words(life));
        }
        // Taking over takes two lives, and ends before the next time begins.
        if age < life * 4 {
            bail!(
                "--ca-age {}: expected four times --certificate-life or more, {}",
                words(age),
                words(life * 4)
            );
        }
        if self.access_limit < Duration::from_secs(1) {
            bail!(
                "--access-limit {}: expected 1s or more",
                words(self.access_limit)
            );
        }
        if self.access_grace < self.access_limit {
            bail!(
                "--access-grace {}: expected --access-limit or more, {}",
                words(self.access_grace),
                words(self.access_limit)
            );
        }
        Ok(())
    }
}

fn authority(
    arguments: &AccessArguments,
    kubernetes: Option<&Kubernetes>,
) -> Option<Arc<dyn KeepAuthority>> {
    match (&arguments.tls_secret, kubernetes) {
        (Some(secret), Some(kubernetes)) => {
            let options = SecretOptions {
                namespace: kubernetes.namespace.clone(),
                secret: secret.clone(),
                config_map: arguments.ca_configmap.clone(),
                copy: arguments.tls_dir.clone(),
                rotation: Rotation {
                    age: arguments.ca_age,
                    life: arguments.certificate_life,
                },
            };
            Some(Arc::new(SecretAuthority::new(
                kubernetes.client.clone(),
                options,
            )))
        }
        _ => {
            let directory = arguments.tls_dir.clone()?;
            Some(Arc::new(Directory(directory)))
        }
    }
}

async fn tls(
    arguments: &AccessArguments,
    authority: Option<Arc<dyn KeepAuthority>>,
) -> anyhow::Result<Option<Arc<Reload<TlsFiles>>>> {
    let certificate = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => ServerCertificate::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        _ if authority.is_some() => ServerCertificate::Own(arguments.tls_name.clone()),
        _ => return Ok(None),
    };
    let files = TlsFiles {
        authority,
        certificate,
        readers: arguments.reader_ca.clone(),
    };
    // Not slower than an authority is replaced.
    let every = RELOAD.min(arguments.certificate_life / 20);
    let tls = Reload::start(files, every)
        .await
        .context("cannot set up TLS")?;
    Ok(Some(tls))
}

/// What knows agents' tokens.
async fn tokens(
    arguments: &AccessArguments,
    cluster: Option<(&Kubernetes, Arc<Reviews>)>,
) -> anyhow::Result<Option<Arc<dyn TokenVerifier>>> {
    let mut all: Vec<Arc<dyn TokenVerifier>> = Vec::new();
    if let Some(path) = &arguments.bootstrap_tokens {
        let file = TokenFile::open(path.clone(), RELOAD).await;
        all.push(Arc::new(file.context("--bootstrap-tokens")?));
    }
    if let Some((kubernetes, reviews)) = cluster {
        let account = &arguments.agent_service_account;
        all.push(Arc::new(AgentTokens::new(
            reviews,
            &kubernetes.namespace,
            account,
        )));
    }
    Ok((!all.is_empty()).then(|| Arc::new(FirstThatKnows(all)) as _))
}

/// What knows readers.
async fn readers(
    arguments: &AccessArguments,
    reviews: Option<Arc<Reviews>>,
) -> anyhow::Result<Option<Arc<dyn ReaderVerifier>>> {
    let mut all: Vec<Arc<dyn ReaderVerifier>> = Vec::new();
    if let Some(path) = &arguments.readers {
        let file = ReaderFile::open(path.clone(), RELOAD).await;
        all.push(Arc::new(file.context("--readers")?));
    }
    if let Some(reviews) = reviews {
        let freshness = Freshness {
            limit: arguments.access_limit,
            grace: arguments.access_grace,
        };
        all.push(Arc::new(Readers::new(reviews, freshness)));
    }
    Ok((!all.is_empty()).then(|| Arc::new(FirstThatKnows(all)) as _))
}
