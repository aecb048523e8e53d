//! Ten thousand connections of nobody: the server stays alive and small, and is free again.
//!
//! The clients are another process, this executable again: each side needs a descriptor for every connection.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ebpf_hello_collector::access::{Limits, raise_open_files};
use tokio::task::JoinSet;

use super::fixture::{Client, READER, Setup, start_with, until};

/// Connections that are tried.
const CROWD: usize = 10_000;
/// Connections the server takes.
const PLACES: usize = 8_000;
/// Most memory that one may cost, in bytes. Measured: see what the test prints.
const EACH: usize = 64 << 10;

const ADDRESS: &str = "CROWD_ADDRESS";
const AUTHORITY: &str = "CROWD_AUTHORITY";

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_bounded_and_the_server_lives() {
    let files = raise_open_files();
    assert!(
        files > CROWD as u64 + 100,
        "{files} open files are too few for this test"
    );
    let recognition = Duration::from_secs(120);
    let limits = Limits {
        connections_per_address: usize::MAX,
        recognition,
        idle: recognition,
        ..Limits::default()
    };
    let mut setup = Setup {
        limits,
        ..Setup::default()
    };
    setup.options.max_connections = PLACES;
    let server = start_with(setup).await;
    let mut live = server.observe(&server.stranger(), READER).await.unwrap();
    let before = resident_bytes();

    let started = Instant::now();
    let mut crowd = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "crowd::connect_and_stay",
        ])
        .env(ADDRESS, server.address.to_string())
        .env(AUTHORITY, server.path("tls/ca.crt"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(crowd.stdout.take().unwrap());
    let report = tokio::task::spawn_blocking(move || {
        output
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("crowd: "))
    });
    let report = report.await.unwrap().expect("the crowd said nothing");
    let took = started.elapsed();
    let open = server.door.counts().open;
    let each = resident_bytes().saturating_sub(before) / open.max(1);
    println!(
        "{report}; the server holds {open} after {took:.1?}, {each} bytes of resident memory each"
    );
    assert!(
        (PLACES - 10..=PLACES).contains(&open),
        "{open} connections are open"
    );
    assert!(each <= EACH, "{each} bytes for a connection");

    // Who is inside is served; who comes is refused at once, and not left to wait.
    live.message().await.unwrap().expect("the stream goes on");
    assert!(server.observe(&server.stranger(), READER).await.is_err());

    crowd.kill().unwrap();
    crowd.wait().unwrap();
    until("room", async || {
        server.observe(&server.stranger(), READER).await.ok()
    })
    .await;
    live.message().await.unwrap().expect("the stream goes on");
}

/// The other process: connects, says how that went, and stays until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the crowd of another test"]
async fn connect_and_stay() {
    let Ok(address) = std::env::var(ADDRESS) else {
        panic!("{ADDRESS} is not set: this is the crowd of another test");
    };
    let _ = raise_open_files();
    let address = address.parse().unwrap();
    let client = Client {
        trusts: super::fixture::read_certificates(std::env::var(AUTHORITY).unwrap()),
        shows: None,
    };
    let (mut held, mut refused) = (Vec::with_capacity(CROWD), 0);
    let mut tries = JoinSet::new();
    for _ in 0..CROWD {
        if tries.len() >= 64 {
            match tries.join_next().await.unwrap().unwrap() {
                Ok(stream) => held.push(stream),
                Err(_) => refused += 1,
            }
        }
        let client = client.clone();
        tries.spawn(async move { client.tls(address).await });
    }
    while let Some(result) = tries.join_next().await {
        match result.unwrap() {
            Ok(stream) => held.push(stream),
            Err(_) => refused += 1,
        }
    }
    println!(
        "crowd: {} of {CROWD} connections, {refused} refused",
        held.len()
    );
    tokio::time::sleep(Duration::from_secs(600)).await;
}
