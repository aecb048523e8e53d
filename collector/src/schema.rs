//! The event's schema, for what users name by field: masks and CEL expressions.

use std::sync::LazyLock;

use ebpf_hello_proto::DESCRIPTOR;
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

static EVENT: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    // Both are of this build: tests/generated.rs of the proto crate keeps them true.
    #[expect(
        clippy::expect_used,
        reason = "a constant of this build, read by a test"
    )]
    DescriptorPool::decode(DESCRIPTOR)
        .expect("the descriptor set decodes")
        .get_message_by_name("ebpfhello.v1.Event")
        .expect("the descriptor set has Event")
});

/// What `Event` is made of.
pub(crate) fn event() -> &'static MessageDescriptor {
    &EVENT
}

/// The kinds of events: the fields of the oneof `kind`.
pub(crate) fn kinds() -> impl Iterator<Item = FieldDescriptor> {
    EVENT
        .oneofs()
        .filter(|oneof| oneof.name() == "kind")
        .flat_map(|oneof| oneof.fields().collect::<Vec<_>>())
}

/// A field by its name in the .proto, or in JSON.
///
/// # Errors
/// A sentence that names the fields there are.
pub(crate) fn field(of: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    of.get_field_by_name(name)
        .or_else(|| of.get_field_by_json_name(name))
        .ok_or_else(|| {
            let names: Vec<String> = of.fields().map(|field| field.name().to_owned()).collect();
            format!(
                "{} has no field {name:?}: expected one of {}",
                of.name(),
                names.join(", ")
            )
        })
}
