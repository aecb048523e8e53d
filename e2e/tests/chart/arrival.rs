//! `ebpf-hello arrival`, as `helm test` runs it, where no event can come: it says why.

use std::process::Command;

use ebpf_hello_e2e::{
    ApiServer,
    chart::{RELEASE, helm},
    product,
};

const ACCOUNT: &str = "ebpf-hello-test";

#[tokio::test]
async fn a_namespace_that_forbids_agents_is_named_by_an_account_that_uses_all_its_rights() {
    let server = ApiServer::start().await;
    let label = "pod-security.kubernetes.io/enforce";
    server.namespace(RELEASE, &[(label, "baseline")]).await;
    let admin = server.admin_kubeconfig();
    let install = [
        "install",
        RELEASE,
        "helm/ebpf-hello",
        "--no-hooks",
        "--namespace",
        RELEASE,
    ];
    let output = helm(
        install
            .iter()
            .chain(&["--kubeconfig", admin.to_str().unwrap()]),
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let kubeconfig = server.kubeconfig_of(RELEASE, ACCOUNT).await;
    let arrive = || {
        let output = Command::new(product())
            .args(["arrival", "--pod=ebpf-hello/ebpf-hello-test"])
            .args(["--server=http://127.0.0.1:9", "--timeout=1s"])
            .env("KUBECONFIG", &kubeconfig)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = arrive();
    assert!(
        said.contains("no event of pod ebpf-hello/ebpf-hello-test arrived within 1s")
            && said.contains("enforces the Pod Security Standard \"baseline\"")
            && said.contains(&format!(
                "kubectl label namespace ebpf-hello {label}=privileged"
            ))
            && said.contains("cannot connect to http://127.0.0.1:9"),
        "{said}"
    );
    server.namespace(RELEASE, &[(label, "privileged")]).await;
    let said = arrive();
    assert!(said.contains("all 0 agents are ready"), "{said}");

    let user = format!("system:serviceaccount:{RELEASE}:{ACCOUNT}");
    let requests = server.requests();
    let mine: Vec<_> = requests
        .iter()
        .filter(|request| request.user == user)
        .collect();
    for resource in ["daemonsets", "namespaces"] {
        assert!(
            mine.iter()
                .any(|request| request.resource == resource && request.verb == "get"),
            "{resource}"
        );
    }
    assert!(mine.iter().all(|request| request.code < 400), "{mine:?}");
}
