//! Rules every `.proto` here keeps, checked on the compiled schema: what `buf lint` would say, and
//! that every field is documented.

use protox::file::{ChainFileResolver, GoogleFileResolver, IncludeFileResolver};

mod schema;

#[test]
fn enums_start_at_unspecified_and_carry_their_types_prefix() {
    let pool = schema::pool();
    let mut checked = 0;
    for enumeration in pool
        .all_enums()
        .filter(|e| e.package_name() == "ebpfhello.v1")
    {
        let prefix = screaming_snake(enumeration.name());
        for value in enumeration.values() {
            let name = value.name();
            assert!(
                name.starts_with(&format!("{prefix}_")),
                "{name} lacks {prefix}_"
            );
            assert_eq!(
                value.number() == 0,
                name == format!("{prefix}_UNSPECIFIED"),
                "{name}"
            );
        }
        checked += 1;
    }
    assert_eq!(checked, 6, "enums of ebpfhello.v1");
}

#[test]
fn fields_where_zero_means_something_are_optional() {
    let pool = schema::pool();
    let mut checked = 0;
    for message in pool
        .all_messages()
        .filter(|m| m.package_name() == "ebpfhello.v1")
    {
        for field in message.fields() {
            let name = field.json_name().to_owned();
            let has_meaning = [
                "cpu",
                "code",
                "errno",
                "number",
                "returnValue",
                "uid",
                "gid",
            ]
            .contains(&&*name);
            // An object's uid is text, empty means none; batches are numbered from 1.
            let zero_is_none = [
                "ebpfhello.v1.Pod.uid",
                "ebpfhello.v1.FilterState.uid",
                "ebpfhello.v1.Batch.number",
                "ebpfhello.v1.Acknowledgement.number",
            ]
            .contains(&field.full_name());
            if has_meaning && !zero_is_none {
                assert!(
                    field.supports_presence(),
                    "{} is not optional",
                    field.full_name()
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 7, "only {checked} such fields found");
}

#[test]
fn every_message_field_enum_and_value_is_documented() {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(schema::root()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_source_info(true).include_imports(true);
    for file in schema::files() {
        compiler
            .open_file(&file)
            .unwrap_or_else(|error| panic!("{file}: {error:?}"));
    }

    let pool = compiler.descriptor_pool();
    let mut bare = Vec::new();
    let mut seen = 0;
    let mut look = |name: &str, file: &prost_reflect::FileDescriptor, path: &[i32]| {
        seen += 1;
        let info = file.file_descriptor_proto().source_code_info.as_ref();
        let comment = info
            .and_then(|info| info.location.iter().find(|location| location.path == path))
            .and_then(|location| location.leading_comments.as_deref())
            .unwrap_or_default();
        if comment.trim().is_empty() {
            bare.push(name.to_owned());
        }
    };
    for message in pool
        .all_messages()
        .filter(|m| m.package_name() == "ebpfhello.v1")
    {
        if message.is_map_entry() {
            continue;
        }
        look(message.full_name(), &message.parent_file(), message.path());
        for field in message.fields() {
            look(field.full_name(), &field.parent_file(), field.path());
        }
    }
    for enumeration in pool
        .all_enums()
        .filter(|e| e.package_name() == "ebpfhello.v1")
    {
        look(
            enumeration.full_name(),
            &enumeration.parent_file(),
            enumeration.path(),
        );
        for value in enumeration.values() {
            look(value.full_name(), &enumeration.parent_file(), value.path());
        }
    }
    for service in pool.services() {
        look(service.full_name(), &service.parent_file(), service.path());
        for method in service.methods() {
            let method_path = method.path();
            look(method.full_name(), &service.parent_file(), method_path);
        }
    }
    assert!(seen > 300, "only {seen} items found");
    assert!(bare.is_empty(), "without a comment: {bare:#?}");
}

fn screaming_snake(name: &str) -> String {
    let mut result = String::new();
    for (index, letter) in name.char_indices() {
        if index > 0 && letter.is_ascii_uppercase() {
            result.push('_');
        }
        result.push(letter.to_ascii_uppercase());
    }
    result
}
