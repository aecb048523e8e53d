//! A node of a cluster of kind: a container of the Docker Engine.

use std::{env, path::Path, process::Command};

use serde_json::Value;

use super::cluster::run;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    address: String,
    control_plane: bool,
}

// === impl Node ===

impl Node {
    pub(super) fn of(object: &Value) -> Node {
        let address = object["status"]["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .find(|address| address["type"] == "InternalIP")
            .unwrap();
        Node {
            name: object["metadata"]["name"].as_str().unwrap().to_owned(),
            address: address["address"].as_str().unwrap().to_owned(),
            control_plane: object["metadata"]["labels"]
                .get("node-role.kubernetes.io/control-plane")
                .is_some(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the nodes' network.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the API server runs here.
    pub fn is_control_plane(&self) -> bool {
        self.control_plane
    }

    /// Runs a shell command in it.
    ///
    /// # Panics
    /// It fails.
    pub fn run(&self, script: &str) -> String {
        self.try_run(script)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where a failure is an answer.
    pub fn try_run(&self, script: &str) -> Result<String, String> {
        let mut command = Command::new("docker");
        command.args(["exec", &self.name, "sh", "-ec", script]);
        run(&mut command, None)
    }

    /// Stops it, as a machine that is switched off.
    ///
    /// # Panics
    /// The engine refuses.
    pub fn stop(&self) {
        docker(&["stop", "--time", "5", &self.name]);
    }

    /// Starts it again, with its routes.
    ///
    /// # Panics
    /// The engine refuses, or the routes cannot be set.
    pub fn start(&self) {
        docker(&["start", &self.name]);
        if env::var_os("E2E_CONTEXT").is_none() {
            let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/network");
            run(&mut Command::new(network), None).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Takes the API server away (its static pod's manifest), until [`Node::restore_api_server`].
    ///
    /// # Panics
    /// This node has none.
    pub fn remove_api_server(&self) {
        self.run("mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/");
    }

    /// Puts it back.
    ///
    /// # Panics
    /// It was not taken away.
    pub fn restore_api_server(&self) {
        self.run("mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/");
    }
}

fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments), None).unwrap_or_else(|error| panic!("{error}"))
}
