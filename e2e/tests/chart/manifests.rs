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
        .filter(|line| {
            !line.contains("helm.sh/chart: ")
                && !line.contains("app.kubernetes.io/managed-by: Helm")
        })
        .map(|line| format!("{}\n", line.trim_end()))
        .collect::<String>();
    super::generated::file("manifests/install.yaml", &format!("{HEAD}{ours}"));
    let objects = objects(&ours);
    for kind in [
        "CustomResourceDefinition",
        "DaemonSet",
        "StatefulSet",
        "Secret",
        "ClusterRole",
    ] {
        assert!(
            objects.iter().any(|object| object["kind"] == kind),
            "{kind}"
        );
    }
    assert!(!objects.iter().any(|object| object["kind"] == "Job"));
}

/// Each file is all that one command needs: a namespace, a filter and pods that it selects.
#[test]
fn the_samples_pass_check_and_say_what_they_do() {
    let folder = repository().join("manifests/samples");
    let mut seen = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(&format!("# {name}: ")),
            "{name}: a line says what it shows"
        );
        let objects = objects(&text);
        let kinds: Vec<_> = objects.iter().map(|object| &object["kind"]).collect();
        assert_eq!(
            kinds,
            ["Namespace", "SyscallFilter", "Deployment"],
            "{name}"
        );
        let (filter, deployment) = (&objects[1], &objects[2]);
        assert_eq!(filter["metadata"]["name"], *name);
        assert_eq!(
            filter["spec"]["podSelector"]["matchLabels"],
            deployment["spec"]["template"]["metadata"]["labels"],
            "{name}: the filter selects its pods"
        );
        let alone = tempfile::NamedTempFile::new().unwrap();
        fs::write(alone.path(), filter.to_string()).unwrap();
        let output = Command::new(product())
            .arg("check")
            .arg(alone.path())
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(
            output.status.success() && !told.contains("warning"),
            "{name}: {told}"
        );
        seen.push(name);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["hello", "hello-buffer", "hello-map", "hello-tail"]);
}
