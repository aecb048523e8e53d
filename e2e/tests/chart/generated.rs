//! Committed files, and parts of files, that are made of others.

use std::{collections::BTreeMap, env, fs};

use ebpf_hello_e2e::chart::repository;
use serde_json::Value;

/// How to write them again.
const AGAIN: &str = "UPDATE=1 cargo test -p ebpf-hello-e2e --test chart";

/// JSON on a line, the same whatever order the keys came in.
pub(crate) fn compact(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let pairs: Vec<_> = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), compact(value)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(compact).collect();
            format!("[{}]", items.join(","))
        }
        plain => plain.to_string(),
    }
}

/// The whole file is `text`.
pub(crate) fn file(name: &str, text: &str) {
    let path = repository().join(name);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "{name} has drifted: `{AGAIN}` writes it again"
    );
}

/// Between `<!-- TITLE -->` and `<!-- end of TITLE -->` the file has `text`.
pub(crate) fn part(name: &str, title: &str, text: &str) {
    let committed = fs::read_to_string(repository().join(name)).unwrap();
    let (begin, end) = (
        format!("<!-- {title} -->\n"),
        format!("<!-- end of {title} -->"),
    );
    let parts = committed
        .split_once(&begin)
        .and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) =
        parts.unwrap_or_else(|| panic!("{name} has no part between {begin}and {end}"));
    file(name, &format!("{head}{begin}{text}{end}{tail}"));
}
