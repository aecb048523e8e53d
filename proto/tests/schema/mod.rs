//! The schema itself, compiled from `proto/` without the generated code.

use std::path::{Path, PathBuf};

use prost_reflect::DescriptorPool;

/// Where the `.proto` files' import paths start.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

/// Every `.proto` of the package, as imports name them, sorted: a new file needs no entry anywhere.
pub(crate) fn files() -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(root().join("ebpfhello/v1"))
        .expect("the package's directory")
        .map(|entry| entry.expect("readable directory entry").file_name())
        .map(|name| format!("ebpfhello/v1/{}", name.to_string_lossy()))
        .collect();
    files.sort();
    files
}

/// All messages, enums and services of the protocol.
pub(crate) fn pool() -> DescriptorPool {
    let files = protox::compile(files(), [root()])
        .unwrap_or_else(|error| panic!("the .proto files do not compile: {error:?}"));
    DescriptorPool::from_file_descriptor_set(files).expect("the descriptors are complete")
}
