//! The authority in a Secret, where every replica finds it; its certificates in a ConfigMap, where everybody may.
//!
//! Both are made empty by whoever installs the collector, which needs the rights to get and patch these two by name
//! and no others. A patch says which version it is for: of two replicas that patch at the same time, one wins, and the
//! other reads what it wrote.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::rotation::{Kept, Rotation};
use crate::access::{
    AccessError, AuthorityPem, KeepAuthority,
    authority::{certificates, pem_of, replace},
    reload::{chain, read_bounded},
};

/// Data of the Secret.
const CERTIFICATES: &str = "ca.crt";
const KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
/// Time for an answer of the API server.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest time between looks at the Secret.
const LOOK: Duration = Duration::from_secs(30);
/// Times to read again after another replica was first.
const RACES: u32 = 5;

/// Where an authority is kept in a cluster.
#[derive(Clone, Debug)]
pub struct SecretOptions {
    /// Namespace of both objects.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the ConfigMap.
    pub config_map: Option<String>,
    /// Directory for a copy, with which a collector starts while the API server is away.
    pub copy: Option<PathBuf>,
    /// When it is replaced.
    pub rotation: Rotation,
}

/// An authority in a Secret.
pub struct SecretAuthority {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    options: SecretOptions,
    /// How long what was read is good.
    look: Duration,
    last: std::sync::Mutex<Option<(Instant, AuthorityPem)>>,
}

/// The Secret as it was read.
struct Version {
    kept: Option<Kept>,
    resource_version: Option<String>,
}

// === impl SecretAuthority ===

impl SecretAuthority {
    /// An authority in the Secret that `options` name.
    #[must_use]
    pub fn new(client: Client, options: SecretOptions) -> Self {
        SecretAuthority {
            secrets: Api::namespaced(client.clone(), &options.namespace),
            config_maps: Api::namespaced(client, &options.namespace),
            look: LOOK.min(options.rotation.life / 20),
            options,
            last: std::sync::Mutex::default(),
        }
    }

    async fn get(&self) -> Result<Version, AccessError> {
        let secret = ask("get", self.place(), self.secrets.get(&self.options.secret)).await?;
        let data = secret.data.unwrap_or_default();
        let kept = self.parse(data)?;
        Ok(Version {
            kept,
            resource_version: secret.metadata.resource_version,
        })
    }

    fn parse(&self, mut data: BTreeMap<String, ByteString>) -> Result<Option<Kept>, AccessError> {
        let mut take = |key| {
            data.remove(key)
                .map(|value| value.0)
                .filter(|value| !value.is_empty())
        };
        let next = take(NEXT_KEY);
        match (take(CERTIFICATES), take(KEY)) {
            (None, None) => Ok(None),
            (Some(certificates), Some(key)) => Ok(Some(Kept {
                authority: AuthorityPem { certificates, key },
                next,
            })),
            (has_certificates, _) => {
                let (has, lacks) = match has_certificates {
                    Some(_) => (CERTIFICATES, KEY),
                    None => (KEY, CERTIFICATES),
                };
                Err(AccessError::Authority {
                    what: self.place(),
                    problem: format!(
                        "{has} is there and {lacks} is not: restore it, or empty the Secret to start anew"
                    ),
                })
            }
        }
    }

