//! A real API server: etcd and kube-apiserver on loopback, gone when the value is dropped.

mod credentials;
mod requests;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use self::credentials::Credentials;
use crate::{Process, eventually::eventually, executable::asset, free_address};

pub use self::requests::{Request, Review};

/// An audience of the API server's own: what a token has that asks for none.
const AUDIENCE: &str = "https://kubernetes.default.svc";

/// A running API server.
pub struct ApiServer {
    directory: tempfile::TempDir,
    address: SocketAddr,
    etcd_url: String,
    etcd: Process,
    server: Option<Process>,
    /// `NAME=true` or `NAME=false` of each feature that is not as the version has it.
    features: Vec<String>,
    credentials: Credentials,
    client: Client,
}

/// Whom a token is for.
#[derive(Clone, Debug, Default)]
pub struct TokenFor<'a> {
    /// Audience; `None`: the API server's.
    pub audience: Option<&'a str>,
    /// The pod it is bound to, which the token then names with its node.
    pub pod: Option<&'a str>,
    /// Seconds it is valid, at least 600; `None`: an hour.
    pub seconds: Option<i64>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts etcd and kube-apiserver, and waits until they are ready (2 to 5 s).
    ///
    /// # Panics
    /// They do not become ready.
    pub async fn start() -> ApiServer {
        let directory = tempfile::tempdir().unwrap();
        let credentials = Credentials::create(directory.path());
        fs::write(directory.path().join("audit.yaml"), AUDIT_POLICY).unwrap();
        let [client_port, peer_port, address] = [free_address(), free_address(), free_address()];
        let etcd_url = format!("http://{client_port}");
        let etcd = Process::start(
            "etcd",
            Command::new(asset("etcd"))
                .arg("--data-dir")
                .arg(directory.path().join("etcd"))
                .args(["--listen-client-urls", &etcd_url])
                .args(["--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &format!("http://{peer_port}")])
                .args(["--log-level", "error", "--unsafe-no-fsync"]),
        );
        let kubeconfig = credentials.kubeconfig(address, credentials.admin());
        let mut server = ApiServer {
            client: client(kubeconfig).await,
            directory,
            address,
            etcd_url,
            etcd,
            server: None,
            features: Vec::new(),
            credentials,
        };
        server.resume().await;
        server
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// `https://…` of the server.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A folder for the test's files, gone with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A kubeconfig file of an administrator, for kubectl and helm.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        let path = self.directory.path().join("admin.kubeconfig");
        self.credentials
            .write_kubeconfig(&path, self.address, self.credentials.admin());
        path
    }

    /// kubectl as an administrator, unless the arguments say otherwise: what it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// The same.
    ///
    /// # Errors
    /// It fails: with what it printed.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(asset("kubectl"))
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Makes a namespace with labels, unless it is there.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(
                    labels
                        .iter()
                        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                        .collect(),
                ),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(&namespace),
            )
            .await
            .unwrap();
    }

    /// Makes a ServiceAccount, unless it is there.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn service_account(&self, namespace: &str, name: &str) {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        accounts
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(&account),
            )
            .await
            .unwrap();
    }

    /// A token of a ServiceAccount.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn token(&self, namespace: &str, account: &str, whom: TokenFor<'_>) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let bound = whom.pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.to_owned()),
            uid: None,
        });
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![whom.audience.unwrap_or(AUDIENCE).to_owned()]),
                bound_object_ref: bound,
                expiration_seconds: Some(whom.seconds.unwrap_or(3600)),
            }),
            ..TokenRequest::default()
        };
        accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap()
            .status
            .unwrap()
            .token
            .unwrap()
    }

    /// A kubeconfig file with which a process is a ServiceAccount.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token(namespace, account, TokenFor::default()).await;
        let path = self
            .directory
            .path()
            .join(format!("{namespace}-{account}.kubeconfig"));
        self.credentials
            .write_kubeconfig(&path, self.address, serde_json::json!({"token": token}));
        path
    }

    /// Installs the product's custom resource definitions, and waits until they are served.
    ///
    /// # Panics
    /// The server refuses them.
    pub async fn install_definitions(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client());
        for definition in ebpf_hello_policy::crd::crds() {
            let name = definition.name_any();
            definitions
                .patch(
                    &name,
                    &PatchParams::apply("test").force(),
                    &Patch::Apply(&definition),
                )
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            eventually(&format!("{name} is established"), async || {
                let found = definitions
                    .get(&name)
                    .await
                    .map_err(|error| error.to_string())?;
                let conditions = found.status.and_then(|status| status.conditions);
                conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition.type_ == "Established" && condition.status == "True")
                    .then_some(())
                    .ok_or_else(|| "not yet".to_owned())
            })
            .await;
        }
    }

    /// A way to the server for the account of a kubeconfig that logs every request with its headers (`kubectl proxy`), and
    /// a kubeconfig that goes it.
    ///
    /// # Panics
    /// It does not start.
    pub async fn observed(&self, kubeconfig: &Path) -> (Process, PathBuf) {
        let address = free_address();
        let process = Process::start(
            "kubectl proxy",
            Command::new(asset("kubectl"))
                .arg("--kubeconfig")
                .arg(kubeconfig)
                .args(["proxy", "--v=8", "--port"])
                .arg(address.port().to_string()),
        );
        eventually("kubectl proxy listens", async || {
            std::net::TcpStream::connect(address).map(drop)
        })
        .await;
        let path = self.directory.path().join("observed.kubeconfig");
        let text = fs::read_to_string(kubeconfig).unwrap();
        let url = format!("http://{address}");
        fs::write(&path, text.replace(&self.url(), &url)).unwrap();
        (process, path)
    }

    /// Kills kube-apiserver (SIGKILL); etcd keeps what it has.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Has a feature off from the next start on, as servers have it that are older or are told so.
    pub fn without_feature(&mut self, name: &str) {
        self.features.push(format!("{name}=false"));
    }

    /// Starts kube-apiserver again at the same address, and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub async fn resume(&mut self) {
        let files = self.directory.path();
        let file = |name: &str| files.join(name).display().to_string();
        let process = Process::start(
            "kube-apiserver",
            Command::new(asset("kube-apiserver")).args([
                format!("--etcd-servers={}", self.etcd_url),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.address.port()),
                format!("--cert-dir={}", file("apiserver")),
                format!("--tls-cert-file={}", file("server.crt")),
                format!("--tls-private-key-file={}", file("server.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                format!("--service-account-issuer={AUDIENCE}"),
                format!("--service-account-key-file={}", file("accounts.pub")),
                format!(
                    "--service-account-signing-key-file={}",
                    file("accounts.key")
                ),
                format!("--audit-policy-file={}", file("audit.yaml")),
                format!("--audit-log-path={}", file("audit.log")),
                "--audit-log-mode=blocking".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
                // There is no controller that makes the default accounts, and no kubelet.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--allow-privileged=true".to_owned(),
                format!("--feature-gates={}", self.features.join(",")),
                "--v=0".to_owned(),
            ]),
        );
        self.server = Some(process);
        let client = self.client.clone();
        let server = &mut self.server;
        eventually("kube-apiserver is ready", async || {
            let process = server.as_mut().unwrap();
            if let Some(status) = process.ended() {
                panic!("kube-apiserver ended: {status}\n{}", process.log());
            }
            let ready = http_get(&client, "/readyz").await;
            ready.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Requests that were answered so far, as the audit log has them.
    pub fn requests(&self) -> Vec<Request> {
        requests::read(&self.directory.path().join("audit.log"))
    }

    /// What the server was asked about others' rights so far, and what it answered.
    pub fn reviews(&self) -> Vec<Review> {
        requests::reviews(&self.directory.path().join("audit.log"))
    }

    /// The server's own metrics (Prometheus' text format).
    ///
    /// # Panics
    /// It does not answer.
    pub async fn metrics(&self) -> String {
        http_get(&self.client, "/metrics").await.unwrap()
    }

    /// The process id of etcd, for tests of what it needs.
    pub fn etcd_pid(&self) -> u32 {
        self.etcd.pid()
    }
}

async fn http_get(client: &Client, path: &str) -> kube::Result<String> {
    // The path is a literal of ours.
    let request = http_request(path);
    client.request_text(request).await
}

fn http_request(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

async fn client(kubeconfig: serde_json::Value) -> Client {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).unwrap()
}

/// Who asked for what; one line a request, when it is answered. With a body only where that says whose rights are meant.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  users: [\"system:apiserver\"]
- level: RequestResponse
  resources: [{group: authorization.k8s.io, resources: [subjectaccessreviews]}]
- level: Metadata
";
