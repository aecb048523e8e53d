//! Readers by tokens of the cluster, and their rights by its RBAC.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::future::try_join_all;
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::time::Instant;
use tonic::Status;

use super::{READER_AUDIENCE, Reviews, reviews::NoAnswer};
use crate::{
    access::{
        ReaderCredential, ReaderVerifier, Refused,
        credentials::refuse,
        secrets::{Hash, MAX_TOKEN},
        verifier::is_namespace,
    },
    caller::{self, Authorize, Grant, Reads},
    refusal::{self, Invalid},
};

/// Readers that are remembered; past it the one unheard of for the longest goes.
const MAX_READERS: usize = 10_000;
/// Rights of one reader that are remembered.
const MAX_RIGHTS: usize = 1024;

/// How old the API server's word may be.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// What was taken away works for at most this long.
    pub limit: Duration,
    /// How long what was said last holds while the API server cannot be asked.
    pub grace: Duration,
}

/// Knows readers by their tokens.
pub struct Readers {
    reviews: Arc<Reviews>,
    freshness: Freshness,
    known: Mutex<HashMap<Hash, Arc<Reader>>>,
}

/// Who showed a token, and what was said of it.
struct Reader {
    reviews: Arc<Reviews>,
    freshness: Freshness,
    token: String,
    /// When the token ends, by its own word.
    expires: Option<SystemTime>,
    /// One question at a time: who waits for it finds the answer.
    identity: tokio::sync::Mutex<Option<Said<UserInfo>>>,
    rights: tokio::sync::Mutex<HashMap<Option<String>, Said<bool>>>,
    last: Mutex<Instant>,
}

/// What the API server said, and when.
#[derive(Clone, Debug)]
struct Said<T> {
    what: T,
    at: Instant,
}

// === impl Freshness ===

impl Default for Freshness {
    fn default() -> Self {
        Freshness {
            limit: Duration::from_secs(60),
            grace: Duration::from_secs(600),
        }
    }
}

impl Freshness {
    /// Until then it need not be asked again.
    fn is_fresh<T>(&self, said: &Said<T>) -> bool {
        said.at.elapsed() < self.limit / 2
    }

    /// Until then it holds although it could not be asked again.
    fn holds<T>(&self, said: &Said<T>) -> bool {
        said.at.elapsed() < self.grace
    }

    /// When a stream asks again: early enough that with the answer, and the seconds for which the API server itself
    /// remembers a token, it is within the limit. What could not be asked again is asked for a little later.
    fn next(&self, at: Instant) -> Instant {
        (at + self.limit * 3 / 4).max(Instant::now() + self.limit / 12)
    }
}

// === impl Readers ===

impl Readers {
    /// Asks `reviews`, no oftener than `freshness` needs.
    #[must_use]
    pub fn new(reviews: Arc<Reviews>, freshness: Freshness) -> Self {
        Readers {
            reviews,
            freshness,
            known: Mutex::default(),
        }
    }

    fn find(&self, token: &str) -> Arc<Reader> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&Hash::of(token)).cloned();
        drop(known);
        found.unwrap_or_else(|| {
            Arc::new(Reader {
                reviews: self.reviews.clone(),
                freshness: self.freshness,
                token: token.to_owned(),
                expires: super::claims::Claims::of(token).expires(),
                identity: tokio::sync::Mutex::default(),
                rights: tokio::sync::Mutex::default(),
                last: Mutex::new(Instant::now()),
            })
        })
    }

    fn remember(&self, reader: &Arc<Reader>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_READERS {
            known.retain(|_, reader| reader.idle() < self.freshness.grace);
        }
        if known.len() >= MAX_READERS {
            let oldest = known
                .iter()
                .max_by_key(|(_, reader)| reader.idle())
                .map(|(hash, _)| *hash);
            oldest.and_then(|oldest| known.remove(&oldest));
        }
        known.insert(Hash::of(&reader.token), reader.clone());
    }

    fn forget(&self, token: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&Hash::of(token));
    }
}

