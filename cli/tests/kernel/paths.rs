//! Calls that take two paths tell both.

use std::process::Command;

use ebpf_hello_proto::v1::{Path, event::Kind};

use crate::{events::process, filter::filter, instance::Instance};

pub(crate) fn rename_link_and_symlink_tell_both_paths() {
    let calls = [
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let calls = ["renameat", "renameat2", "linkat", "symlinkat"];
    let filter = filter("Path", &calls);
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
    ]);
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{}/{name}", directory.path().display());
    // What reads as one path and the start of the next would be cut in the wrong place.
    let long = at(&"n".repeat(200));
    std::fs::write(at("a"), "").unwrap();
    let text = "../no/such file";
    for arguments in [
        ["mv", "-T", &at("a"), &long],
        ["ln", "-T", &long, &at("c")],
        ["ln", "-sT", text, &at("d")],
    ] {
        let status = Command::new(arguments[0]).args(&arguments[1..]).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }
    let ended = run.end();
    ended.ledger().assert_complete();
    let paths: Vec<(String, Path)> = ended
        .events()
        .into_iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Path(path)) if path.new_path.starts_with(&at("")) => {
                Some((process(&event).comm.clone(), path.clone()))
            }
            _ => None,
        })
        .collect();
    let told: Vec<_> = paths
        .iter()
        .map(|(comm, path)| (comm.as_str(), path.path.clone(), path.new_path.clone()))
        .collect();
    let expected = [
        ("mv", at("a"), long.clone()),
        ("ln", long, at("c")),
        ("ln", text.to_owned(), at("d")),
    ];
    assert_eq!(told, expected, "{paths:?}");
    for (_, path) in &paths {
        assert!(!path.unreadable && !path.truncated, "{path:?}");
        let has_directories = path.name.ends_with("at") || path.name.ends_with("at2");
        assert_eq!(path.new_dirfd.is_some(), has_directories, "{path:?}");
        let has_first = has_directories && !path.name.starts_with("symlink");
        assert_eq!(path.dirfd.is_some(), has_first, "{path:?}");
    }
}
