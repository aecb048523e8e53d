//! The committed Rust in `src/gen/` is what `proto/` says: generates it again into a temporary
//! directory and compares. `UPDATE=1` writes the committed files instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

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
    // For reflection, and for programs that decode without generated code.
    fs::write(out.join("descriptor.binpb"), files.encode_to_vec()).expect("written");

    // The messages, and clients for them.
    let mut config = prost_build::Config::new();
    // Sorted maps: the same event prints the same JSON.
    config.btree_map(["."]).type_attribute(".", DERIVES);
    for own in ["Timestamp", "Duration"] {
        config.extern_path(format!(".google.protobuf.{own}"), format!("crate::{own}"));
    }
    prost_canonical_serde_build::add_json_name_attributes(&mut config, &files);
    tonic_prost_build::configure()
        .out_dir(out)
        .build_server(false)
        .build_transport(false)
        .compile_fds_with_config(files.clone(), config)
        .expect("messages and clients are generated");

    // The servers, over messages that leave events encoded (src/wire.rs).
    let servers = tempfile::tempdir().expect("temporary directory");
    let mut config = prost_build::Config::new();
    for message in ["PublishRequest", "ObserveResponse"] {
        config.extern_path(
            format!(".ebpfhello.v1.{message}"),
            format!("crate::wire::{message}"),
        );
    }
    config.extern_path(".ebpfhello.v1", "crate::v1");
    tonic_prost_build::configure()
        .out_dir(servers.path())
        .build_client(false)
        .build_transport(false)
        .compile_fds_with_config(files, config)
        .expect("servers are generated");
    fs::copy(
        servers.path().join("ebpfhello.v1.rs"),
        out.join("server.rs"),
    )
    .expect("servers are copied");
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("readable directory entry"))
        .map(|entry| {
            let bytes = fs::read(entry.path()).expect("readable file");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
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
        for (name, bytes) in &generated {
            fs::write(committed_dir.join(name), bytes).expect("src/gen can be written");
        }
        return;
    }

    let committed = contents(&committed_dir);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&committed),
        names(&generated),
        "files in src/gen; {HOW}"
    );
    for (name, expected) in &generated {
        let has = &committed[name];
        let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (has_text, expected_text) = (lines(has), lines(expected));
        let differing = has_text
            .lines()
            .zip(expected_text.lines())
            .enumerate()
            .find(|(_, (has, expected))| has != expected);
        if let Some((line, (has, expected))) = differing.filter(|_| name.ends_with(".rs")) {
            panic!(
                "src/gen/{name}:{}: {HOW}\n  has:    {has}\n  expect: {expected}",
                line + 1
            );
        }
        assert!(has == expected, "src/gen/{name} differs: {HOW}");
    }
}

const HOW: &str =
    "not what proto/ generates; run `UPDATE=1 cargo test -p ebpf-hello-proto --test generated`";
