//! A cluster with two tenants, its collectors as processes, and clients of them.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use ebpf_hello_e2e::{ApiServer, Process, TokenFor, eventually, free_address, product};
use ebpf_hello_proto::{
    Timestamp,
    v1::{
        self, EnrollRequest, collector_service_client::CollectorServiceClient,
        observer_service_client::ObserverServiceClient, publish_request,
    },
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

use crate::release::{self, COLLECTOR, Release};

pub(crate) use crate::release::{AGENT, HOME};

/// Audiences of tokens.
pub(crate) const READERS: &str = "ebpf-hello";
pub(crate) const AGENTS: &str = "ebpf-hello-collector";

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    kubeconfig: PathBuf,
}

/// A collector as a process.
pub(crate) struct Collector {
    pub(crate) process: Process,
    pub(crate) port: u16,
    arguments: Vec<String>,
}

/// What an agent sends, and what it is told.
pub(crate) struct Publishing {
    pub(crate) sender: mpsc::Sender<v1::PublishRequest>,
    pub(crate) answers: Streaming<v1::PublishResponse>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts one in which shop/reader may read events of shop, and ebpf-hello/auditor everything.
    pub(crate) async fn start() -> Cluster {
        let server = ApiServer::start().await;
        Release::install(&server).await;
        for namespace in ["shop", "bank"] {
            server.namespace(namespace, &[]).await;
        }
        for (namespace, account) in [(HOME, "auditor"), ("shop", "reader"), ("shop", AGENT)] {
            server.service_account(namespace, account).await;
        }
        server.install_definitions().await;
        let (role, who) = (
            "--clusterrole=ebpf-hello-cluster-reader",
            format!("--serviceaccount={HOME}:auditor"),
        );
        server.kubectl(&["create", "clusterrolebinding", "auditor", role, &who]);
        let kubeconfig = server.kubeconfig_of(HOME, COLLECTOR).await;
        let cluster = Cluster { server, kubeconfig };
        cluster.bind("shop", "reader");
        cluster
    }

    /// Lets a ServiceAccount read events of its namespace.
    pub(crate) fn bind(&self, namespace: &str, account: &str) {
        let who = format!("--serviceaccount={namespace}:{account}");
        let role = "--clusterrole=ebpf-hello-reader";
        let space = format!("--namespace={namespace}");
        self.server
            .kubectl(&["create", "rolebinding", account, role, &who, &space]);
    }

    /// Takes that away.
    pub(crate) fn unbind(&self, namespace: &str, account: &str) {
        let space = format!("--namespace={namespace}");
        self.server
            .kubectl(&["delete", "rolebinding", account, &space]);
    }

    /// A token for readers.
    pub(crate) async fn reader(&self, namespace: &str, account: &str) -> String {
        let whom = TokenFor {
            audience: Some(READERS),
            ..TokenFor::default()
        };
        self.server.token(namespace, account, whom).await
    }

    /// The projected token of an agent's pod on a node.
    pub(crate) async fn agent(&self, node: &str) -> String {
        let pod = self.pod(HOME, AGENT, node).await;
        let whom = TokenFor {
            audience: Some(AGENTS),
            pod: Some(&pod),
            ..TokenFor::default()
        };
        self.server.token(HOME, AGENT, whom).await
    }

    /// A pod of a ServiceAccount on a node; its name.
    pub(crate) async fn pod(&self, namespace: &str, account: &str, node: &str) -> String {
        let name = format!("{account}-{node}");
        release::pod(&self.server, namespace, &name, account, node).await;
        name
    }

    /// Starts a collector, and waits until it serves.
    pub(crate) async fn collector(&self, more: &[&str]) -> Collector {
        let port = free_address().port();
        let arguments = [
            "collector",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--metrics-addr",
            "127.0.0.1:0",
            "--kubernetes",
            "--kubeconfig",
            &self.kubeconfig.display().to_string(),
            "--namespace",
            HOME,
            "--tls-secret",
            "ebpf-hello-tls",
            "--ca-configmap",
            "ebpf-hello-ca",
            "--tls-name",
            "localhost",
            "--tls-name",
            "ebpf-hello-collector.ebpf-hello.svc",
        ];
        let arguments = arguments
            .iter()
            .chain(more)
            .map(|argument| (*argument).to_owned())
            .collect();
        let mut collector = Collector {
            process: start(&arguments),
            port,
            arguments,
        };
        collector.await_port().await;
        collector
    }