#[async_trait]
impl ReaderVerifier for Readers {
    async fn verify(
        &self,
        credential: ReaderCredential<'_>,
    ) -> Result<(String, Option<Reads>), Refused> {
        let ReaderCredential::Token(token) = credential else {
            return Err(Refused::Unknown);
        };
        if token.len() > MAX_TOKEN {
            return Err(Refused::Unknown);
        }
        let reader = self.find(token);
        match reader.identify().await {
            Ok(said) => {
                self.remember(&reader);
                let name = said.what.username.unwrap_or_default();
                Ok((name, Some(Reads::Asked(reader))))
            }
            Err(refused) => {
                if !matches!(refused, Refused::Unavailable(_)) {
                    self.forget(token);
                }
                Err(refused)
            }
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

// === impl Reader ===

impl Reader {
    fn idle(&self) -> Duration {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    async fn identify(&self) -> Result<Said<UserInfo>, Refused> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Refused::Expired);
        }
        let mut identity = self.identity.lock().await;
        if let Some(said) = identity
            .as_ref()
            .filter(|said| self.freshness.is_fresh(said))
        {
            return Ok(said.clone());
        }
        let at = Instant::now();
        match self.reviews.identify(&self.token, READER_AUDIENCE).await {
            Ok(Ok(what)) => Ok(identity.insert(Said { what, at }).clone()),
            Ok(Err(refused)) => {
                *identity = None;
                Err(refused)
            }
            Err(NoAnswer(why)) => identity
                .clone()
                .filter(|said| self.freshness.holds(said))
                .ok_or(Refused::Unavailable(why)),
        }
    }

    async fn may_read(
        &self,
        user: &UserInfo,
        namespace: Option<&str>,
    ) -> Result<Said<bool>, NoAnswer> {
        let key = namespace.map(str::to_owned);
        let remembered = self.rights.lock().await.get(&key).cloned();
        if let Some(said) = remembered
            .as_ref()
            .filter(|said| self.freshness.is_fresh(said))
        {
            return Ok(said.clone());
        }
        let at = Instant::now();
        match self.reviews.may_read(user, namespace).await {
            Ok(what) => {
                let said = Said { what, at };
                let mut rights = self.rights.lock().await;
                if rights.len() >= MAX_RIGHTS {
                    rights.retain(|_, said| self.freshness.is_fresh(said));
                }
                if rights.len() < MAX_RIGHTS {
                    rights.insert(key, said.clone());
                }
                Ok(said)
            }
            Err(away) => remembered
                .filter(|said| self.freshness.holds(said))
                .ok_or(away),
        }
    }

    async fn decide(&self, namespaces: &[String]) -> Result<Grant, Status> {
        if let Some(other) = namespaces.iter().find(|name| !is_namespace(name)) {
            let what =
                format!("{other:?} is no namespace: expected lower-case letters, digits and `-`");
            return Err(Invalid::new("namespace", what).into());
        }
        let credential = ReaderCredential::Token(&self.token);
        let who = self
            .identify()
            .await
            .map_err(|refused| refuse(credential, &refused))?;
        let unavailable = |NoAnswer(why)| refuse(credential, &Refused::Unavailable(why));
        let name = who.what.username.as_deref().unwrap_or_default();
        let all = self.may_read(&who.what, None).await.map_err(unavailable)?;
        let mut oldest = who.at.min(all.at);
        let reader = if all.what {
            caller::Reader::All
        } else if namespaces.is_empty() {
            return Err(refusal::denied(format!(
                "{name} may not read everything, which needs the right to get clustersyscallfilters/events: name the \
                 namespaces to read, such as `observe -n NAMESPACE`; nodes, programs and ledgers are of no namespace"
            )));
        } else {
            // `Reviews` bounds how many are asked at a time.
            let mut asked = Vec::with_capacity(namespaces.len());
            for namespace in namespaces {
                asked.push(self.may_read(&who.what, Some(namespace)));
            }
            let said = try_join_all(asked).await.map_err(unavailable)?;
            let mut allowed = BTreeSet::new();
            let mut refused = Vec::new();
            for (namespace, said) in namespaces.iter().zip(said) {
                oldest = oldest.min(said.at);
                if said.what {
                    allowed.insert(namespace.clone());
                } else {
                    refused.push(namespace.as_str());
                }
            }
            if let Some(first) = refused.first() {
                return Err(refusal::denied(format!(
                    "{name} may not read events of {}: it needs the right to get syscallfilters/events there (`kubectl \
                     auth can-i get syscallfilters --subresource=events --namespace={first} --as={name}`)",
                    refused.join(", ")
                )));
            }
            caller::Reader::Namespaces(Arc::new(allowed))
        };
        Ok(Grant {
            reader,
            until: Some(self.until(oldest)),
        })
    }

    /// When to ask again: as what was asked first asks for it, and when the token ends.
    fn until(&self, oldest: Instant) -> Instant {
        let next = self.freshness.next(oldest);
        let Some(left) = self
            .expires
            .map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
        else {
            return next;
        };
        // Two clocks: a moment later it has certainly ended.
        next.min(Instant::now() + left + Duration::from_millis(10))
    }
}

#[async_trait]
impl Authorize for Reader {
    async fn authorize(&self, namespaces: &[String]) -> Result<Grant, Status> {
        self.decide(namespaces).await
    }
}

/// Without the token.
impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
