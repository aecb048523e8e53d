//! Children, and how they ended as wait() saw it.

use std::{
    io::{self, BufRead as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::ending::Ending;

/// Runs a program `count` times.
pub(crate) fn burst(
    count: u32,
    jobs: u32,
    uid: Option<u32>,
    program: &[String],
) -> anyhow::Result<Value> {
    let next = AtomicU32::new(0);
    let run_some = || -> anyhow::Result<Vec<Value>> {
        let mut ended = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(ended);
            }
            let mut command = Command::new(&program[0]);
            command.args(&program[1..]).arg(index.to_string());
            if let Some(uid) = uid {
                command.uid(uid).gid(uid);
            }
            let mut child = command
                .spawn()
                .with_context(|| format!("cannot run {}", program[0]))?;
            let status = child.wait().context("cannot wait for a child")?;
            let mut end = end(child.id(), status);
            end["index"] = json!(index);
            ended.push(end);
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(run_some)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut processes = Vec::new();
    for result in results {
        match result {
            Ok(ended) => processes.extend(ended?),
            Err(_) => bail!("a thread panicked"),
        }
    }
    Ok(json!({ "pid": std::process::id(), "processes": processes }))
}

/// Runs `count` processes of `threads` threads, all at the same time.
pub(crate) fn processes(count: u32, threads: u32) -> anyhow::Result<Value> {
    let mut running: Vec<(Ending, Child)> = Vec::new();
    for (index, ending) in (0..count).zip(Ending::ALL.iter().cycle()) {
        let child = Command::new("/proc/self/exe")
            .arg0("ebpf-hello-generator")
            .arg("process")
            .arg(threads.to_string())
            .arg(ending.name())
            // 255 is left out: a process adds one to tell its other threads' status from it.
            .arg((index % 255).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run a process")?;
        running.push((*ending, child));
    }
    for (ending, child) in &mut running {
        if *ending == Ending::Kill {
            wait_until_ready(child)?;
            child.kill().context("cannot kill a process")?;
        }
    }
    let mut processes = Vec::new();
    for (ending, mut child) in running {
        let status = child.wait().context("cannot wait for a process")?;
        let mut end = end(child.id(), status);
        end["ending"] = json!(ending.name());
        processes.push(end);
    }
    Ok(json!({ "pid": std::process::id(), "processes": processes }))
}

/// Waits for its first line: its threads are there and its leader is gone.
fn wait_until_ready(child: &mut Child) -> anyhow::Result<()> {
    let output = child.stdout.take().context("a process without stdout")?;
    let mut line = String::new();
    io::BufReader::new(output)
        .read_line(&mut line)
        .context("cannot wait for a process to be ready")?;
    if line.is_empty() {
        bail!("a process ended before it was killed");
    }
    Ok(())
}

fn end(pid: u32, status: ExitStatus) -> Value {
    json!({ "pid": pid, "code": status.code(), "signal": status.signal() })
}
