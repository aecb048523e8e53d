//! Where the executables are that are measured and that measure.

use std::{env, path::PathBuf};

use anyhow::{Context as _, ensure};

/// The product: `EBPF_HELLO_BIN`, else what was built beside this.
pub(crate) fn product() -> anyhow::Result<PathBuf> {
    find("EBPF_HELLO_BIN", "ebpf-hello")
}

/// What makes and times calls: `EBPF_HELLO_GENERATOR`, else the same.
pub(crate) fn generator() -> anyhow::Result<PathBuf> {
    find("EBPF_HELLO_GENERATOR", "ebpf-hello-generator")
}

fn find(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    let path = match env::var_os(variable) {
        Some(path) => path.into(),
        None => env::current_exe()
            .context("cannot tell where this executable is")?
            .with_file_name(name),
    };
    ensure!(
        path.is_file(),
        "no executable at {}: build it with `cargo build --release -p {name}`, or set {variable}",
        path.display()
    );
    Ok(path)
}
