//! Asks the API server who somebody is, and what they may.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};

use super::claims::Claims;
use crate::access::{Refused, reload::chain};

/// Reviews at a time: who floods this port does not flood the API server.
const AT_ONCE: usize = 16;
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The group of the resources whose subresource `events` stands for events.
const GROUP: &str = "ebpf-hello.dev";

/// Asks for reviews.
pub struct Reviews {
    client: Client,
    places: Semaphore,
    /// The last question had no answer.
    away: AtomicBool,
}

/// The API server did not answer, or not this question: a sentence.
#[derive(Clone, Debug)]
pub(super) struct NoAnswer(pub(super) String);

// === impl Reviews ===

impl Reviews {
    /// Asks with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Reviews {
            client,
            places: Semaphore::new(AT_ONCE),
            away: AtomicBool::new(false),
        }
    }

    /// Whose a token is, if it is for this audience.
    pub(super) async fn identify(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<Result<UserInfo, Refused>, NoAnswer> {
        let claims = Claims::of(token);
        if claims.has_expired() {
            return Ok(Err(Refused::Expired));
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let status = self.create(&review).await?.status.unwrap_or_default();
        // A server that knows nothing of audiences leaves them out, and took the token for its own.
        let is_for_us = status.audiences.iter().flatten().any(|one| one == audience);
        match status.user {
            Some(user) if status.authenticated == Some(true) && is_for_us => Ok(Ok(user)),
            _ => {
                tracing::debug!(error = status.error, "a token is not good");
                Ok(Err(match claims.other_audiences(audience) {
                    Some(others) => Refused::Audience {
                        others,
                        command: command(&claims, audience),
                    },
                    None => Refused::Unknown,
                }))
            }
        }
    }

    /// Whether somebody may read events: of a namespace, or with `None` all there are.
    pub(super) async fn may_read(
        &self,
        user: &UserInfo,
        namespace: Option<&str>,
    ) -> Result<bool, NoAnswer> {
        // In a review an empty namespace means all of them.
        if namespace == Some("") {
            return Ok(false);
        }
        let resource = match namespace {
            Some(_) => "syscallfilters",
            None => "clustersyscallfilters",
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                groups: user.groups.clone(),
                uid: user.uid.clone(),
                extra: user.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("get".into()),
                    group: Some(GROUP.into()),
                    resource: Some(resource.into()),
                    subresource: Some("events".into()),
                    namespace: namespace.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let status = self.create(&review).await?.status;
        Ok(status.is_some_and(|status| status.allowed))
    }

    async fn create<K>(&self, review: &K) -> Result<K, NoAnswer>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let asked = async {
            // Never closed.
            let _place = self.places.acquire().await;
            api.create(&PostParams::default(), review).await
        };
        let kind = K::kind(&());
        let why = match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the API server answers again");
                }
                return Ok(answer);
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => format!(
                "this collector may not create a {kind}: give its ServiceAccount the right to"
            ),
            Ok(Err(error)) => format!("the API server did not answer a {kind}: {}", chain(&error)),
            Err(_) => format!(
                "the API server did not answer a {kind} within {} s",
                ANSWER.as_secs()
            ),
        };
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                why,
                "access cannot be reviewed: what was decided before holds for a while"
            );
        }
        Err(NoAnswer(why))
    }
}

/// How to get a token that is for this audience.
fn command(claims: &Claims, audience: &str) -> String {
    let (namespace, name) = claims
        .service_account()
        .unwrap_or(("NAMESPACE", "SERVICEACCOUNT"));
    format!("kubectl create token --audience={audience} --namespace={namespace} {name}")
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}
