use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use crate::server::*;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A Python that has gRPC and its generator: `PYTHON`, else the first found.
fn python() -> String {
    let candidates = std::env::var("PYTHON").map_or_else(
        |_| vec!["python3".into(), "/usr/bin/python3".into()],
        |one| vec![one],
    );
    candidates
        .iter()
        .find(|python| {
            Command::new(python)
                .args(["-c", "import grpc, grpc_tools.protoc"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
        .cloned()
        .unwrap_or_else(|| {
            panic!(
                "none of {candidates:?} has grpc and grpc_tools: \
                 apt-get install python3-grpcio python3-grpc-tools, or pip install grpcio grpcio-tools"
            )
        })
}

fn make_stubs(python: &str, directory: &Path) {
    let protos = Path::new(ROOT).join("proto/proto");
    let files: Vec<PathBuf> = std::fs::read_dir(protos.join("ebpfhello/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let made = Command::new(python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&protos)
        .arg(format!("--python_out={}", directory.display()))
        .arg(format!("--grpc_python_out={}", directory.display()))
        .args(files)
        .status()
        .unwrap();
    assert!(made.success(), "the stubs are made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_of_the_docs_prints_what_happens() {
    let python = python();
    let stubs = tempfile::tempdir().unwrap();
    make_stubs(&python, stubs.path());
    let server = start().await;
    server.append(&batch(1, 3)).await;
    let mut consumer = Command::new(&python)
        .arg(format!("{ROOT}/docs/consumer.py"))
        .arg(format!("unix://{}", server.socket().display()))
        .arg("shop")
        .env("PYTHONPATH", stubs.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(consumer.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let lines = std::sync::Mutex::new(lines);
    let first = tokio::task::block_in_place(|| lines.lock().unwrap().recv_timeout(PATIENCE));
    // Live, too.
    server.append(&batch(2, 3)).await;
    let second = tokio::task::block_in_place(|| lines.lock().unwrap().recv_timeout(PATIENCE));
    consumer.kill().unwrap();
    consumer.wait().unwrap();
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        ("n1 cart-0".into(), "n1 cart-0".into())
    );
}
