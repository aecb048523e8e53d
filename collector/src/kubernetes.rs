//! The API server that this collector asks, and the namespace it lives in.
//!
//! Made once at the start; the status writer, the lease and who checks tokens share its client.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long a connection to the API server may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An API server, and our place in it.
#[derive(Clone)]
pub struct Kubernetes {
    /// Asks the API server. Connects when it is used, and again whenever that is needed.
    pub client: Client,
    /// Namespace of this collector's own objects: lease, DaemonSet, Secret and ConfigMap.
    pub namespace: String,
}

/// Why the API server cannot be asked. That it is away is none of these: it may come.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// No kubeconfig was named, and this is no pod.
    #[error(
        "not in a pod with a ServiceAccount's token: name the API server with --kubeconfig FILE"
    )]
    NotInCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {}", .0.display())]
    Kubeconfig(PathBuf, #[source] kube::config::KubeconfigError),
    /// What it says of authorities, certificates or tokens cannot be used.
    #[error("the API server's connection cannot be set up")]
    Client(#[source] kube::Error),
}

// === impl Kubernetes ===

impl Kubernetes {
    /// From a kubeconfig's current context, else from what a pod is given. The namespace is the given one, else
    /// the pod's or the context's.
    ///
    /// # Errors
    /// The configuration is not there or cannot be used.
    pub async fn new(
        kubeconfig: Option<&Path>,
        namespace: Option<&str>,
    ) -> Result<Self, KubernetesError> {
        let mut config = match kubeconfig {
            None => Config::incluster().map_err(KubernetesError::NotInCluster)?,
            Some(path) => from_file(path)
                .await
                .map_err(|error| KubernetesError::Kubeconfig(path.to_owned(), error))?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).map_err(KubernetesError::Client)?;
        Ok(Kubernetes { client, namespace })
    }
}

async fn from_file(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
