//! What is true of all that the chart renders.

use ebpf_hello_e2e::chart::{Object, objects, render, render_text, repository};

/// Every switch that adds objects.
pub(crate) const EVERYTHING: &[&str] = &[
    "--set=monitoring.monitors.enabled=true,monitoring.rules.enabled=true,monitoring.dashboard.enabled=true",
    "--set=networkPolicy.enabled=true,collector.persistence.enabled=true",
    "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=issuer,tls.server.caConfigMap=trusted",
    r#"--set-json=filters=[
        {"kind": "ClusterSyscallFilter", "name": "host", "spec": {"host": true}},
        {"kind": "SyscallFilter", "name": "execs", "spec": {"rules": [{"syscalls": ["execve"], "handler": "Exec"}]}}
    ]"#,
];
/// Objects of the user's own, as YAML and as text.
pub(crate) const OBJECTS: &str = r#"--set-json=extraObjects=[
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-yaml", "namespace": "{{ .Release.Namespace }}"}},
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-text\n  namespace: {{ .Release.Namespace }}\n"
]"#;
/// Several collectors behind NATS.
pub(crate) const NATS: &[&str] = &[
    "--set=collector.replicas=3,hub.nats.url=nats://nats:4222,hub.nats.credentialsSecret=nats,hub.nats.tlsSecret=nats-tls",
];

#[test]
fn the_same_values_render_to_the_same_bytes_without_a_key() {
    for flags in [&[], EVERYTHING, NATS] {
        let text = render_text(flags).unwrap();
        assert!(
            text == render_text(flags).unwrap(),
            "{flags:?} renders differently each time"
        );
        assert!(!text.contains("PRIVATE KEY"), "{flags:?}");
        for object in objects(&text) {
            let is_secret = object["kind"] == "Secret";
            assert!(
                !is_secret || (object["data"].is_null() && object["stringData"].is_null()),
                "{object}"
            );
        }
    }
}

#[test]
fn secret_and_bundle_name_no_key_so_that_upgrades_leave_what_the_collector_wrote() {
    let objects = render(&[]);
    for (kind, name) in [("Secret", "ebpf-hello-tls"), ("ConfigMap", "ebpf-hello-ca")] {
        let object = objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{kind} {name}"));
        // Not even an empty map: server-side apply would own it.
        for field in ["data", "stringData", "binaryData", "immutable"] {
            assert!(object.get(field).is_none(), "{kind} {name} has {field}");
        }
    }
}

#[test]
fn the_chart_has_the_version_and_the_definitions_of_the_product() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let chart = &objects(&read("helm/ebpf-hello/Chart.yaml"))[0];
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["kubeVersion"], ">=1.30.0-0");
    for (file, yaml) in ebpf_hello_policy::crd::manifests() {
        super::generated::file(&format!("helm/ebpf-hello/crds/{file}"), &yaml);
    }
}

#[test]
fn objects_carry_the_recommended_labels_and_names_of_the_release() {
    for object in render(EVERYTHING) {
        let (kind, metadata) = (&object["kind"], &object["metadata"]);
        if kind == "CustomResourceDefinition" {
            continue;
        }
        let name = metadata["name"].as_str().unwrap();
        assert!(
            name.starts_with("ebpf-hello") || ["host", "execs"].contains(&name),
            "{kind} {name}"
        );
        for label in [
            "name",
            "instance",
            "component",
            "part-of",
            "managed-by",
            "version",
        ] {
            let label = format!("app.kubernetes.io/{label}");
            assert!(
                metadata["labels"][&label].is_string(),
                "{kind} {name}: no {label}"
            );
        }
    }
}

#[test]
fn another_release_has_other_names_throughout() {
    let text = render_text(&["--set=fullnameOverride=observer"]).unwrap();
    for object in objects(&text) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("observer"), "{} {name}", object["kind"]);
    }
    for flag in [
        "--agent-service-account=observer-agent",
        "--agent-daemonset=observer-agent",
        "--tls-secret=observer-tls",
    ] {
        assert!(text.contains(flag), "{flag}");
    }
}

