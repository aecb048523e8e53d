//! The collector in a cluster, reached as a ServiceAccount through the API server: nothing has to be exposed, and the
//! token that is shown lives ten minutes.
//!
//! ```text
//! Service ─▶ a ready pod ─▶ port-forward ─▶ TLS (authorities from a ConfigMap) ─▶ requests with a minted token
//! ```

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use tokio::task::JoinHandle;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{apiserver, exit::Unreachable};

/// Port of the collector's Service.
const PORT: u16 = 7443;
/// Whom the collector's readers' tokens are for.
const AUDIENCE: &str = "ebpf-hello";
/// Seconds that a token lives: the least that API servers give.
const LIFE: i64 = 600;
/// When a stream is opened again with another token: well before the one it began with ends.
pub(crate) const RENEWAL: Duration = Duration::from_secs(480);
/// Pause after a token that could not be had.
const RETRY: Duration = Duration::from_secs(10);
/// How long a connection may take to come about.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Key of the authorities in the ConfigMap.
const AUTHORITIES: &str = "ca.crt";

/// Which collector in which cluster, and as whom.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterArgs {
    /// Reaches the collector through the API server, as this ServiceAccount: with a port-forward to a pod of the
    /// collector and a token of ten minutes that is renewed. Takes the right to do both.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        conflicts_with_all = ["server", "ca", "cert"]
    )]
    pub(crate) service_account: Option<Account>,
    /// How to reach the API server [default: KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE", requires = "service_account")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the collector.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello")]
    collector_namespace: String,
    /// Service of the collector.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-collector")]
    collector_service: String,
    /// ConfigMap with the authorities that the collector's certificate may be from (key ca.crt).
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-ca")]
    collector_ca: String,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    namespace: String,
    name: String,
}

/// A token that is renewed for as long as this lives.
#[derive(Debug)]
pub(crate) struct Minted {
    token: Arc<Mutex<MetadataValue<Ascii>>>,
    renewal: JoinHandle<()>,
}

/// A cluster with a collector.
#[derive(Clone)]
struct Cluster {
    client: kube::Client,
    arguments: ClusterArgs,
    account: Account,
}

// === impl Account ===

impl FromStr for Account {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Account {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => bail!("expected NAMESPACE/NAME of a ServiceAccount"),
        }
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl ClusterArgs ===

impl ClusterArgs {
    /// The collector's address, as its certificate has it.
    pub(crate) fn url(&self) -> String {
        let (service, namespace) = (&self.collector_service, &self.collector_namespace);
        format!("https://{service}.{namespace}.svc:{PORT}")
    }

