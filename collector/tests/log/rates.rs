//! How fast a log takes and gives batches of 512 events: prints it, and proves nothing.
//!
//! `cargo test --release -p ebpf-hello-collector --test log rates -- --ignored --nocapture --test-threads 1`

use std::{sync::Arc, time::Instant};

use ebpf_hello_collector::log::{Log, Next};

use crate::suite::{batch, key};

const EVENTS: u32 = 512;
const AGENTS: u64 = 8;
const BATCHES: u64 = 100;

/// Several agents append at once, then one reader reads all.
pub(crate) async fn print(name: &str, log: Arc<dyn Log>) {
    let agents = (0..AGENTS).map(|agent| {
        let node = format!("n{agent}");
        let batches = (1..=BATCHES).map(|number| batch(&node, key(1, number), EVENTS));
        (node.clone(), batches.collect::<Vec<_>>())
    });
    let agents = agents.collect::<Vec<_>>();
    let bytes: usize = agents
        .iter()
        .flat_map(|(_, batches)| batches)
        .map(|batch| batch.len())
        .sum();
    let start = Instant::now();
    let tasks = agents.into_iter().map(|(node, batches)| {
        let log = log.clone();
        tokio::spawn(async move {
            for (index, batch) in batches.into_iter().enumerate() {
                log.append(&node, key(1, index as u64 + 1), batch)
                    .await
                    .unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let appended = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut reader = log.reader(0).await.unwrap();
    let mut read = 0;
    while read < AGENTS * BATCHES {
        match reader.next().await.unwrap() {
            Next::Entry(_) => read += 1,
            Next::End => reader.wait().await,
            gone => panic!("{gone:?}"),
        }
    }
    let events = (AGENTS * BATCHES * u64::from(EVENTS)) as f64 / 1e6;
    println!(
        "{name}: {AGENTS} agents append {:.2} M events/s, {:.0} MB/s; a reader reads {:.2} M events/s",
        events / appended,
        bytes as f64 / 1e6 / appended,
        events / start.elapsed().as_secs_f64(),
    );
}
