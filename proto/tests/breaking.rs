//! The protocol stays compatible with what was released: `released.binpb` holds its descriptors, and
//! nothing in there may go, change its number, name, type or meaning on the wire. What `buf breaking`
//! (category WIRE_JSON) would say.
//!
//! A release replaces the file: `RELEASE=1 cargo test -p ebpf-hello-proto --test breaking`.

use std::{fs, path::Path};

use prost::Message as _;
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use prost_types::FileDescriptorSet;

mod schema;

fn released_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("released.binpb")
}

fn released() -> FileDescriptorSet {
    let bytes = fs::read(released_file()).expect("released.binpb");
    FileDescriptorSet::decode(bytes.as_slice()).expect("released.binpb holds descriptors")
}

fn pool(files: FileDescriptorSet) -> DescriptorPool {
    DescriptorPool::from_file_descriptor_set(files).expect("the descriptors are complete")
}

fn is_ours(package: &str) -> bool {
    package.starts_with("ebpfhello.")
}

/// What a program built against `old` would stumble over in `new`.
fn breaks(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut breaks = Vec::new();
    for message in old.all_messages().filter(|m| is_ours(m.package_name())) {
        match new.get_message_by_name(message.full_name()) {
            Some(now) => compare_messages(&message, &now, &mut breaks),
            None => breaks.push(format!("message {} is gone", message.full_name())),
        }
    }
    for enumeration in old.all_enums().filter(|e| is_ours(e.package_name())) {
        match new.get_enum_by_name(enumeration.full_name()) {
            Some(now) => compare_enums(&enumeration, &now, &mut breaks),
            None => breaks.push(format!("enum {} is gone", enumeration.full_name())),
        }
    }
    for service in old.services() {
        let Some(now) = new.get_service_by_name(service.full_name()) else {
            breaks.push(format!("service {} is gone", service.full_name()));
            continue;
        };
        for method in service.methods() {
            let shape = |method: &prost_reflect::MethodDescriptor| {
                format!(
                    "{}{} -> {}{}",
                    stream(method.is_client_streaming()),
                    method.input().full_name(),
                    stream(method.is_server_streaming()),
                    method.output().full_name()
                )
            };
            match now.methods().find(|m| m.name() == method.name()) {
                None => breaks.push(format!("method {} is gone", method.full_name())),
                Some(now) if shape(&now) != shape(&method) => breaks.push(format!(
                    "method {} was {} and is {}",
                    method.full_name(),
                    shape(&method),
                    shape(&now)
                )),
                Some(_) => {}
            }
        }
    }
    breaks
}

fn stream(streaming: bool) -> &'static str {
    if streaming { "stream " } else { "" }
}

fn compare_messages(old: &MessageDescriptor, new: &MessageDescriptor, breaks: &mut Vec<String>) {
    for field in old.fields() {
        match new.get_field(field.number()) {
            None => breaks.push(format!(
                "field {} ({}) is gone",
                field.full_name(),
                field.number()
            )),
            Some(now) if shape(&now) != shape(&field) => breaks.push(format!(
                "field {} was {} and is {}",
                field.full_name(),
                shape(&field),
                shape(&now)
            )),
            Some(_) => {}
        }
    }
}

/// What of a field is seen on the wire, in JSON, and by whoever asks whether it is set.
fn shape(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(enumeration) => enumeration.full_name().to_owned(),
        kind => format!("{kind:?}"),
    };
    let oneof = field.containing_oneof();
    format!(
        "{:?} {kind} {} ({}){}{}",
        field.cardinality(),
        field.name(),
        field.json_name(),
        if field.supports_presence() {
            " with presence"
        } else {
            ""
        },
        oneof
            .filter(|oneof| !oneof.is_synthetic())
            .map_or_else(String::new, |oneof| format!(" in {}", oneof.name())),
    )
}

fn compare_enums(old: &EnumDescriptor, new: &EnumDescriptor, breaks: &mut Vec<String>) {
    for value in old.values() {
        match new.get_value(value.number()) {
            None => breaks.push(format!("value {} is gone", value.full_name())),
            Some(now) if now.name() != value.name() => breaks.push(format!(
                "value {} is called {} now",
                value.full_name(),
                now.name()
            )),
            Some(_) => {}
        }
    }
}

#[test]
fn nothing_that_was_released_is_broken() {
    let current = schema::pool();
    if std::env::var_os("RELEASE").is_some_and(|value| value == "1") {
        fs::write(released_file(), current.encode_to_vec()).expect("released.binpb is written");
        return;
    }
    let breaks = breaks(&pool(released()), &current);
    assert!(
        breaks.is_empty(),
        "the protocol breaks its users: {breaks:#?}"
    );
}

#[test]
fn removing_any_released_field_or_value_is_found() {
    let files = released();
    let old = pool(files.clone());
    let mut removed = 0;
    for (file, descriptor) in files.file.iter().enumerate() {
        if !is_ours(descriptor.package()) {
            continue;
        }
        for (message, fields) in descriptor.message_type.iter().enumerate() {
            for field in 0..fields.field.len() {
                let mut changed = files.clone();
                let message = &mut changed.file[file].message_type[message];
                let gone = message.field.remove(field);
                // A oneof with no field left is not valid; prost-reflect needs it gone as well.
                if message.oneof_decl.len() == 1
                    && message.field.iter().all(|f| f.oneof_index.is_none())
                {
                    message.oneof_decl.clear();
                }
                let Ok(new) = DescriptorPool::from_file_descriptor_set(changed) else {
                    // Removing an optional field leaves its synthetic oneof empty.
                    assert!(
                        gone.proto3_optional(),
                        "{} of {:?}",
                        gone.name(),
                        fields.name
                    );
                    continue;
                };
                let found = breaks(&old, &new);
                assert!(
                    found.iter().any(|line| line.contains(gone.name())),
                    "{}.{} was removed: {found:?}",
                    fields.name(),
                    gone.name()
                );
                removed += 1;
            }
        }
    }
    assert!(removed > 100, "only {removed} fields were removed");
}

#[test]
fn a_changed_type_a_renamed_value_and_a_lost_method_are_found() {
    let files = released();
    let old = pool(files.clone());
    let change = |what: &str, change: &dyn Fn(&mut FileDescriptorSet)| {
        let mut changed = files.clone();
        change(&mut changed);
        let found = breaks(&old, &pool(changed));
        assert!(
            found.iter().any(|line| line.contains(what)),
            "{what}: {found:?}"
        );
    };
    let file = |files: &mut FileDescriptorSet, name: &str| -> usize {
        let path = format!("ebpfhello/v1/{name}.proto");
        files
            .file
            .iter()
            .position(|file| file.name() == path)
            .expect("the file is there")
    };
    change("ebpfhello.v1.Event.sequence was", &|files| {
        let index = file(files, "event");
        let field = files.file[index].message_type[0]
            .field
            .iter_mut()
            .find(|field| field.name() == "sequence")
            .expect("the field is there");
        field.set_type(prost_types::field_descriptor_proto::Type::Sint64);
    });
    change("is called", &|files| {
        let index = file(files, "ledger");
        let value = &mut files.file[index].enum_type[0].value[1];
        value.name = Some("SUPPRESSED_REASON_OTHER".into());
    });
    change("GetLedger is gone", &|files| {
        let index = file(files, "observer");
        files.file[index].service[0]
            .method
            .retain(|method| method.name() != "GetLedger");
    });
}
