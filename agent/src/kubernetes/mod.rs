//! The way to the API server: what identity and filters share.
//!
//! ```text
//! --kubeconfig, or the pod's own account ──▶ Kubernetes ──watch──▶ pods, the node, filters, namespaces
//!
//! SyscallFilters, ClusterSyscallFilters ─▶ catalogue (valid, last good) ─┐
//! this Node's labels ────────────────────────────────────────────────────┼▶ knowledge ─▶ policy ─▶ Node::apply
//! Namespaces' labels, while a filter selects by them ────────────────────┘       └─▶ saved (policy.json)
//! ```

mod backoff;
mod catalogue;
mod knowledge;
mod listing;
mod object;
mod policy;
mod saved;
mod watch;

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

pub use policy::FilterWatch;
pub use watch::{Reach, watch};

/// Patience with an API server that does not answer a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What keeps an agent from knowing its API server. None of these is about whether it answers.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig file.
    #[error("cannot use the kubeconfig {file}")]
    Kubeconfig {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        error: Box<KubeconfigError>,
    },
    /// Not in a pod, or in one without an account.
    #[error("not in a pod with a service account's token; outside a cluster name a kubeconfig")]
    NotInCluster(#[source] Box<InClusterError>),
    /// What the configuration says cannot be used.
    #[error("cannot make a client of the API server {server}")]
    Client {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        error: Box<kube::Error>,
    },
}

/// An API server, and which of its nodes this is. Cheap to clone.
#[derive(Clone)]
pub struct Kubernetes {
    /// Its client.
    pub client: Client,
    /// This node's name there (`metadata.name`).
    pub node: String,
    /// Whether it answers, as the watches see it.
    pub reach: Reach,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Reads who to ask and as whom: from a kubeconfig file, or as the pod it runs in. Asks nothing yet. In a runtime.
    ///
    /// # Errors
    /// The file or the pod's account cannot be used.
    pub async fn new(
        kubeconfig: Option<&Path>,
        node: impl Into<String>,
    ) -> Result<Kubernetes, KubernetesError> {
        let mut config = match kubeconfig {
            Some(file) => read(file)
                .await
                .map_err(|error| KubernetesError::Kubeconfig {
                    file: file.display().to_string(),
                    error: Box::new(error),
                })?,
            None => Config::incluster()
                .map_err(|error| KubernetesError::NotInCluster(Box::new(error)))?,
        };
        config.connect_timeout = Some(CONNECT);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| KubernetesError::Client {
            server,
            error: Box::new(error),
        })?;
        Ok(Kubernetes {
            client,
            node: node.into(),
            reach: Reach::default(),
        })
    }
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("node", &self.node)
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

async fn read(file: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(file)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}
