//! What is true of all that the chart renders.

use ebpf_hello_e2e::chart::{objects, render, render_text, repository};

/// Every switch that adds objects.
pub(crate) const EVERYTHING: &[&str] = &[
    "--set=monitoring.monitors.enabled=true,monitoring.rules.enabled=true,monitoring.dashboard.enabled=true",
    "--set=networkPolicy.enabled=true,collector.persistence.enabled=true",
    "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=issuer,tls.server.caConfigMap=trusted",
    "--set-json=filters=[{\"kind\":\"ClusterSyscallFilter\",\"name\":\"host\",\"spec\":{\"host\":true}}]",
];
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
            name.starts_with("ebpf-hello") || name == "host",
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
