//! The protocol of other versions: as it was released, and as it could be next.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use prost_types::{
    DescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// A version of the protocol.
#[derive(Clone)]
pub(crate) struct Schema(DescriptorPool);

/// A field that every message has in the next version.
pub(crate) const NEW_FIELD: &str = "new_field";
const NEW_FIELD_NUMBER: i32 = 1000;
/// A message of the next version, and where it stands in each oneof.
const NEW_MESSAGE: &str = "Novelty";
pub(crate) const NEW_MEMBER: &str = "novelty";
const NEW_MEMBER_NUMBER: i32 = 60;
/// A value that every enum has in the next version.
pub(crate) const NEW_VALUE: i32 = 900;

impl Schema {
    pub(crate) fn released() -> Self {
        Schema(DescriptorPool::from_file_descriptor_set(released_files()).unwrap())
    }

    /// Every message has one more field, every enum one more value, every oneof one more member.
    pub(crate) fn next() -> Self {
        let mut files = released_files();
        for file in files
            .file
            .iter_mut()
            .filter(|file| file.package() == "ebpfhello.v1")
        {
            extend(file);
        }
        let mut novelty = files
            .file
            .iter_mut()
            .filter(|file| file.name().ends_with("event.proto"));
        novelty.next().unwrap().message_type.push(DescriptorProto {
            name: Some(NEW_MESSAGE.into()),
            field: vec![field("text", 1, Type::String)],
            ..DescriptorProto::default()
        });
        // Who mentions it has to import its file.
        for file in &mut files.file {
            let event = "ebpfhello/v1/event.proto";
            if file.package() == "ebpfhello.v1"
                && file.name().ends_with("collector.proto")
                && !file.dependency.iter().any(|import| import == event)
            {
                file.dependency.push(event.into());
            }
        }
        Schema(DescriptorPool::from_file_descriptor_set(files).unwrap())
    }

    /// A message from its canonical JSON.
    pub(crate) fn message(&self, name: &str, json: &str) -> DynamicMessage {
        let descriptor = self.0.get_message_by_name(&format!("ebpfhello.v1.{name}"));
        let mut json = serde_json::Deserializer::from_str(json);
        DynamicMessage::deserialize(descriptor.unwrap(), &mut json).unwrap()
    }

    pub(crate) fn encode(&self, name: &str, json: &str) -> Bytes {
        self.message(name, json).encode_to_vec().into()
    }

    pub(crate) fn decode(&self, name: &str, bytes: Bytes) -> DynamicMessage {
        let descriptor = self.0.get_message_by_name(&format!("ebpfhello.v1.{name}"));
        DynamicMessage::decode(descriptor.unwrap(), bytes).unwrap()
    }
}

/// A field of a message, which is there.
pub(crate) fn get(message: &DynamicMessage, field: &str) -> Value {
    assert!(message.has_field_by_name(field), "no {field} in {message}");
    message.get_field_by_name(field).unwrap().into_owned()
}

/// The same, of a message within it.
pub(crate) fn get_message(message: &DynamicMessage, field: &str) -> DynamicMessage {
    get(message, field).as_message().unwrap().clone()
}

fn released_files() -> FileDescriptorSet {
    FileDescriptorSet::decode(&include_bytes!("../../../proto/released.binpb")[..]).unwrap()
}

fn extend(file: &mut FileDescriptorProto) {
    for message in &mut file.message_type {
        extend_message(message);
    }
    for enumeration in &mut file.enum_type {
        enumeration.value.push(EnumValueDescriptorProto {
            name: Some(format!("{}_NOVEL", enumeration.name().to_uppercase())),
            number: Some(NEW_VALUE),
            ..EnumValueDescriptorProto::default()
        });
    }
}

fn extend_message(message: &mut DescriptorProto) {
    if message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
    {
        return;
    }
    for nested in &mut message.nested_type {
        extend_message(nested);
    }
    message
        .field
        .push(field(NEW_FIELD, NEW_FIELD_NUMBER, Type::String));
    // The oneofs that say what a message is; not those of optional fields.
    let kinds = ["kind", "message"];
    let oneof = message
        .oneof_decl
        .iter()
        .position(|oneof| kinds.contains(&oneof.name()));
    if let Some(oneof) = oneof
        && ["Event", "PublishRequest", "PublishResponse"].contains(&message.name())
    {
        message.field.push(FieldDescriptorProto {
            type_name: Some(format!(".ebpfhello.v1.{NEW_MESSAGE}")),
            oneof_index: Some(oneof as i32),
            ..field(NEW_MEMBER, NEW_MEMBER_NUMBER, Type::Message)
        });
    }
}

fn field(name: &str, number: i32, r#type: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(r#type.into()),
        ..FieldDescriptorProto::default()
    }
}
