use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::server::*;

/// On the PATH, or unpacked from the folder that EBPF_HELLO_ASSETS names.
fn grpcurl(directory: &Path) -> PathBuf {
    let on_path = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join("grpcurl"))
        .find(|program| program.is_file());
    if let Some(program) = on_path {
        return program;
    }
    let assets = std::env::var_os("EBPF_HELLO_ASSETS")
        .expect("grpcurl is not on the PATH, and EBPF_HELLO_ASSETS names no folder that has it");
    let packed = Path::new(&assets).join("grpcurl.zst");
    let program = directory.join("grpcurl");
    let unpacked = Command::new("zstd")
        .args(["-dqf", "--long=27"])
        .arg(&packed)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("zstd runs");
    assert!(unpacked.success(), "{} unpacks", packed.display());
    let executable = Command::new("chmod").arg("755").arg(&program).status();
    assert!(executable.unwrap().success());
    program
}

async fn run(server: &Server, flags: &[&str], what: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let program = grpcurl(directory.path());
    let mut command = Command::new(program);
    command
        .args([
            "-plaintext",
            "-max-time",
            "60",
            "-H",
            "authorization: Bearer all",
        ])
        .args(flags)
        .arg(server.tcp.to_string())
        .args(what);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_needs_nothing_but_the_address() {
    let server = start().await;
    server.append(&batch(1, 3)).await;
    let list = run(&server, &[], &["list"]).await;
    assert!(list.status.success(), "{}", text(&list.stderr));
    let services = text(&list.stdout);
    for service in [
        "ebpfhello.v1.CollectorService",
        "ebpfhello.v1.ObserverService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let describe = run(&server, &[], &["describe", "ebpfhello.v1.Event"]).await;
    assert!(
        text(&describe.stdout).contains("message Event {"),
        "{}",
        text(&describe.stderr)
    );
    let health = run(&server, &[], &["grpc.health.v1.Health/Check"]).await;
    assert!(
        text(&health.stdout).contains("SERVING"),
        "{}",
        text(&health.stderr)
    );

    let asked = r#"{"selection":{"namespaces":["shop"]},"mask":{"paths":["pod.name"]}}"#;
    let events = run(
        &server,
        &["-d", asked],
        &["ebpfhello.v1.ObserverService/Observe"],
    )
    .await;
    assert!(events.status.success(), "{}", text(&events.stderr));
    let events = text(&events.stdout);
    assert!(
        events.contains("\"cart-0\"") && !events.contains("safe-0"),
        "{events}"
    );
    // As grpcurl prints a time, so does JSON of the collector.
    assert!(events.contains("\"2023-11-14T22:13:21Z\""), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_shows_what_is_wrong_with_a_request() {
    let server = start().await;
    let asked = r#"{"selection":{"cel":"event.nod == 'x'"}}"#;
    let refused = run(
        &server,
        &["-d", asked],
        &["ebpfhello.v1.ObserverService/Observe"],
    )
    .await;
    let said = text(&refused.stderr);
    assert!(!refused.status.success());
    for expected in [
        "InvalidArgument",
        "selection.cel",
        "1:1: Event has no field",
        "INVALID_FIELD",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}
