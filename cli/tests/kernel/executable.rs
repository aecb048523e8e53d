//! Where the executables under test are.

use std::{env, path::PathBuf};

/// The product: `EBPF_HELLO_BIN`, else what cargo built for this test.
pub(crate) fn product() -> PathBuf {
    find("EBPF_HELLO_BIN", "ebpf-hello")
}

/// What makes calls and processes in known numbers: `EBPF_HELLO_GENERATOR`, else the same.
pub(crate) fn generator() -> PathBuf {
    find("EBPF_HELLO_GENERATOR", "ebpf-hello-generator")
}

/// What measures: `EBPF_HELLO_BENCH`, else the same.
pub(crate) fn bench() -> PathBuf {
    find("EBPF_HELLO_BENCH", "ebpf-hello-bench")
}

fn find(variable: &str, name: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(
        || {
            // target/<profile>/deps/kernel-<hash> is this test; what it tests is two levels up. Not
            // env!("CARGO_BIN_EXE_…"): a virtual machine has this binary elsewhere than the builder.
            let test = env::current_exe().expect("a test knows its own path");
            let profile = test.ancestors().nth(2).expect("cargo puts tests in deps/");
            profile.join(name)
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
