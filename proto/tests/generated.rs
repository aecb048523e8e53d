//! The committed Rust in `src/gen/` is what `proto/` says: generates it again into a temporary
//! directory and compares. `UPDATE=1` writes the committed files instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const DERIVES: &str = "#[derive(::prost_canonical_serde::CanonicalSerialize, \
                       ::prost_canonical_serde::CanonicalDeserialize)]";

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.proto` under `dir`, sorted: a new file needs no entry anywhere.
fn proto_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("readable directory entry").path())
        .flat_map(|path| {
            if path.is_dir() {
                proto_files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "proto")
        })
        .collect();
    files.sort();
    files
}

fn generate(out: &Path) {
    let root = crate_dir().join("proto");
    let files = protox::compile(proto_files(&root), [&root])
        .unwrap_or_else(|error| panic!("the .proto files do not compile: {error:?}"));

    let mut config = prost_build::Config::new();
    // Sorted maps: the same event prints the same JSON.
    config
        .btree_map(["."])
        .type_attribute(".", DERIVES)
        .out_dir(out);
    for own in ["Timestamp", "Duration"] {
        config.extern_path(format!(".google.protobuf.{own}"), format!("crate::{own}"));
    }
    prost_canonical_serde_build::add_json_name_attributes(&mut config, &files);
    config.compile_fds(files).expect("prost-build generates");
}

fn contents(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("readable directory entry"))
        .map(|entry| {
            let text = fs::read_to_string(entry.path()).expect("generated files are UTF-8");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect()
}

#[test]
fn committed_code_is_what_the_proto_files_generate() {
    let committed_dir = crate_dir().join("src/gen");
    let temporary = tempfile::tempdir().expect("temporary directory");
    generate(temporary.path());
    let generated = contents(temporary.path());
    assert!(
        generated.contains_key("ebpfhello.v1.rs"),
        "nothing was generated: {generated:?}"
    );

    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(&committed_dir).expect("src/gen can be created");
        for stale in contents(&committed_dir)
            .keys()
            .filter(|name| !generated.contains_key(*name))
        {
            fs::remove_file(committed_dir.join(stale)).expect("stale file can be removed");
        }
        for (name, text) in &generated {
            fs::write(committed_dir.join(name), text).expect("src/gen can be written");
        }
        return;
    }

    let committed = contents(&committed_dir);
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&committed),
        names(&generated),
        "files in src/gen; {HOW}"
    );
    for (name, text) in &generated {
        let differing = committed[name]
            .lines()
            .zip(text.lines())
            .enumerate()
            .find(|(_, (committed, generated))| committed != generated);
        if let Some((line, (committed, generated))) = differing {
            panic!(
                "src/gen/{name}:{}: {HOW}\n  has:    {committed}\n  expect: {generated}",
                line + 1
            );
        }
        assert!(
            committed[name] == *text,
            "src/gen/{name} ends early or late: {HOW}"
        );
    }
}

const HOW: &str =
    "not what proto/ generates; run `UPDATE=1 cargo test -p ebpf-hello-proto --test generated`";
