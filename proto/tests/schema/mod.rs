//! The schema itself, compiled from `proto/` without the generated code.

use std::path::Path;

use prost_reflect::DescriptorPool;

/// All messages and enums of the protocol.
pub(crate) fn pool() -> DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(
        ["ebpfhello/v1/event.proto", "ebpfhello/v1/ledger.proto"].map(|file| root.join(file)),
        [&root],
    )
    .unwrap_or_else(|error| panic!("the .proto files do not compile: {error:?}"));
    DescriptorPool::from_file_descriptor_set(files).expect("the descriptors are complete")
}
