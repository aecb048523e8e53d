//! Where executables are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The product: `EBPF_HELLO_BIN`, else what cargo built beside this test.
///
/// # Panics
/// It is not there.
pub fn product() -> PathBuf {
    built("EBPF_HELLO_BIN", "ebpf-hello")
}

/// What makes calls and processes in known numbers: `EBPF_HELLO_GENERATOR`, else the same.
///
/// # Panics
/// It is not there.
pub fn generator() -> PathBuf {
    built("EBPF_HELLO_GENERATOR", "ebpf-hello-generator")
}

fn built(variable: &str, name: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(
        || {
            // target/<profile>/deps/<test>-<hash> is this test.
            let test = env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().join(name)
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: set {variable}, or build it with `cargo build -p {name}`",
        path.display()
    );
    path
}

/// A server or tool of Kubernetes: in `KUBEBUILDER_ASSETS` if it is there, else on PATH.
pub(crate) fn asset(name: &str) -> PathBuf {
    env::var_os("KUBEBUILDER_ASSETS")
        .map(|folder| Path::new(&folder).join(name))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}
