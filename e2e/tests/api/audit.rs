//! What the product's accounts ask the API server for, against what the chart lets them: as the audit log has it.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
};

use ebpf_hello_e2e::{
    Process, Request, Review, TokenFor, chart::Object, eventually, free_address, product,
};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ConfigMap,
    rbac::v1::RoleBinding,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    release::{self, AGENT, COLLECTOR, HOOK, TEST},
    scene::{HOME, SHOP, Scene, condition, counting, says},
    stage::{Agent, Cgroups, NODE},
};

/// One verb on one resource, perhaps of one object only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    /// `RESOURCE[/SUBRESOURCE]`.
    resource: String,
    /// Empty: of any name.
    name: String,
    verb: String,
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// What the roles of a name grant.
fn granted(objects: &[Object], role: &str) -> BTreeSet<Right> {
    let roles = objects.iter().filter(|object| {
        ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap())
            && object["metadata"]["name"] == role
    });
    let mut rights = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        let mut names = texts(&rule["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.extend(names.iter().map(|name| Right {
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb: verb.clone(),
                    }));
                }
            }
        }
    }
    rights
}

fn whole(resource: &str, subresource: &str) -> String {
    match subresource {
        "" => resource.to_owned(),
        subresource => format!("{resource}/{subresource}"),
    }
}

// === impl Right ===

impl Right {
    fn is_used_by(&self, request: &Request) -> bool {
        let selector = format!("metadata.name%3D{}", self.name);
        // A patch of what is not there makes it, which takes the right to create, too.
        let is_the_verb = self.verb == request.verb
            || (self.verb == "create" && request.verb == "patch" && request.code == 201);
        self.group == request.group
            && self.resource == whole(&request.resource, &request.subresource)
            && is_the_verb
            && (self.name.is_empty()
                || self.name == request.name
                || request.uri.contains(&selector))
    }

    /// What an account never asks for itself, because others ask whether it could.
    fn is_granted_by(&self, review: &Review) -> bool {
        self.group == review.group
            && self.resource == whole(&review.resource, &review.subresource)
            && self.verb == review.verb
            && self.name.is_empty()
            && review.is_allowed
    }
}

/// The pods of the chart as processes, each as its account and with its arguments.
struct Pods {
    stage: Scene,
    /// Their volumes.
    directory: PathBuf,
    cgroups: Cgroups,
    collector: SocketAddr,
}

// === impl Pods ===

impl Pods {
    async fn new() -> Pods {
        let stage = Scene::without_definitions(&[NODE]).await;
        let directory = stage.server.directory().join("volumes");
        fs::create_dir(&directory).unwrap();
        Pods {
            directory,
            cgroups: Cgroups::make(),
            collector: free_address(),
            stage,
        }
    }

