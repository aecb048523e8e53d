//! Whose certificates agents, collector and readers use, by the values under `tls`.

use ebpf_hello_e2e::chart::{Object, render};
use serde_json::{Value, json};

use super::rendering::named;

/// The arguments of the collector.
fn arguments(objects: &[Object]) -> Vec<String> {
    let set = named(objects, "StatefulSet", "ebpf-hello-collector").unwrap();
    let arguments = &set["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments = arguments.as_array().unwrap().iter();
    arguments
        .map(|argument| argument.as_str().unwrap().to_owned())
        .collect()
}

/// Those of one flag.
fn given(objects: &[Object], flag: &str) -> Vec<String> {
    arguments(objects)
        .iter()
        .filter_map(|argument| Some(argument.strip_prefix(flag)?.strip_prefix('=')?.to_owned()))
        .collect()
}

/// The object of a list that has this name.
fn item<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut items = list.as_array().into_iter().flatten();
    items
        .find(|item| item["name"] == name)
        .unwrap_or(&Value::Null)
}

/// The ConfigMap that a pod of this spec checks the collector's certificate with.
fn trusted(spec: &Value) -> &Value {
    &item(&spec["volumes"], "ca")["configMap"]["name"]
}

#[test]
fn a_servers_certificate_from_elsewhere_is_mounted_and_trusted_by_who_asks() {
    let none = render(&[]);
    let set = named(&none, "StatefulSet", "ebpf-hello-collector").unwrap();
    let spec = &set["spec"]["template"]["spec"];
    assert!(item(&spec["volumes"], "server").is_null());
    assert!(given(&none, "--tls-cert").is_empty() && given(&none, "--tls-key").is_empty());
    assert!(given(&none, "--tls-name").contains(&"ebpf-hello-collector.ebpf-hello.svc".into()));

    let cert_manager = "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=issuer";
    for (from, secret) in [
        ("--set=tls.server.existingSecret=mine", "mine"),
        (cert_manager, "ebpf-hello-collector-server"),
    ] {
        let objects = render(&[from, "--set=tls.server.caConfigMap=trusted"]);
        let certificate = "/etc/ebpf-hello/server/tls.crt";
        assert_eq!(given(&objects, "--tls-cert"), [certificate], "{secret}");
        let key = "/etc/ebpf-hello/server/tls.key";
        assert_eq!(given(&objects, "--tls-key"), [key], "{secret}");
        // Who made it chose its names.
        assert!(given(&objects, "--tls-name").is_empty(), "{secret}");

        let set = named(&objects, "StatefulSet", "ebpf-hello-collector").unwrap();
        let spec = &set["spec"]["template"]["spec"];
        let volume = &item(&spec["volumes"], "server")["secret"];
        assert_eq!(volume["secretName"], secret);
        let mount = item(&spec["containers"][0]["volumeMounts"], "server");
        let expected =
            json!({"name": "server", "mountPath": "/etc/ebpf-hello/server", "readOnly": true});
        assert_eq!(*mount, expected, "{secret}");

        let agents = named(&objects, "DaemonSet", "ebpf-hello-agent").unwrap();
        assert_eq!(*trusted(&agents["spec"]["template"]["spec"]), "trusted");
        let test = named(&objects, "Pod", "ebpf-hello-test").unwrap();
        assert_eq!(*trusted(&test["spec"]), "trusted");
        // Nodes' certificates are from the own authority all the same.
        assert_eq!(given(&objects, "--tls-secret"), ["ebpf-hello-tls"]);
        assert_eq!(given(&objects, "--ca-configmap"), ["ebpf-hello-ca"]);

        let issued = named(&objects, "Certificate", secret);
        assert_eq!(issued.is_some(), from == cert_manager, "{secret}");
        if let Some(issued) = issued {
            assert_eq!(issued["spec"]["secretName"], secret);
        }
    }
}

#[test]
fn an_authority_of_ones_own_is_the_only_secret_that_the_collector_may_read() {
    let rules = |objects: &[Object]| {
        let role = named(objects, "Role", "ebpf-hello-collector").unwrap();
        let rules = role["rules"].as_array().unwrap();
        rules
            .iter()
            .filter(|rule| rule["resources"] == json!(["secrets"]))
            .map(|rule| rule["resourceNames"].clone())
            .collect::<Vec<_>>()
    };
    let is_secret = |object: &&Object| object["kind"] == "Secret";
    for (flags, secret, made) in [
        (&[][..], "ebpf-hello-tls", 1),
        (&["--set=tls.authority.existingSecret=mine"], "mine", 0),
    ] {
        let objects = render(flags);
        assert_eq!(objects.iter().filter(is_secret).count(), made, "{secret}");
        assert_eq!(given(&objects, "--tls-secret"), [secret]);
        assert_eq!(rules(&objects), [json!([secret])]);
        // The public part is published where it always is.
        assert!(named(&objects, "ConfigMap", "ebpf-hello-ca").is_some());
        let agents = named(&objects, "DaemonSet", "ebpf-hello-agent").unwrap();
        let spec = &agents["spec"]["template"]["spec"];
        assert_eq!(*trusted(spec), "ebpf-hello-ca", "{secret}");
    }
}

#[test]
fn more_names_of_the_collector_are_in_its_certificate_whoever_issues_it() {
    let names = "--set=tls.extraNames={events.example.com,192.0.2.7}";
    let given = given(&render(&[names]), "--tls-name");
    for name in ["events.example.com", "192.0.2.7"] {
        assert!(given.contains(&name.to_owned()), "{name}: {given:?}");
    }
    let objects = render(&[
        names,
        "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=issuer,tls.server.caConfigMap=trusted",
    ]);
    let issued = named(&objects, "Certificate", "ebpf-hello-collector-server").unwrap();
    let (dns, addresses) = (&issued["spec"]["dnsNames"], &issued["spec"]["ipAddresses"]);
    let has = |list: &Value, name: &str| list.as_array().unwrap().contains(&json!(name));
    assert!(
        has(dns, "events.example.com") && !has(dns, "192.0.2.7"),
        "{issued}"
    );
    assert!(
        has(addresses, "192.0.2.7") && !has(addresses, "events.example.com"),
        "{issued}"
    );
}
