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
        if self.is_reading() {
            Vec::new()
        } else {
            vec!["the thread that reads the ring buffers has ended".to_owned()]
        }
    }

    fn lacks(&self) -> Vec<String> {
        let mut lacks = self.ailments();
        lacks.extend(self.unready());
        lacks
    }
}
