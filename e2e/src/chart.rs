//! The Helm chart, rendered or installed by helm.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde::Deserialize as _;
use serde_json::Value;

use crate::executable::asset;

/// The name that docs and contracts give the release.
pub const RELEASE: &str = "ebpf-hello";
/// Kubernetes whose features templates may ask for.
const VERSION: &str = "1.36.0";

/// A rendered object.
pub type Object = Value;

/// Where the repository is.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// helm with arguments, in the repository.
///
/// # Panics
/// There is no helm in `KUBEBUILDER_ASSETS` or on PATH.
pub fn helm<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let helm = asset("helm");
    Command::new(&helm)
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}: run scripts/assets helm", helm.display()))
}

/// What the chart renders for a release in the namespace `ebpf-hello`, as text; `flags` are helm's.
///
/// # Errors
/// What helm says when it refuses.
pub fn render_text(flags: &[&str]) -> Result<String, String> {
    let fixed = [
        "template",
        RELEASE,
        "helm/ebpf-hello",
        "--namespace",
        RELEASE,
        "--kube-version",
        VERSION,
    ];
    let output = helm(fixed.iter().chain(flags));
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The same as objects, hooks included. Tests that need an account of the product's take it from here, with the
/// rights the chart gives it.
///
/// # Panics
/// helm refuses, or what it renders is no YAML.
pub fn render(flags: &[&str]) -> Vec<Object> {
    let text =
        render_text(flags).unwrap_or_else(|error| panic!("helm template {flags:?}: {error}"));
    objects(&text)
}

/// The objects of a YAML stream.
///
/// # Panics
/// It is none.
pub fn objects(text: &str) -> Vec<Object> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| {
            Value::deserialize(document).unwrap_or_else(|error| panic!("{error}\n{text}"))
        })
        .filter(|object| !object.is_null())
        .collect()
}
