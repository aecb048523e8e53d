//! Agents by their pods' tokens: the cluster says which node a pod is on.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::UserInfo;

use super::{AGENT_AUDIENCE, Reviews, reviews::NoAnswer};
use crate::access::{Refused, TokenNode, TokenVerifier, check_node};

/// What the API server says of a token that is bound to a pod (Kubernetes 1.30 and later).
const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-uid";

/// Takes the projected tokens of the agent's ServiceAccount, each for the node of its pod.
#[derive(Debug)]
pub struct AgentTokens {
    reviews: Arc<Reviews>,
    user: String,
}

// === impl AgentTokens ===

impl AgentTokens {
    /// Takes the tokens of this ServiceAccount.
    #[must_use]
    pub fn new(reviews: Arc<Reviews>, namespace: &str, service_account: &str) -> Self {
        AgentTokens {
            reviews,
            user: format!("system:serviceaccount:{namespace}:{service_account}"),
        }
    }

    fn node(&self, user: &UserInfo) -> Result<String, Refused> {
        let name = user.username.as_deref().unwrap_or_default();
        if name != self.user {
            return Err(Refused::NotAllowed(format!(
                "the token is of {name}, expected {}",
                self.user
            )));
        }
        let extra = |key: &str| {
            let values = user.extra.as_ref()?.get(key)?;
            // One, or it says nothing.
            match values.as_slice() {
                [one] => Some(one.clone()),
                _ => None,
            }
        };
        let (Some(node), Some(pod)) = (extra(NODE), extra(POD)) else {
            return Err(Refused::NotAllowed(format!(
                "the token of {name} names no pod and its node: expected the projected token of an agent's pod (volume \
                 serviceAccountToken, audience {AGENT_AUDIENCE}), Kubernetes 1.30 or later"
            )));
        };
        check_node(&node).map_err(|error| Refused::NotAllowed(error.to_string()))?;
        tracing::info!(node, pod, "an agent's token is good");
        Ok(node)
    }
}

#[async_trait]
impl TokenVerifier for AgentTokens {
    async fn verify(&self, token: &str) -> Result<TokenNode, Refused> {
        let user = self
            .reviews
            .identify(token, AGENT_AUDIENCE)
            .await
            .map_err(|NoAnswer(why)| Refused::Unavailable(why))??;
        self.node(&user).map(TokenNode::Only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        UserInfo {
            username: Some(name.to_owned()),
            extra: Some(
                extra
                    .iter()
                    .map(|(key, all)| ((*key).to_owned(), values(all)))
                    .collect(),
            ),
            ..UserInfo::default()
        }
    }

    #[tokio::test]
    async fn only_a_pod_of_the_agents_account_speaks_for_its_node() {
        let client =
            kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap()));
        let tokens = AgentTokens::new(
            Arc::new(Reviews::new(client.unwrap())),
            "ops",
            "ebpf-hello-agent",
        );
        let agent = "system:serviceaccount:ops:ebpf-hello-agent";
        let good = user(agent, &[(NODE, &["n1"]), (POD, &["u"])]);
        assert_eq!(tokens.node(&good), Ok("n1".into()));
        for (bad, expected) in [
            (
                user(
                    "system:serviceaccount:shop:ebpf-hello-agent",
                    &[(NODE, &["n1"]), (POD, &["u"])],
                ),
                "expected system:",
            ),
            (user(agent, &[]), "projected token"),
            (user(agent, &[(NODE, &["n1"])]), "projected token"),
            (
                user(agent, &[(NODE, &["n1", "n2"]), (POD, &["u"])]),
                "projected token",
            ),
            (
                user(agent, &[(NODE, &["a/b"]), (POD, &["u"])]),
                "no name of a node",
            ),
        ] {
            let Err(Refused::NotAllowed(what)) = tokens.node(&bad) else {
                panic!("{bad:?} was taken");
            };
            assert!(what.contains(expected), "{what}");
        }
    }
}