    /// The certificates that the collector published.
    pub(crate) async fn authorities(&self) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.server.client(), HOME);
        eventually("the ConfigMap is filled", async || {
            let map = maps
                .get("ebpf-hello-ca")
                .await
                .map_err(|error| error.to_string())?;
            let data = map.data.unwrap_or_default();
            data.get("ca.crt").cloned().ok_or("not yet".to_owned())
        })
        .await
    }

    pub(crate) async fn secret(&self) -> Secret {
        let secrets: Api<Secret> = Api::namespaced(self.server.client(), HOME);
        secrets.get("ebpf-hello-tls").await.unwrap()
    }

    pub(crate) async fn fill_secret(&self, certificates: &str, key: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.server.client(), HOME);
        let patch = json!({"stringData": {"ca.crt": certificates, "ca.key": key}});
        secrets
            .patch(
                "ebpf-hello-tls",
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .unwrap();
    }

    /// A connection that shows nothing.
    pub(crate) async fn connect(&self, collector: &Collector) -> Channel {
        self.connect_as(collector, None).await.unwrap()
    }

    /// A connection that shows a node's certificate.
    pub(crate) async fn connect_as(
        &self,
        collector: &Collector,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let authorities = self.authorities().await;
        collector.connect(&authorities, identity).await
    }

    /// A connection of a node that has enrolled.
    pub(crate) async fn node(&self, collector: &Collector, node: &str) -> Channel {
        let channel = self.connect(collector).await;
        let token = self.agent(node).await;
        let identity = enrol(channel, node, &token).await.unwrap();
        self.connect_as(collector, Some(identity)).await.unwrap()
    }

    pub(crate) async fn observer(&self, collector: &Collector) -> ObserverServiceClient<Channel> {
        ObserverServiceClient::new(self.connect(collector).await)
    }
}

// === impl Collector ===

fn start(arguments: &Vec<String>) -> Process {
    Process::start("collector", Command::new(product()).args(arguments))
}

impl Collector {
    async fn await_port(&mut self) {
        let (process, port) = (&mut self.process, self.port);
        eventually("the collector serves", async || {
            if let Some(status) = process.ended() {
                panic!("the collector ended: {status}\n{}", process.log());
            }
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await
        })
        .await;
    }

    /// SIGKILL, and a new process with the same arguments.
    pub(crate) async fn restart(&mut self) {
        self.process.kill();
        self.process = start(&self.arguments);
        self.await_port().await;
    }

    pub(crate) async fn connect(
        &self,
        authorities: &str,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(authorities));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        Endpoint::from_shared(format!("https://127.0.0.1:{}", self.port))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
    }
}

/// Asks for a node's certificate.
pub(crate) async fn enrol(channel: Channel, node: &str, token: &str) -> Result<Identity, Status> {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let answer = CollectorServiceClient::new(channel)
        .enroll(EnrollRequest {
            node: node.into(),
            token: token.into(),
            certificate_request: request.der().to_vec(),
        })
        .await?
        .into_inner();
    let certificate = pem::encode(&pem::Pem::new(
        "CERTIFICATE",
        answer.certificates[0].clone(),
    ));
    Ok(Identity::from_pem(certificate, key.serialize_pem()))
}

/// Opens Publish as a node.
pub(crate) async fn publish(channel: Channel, node: &str) -> Result<Publishing, Status> {
    let (sender, receiver) = mpsc::channel(64);
    let hello = v1::AgentHello {
        node: node.into(),
        epoch: 1,
        version: "0".into(),
    };
    sender
        .send(v1::PublishRequest {
            message: Some(publish_request::Message::Hello(hello)),
        })
        .await
        .unwrap();
    let mut answers = CollectorServiceClient::new(channel)
        .publish(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    answers.message().await?;
    Ok(Publishing { sender, answers })
}

/// A request with a token.
pub(crate) fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Follows the live events of namespaces; of none: all.
pub(crate) fn follow(namespaces: &[&str]) -> v1::ObserveRequest {
    v1::ObserveRequest {
        selection: Some(v1::Selection {
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            ..v1::Selection::default()
        }),
        follow: true,
        ..v1::ObserveRequest::default()
    }
}

/// A batch of a node: an exec in each of these pods, with sequences that go on from batch to batch.
pub(crate) fn batch(node: &str, number: u64, pods: &[(&str, &str)]) -> v1::PublishRequest {
    let events = pods.iter().enumerate().map(|(index, _)| v1::BatchedEvent {
        event: Some(v1::Event {
            time: Some(Timestamp::from(SystemTime::now())),
            cpu: Some(0),
            sequence: (number - 1) * pods.len() as u64 + index as u64 + 1,
            kind: Some(v1::event::Kind::Exec(v1::Exec::default())),
            ..v1::Event::default()
        }),
        pod: u32::try_from(index).unwrap() + 1,
        ..v1::BatchedEvent::default()
    });
    publish_batch(v1::Batch {
        node: node.into(),
        epoch: 1,
        number,
        pods: pods
            .iter()
            .map(|(namespace, name)| pod(namespace, name))
            .collect(),
        events: events.collect(),
        ..v1::Batch::default()
    })
}

pub(crate) fn pod(namespace: &str, name: &str) -> v1::Pod {
    v1::Pod {
        namespace: namespace.into(),
        name: name.into(),
        ..v1::Pod::default()
    }
}

pub(crate) fn publish_batch(batch: v1::Batch) -> v1::PublishRequest {
    v1::PublishRequest {
        message: Some(publish_request::Message::Batch(batch)),
    }
}

/// The reason of a refusal.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    info.map(|info| info.reason.clone()).unwrap_or_default()
}

/// Where a stream that was ended goes on.
pub(crate) fn resume_token(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    details.error_info()?.metadata.get("resume_token").cloned()
}

/// The end of a stream, in time.
pub(crate) async fn end(stream: &mut Streaming<v1::ObserveResponse>, within: Duration) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(within, end)
        .await
        .unwrap_or_else(|_| panic!("the stream goes on after {within:?}"))
}