/// Names are at most as long as what Kubernetes makes of them allows: a Service's has 63 characters, a StatefulSet's 52.
#[test]
fn a_long_release_name_is_cut_to_what_fits() {
    let long = format!("--set=fullnameOverride={}", "a".repeat(60));
    for object in render(&[&long]) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let most = match object["kind"].as_str().unwrap() {
            "StatefulSet" | "DaemonSet" => 52,
            "Service" => 63,
            _ => 253,
        };
        assert!(name.len() <= most, "{} {name}", object["kind"]);
    }
}

#[test]
fn a_chart_that_has_this_one_as_a_dependency_can_turn_it_off() {
    render(&["--set=enabled=true,global.x=y"]);
}

pub(crate) fn named<'a>(objects: &'a [Object], kind: &str, name: &str) -> Option<&'a Object> {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

#[test]
fn the_metrics_port_stays_in_the_cluster() {
    let objects = render(&[
        "--set=collector.service.type=LoadBalancer,collector.service.loadBalancerClass=x.example/y",
        "--set-json=collector.service.loadBalancerSourceRanges=[\"10.0.0.0/8\"]",
    ]);
    let ports = |name: &str| {
        let service = named(&objects, "Service", name).unwrap();
        let ports = service["spec"]["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| port["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports("ebpf-hello-collector"), ["grpc"]);
    assert_eq!(ports("ebpf-hello-collector-headless"), ["grpc", "metrics"]);
    let spec = &named(&objects, "Service", "ebpf-hello-collector").unwrap()["spec"];
    assert_eq!(spec["loadBalancerSourceRanges"][0], "10.0.0.0/8");
    assert_eq!(spec["loadBalancerClass"], "x.example/y");
}

/// What only some clusters ask for is there where they are, and where it is said.
#[test]
fn gke_and_openshift_get_what_they_ask_for() {
    const NAME: &str = "ebpf-hello-agent";
    const GKE: &str = "--kube-version=v1.33.4-gke.1134000";
    let quota = |flags: &[&str]| named(&render(flags), "ResourceQuota", NAME).cloned();
    assert!(quota(&[]).is_none());
    assert!(quota(&[GKE, "--set=agent.priorityQuota=never"]).is_none());
    assert!(quota(&[GKE, "--set=agent.priorityClassName="]).is_none());
    for flags in [&[GKE][..], &["--set=agent.priorityQuota=always"]] {
        let quota = quota(flags).unwrap();
        let scope = &quota["spec"]["scopeSelector"]["matchExpressions"][0];
        assert_eq!(scope["values"][0], "system-node-critical");
    }

    let bound = |flags: &[&str]| {
        let constraints = |object: &Object| {
            let role = object["roleRef"]["name"].as_str()?;
            let constraint = role.strip_prefix("system:openshift:scc:")?.to_owned();
            let account = object["subjects"][0]["name"].as_str()?.to_owned();
            let hook = object["metadata"]["annotations"]["helm.sh/hook"].is_string();
            Some((account, constraint, hook))
        };
        let mut bound: Vec<_> = render(flags).iter().filter_map(constraints).collect();
        bound.sort();
        bound
    };
    assert_eq!(bound(&[]), []);
    const OPENSHIFT: &str = "--api-versions=security.openshift.io/v1";
    assert_eq!(
        bound(&[OPENSHIFT, "--set=securityContextConstraints=never"]),
        []
    );
    for flag in [OPENSHIFT, "--set=securityContextConstraints=always"] {
        let expected = [
            ("ebpf-hello-agent", "privileged", false),
            ("ebpf-hello-collector", "nonroot-v2", false),
            ("ebpf-hello-crds", "nonroot-v2", true),
            ("ebpf-hello-test", "nonroot-v2", false),
        ]
        .map(|(account, constraint, hook)| (account.to_owned(), constraint.to_owned(), hook));
        assert_eq!(bound(&[flag]), expected, "{flag}");
    }
}

#[test]
fn the_test_reaches_a_collector_that_is_closed_to_readers() {
    let objects = render(&["--set=networkPolicy.enabled=true,networkPolicy.readers=null"]);
    let policy = named(&objects, "NetworkPolicy", "ebpf-hello-collector").unwrap();
    let from = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    let components: Vec<_> = from
        .iter()
        .map(|peer| &peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
        .collect();
    assert_eq!(components, ["agent", "test"]);
}

#[test]
fn what_is_switched_off_leaves_nothing_behind() {
    for (component, switch) in [("crds", "crds.upgrade"), ("test", "test.enabled")] {
        // With the objects that other switches add for it.
        let on = "--set=networkPolicy.enabled=true,securityContextConstraints=always";
        let name = format!("ebpf-hello-{component}");
        let kinds = |text: &str| {
            let mut kinds: Vec<_> = objects(text)
                .iter()
                .filter(|object| {
                    let is_named = |name: &str| object["metadata"]["name"] == name;
                    is_named(&name) || is_named(&format!("{name}-nonroot-v2"))
                })
                .map(|object| object["kind"].as_str().unwrap().to_owned())
                .collect();
            kinds.sort();
            kinds
        };
        let expected = match component {
            "crds" => [
                "ClusterRole",
                "ClusterRoleBinding",
                "Job",
                "RoleBinding",
                "ServiceAccount",
            ],
            _ => [
                "Pod",
                "Role",
                "RoleBinding",
                "RoleBinding",
                "ServiceAccount",
            ],
        };
        assert_eq!(kinds(&render_text(&[on]).unwrap()), expected, "{switch}");

        let text = render_text(&[on, &format!("--set={switch}=false")]).unwrap();
        assert!(!text.contains(&name), "{switch}: {text}");
        let label = format!("app.kubernetes.io/component: {component}");
        assert!(!text.contains(&label), "{switch}: {text}");
        let event = if component == "crds" {
            "pre-install"
        } else {
            "test"
        };
        let annotation = format!("helm.sh/hook: {event}");
        assert!(!text.contains(&annotation), "{switch}: {text}");
    }
}

#[test]
fn objects_of_the_users_own_are_templates_whether_they_are_yaml_or_text() {
    let objects = render(&[OBJECTS]);
    for name in ["ebpf-hello-yaml", "ebpf-hello-text"] {
        let object = named(&objects, "ConfigMap", name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(object["metadata"]["namespace"], "ebpf-hello", "{name}");
    }
}

#[test]
fn a_filter_of_the_release_is_where_the_release_is_unless_it_says_where() {
    let objects = render(&[
        "--set-json=filters=[{\"kind\":\"SyscallFilter\",\"name\":\"here\",\"spec\":{\"rules\":[]}},\
         {\"kind\":\"SyscallFilter\",\"name\":\"there\",\"namespace\":\"shop\",\"spec\":{}}]",
    ]);
    let filter = |name: &str| named(&objects, "SyscallFilter", name).unwrap();
    assert_eq!(filter("here")["metadata"]["namespace"], "ebpf-hello");
    assert_eq!(filter("here")["spec"], serde_json::json!({"rules": []}));
    assert_eq!(filter("there")["metadata"]["namespace"], "shop");
}

#[test]
fn pods_are_open_to_the_cluster_until_somebody_closes_them() {
    let policies = |flags: &[&str]| {
        let objects = render(flags);
        let policies = objects
            .iter()
            .filter(|object| object["kind"] == "NetworkPolicy");
        policies.count()
    };
    assert_eq!(policies(&[]), 0);
    assert_eq!(policies(&["--set=networkPolicy.enabled=true"]), 2);
}

/// With one collector, too: agents keep what it would have taken.
#[test]
fn a_drain_may_take_one_collector() {
    for (flags, kind) in [(&[][..], "StatefulSet"), (NATS, "Deployment")] {
        let objects = render(flags);
        let of_kind = |kind: &str| &named(&objects, kind, "ebpf-hello-collector").unwrap()["spec"];
        let budget = of_kind("PodDisruptionBudget");
        assert_eq!(budget["maxUnavailable"], 1, "{kind}");
        assert!(budget["minAvailable"].is_null(), "{kind}");
        assert_eq!(budget["selector"], of_kind(kind)["selector"], "{kind}");
    }
}
