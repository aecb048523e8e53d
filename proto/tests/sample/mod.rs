//! Messages with every field set, made from the schema: a field added tomorrow is tested without
//! anyone listing it.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// A message with every field set to something that is not its default; of a oneof, `chosen`.
pub(crate) fn full_message(
    descriptor: &MessageDescriptor,
    chosen: Option<&FieldDescriptor>,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    // Field numbers as values: two fields swapped show.
    for field in descriptor.fields() {
        let real_oneof = field
            .containing_oneof()
            .is_some_and(|oneof| !oneof.is_synthetic());
        if !real_oneof || Some(&field) == chosen {
            message.set_field(&field, full_value(&field));
        }
    }
    message
}

fn full_value(field: &FieldDescriptor) -> Value {
    if field.is_map() {
        let entries = ["b", "a"].map(|key| (MapKey::String(key.into()), Value::String("v".into())));
        return Value::Map(entries.into_iter().collect());
    }
    let one = single(field);
    if field.is_list() {
        Value::List(vec![one.clone(), one])
    } else {
        one
    }
}

fn single(field: &FieldDescriptor) -> Value {
    let number = field.number();
    match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(format!("{}\n\\x{number:02x}", field.name())),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::MAX - number),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX - u64::from(number)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::MIN + number.cast_signed()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::MIN + i64::from(number)),
        Kind::Enum(values) => {
            let last = values.values().last().expect("an enum has values");
            Value::EnumNumber(last.number())
        }
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            Value::Message(seconds_and_nanos(&message, 1_795_341_600, 123_456_789))
        }
        Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => {
            Value::Message(seconds_and_nanos(&message, 0, 12_000_000))
        }
        Kind::Message(message) => Value::Message(full_message(&message, None)),
        other @ (Kind::Bytes | Kind::Float | Kind::Double) => {
            panic!(
                "{}: no sample for {other:?} yet, add one",
                field.full_name()
            )
        }
    }
}

fn seconds_and_nanos(message: &MessageDescriptor, seconds: i64, nanos: i32) -> DynamicMessage {
    let mut value = DynamicMessage::new(message.clone());
    value.set_field_by_name("seconds", Value::I64(seconds));
    value.set_field_by_name("nanos", Value::I32(nanos));
    value
}
