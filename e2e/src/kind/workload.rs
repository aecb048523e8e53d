//! Pods that a test runs.

use std::fmt::Write as _;

/// Pods of one kind, as a Deployment on all nodes.
#[derive(Clone, Debug)]
pub struct Workload {
    pub(super) name: String,
    replicas: usize,
    containers: Vec<Container>,
}

/// A container and the shell script it runs, which ends with a sleep.
#[derive(Clone, Debug)]
pub struct Container {
    name: String,
    script: String,
}

// === impl Container ===

impl Container {
    /// A container that runs the script once and then sleeps.
    pub fn running(name: &str, script: &str) -> Container {
        Container {
            name: name.to_owned(),
            script: format!("{script}\nexec sleep 3600"),
        }
    }

    /// A container that runs the script for ever, once in so many seconds.
    pub fn repeating(name: &str, script: &str, seconds: f32) -> Container {
        Container {
            name: name.to_owned(),
            script: format!("while :; do\n{script}\nsleep {seconds}\ndone"),
        }
    }
}

// === impl Workload ===

impl Workload {
    /// So many pods, spread over the nodes, labelled `app: NAME`.
    pub fn of(name: &str, replicas: usize, containers: impl Into<Vec<Container>>) -> Workload {
        Workload {
            name: name.to_owned(),
            replicas,
            containers: containers.into(),
        }
    }

    pub(super) fn manifest(&self, namespace: &str, image: &str) -> String {
        let Workload { name, replicas, .. } = self;
        let mut yaml = format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, tier: test}}}}
    spec:
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      tolerations: [{{operator: Exists}}]
      topologySpreadConstraints:
        - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Ignore, labelSelector: {{matchLabels: {{app: {name}}}}}}}
      containers:
"#
        );
        for container in &self.containers {
            let Container { name, script } = container;
            let script = serde_json::to_string(script).unwrap();
            write!(
                yaml,
                r#"
        - name: {name}
          image: {image}
          imagePullPolicy: IfNotPresent
          command: ["/bin/sh", "-c", {script}]
          env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
          resources: {{requests: {{cpu: 1m, memory: 1Mi}}}}
"#
            )
            .unwrap();
        }
        yaml
    }
}
