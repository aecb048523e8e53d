//! The schema part of validation: what the API server checks before it looks at CEL.
//!
//! Reads the CRD's own schema, so there is one list of fields, types and bounds. Only what a
//! structural schema can say is understood; patterns are left to the checks that know what a
//! name means and can suggest another.

use serde_json::Value;

use crate::{
    nearest::{nearest, suggest},
    node::{Content, Node},
    problem::{Path, Problem, Reason},
};

/// Adds to `problems` whatever in `node` is not as `schema` says.
pub(super) fn check(schema: &Value, node: &Node, path: &Path, problems: &mut Vec<Problem>) {
    let mut fail = |message: String| {
        problems.push(Problem::error(Reason::InvalidSchema, path.clone(), message))
    };
    if let Some(tag) = &node.tag {
        let name = tag.trim_start_matches('!');
        return fail(format!(
            "{tag} without quotes is a YAML tag, not a value: to leave a call out of a group write `except: [{name}]`"
        ));
    }
    if matches!(node.content, Content::Null) && schema["nullable"] == true {
        return;
    }
    let bound = |key: &str| schema[key].as_u64().and_then(|n| usize::try_from(n).ok());
    match (schema["type"].as_str(), &node.content) {
        (Some("object"), Content::Map(_)) => check_fields(schema, node, path, problems),
        (Some("array"), Content::List(items)) => {
            if let Some(most) = bound("maxItems").filter(|most| items.len() > *most) {
                fail(format!("{} items: expected at most {most}", items.len()));
            }
            if let Some(least) = bound("minItems").filter(|least| items.len() < *least) {
                fail(format!("{} items: expected at least {least}", items.len()));
            }
            for (index, item) in items.iter().enumerate() {
                let before = problems.len();
                check(&schema["items"], item, &path.index(index), problems);
                if schema["x-kubernetes-list-type"] == "set" && problems.len() == before {
                    check_repeated(items, index, path, problems);
                }
            }
        }
        (Some("string"), Content::Text(text)) => {
            let length = text.chars().count();
            if let Some(most) = bound("maxLength").filter(|most| length > *most) {
                fail(format!("{length} characters: expected at most {most}"));
            }
            if bound("minLength").is_some_and(|least| length < least) {
                fail("empty: expected some text".to_owned());
            }
            if let Some(options) = schema["enum"].as_array() {
                let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
                if !options.contains(&text.as_str()) {
                    let expected = format!(": expected {}", list(&options));
                    fail(format!(
                        "unknown value {text:?}{}",
                        suggest(&nearest(text, options), &expected)
                    ));
                }
            }
        }
        (Some("integer"), Content::Number(number)) => {
            let [least, most] = ["minimum", "maximum"].map(|key| schema[key].as_f64());
            let expected = match (least, most) {
                (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
                (Some(least), None) => format!("a whole number from {least}"),
                _ => "a whole number".to_owned(),
            };
            let value = number.as_f64().unwrap_or(f64::NAN);
            let whole = number.is_i64() || number.is_u64();
            if !whole
                || least.is_some_and(|least| value < least)
                || most.is_some_and(|most| value > most)
            {
                fail(format!("{number} is out of range: expected {expected}"));
            }
        }
        (Some("boolean"), Content::Bool(_)) | (Some("number"), Content::Number(_)) | (None, _) => {}
        (Some(expected), found) => fail(format!(
            "expected {}, found {}",
            kind(expected),
            describe(expected, found)
        )),
    }
}

fn check_fields(schema: &Value, node: &Node, path: &Path, problems: &mut Vec<Problem>) {
    let known = schema["properties"].as_object();
    let others = &schema["additionalProperties"];
    let mut seen: Vec<&str> = Vec::new();
    for entry in node.entries() {
        let key = entry.key.as_str();
        let path = path.key(key);
        if seen.contains(&key) {
            problems.push(
                Problem::error(
                    Reason::InvalidSchema,
                    path,
                    format!("field {key:?} is given twice"),
                )
                .on_key(),
            );
            continue;
        }
        seen.push(key);
        match known.and_then(|known| known.get(key)) {
            Some(schema) => check(schema, &entry.value, &path, problems),
            None if others.is_object() => check(others, &entry.value, &path, problems),
            // An object whose fields the schema does not name may have any.
            None if known.is_none() => {}
            None => {
                let fields: Vec<&str> = known
                    .into_iter()
                    .flat_map(|known| known.keys())
                    .map(String::as_str)
                    .collect();
                let expected = format!(": expected one of {}", fields.join(", "));
                let message = format!(
                    "unknown field {key:?}{}",
                    suggest(&nearest(key, fields), &expected)
                );
                problems.push(Problem::error(Reason::InvalidSchema, path, message).on_key());
            }
        }
    }
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    for key in required.filter(|key| !seen.contains(key)) {
        problems.push(Problem::error(
            Reason::InvalidSchema,
            path.clone(),
            format!("field {key:?} is missing"),
        ));
    }
    if let Some(most) = schema["maxProperties"]
        .as_u64()
        .filter(|most| seen.len() as u64 > *most)
    {
        let message = format!("{} entries: expected at most {most}", seen.len());
        problems.push(Problem::error(Reason::InvalidSchema, path.clone(), message));
    }
}

fn check_repeated(items: &[Node], index: usize, path: &Path, problems: &mut Vec<Problem>) {
    if let Some(text) = items[index].text()
        && items[..index].iter().any(|item| item.text() == Some(text))
    {
        let message = format!("{text:?} is in the list twice");
        problems.push(Problem::error(
            Reason::InvalidSchema,
            path.index(index),
            message,
        ));
    }
}

fn kind(schema_type: &str) -> &str {
    match schema_type {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a string",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    }
}

fn describe(expected: &str, found: &Content) -> String {
    let quote = if expected == "string" {
        ": put it in quotes"
    } else {
        ""
    };
    match found {
        Content::Null => "nothing".to_owned(),
        Content::Bool(value) => format!("{value}{quote}"),
        Content::Number(number) => format!("the number {number}{quote}"),
        Content::Text(text) => format!("the string {text:?}"),
        Content::List(_) => "a list".to_owned(),
        Content::Map(_) => "a map of fields".to_owned(),
    }
}

fn list(options: &[&str]) -> String {
    match options.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => options.join(""),
    }
}
