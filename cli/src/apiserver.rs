//! The API server, for commands that a person or a hook of the chart runs.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::exit::Unreachable;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects as `kubeconfig` says, else as kubectl would, else as the pod's ServiceAccount. Asks nothing yet.
///
/// # Errors
/// There is no such configuration, or it is wrong.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let context = || format!("--kubeconfig {}", path.display());
            let file = Kubeconfig::read_from(path).with_context(context)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(context)?
        }
        None => Config::infer().await.context(
            "there is neither a kubeconfig (--kubeconfig FILE, KUBECONFIG, ~/.kube/config) nor a pod's ServiceAccount",
        )?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).context("cannot use the kubeconfig")
}

/// What the server, or the way to it, says no to, in one line. `allowed` says what a refused account needs.
pub(crate) fn refusal(error: kube::Error, tried: &str, allowed: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            anyhow!("cannot {tried}: {}; {allowed}", status.message)
        }
        kube::Error::Api(status) => anyhow!("cannot {tried}: {}", status.message),
        kube::Error::Service(cause) => anyhow::Error::from_boxed(cause)
            .context(format!("cannot {tried}: the API server does not answer"))
            .context(Unreachable),
        error => anyhow::Error::from(error).context(format!("cannot {tried}")),
    }
}
