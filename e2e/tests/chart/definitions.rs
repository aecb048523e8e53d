//! `ebpf-hello crd apply`, as the hook of the chart runs it.

use std::{
    path::Path,
    process::{Command, Output},
};

use ebpf_hello_e2e::{
    ApiServer,
    chart::{RELEASE, render},
    product,
};
use serde_json::{Value, json};

use super::server::written;

const ACCOUNT: &str = "ebpf-hello-crds";

fn apply(kubeconfig: &Path) -> Output {
    Command::new(product())
        .args(["crd", "apply", "--kubeconfig"])
        .arg(kubeconfig)
        .output()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The hook's account, with what the chart lets it do.
async fn account(server: &ApiServer) -> std::path::PathBuf {
    server.namespace(RELEASE, &[]).await;
    let objects: Vec<_> = render(&[])
        .into_iter()
        .filter(|object| object["metadata"]["name"] == ACCOUNT && object["kind"] != "Job")
        .collect();
    assert_eq!(objects.len(), 3, "account, role, binding");
    let file = written(server, "account", &objects);
    server.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    server.kubeconfig_of(RELEASE, ACCOUNT).await
}

#[tokio::test]
async fn the_hooks_account_installs_and_upgrades_and_uses_all_its_rights() {
    let server = ApiServer::start().await;
    let kubeconfig = account(&server).await;
    let output = apply(&kubeconfig);
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(complaint(&output).contains("syscallfilters.ebpf-hello.dev applied and served"));

    // As an older version, installed by somebody else, would have left it.
    let name = "syscallfilters.ebpf-hello.dev";
    let text = server.kubectl(&["get", "crd", name, "-o", "json"]);
    let mut older: Value = serde_json::from_str(&text).unwrap();
    let schema = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        ["properties"];
    schema
        .as_object_mut()
        .unwrap()
        .remove("matchBinaries")
        .unwrap();
    schema["obsolete"] = json!({"type": "string", "description": "Gone in this version."});
    older["metadata"] = json!({"name": name});
    older.as_object_mut().unwrap().remove("status");
    let file = written(&server, "older", &[older]);
    server.kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=helm",
        "-f",
        file.to_str().unwrap(),
    ]);
    let explain =
        |field: &str| server.try_kubectl(&["explain", &format!("syscallfilter.spec.{field}")]);
    ebpf_hello_e2e::eventually("the older definition is served", async || {
        explain("obsolete")
    })
    .await;
    let filter = json!({
        "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "SyscallFilter",
        "metadata": {"name": "mine", "namespace": "default"},
        "spec": {"rules": [{"syscalls": ["execve"], "handler": "Exec"}]},
    });
    server.namespace("default", &[]).await;
    let filter = written(&server, "filter", &[filter]);
    server.kubectl(&["apply", "-f", filter.to_str().unwrap()]);

    let output = apply(&kubeconfig);
    assert!(output.status.success(), "{}", complaint(&output));
    ebpf_hello_e2e::eventually("the new field is served", async || explain("matchBinaries")).await;
    ebpf_hello_e2e::eventually("the old field is gone", async || {
        match explain("obsolete") {
            Ok(explained) => Err(explained),
            Err(_) => Ok(()),
        }
    })
    .await;
    server.kubectl(&["get", "syscallfilter", "mine", "-n", "default"]);

    let user = format!("system:serviceaccount:{RELEASE}:{ACCOUNT}");
    let requests = server.requests();
    let mine: Vec<_> = requests
        .iter()
        .filter(|request| request.user == user)
        .collect();
    for verb in ["get", "patch"] {
        assert!(
            mine.iter().any(|request| request.verb == verb),
            "{verb} is granted and not used"
        );
    }
    for request in mine {
        assert!(request.code < 400, "{request:?}");
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let mut server = ApiServer::start().await;
    server.namespace(RELEASE, &[]).await;
    server.service_account(RELEASE, "nobody").await;
    let nobody = server.kubeconfig_of(RELEASE, "nobody").await;
    let output = apply(&nobody);
    assert_eq!(output.status.code(), Some(1));
    let said = complaint(&output);
    assert!(
        said.contains("cannot apply syscallfilters.ebpf-hello.dev")
            && said.contains("system:serviceaccount:ebpf-hello:nobody")
            && said.contains(
                "applying needs the verbs create, patch and get on customresourcedefinitions"
            ),
        "{said}"
    );
    server.kill();
    let output = apply(&nobody);
    assert_eq!(output.status.code(), Some(6), "{}", complaint(&output));
    assert!(
        complaint(&output).contains("the API server does not answer"),
        "{}",
        complaint(&output)
    );
    let output = apply(Path::new("/nonexistent/kubeconfig"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("--kubeconfig /nonexistent/kubeconfig"),
        "{}",
        complaint(&output)
    );
}
