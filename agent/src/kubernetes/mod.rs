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

use std::{io, path::Path, time::Duration};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, util::MapFutureLayer};

pub use policy::FilterWatch;
pub use watch::{Reach, watch};

/// How long an API server may be silent before it is taken for one that is away.
#[derive(Clone, Copy)]
struct Patience {
    /// Until a connection has come about, its TLS handshake included.
    connect: Duration,
    /// From a request to the head of its answer; what follows, a watch, may take as long as it likes. Longer than the
    /// server lets a request queue: a quarter of its own timeout, which is a minute.
    answer: Duration,
    /// On an open connection. A server that went without a word (its machine, the way to it) is not told from a watch on
    /// which nothing happens, but for the bookmark that the server sends on each about once a minute. It does not
    /// promise that: without it a watch is cut, and opened again where it was.
    silence: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(30),
    silence: Duration::from_secs(150),
};

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
        let config = match kubeconfig {
            Some(file) => read(file)
                .await
                .map_err(|error| KubernetesError::Kubeconfig {
                    file: file.display().to_string(),
                    error: Box::new(error),
                })?,
            None => Config::incluster()
                .map_err(|error| KubernetesError::NotInCluster(Box::new(error)))?,
        };
        let server = config.cluster_url.to_string();
        let client = client(config, PATIENCE).map_err(|error| KubernetesError::Client {
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

fn client(mut config: Config, patience: Patience) -> kube::Result<Client> {
    config.connect_timeout = Some(patience.connect);
    config.read_timeout = Some(patience.silence);
    // The silence of a connection that nobody used is not the server's.
    config.reset_reader_on_write = true;
    let in_time = MapFutureLayer::new(move |answer| in_time(patience.answer, answer));
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&in_time)
        .build())
}

/// An answer's head, or an error where it does not come in time: as on a connection that was kept for the next request,
/// and whose other end is gone.
async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"));
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::{StreamExt as _, TryStreamExt as _};
    use k8s_openapi::api::core::v1::Pod;
    use kube::{
        Api,
        api::{WatchEvent, WatchParams},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    const IMPATIENCE: Patience = Patience {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(1),
        silence: Duration::from_secs(2),
    };

    /// A client of a server that answers the first request on each connection with a watch: so many bookmarks, one each
    /// quarter of a `silence`, and then nothing more. `None`: it does not answer.
    async fn client_of(bookmarks: Option<usize>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = vec![0; 8192];
                    let _ = io.read(&mut request).await;
                    if let Some(bookmarks) = bookmarks {
                        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                        io.write_all(head.as_bytes()).await.unwrap();
                        for _ in 0..bookmarks {
                            tokio::time::sleep(IMPATIENCE.silence / 4).await;
                            let line = r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"1"}}}"#;
                            let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
                            io.write_all(chunk.as_bytes()).await.unwrap();
                        }
                    }
                    // Until the client has gone.
                    let _ = io.read(&mut request).await;
                });
            }
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        client(config, IMPATIENCE).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_is_not_answered_ends() {
        let pods: Api<Pod> = Api::all(client_of(None).await);
        let error = pods
            .watch(&WatchParams::default(), "0")
            .await
            .err()
            .unwrap();
        // And not by the silence of the connection, which comes later.
        assert!(error.to_string().contains("no answer in 1s"), "{error}");
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_watch_lives_while_the_server_shows_that_it_does() {
        let pods: Api<Pod> = Api::all(client_of(Some(6)).await);
        let start = Instant::now();
        let events = pods.watch(&WatchParams::default(), "0").await.unwrap();
        let mut events = events.into_stream().boxed();
        for _ in 0..6 {
            let event = events.next().await.unwrap().unwrap();
            assert!(matches!(event, WatchEvent::Bookmark(_)), "{event:?}");
        }
        // Longer than either limit.
        assert!(start.elapsed() > IMPATIENCE.silence);
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(error, kube::Error::ReadEvents(_)), "{error:?}");
    }
}
