//! The table of values, made of the comments in values.yaml.

use std::{collections::BTreeMap, fs};

use ebpf_hello_e2e::chart::{objects, repository};
use serde_json::Value;

/// Every key with its place, and the comment above it.
fn keys(text: &str) -> Vec<(Vec<String>, Option<String>)> {
    let mut keys = Vec::new();
    let mut place: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if let Some(words) = bare.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        let key = bare.split_once(':').map(|(key, _)| key);
        if let Some(key) = key.filter(|key| key.chars().all(|c| c.is_ascii_alphanumeric())) {
            place.retain(|(outer, _)| *outer < indent);
            place.push((indent, key.to_owned()));
            let comment = (!comment.is_empty()).then(|| comment.join(" "));
            keys.push((place.iter().map(|(_, key)| key.clone()).collect(), comment));
        }
        comment.clear();
    }
    keys
}

#[test]
fn the_table_of_values_is_what_values_yaml_says() {
    let text = fs::read_to_string(repository().join("helm/ebpf-hello/values.yaml")).unwrap();
    let defaults = &objects(&text)[0];
    let keys = keys(&text);
    let documented: BTreeMap<_, _> = keys
        .iter()
        .filter_map(|(place, comment)| Some((place.clone(), comment.clone()?)))
        .collect();
    let is_below =
        |other: &[String], place: &[String]| other.len() > place.len() && other.starts_with(place);
    let is_whole = |place: &[String]| {
        documented.contains_key(place) && !documented.keys().any(|other| is_below(other, place))
    };
    let mut table = String::from("| value | default | |\n|---|---|---|\n");
    for (place, comment) in &keys {
        let is_group = documented.keys().any(|other| is_below(other, place));
        // Of a value that is described as a whole.
        let above = (1..place.len()).any(|length| is_whole(&place[..length]));
        let path = place.join(".");
        match comment {
            Some(words) if !is_group => {
                let default = place
                    .iter()
                    .fold(defaults, |value: &Value, key| &value[key]);
                let default = super::generated::compact(default);
                table.push_str(&format!("| `{path}` | `{default}` | {words} |\n"));
            }
            None if !is_group && !above => panic!("values.yaml: {path} has no comment"),
            _ => {}
        }
    }
    super::generated::part("helm/ebpf-hello/README.md", "values", &table);
}

#[test]
fn the_schema_knows_every_default() {
    let read =
        |file: &str| fs::read_to_string(repository().join("helm/ebpf-hello").join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    for (place, _) in keys(&read("values.yaml")) {
        let mut at = &schema;
        for key in &place {
            let next = &at["properties"][key];
            if next.is_null() {
                // A map or list of whatever Kubernetes takes.
                assert_ne!(
                    at["additionalProperties"],
                    false,
                    "the schema has no {}",
                    place.join(".")
                );
                break;
            }
            at = next;
        }
    }
}
