//! A process that appends and is killed: what it was told to be stored must be there.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::Arc,
};

use ebpf_hello_collector::log::{Log, Next};

use crate::suite::{append, key};

const NODES: u64 = 4;

/// Appends as several agents for as long as it lives, and prints what was acknowledged.
pub(crate) async fn append_for_ever(log: Arc<dyn Log>) {
    let tasks = (0..NODES).map(|node| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 1.. {
                append(&*log, &format!("n{node}"), key(1, number), 20).await;
                println!("acknowledged {node} {number}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Runs this test program's ignored test `appender`, kills it amid its work, and says which batch of each node
/// was acknowledged last.
pub(crate) fn kill_amid(appender: &str, place: &str) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", appender, "--ignored", "--nocapture"])
        .env("LOG_TEST_PLACE", place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = vec![0; NODES as usize];
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // The harness may print on the same line.
        let Some((_, line)) = line.split_once("acknowledged ") else {
            continue;
        };
        let Some((node, number)) = line.split_once(' ') else {
            continue;
        };
        let (node, number) = (node.parse::<usize>().unwrap(), number.parse().unwrap());
        acknowledged[node] = number;
        if !killed && acknowledged.iter().all(|number| *number >= 50) {
            child.kill().unwrap(); // SIGKILL; what is still in the pipe was acknowledged too
            killed = true;
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(killed, "the appender ended by itself");
    acknowledged
}

/// Whether everything acknowledged is in the log, once and in order, and appending goes on.
pub(crate) async fn has_all(log: &dyn Log, acknowledged: &[u64]) {
    let mut reader = log.reader(0).await.unwrap();
    let mut seen = vec![0; acknowledged.len()];
    loop {
        match reader.next().await.unwrap() {
            Next::Entry(entry) => {
                let node: usize = entry.batch.node[1..].parse().unwrap();
                assert_eq!(entry.batch.number, seen[node] + 1, "n{node}");
                seen[node] += 1;
            }
            Next::End => break,
            gone => panic!("{gone:?}"),
        }
    }
    for (node, (seen, acknowledged)) in seen.iter().zip(acknowledged).enumerate() {
        assert!(seen >= acknowledged, "n{node}: {seen} of {acknowledged}");
        let name = format!("n{node}");
        assert_eq!(log.last(&name).await.unwrap(), Some(key(1, *seen)));
        append(log, &name, key(1, seen + 1), 1).await;
    }
}