    fn volume(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The kubeconfig of an account.
    async fn account(&self, name: &str) -> PathBuf {
        self.stage.server.kubeconfig_of(HOME, name).await
    }

    /// Puts a pod on the node, and its token for an audience into its volume; its UID.
    async fn place(&self, account: &str, audience: &str) -> String {
        let server = &self.stage.server;
        let uid = release::pod(server, HOME, account, account, NODE).await;
        let whom = TokenFor {
            audience: Some(audience),
            pod: Some(account),
            ..TokenFor::default()
        };
        let token = server.token(HOME, account, whom).await;
        fs::write(self.volume(&format!("{account}.token")), token).unwrap();
        uid
    }

    /// Mounts the ConfigMap that the collector publishes, once it has; its path.
    async fn authorities(&self) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.stage.server.client(), HOME);
        let found = eventually("the authorities are published", async || {
            let map = maps.get("ebpf-hello-ca").await;
            let data = map.map_err(|error| error.to_string())?.data;
            data.and_then(|mut data| data.remove("ca.crt"))
                .ok_or_else(|| "not yet".to_owned())
        })
        .await;
        let path = self.volume("ca.crt");
        fs::write(&path, found).unwrap();
        path
    }

    /// The hook that applies the definitions.
    async fn apply_definitions(&self) {
        let output = Command::new(product())
            .args(self.stage.release.arguments("Job", HOOK, &[]))
            .env("KUBECONFIG", self.account(HOOK).await)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    async fn start_collector(&self) -> Process {
        let (store, tls) = (self.volume("store"), self.volume("tls"));
        let places = [
            ("--listen", &*self.collector.to_string()),
            ("--metrics-addr", "127.0.0.1:0"),
            ("--store", &store),
            ("--tls-dir", &tls),
        ];
        let release = &self.stage.release;
        let mut process = Process::start(
            "collector",
            Command::new(product())
                .args(release.arguments("StatefulSet", COLLECTOR, &places))
                .arg("--kubeconfig")
                .arg(self.account(COLLECTOR).await),
        );
        process.await_log("serving");
        process
    }

    async fn start_agent(&self) -> Agent {
        let metrics = free_address().port();
        let (state, links) = (self.volume("state"), self.volume("links"));
        fs::create_dir_all(&links).unwrap();
        self.place(AGENT, "ebpf-hello-collector").await;
        let places = [
            ("--collector", &*self.url()),
            ("--ca", &self.authorities().await),
            ("--token-file", &self.volume(&format!("{AGENT}.token"))),
            ("--state-dir", &state),
            ("--metrics-addr", &format!("127.0.0.1:{metrics}")),
            ("--log-links", &links),
        ];
        let release = &self.stage.release;
        let mut command = Command::new(product());
        command
            .args(release.arguments("DaemonSet", AGENT, &places))
            .arg("--kubeconfig")
            .arg(self.account(AGENT).await)
            .env("EBPF_HELLO_NODE", NODE);
        let agent = Agent::of(&mut command, metrics);
        agent.await_ready().await;
        agent
    }

    /// The pod of `helm test`, in its cgroup.
    async fn test(&self, timeout: &str) -> Output {
        let uid = self.place(TEST, "ebpf-hello").await;
        let cgroup = self.cgroups.pod(&uid).join("aaaa");
        fs::create_dir_all(&cgroup).unwrap();
        let places = [
            ("--server", &*self.url()),
            ("--ca", &self.authorities().await),
            ("--timeout", timeout),
        ];
        let arguments = self.stage.release.arguments("Pod", TEST, &places);
        // A container has a file of its own; of this one the agent would take whoever runs it for itself.
        let executable = self.directory.join("ebpf-hello");
        fs::copy(product(), &executable).unwrap();
        let (kubeconfig, token) = (
            self.account(TEST).await,
            self.volume(&format!("{TEST}.token")),
        );
        let waiting = tokio::task::spawn_blocking(move || {
            Command::new("sh")
                .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
                .arg(cgroup)
                .arg(executable)
                .args(arguments)
                .env("KUBECONFIG", kubeconfig)
                .env("EBPF_HELLO_TOKEN_FILE", token)
                .output()
        });
        waiting.await.unwrap().unwrap()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.collector.port())
    }

    /// A filter of the cluster's: with namespaces, which the agent then asks for, or one that is refused.
    fn apply_for_the_cluster(&self, call: &str) {
        let spec = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SHOP}},
            "rules": [{"syscalls": [call], "handler": "Count"}],
        });
        let filter = json!({
            "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "ClusterSyscallFilter",
            "metadata": {"name": "all"}, "spec": spec,
        });
        let path = self.volume("all.json");
        fs::write(&path, filter.to_string()).unwrap();
        self.stage.server.kubectl(&["apply", "-f", &path]);
    }

    async fn await_for_the_cluster(&self, condition: &str, reason: &str) {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].reason}}");
        eventually("the cluster's filter", async || {
            let said = self
                .stage
                .server
                .kubectl(&["get", "csf", "all", "-o", &path]);
            if said == reason { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// What of an account's rights was not used yet. None of its requests was refused.
    fn unused(&self, account: &str) -> Vec<Right> {
        let user = format!("system:serviceaccount:{HOME}:{account}");
        let requests = self.stage.server.requests();
        let own: Vec<_> = requests.iter().filter(|one| one.user == user).collect();
        let refused: Vec<_> = own
            .iter()
            .filter(|one| [401, 403].contains(&one.code))
            .collect();
        assert!(refused.is_empty(), "{refused:#?}");
        let reviews = self.stage.server.reviews();
        let about: Vec<_> = reviews.iter().filter(|one| one.user == user).collect();
        granted(self.stage.release.objects(), account)
            .into_iter()
            .filter(|right| !own.iter().any(|one| right.is_used_by(one)))
            .filter(|right| !about.iter().any(|one| right.is_granted_by(one)))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_that_the_chart_grants_is_used_and_no_request_is_refused() {
    let mut pods = Pods::new().await;
    for _installed_then_upgraded in 0..2 {
        pods.apply_definitions().await;
    }
    let mut collector = pods.start_collector().await;
    pods.stage.await_holder(None).await;
    // Without an agent it says what the cluster knows of that.
    let output = pods.test("3s").await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no event of pod"),
        "{output:?}"
    );
    let agent = pods.start_agent().await;
    let output = pods.test("60s").await;
    assert!(output.status.success(), "{output:?}");

    // Status of both kinds; the same refusal again is the same event, counted.
    pods.apply_for_the_cluster("mkdir");
    pods.await_for_the_cluster("Programmed", "Programmed").await;
    pods.stage.apply("cart", counting("mkdir")).await;
    for call in ["mkdirr", "mkdir", "mkdirr", "mkdir"] {
        pods.stage.apply("cart", counting(call)).await;
        let expected = if call == "mkdir" {
            "Valid"
        } else {
            "UnknownSyscall"
        };
        pods.stage
            .await_status("cart", |status| {
                condition(status, "Accepted").reason == expected
            })
            .await;
    }
    pods.stage
        .await_status("cart", |status| says(status, "1/1"))
        .await;
    assert!(collector.stop().success(), "{}", collector.log());
    agent.end().assert_balanced();
    // All that is left of the agent's rights is what newer servers need no more.
    eventually("the agent's watches are in the log", async || {
        let unused = pods.unused(AGENT);
        let is_left = unused.len() == 5 && unused.iter().all(|right| right.verb == "list");
        is_left.then_some(()).ok_or(format!("unused: {unused:#?}"))
    })
    .await;

    // A server without streaming lists, as they are before 1.34: the agent asks for lists.
    pods.stage.server.kill();
    pods.stage.server.without_feature("WatchList");
    pods.stage.server.resume().await;
    let mut collector = pods.start_collector().await;
    let agent = pods.start_agent().await;
    assert!(
        agent.log().contains("does not stream lists"),
        "{}",
        agent.log()
    );
    release::pod(&pods.stage.server, SHOP, "cart", "default", NODE).await;
    let changed = pods.stage.apply("cart", counting("rmdir")).await;
    let generation = changed.metadata.generation.unwrap();
    agent.await_programmed("shop/cart", generation, 1).await;
    agent.await_programmed("all", 1, 1).await;
    assert!(collector.stop().success(), "{}", collector.log());
    agent.end().assert_balanced();

    // A watch is in the log when it ends: the processes that held them have.
    for account in [AGENT, COLLECTOR, HOOK, TEST] {
        eventually(
            &format!("{account} uses every right"),
            async || match pods.unused(account) {
                unused if unused.is_empty() => Ok(()),
                unused => Err(format!("unused: {unused:#?}")),
            },
        )
        .await;
        let rights = granted(pods.stage.release.objects(), account);
        println!("{account}: {} rights, all used, none refused", rights.len());
    }
}

/// Whether an account may read events of a namespace, or of everything.
async fn may_read(stage: &Scene, account: &str, resource: &str, namespace: Option<&str>) -> bool {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{SHOP}:{account}")),
            resource_attributes: Some(ResourceAttributes {
                group: Some("ebpf-hello.dev".into()),
                resource: Some(resource.into()),
                subresource: Some("events".into()),
                verb: Some("get".into()),
                namespace: namespace.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(stage.server.client());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_roles_allow_what_they_say_and_no_more() {
    let stage = Scene::new(&[]).await;
    for account in ["tenant", "auditor", "stranger"] {
        stage.server.service_account(SHOP, account).await;
    }
    let binding = json!({
        "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ebpf-hello-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": SHOP}],
    });
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(stage.server.client(), SHOP);
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    stage.server.kubectl(&[
        "create",
        "clusterrolebinding",
        "auditors",
        "--clusterrole=ebpf-hello-cluster-reader",
        "--serviceaccount=shop:auditor",
    ]);
    for (account, resource, namespace, expected) in [
        ("tenant", "syscallfilters", Some(SHOP), true),
        ("tenant", "syscallfilters", Some(HOME), false),
        ("tenant", "syscallfilters", None, false),
        ("tenant", "clustersyscallfilters", None, false),
        ("auditor", "clustersyscallfilters", None, true),
        ("stranger", "syscallfilters", Some(SHOP), false),
        ("stranger", "clustersyscallfilters", None, false),
    ] {
        let may = may_read(&stage, account, resource, namespace).await;
        assert_eq!(may, expected, "{account}: {resource} in {namespace:?}");
    }
}
