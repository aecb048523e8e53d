//! manifests/: what the chart renders, for those who do without helm; and sample filters.

use std::{fs, process::Command};

use ebpf_hello_e2e::{
    chart::{objects, render_text, repository},
    product,
};

const HEAD: &str = "\
# Everything, as the chart renders it with its defaults. Generated; do not edit:
#
#   kubectl apply --server-side -f install.yaml
---
apiVersion: v1
kind: Namespace
metadata:
  name: ebpf-hello
  labels:
    # What an agent needs (BPF, PERFMON, the node's cgroups) is more than `baseline` allows.
    pod-security.kubernetes.io/enforce: privileged
";

#[test]
fn install_yaml_is_what_the_chart_renders() {
    let text = render_text(&["--include-crds", "--no-hooks"]).unwrap();
    // Nobody but helm reads these, and it would take them for its own.
    let ours = text
        .lines()
        .filter(|line| !line.contains("helm.sh/chart: ") && !line.contains("app.kubernetes.io/managed-by: Helm"))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect::<String>();
    super::generated::file("manifests/install.yaml", &format!("{HEAD}{ours}"));
    let objects = objects(&ours);
    for kind in ["CustomResourceDefinition", "DaemonSet", "StatefulSet", "Secret", "ClusterRole"] {
        assert!(objects.iter().any(|object| object["kind"] == kind), "{kind}");
    }
    assert!(!objects.iter().any(|object| object["kind"] == "Job"));
}

#[test]
fn the_samples_pass_check_and_say_what_they_do() {
    let folder = repository().join("manifests/samples");
    let mut seen = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: a line says what it shows", path.display());
        let kinds: Vec<_> = objects(&text)
            .into_iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect();
        seen.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        if !kinds.contains(&"SyscallFilter".to_owned()) {
            continue;
        }
        assert_eq!(kinds, ["SyscallFilter"], "{}", path.display());
        let output = Command::new(product()).arg("check").arg(&path).output().unwrap();
        let (told, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {told}{complained}", path.display());
        assert!(!told.contains("warning") && !complained.contains("warning"), "{told}{complained}");
    }
    seen.sort_unstable();
    assert_eq!(seen, ["hello", "hello-buffer", "hello-map", "hello-tail", "workload"]);
}