    /// Connects, and mints a token.
    ///
    /// # Errors
    ///
    /// What of the way cannot be gone, and what it takes.
    pub(crate) async fn connect(&self, account: &Account) -> anyhow::Result<(Channel, Minted)> {
        let cluster = Cluster {
            client: apiserver::client(self.kubeconfig.as_deref()).await?,
            arguments: self.clone(),
            account: account.clone(),
        };
        let authorities = cluster.authorities().await?;
        let token = Minted::start(cluster.clone()).await?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .timeout(TIMEOUT);
        let url = self.url();
        let endpoint = Endpoint::from_shared(url.clone())
            .with_context(|| format!("{url} is no address"))?
            .connect_timeout(TIMEOUT)
            .tls_config(tls)
            .with_context(|| format!("ConfigMap {}: expected certificates", self.collector_ca))?;
        let connector = tower::service_fn(move |_| {
            let cluster = cluster.clone();
            async move { cluster.forward().await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| {
            anyhow::Error::from(error)
                .context(format!("cannot connect to {url} through the API server"))
                .context(Unreachable)
        })?;
        Ok((channel, token))
    }
}

// === impl Cluster ===

impl Cluster {
    async fn authorities(&self) -> anyhow::Result<String> {
        let (name, namespace) = (
            &self.arguments.collector_ca,
            &self.arguments.collector_namespace,
        );
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = maps.get(name).await.map_err(|error| {
            missing(
                error,
                &format!("get ConfigMap {name} in namespace {namespace}"),
                "--collector-ca",
            )
        })?;
        found
            .data
            .and_then(|mut data| data.remove(AUTHORITIES))
            .with_context(|| {
                format!("ConfigMap {name} in namespace {namespace} has no key {AUTHORITIES}: has the collector started?")
            })
    }

    /// A token, and how long until it should be replaced.
    async fn mint(&self) -> anyhow::Result<MetadataValue<Ascii>> {
        let Account { namespace, name } = &self.account;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                expiration_seconds: Some(LIFE),
                bound_object_ref: None,
            }),
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let answer = accounts.create_token_request(name, &parameters, &request);
        let answer = answer.await.map_err(|error| {
            apiserver::refusal(
                error,
                &format!("get a token of ServiceAccount {}", self.account),
                "it takes the right to create serviceaccounts/token",
            )
        })?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.context("the API server gave no token")?;
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| anyhow!("the API server gave a token that is not ASCII"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// A connection to a pod of the collector.
    async fn forward(
        &self,
    ) -> anyhow::Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + use<>>
    {
        let (name, namespace) = (
            &self.arguments.collector_service,
            &self.arguments.collector_namespace,
        );
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let service = services.get(name).await.map_err(|error| {
            missing(
                error,
                &format!("get Service {name} in namespace {namespace}"),
                "--collector-service",
            )
        })?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = selector(&service)
            .with_context(|| format!("Service {name} in namespace {namespace} selects no pods"))?;
        let listed = pods.list(&ListParams::default().labels(&selector)).await;
        let listed = listed.map_err(|error| {
            let what = format!("list the pods of Service {name} in namespace {namespace}");
            apiserver::refusal(error, &what, "it takes the right to list pods there")
        })?;
        let pod = listed.iter().find(|pod| is_ready(pod)).with_context(|| {
            format!(
                "none of the {} pods of Service {name} is ready: see kubectl -n {namespace} get pods",
                listed.items.len()
            )
        })?;
        let port = target(&service, pod);
        let mut forwarder = pods
            .portforward(&pod.name_any(), &[port])
            .await
            .map_err(|error| {
                let what = format!("forward a port of pod {} in {namespace}", pod.name_any());
                apiserver::refusal(
                    error,
                    &what,
                    "it takes the right to create pods/portforward",
                )
            })?;
        forwarder
            .take_stream(port)
            .context("the API server forwards nothing")
    }
}

/// What should be there once the chart is installed; `flag` names another.
fn missing(error: kube::Error, tried: &str, flag: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => anyhow!(
            "cannot {tried}: there is none; is ebpf-hello installed there? --collector-namespace and {flag} name another"
        ),
        error => apiserver::refusal(error, tried, "it takes the right to get it"),
    }
}

fn selector(service: &Service) -> Option<String> {
    let labels = service.spec.as_ref()?.selector.as_ref()?;
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

/// The pod's port behind the Service's.
fn target(service: &Service, pod: &Pod) -> u16 {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let port = ports
        .into_iter()
        .flatten()
        .find(|port| port.port == i32::from(PORT));
    let number = match port.and_then(|port| port.target_port.as_ref()) {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)
        }
        None => None,
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .unwrap_or(PORT)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True")
}

// === impl Minted ===

impl Minted {
    async fn start(cluster: Cluster) -> anyhow::Result<Self> {
        let token = Arc::new(Mutex::new(cluster.mint().await?));
        let kept = Arc::clone(&token);
        let renewal = tokio::spawn(async move {
            let mut pause = RENEWAL;
            loop {
                tokio::time::sleep(pause).await;
                pause = match cluster.mint().await {
                    Ok(token) => {
                        *kept.lock().unwrap_or_else(PoisonError::into_inner) = token;
                        RENEWAL
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the token is not renewed: trying again"
                        );
                        RETRY
                    }
                };
            }
        });
        Ok(Minted { token, renewal })
    }

    /// The token now.
    pub(crate) fn token(&self) -> MetadataValue<Ascii> {
        self.token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Minted {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(value: Value) -> Service {
        serde_json::from_value(json!({"metadata": {}, "spec": value})).unwrap()
    }

    fn pod(ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "collector-0"},
            "spec": {"containers": [{"name": "a", "ports": [
                {"name": "grpc", "containerPort": 7000}, {"name": "metrics", "containerPort": 9464},
            ]}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        let account: Account = "shop/reader".parse().unwrap();
        assert_eq!(account.to_string(), "shop/reader");
        for wrong in ["", "reader", "/reader", "shop/", "a/b/c"] {
            assert!(wrong.parse::<Account>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_pods_port_is_found_by_number_or_name() {
        for (target_port, expected) in [
            (json!(7443), 7443),
            (json!("grpc"), 7000),
            (json!("nosuch"), 7443),
            (json!(null), 7443),
        ] {
            let ports =
                json!([{"port": 9464, "targetPort": 1}, {"port": 7443, "targetPort": target_port}]);
            let service = service(json!({"ports": ports}));
            assert_eq!(target(&service, &pod("True")), expected, "{target_port}");
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_or_ends_is_not_taken() {
        assert!(is_ready(&pod("True")));
        assert!(!is_ready(&pod("False")));
        let mut ending = pod("True");
        ending.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(!is_ready(&ending));
    }

    #[test]
    fn a_service_without_selector_has_no_pods() {
        assert_eq!(selector(&service(json!({}))), None);
        let service = service(json!({"selector": {"b": "2", "a": "1"}}));
        assert_eq!(selector(&service).as_deref(), Some("a=1,b=2"));
    }
}
