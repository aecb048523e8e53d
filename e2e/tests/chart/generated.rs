//! Committed files, and parts of files, that are made of others.

use std::{env, fs};

use ebpf_hello_e2e::chart::repository;

/// How to write them again.
const AGAIN: &str = "UPDATE=1 cargo test -p ebpf-hello-e2e --features api-tests --test chart";

/// The whole file is `text`.
pub(crate) fn file(name: &str, text: &str) {
    let path = repository().join(name);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{name} has drifted: `{AGAIN}` writes it again");
}

/// Between `<!-- TITLE -->` and `<!-- end of TITLE -->` the file has `text`.
pub(crate) fn part(name: &str, title: &str, text: &str) {
    let committed = fs::read_to_string(repository().join(name)).unwrap();
    let (begin, end) = (format!("<!-- {title} -->\n"), format!("<!-- end of {title} -->"));
    let parts = committed
        .split_once(&begin)
        .and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = parts.unwrap_or_else(|| panic!("{name} has no part between {begin}and {end}"));
    file(name, &format!("{head}{begin}{text}{end}{tail}"));
}
