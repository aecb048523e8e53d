//! What the agent may do, and what breaks without it.

use ebpf_hello_e2e::kind::{Cluster, SYSTEM};

/// What the kernel lets the agent's process do; each capability is then taken away.
pub(crate) fn each_capability_is_needed_for_something_named(cluster: &Cluster) {
    let worker = cluster.worker();
    let pod = cluster.agent_on(worker.name());
    let status = worker.run(
        "for p in /proc/[0-9]*; do if tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/usr/bin/ebpf-hello agent'; then grep -h '^Cap' $p/status; break; fi; done",
    );
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap_or_else(|| panic!("{pod}: {status}"));
    let bits = u64::from_str_radix(effective.trim(), 16).unwrap();
    let held: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    println!("    effective capabilities of the agent: {held:?} ({bits:#x})");
    let daemonset = cluster.get(&["-n", SYSTEM, "daemonset", "ebpf-hello-agent"]);
    let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
    let granted: Vec<String> = container["securityContext"]["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let mut sorted = granted.clone();
    sorted.sort();
    assert_eq!(
        held.len(),
        bits.count_ones() as usize,
        "a capability that has no name here: {bits:#x}"
    );
    assert_eq!(
        held, sorted,
        "the process holds what the chart grants and nothing else"
    );

    for taken in &granted {
        let left: Vec<&str> = granted
            .iter()
            .filter(|name| *name != taken)
            .map(String::as_str)
            .collect();
        let log = refused_with(cluster, worker.name(), container, &left);
        let said = log
            .lines()
            .find(|line| line.contains("CAP_"))
            .unwrap_or_else(|| panic!("without {taken} it says: {log}"));
        assert!(
            said.contains(&format!("CAP_{taken}")),
            "without {taken} it says: {said}"
        );
        println!("    without {taken}: {said}");
    }
}

/// Runs the agent's image and `run` on the node once, with these capabilities only: what it said when it ended.
fn refused_with(
    cluster: &Cluster,
    node: &str,
    container: &serde_json::Value,
    capabilities: &[&str],
) -> String {
    let name = format!("without-{:08x}", fastrand::u32(..));
    let image = container["image"].as_str().unwrap();
    let add = serde_json::to_string(capabilities).unwrap();
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {SYSTEM}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  securityContext: {{runAsUser: 0, runAsGroup: 0, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: agent
      image: {image}
      imagePullPolicy: IfNotPresent
      args: [run, --duration, 1s, -o, json]
      securityContext: {{privileged: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL], add: {add}}}}}
      volumeMounts:
        - {{name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true}}
        - {{name: run, mountPath: /run/ebpf-hello}}
  volumes:
    - {{name: cgroup, hostPath: {{path: /sys/fs/cgroup}}}}
    - {{name: run, emptyDir: {{}}}}
"#
    ));
    let log = cluster.eventually("the pod ends", || {
        let phase = cluster.get(&["-n", SYSTEM, "pod", &name])["status"]["phase"].clone();
        match phase.as_str() {
            Some("Failed") => cluster.try_kubectl(&["-n", SYSTEM, "logs", &name]),
            Some("Succeeded") => {
                panic!("with {capabilities:?} alone it works: the other is not needed")
            }
            phase => Err(format!("{phase:?}")),
        }
    });
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &name, "--wait=false"]);
    log
}

/// linux/capability.h, as far as a container's default and ours go; sorted by name.
const NAMES: &[(u32, &str)] = &[
    (39, "BPF"),
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (2, "DAC_READ_SEARCH"),
    (12, "NET_ADMIN"),
    (38, "PERFMON"),
    (6, "SETGID"),
    (7, "SETUID"),
    (21, "SYS_ADMIN"),
    (19, "SYS_PTRACE"),
    (24, "SYS_RESOURCE"),
];
