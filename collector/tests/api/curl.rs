use std::process::{Command, Output};

use crate::server::*;

async fn curl(server: &Server, flags: &[&str], path: &str) -> Output {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--no-buffer"])
        .args(flags)
        .arg(format!("http://{}{path}", server.tcp));
    tokio::task::spawn_blocking(move || command.output().expect("curl is installed"))
        .await
        .unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    // A stream that was quiet for a while has empty lines.
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_a_json_event_per_line() {
    let server = start().await;
    server.append(&batch(1, 9)).await;
    let all = ["--header", "authorization: Bearer all"];
    let events = curl(
        &server,
        &all,
        "/v1/events?namespaces=shop&mask=process.comm,pod.name",
    )
    .await;
    assert!(events.status.success());
    let events = lines(&events);
    assert_eq!(events.len(), 3);
    assert_eq!(
        events[0],
        r#"{"time":"2023-11-14T22:13:21Z","node":"n1","cpu":0,"sequence":"1","epoch":"1","process":{"comm":"sh"},"pod":{"name":"cart-0"},"exec":{}}"#
    );
    // Following goes on until curl has had enough.
    let limited = [&all[..], &["--max-time", "10"]].concat();
    let followed = curl(&server, &limited, "/v1/events?follow&last=9").await;
    assert_eq!(followed.status.code(), Some(28), "curl's own time limit");
    assert_eq!(lines(&followed).len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_told_who_may_not_and_why() {
    let server = start().await;
    server.append(&batch(1, 9)).await;
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let nobody = curl(&server, &status, "/v1/events").await;
    assert_eq!(lines(&nobody), ["401"]);
    let wrong = [&status[..], &["--header", "authorization: Bearer all"]].concat();
    let refused = curl(&server, &wrong, "/v1/events?pidz=1").await;
    assert_eq!(lines(&refused), ["400"]);
}
