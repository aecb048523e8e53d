//! The agent's way to the API server, and the pods it finds there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use ebpf_hello_agent::{
    identity::{IdentityOptions, Pods, follow_links, follow_pods},
    kubernetes::{Kubernetes, KubernetesError},
};

use crate::args::duration;

/// Flags of an agent in a cluster.
#[derive(Debug, Args)]
pub(crate) struct PodArguments {
    /// Take pods, filters and this Node's labels from the API server.
    #[arg(long, conflicts_with = "filters")]
    kubernetes: bool,
    /// Who is the API server, and who we are there [default: the pod's own account].
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// How long an event waits for its pod and the name of its container.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
    identity_wait: Duration,
    /// The kubelet's links to containers' logs: their names tell containers' names at once.
    #[arg(long, value_name = "DIR", default_value = "/var/log/containers")]
    log_links: PathBuf,
}

// === impl PodArguments ===

impl PodArguments {
    /// Who is asked; `None` outside a cluster. In a runtime.
    pub(crate) async fn connect(&self, node: &str) -> Result<Option<Kubernetes>, KubernetesError> {
        if !self.kubernetes {
            return Ok(None);
        }
        let kubernetes = Kubernetes::new(self.kubeconfig.as_deref(), node).await?;
        Ok(Some(kubernetes))
    }

    /// Follows the pods of the node from here on. In a runtime.
    pub(crate) fn follow(&self, kubernetes: &Kubernetes, pods: &Arc<Pods>) {
        tokio::spawn(follow_pods(kubernetes.clone(), Arc::clone(pods)));
        tokio::spawn(follow_links(self.log_links.clone(), Arc::clone(pods)));
    }

    /// How events get these pods.
    pub(crate) fn identity(&self, pods: &Arc<Pods>) -> IdentityOptions {
        IdentityOptions {
            pods: Arc::clone(pods),
            wait: self.identity_wait,
            scope: None,
        }
    }
}
