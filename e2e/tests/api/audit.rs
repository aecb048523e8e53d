//! What the product's accounts ask the API server for, against what the chart lets them: as the audit log has it.

use std::{collections::BTreeSet, fs};

use ebpf_hello_e2e::{
    Request,
    chart::{Object, RELEASE, render},
};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::RoleBinding,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    poser::Poser,
    scene::{HOME, SHOP, Scene, condition, counting, says},
};

/// Rights of the collector that have other tests: who checks readers and agents asks for them, and who keeps the
/// authority's keys in the cluster.
const ELSEWHERE: [&str; 4] = [
    "tokenreviews",
    "subjectaccessreviews",
    "secrets",
    "configmaps",
];

/// One verb on one resource, perhaps of certain objects only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    names: Vec<String>,
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
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.insert(Right {
                        group: group.clone(),
                        resource: resource.clone(),
                        names: texts(&rule["resourceNames"]),
                        verb,
                    });
                }
            }
        }
    }
    rights
}

// === impl Right ===

impl Right {
    fn is_used_by(&self, request: &Request) -> bool {
        let resource = match request.subresource.as_str() {
            "" => request.resource.clone(),
            subresource => format!("{}/{subresource}", request.resource),
        };
        let named = |name: &String| {
            request.name == *name || request.uri.contains(&format!("metadata.name%3D{name}"))
        };
        self.group == request.group
            && self.resource == resource
            && self.verb == request.verb
            && (self.names.is_empty() || self.names.iter().any(named))
    }
}

/// Applies the chart's accounts and roles, and nothing else of it.
fn install_accounts(stage: &Scene, objects: &[Object]) {
    let kinds = [
        "ServiceAccount",
        "Role",
        "ClusterRole",
        "RoleBinding",
        "ClusterRoleBinding",
    ];
    let accounts: Vec<_> = objects
        .iter()
        .filter(|object| kinds.contains(&object["kind"].as_str().unwrap()))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": accounts});
    let path = stage.server.directory().join("accounts.json");
    fs::write(&path, list.to_string()).unwrap();
    stage
        .server
        .kubectl(&["apply", "-f", path.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_writer_uses_what_the_chart_grants_it_and_is_refused_nothing() {
    assert_eq!(HOME, RELEASE);
    let objects = render(&[]);
    let stage = Scene::new(&["n1", "n2"]).await;
    install_accounts(&stage, &objects);
    let account = "ebpf-hello-collector";
    let kubeconfig = stage.server.kubeconfig_of(HOME, account).await;
    let mut collector = stage.collector("collector", &kubeconfig);
    stage.await_holder(None).await;
    let start = |node: &str| Poser::start(node, stage.server.client(), collector.address);
    let (one, other) = (start("n1"), start("n2"));
    stage.apply("cart", counting("mkdir")).await;
    stage
        .await_status("cart", |status| says(status, "2/2"))
        .await;
    let cluster = json!({
        "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "ClusterSyscallFilter",
        "metadata": {"name": "all"}, "spec": counting("mkdirr"),
    });
    let path = stage.server.directory().join("all.json");
    fs::write(&path, cluster.to_string()).unwrap();
    stage
        .server
        .kubectl(&["apply", "-f", path.to_str().unwrap()]);
    let path = "jsonpath={.status.conditions[?(@.type==\"Accepted\")].reason}";
    ebpf_hello_e2e::eventually("the cluster filter is refused", async || {
        let said = stage.server.kubectl(&["get", "csf", "all", "-o", path]);
        if said == "UnknownSyscall" {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    // The same failure again is the same event, counted.
    for _ in 0..2 {
        other.fail(Some(("TablesExhausted", "no table is free")));
        let (failed, _) = stage
            .await_status("cart", |status| says(status, "1/2"))
            .await;
        assert_eq!(condition(&failed, "Programmed").reason, "NodesFailed");
        other.fail(None);
        stage
            .await_status("cart", |status| says(status, "2/2"))
            .await;
    }
    one.stop().await;
    other.stop().await;
    assert!(collector.process.stop().success());

    // A watch is in the log when it ends: the process that held them has.
    let user = format!("system:serviceaccount:{HOME}:{account}");
    let unused = ebpf_hello_e2e::eventually("every right was used", async || {
        let requests = stage.server.requests();
        let own: Vec<_> = requests.iter().filter(|one| one.user == user).collect();
        let refused: Vec<_> = own
            .iter()
            .filter(|one| [401, 403].contains(&one.code))
            .collect();
        assert!(refused.is_empty(), "{refused:#?}");
        let unused: Vec<_> = granted(&objects, account)
            .into_iter()
            .filter(|right| !ELSEWHERE.contains(&right.resource.as_str()))
            .filter(|right| !own.iter().any(|one| right.is_used_by(one)))
            .collect();
        if unused.is_empty() {
            Ok(own.len())
        } else {
            Err(format!("{unused:#?}"))
        }
    })
    .await;
    println!("{unused} requests of {user}, none refused");
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
    install_accounts(&stage, &render(&[]));
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
