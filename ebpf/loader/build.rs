//! Finds the BPF object to embed: `EBPF_HELLO_BPF_OBJECT` if set, else what `scripts/bpf-build`
//! makes of `ebpf/programs`.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=EBPF_HELLO_BPF_OBJECT");
    let object = match env::var_os("EBPF_HELLO_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => build(),
    };
    let object = object
        .canonicalize()
        .unwrap_or_else(|error| panic!("no BPF object at {}: {error}", object.display()));
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=EBPF_HELLO_OBJECT={}", object.display());
}

fn build() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    for source in [
        "ebpf/programs/src",
        "ebpf/programs/Cargo.toml",
        "ebpf/programs/Cargo.lock",
        "ebpf/abi/src",
        "scripts/bpf-build",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let script = root.join("scripts/bpf-build");
    let status = Command::new(&script)
        .status()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(status.success(), "{} failed: {status}", script.display());
    root.join("target/bpf/ebpf-hello.o")
}