    /// Writes over this version of the Secret; false if it is another by now.
    async fn put(&self, version: &Version, kept: &Kept) -> Result<bool, AccessError> {
        let data = json!({
            CERTIFICATES: ByteString(kept.authority.certificates.clone()),
            KEY: ByteString(kept.authority.key.clone()),
            NEXT_KEY: kept.next.clone().map(ByteString),
        });
        let patch = json!({
            "metadata": {"resourceVersion": version.resource_version},
            "data": data,
        });
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let patched = self.secrets.patch(&self.options.secret, &params, &patch);
        match ask("patch", self.place(), patched).await {
            Ok(_) => Ok(true),
            Err(AccessError::Cluster { source, .. }) if is_conflict(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what is kept, after whatever step of a rotation is due.
    async fn look(&self) -> Result<Option<AuthorityPem>, AccessError> {
        for _ in 0..RACES {
            let version = self.get().await?;
            let Some(kept) = &version.kept else {
                return Ok(None);
            };
            let place = self.place();
            match self
                .options
                .rotation
                .step(kept, SystemTime::now(), &place)?
            {
                None => return Ok(Some(kept.authority.clone())),
                Some((next, what)) => {
                    if self.put(&version, &next).await? {
                        tracing::info!(
                            place,
                            "the certificate authority is being replaced: {what}"
                        );
                        return Ok(Some(next.authority));
                    }
                }
            }
        }
        Err(self.contended())
    }

    fn contended(&self) -> AccessError {
        AccessError::Authority {
            what: self.place(),
            problem: format!("it changed {RACES} times while it was read"),
        }
    }

    /// Takes note of what was read: for everybody to trust, and for a start without API server.
    async fn note(&self, authority: &AuthorityPem) {
        let now = (Instant::now(), authority.clone());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        if let Err(error) = self.publish(authority).await {
            tracing::warn!(
                error = chain(&error),
                "cannot publish the authority's certificates"
            );
        }
        if let Err(error) = self.write_copy(authority).await {
            tracing::warn!(error = chain(&error), "cannot keep a copy of the authority");
        }
    }

    /// Puts the certificates, and nothing else of what stands in the Secret, into the ConfigMap.
    async fn publish(&self, authority: &AuthorityPem) -> Result<(), AccessError> {
        let Some(name) = &self.options.config_map else {
            return Ok(());
        };
        let bundle = pem_of(certificates(&authority.certificates, &self.place())?.iter());
        // PEM is ASCII.
        let bundle = String::from_utf8_lossy(&bundle).into_owned();
        let what = format!("ConfigMap {}/{name}", self.options.namespace);
        let there = ask("get", what.clone(), self.config_maps.get(name)).await?;
        let known = there.data.as_ref().and_then(|data| data.get(CERTIFICATES));
        if known == Some(&bundle) {
            return Ok(());
        }
        let patch = json!({"data": {CERTIFICATES: bundle}});
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        ask("patch", what, self.config_maps.patch(name, &params, &patch)).await?;
        tracing::info!(
            config_map = name,
            namespace = self.options.namespace,
            "published the authority's certificates"
        );
        Ok(())
    }

    fn copy(&self) -> Option<PathBuf> {
        let directory = self.options.copy.as_ref()?;
        Some(directory.join("authority.pem"))
    }

    async fn write_copy(&self, authority: &AuthorityPem) -> Result<(), AccessError> {
        let Some(path) = self.copy() else {
            return Ok(());
        };
        let text = [&authority.key[..], b"\n", &authority.certificates].concat();
        if read_bounded(&path).await.is_ok_and(|there| there == text) {
            return Ok(());
        }
        replace(&path, &text).await
    }

    async fn read_copy(&self) -> Result<Option<AuthorityPem>, AccessError> {
        let Some(path) = self.copy() else {
            return Ok(None);
        };
        let text = match read_bounded(&path).await {
            Err(AccessError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            text => text?,
        };
        let what = path.display().to_string();
        let all = certificates(&text, &what)?;
        Ok(Some(AuthorityPem {
            certificates: pem_of(all.iter()),
            // The reader takes the key and leaves the rest.
            key: text,
        }))
    }
}

#[async_trait]
impl KeepAuthority for SecretAuthority {
    fn place(&self) -> String {
        format!("Secret {}/{}", self.options.namespace, self.options.secret)
    }

    async fn read(&self) -> Result<Option<AuthorityPem>, AccessError> {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((at, authority)) = &last
            && at.elapsed() < self.look
        {
            return Ok(Some(authority.clone()));
        }
        match self.look().await {
            Ok(Some(authority)) => {
                self.note(&authority).await;
                Ok(Some(authority))
            }
            Ok(None) => Ok(None),
            // A running collector keeps what it has; one that starts has the copy.
            Err(error) if error.is_unanswered() => match (last, self.read_copy().await?) {
                (Some((_, authority)), _) => Ok(Some(authority)),
                (None, Some(copy)) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot read the authority: taking the copy on disk"
                    );
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((Instant::now(), copy.clone()));
                    Ok(Some(copy))
                }
                (None, None) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn create(&self, new: &AuthorityPem) -> Result<AuthorityPem, AccessError> {
        for _ in 0..RACES {
            let version = self.get().await?;
            let authority = match &version.kept {
                Some(other) => other.authority.clone(),
                None => {
                    let kept = Kept {
                        authority: new.clone(),
                        next: None,
                    };
                    if !self.put(&version, &kept).await? {
                        continue;
                    }
                    kept.authority
                }
            };
            self.note(&authority).await;
            return Ok(authority);
        }
        Err(self.contended())
    }
}

/// Waits for an answer, but not for ever.
async fn ask<T>(
    verb: &'static str,
    what: String,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, AccessError> {
    match timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|source| AccessError::Cluster {
            verb,
            what,
            source: Box::new(source),
        }),
        Err(_) => Err(AccessError::NoAnswer { verb, what }),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

impl fmt::Debug for SecretAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretAuthority")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
