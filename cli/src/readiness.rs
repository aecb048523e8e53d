//! Whether a node does its work, for `/healthz` and `/readyz`; and the canaries that show it.

use std::{sync::Arc, time::Duration};

use ebpf_hello_agent::Node;

use crate::monitor::Health;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// Sends canaries for as long as it is polled.
pub(crate) async fn watch(node: &Arc<Node>) {
    loop {
        let node = Arc::clone(node);
        let looked = tokio::task::spawn_blocking(move || node.check_ways(&["canary"])).await;
        if let Ok(Err(error)) = looked {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "canaries cannot be sent"
            );
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Health for Node {
    fn ailments(&self) -> Vec<String> {
        let threads = [
            (self.is_reading(), "reads the ring buffers"),
            (self.is_consumed(), "takes the events that were read"),
        ];
        let ended = threads.into_iter().filter(|(is_at_work, _)| !is_at_work);
        ended
            .map(|(_, work)| format!("the thread that {work} has ended"))
            .collect()
    }

    fn lacks(&self) -> Vec<String> {
        let mut lacks = self.ailments();
        lacks.extend(self.unready());
        lacks
    }
}
