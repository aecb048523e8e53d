//! Whether a node does its work: asked by `/healthz`, `/readyz`, `status` and the node's reports.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ebpf_hello_agent::Node;

use crate::monitor::Health;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// A node's health, as it was last seen.
pub(crate) struct Readiness {
    node: Arc<Node>,
    /// What the canaries did not come through, or why they could not be sent.
    ways: Mutex<Vec<String>>,
    /// Why the policy is not in the kernel.
    policy: Mutex<Option<String>>,
}

// === impl Readiness ===

impl Readiness {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Readiness {
            node,
            ways: Mutex::new(vec!["no canary was sent yet".to_owned()]),
            policy: Mutex::default(),
        })
    }

    /// Notes whether the last policy is in the kernel.
    pub(crate) fn note_policy(&self, problem: Option<String>) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Sends canaries for as long as it is polled.
    pub(crate) async fn watch(self: &Arc<Self>) {
        loop {
            let readiness = Arc::clone(self);
            // A panic there is a bug that the next look meets again.
            let _ = tokio::task::spawn_blocking(move || readiness.look()).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn look(&self) {
        let ways = match self.node.check_ways(&["canary"]) {
            Ok(ways) => ways
                .into_iter()
                .map(|way| format!("no {way} canary came through within 5 s"))
                .collect(),
            Err(error) => vec![format!(
                "canaries cannot be sent: {:#}",
                anyhow::Error::from(error)
            )],
        };
        let mut known = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != ways {
            for way in &ways {
                tracing::error!(problem = way, "not ready");
            }
            if ways.is_empty() {
                tracing::info!("ready: canaries come through every attached program");
            }
            *known = ways;
        }
    }
}

impl Health for Readiness {
    fn ailments(&self) -> Vec<String> {
        if self.node.is_reading() {
            Vec::new()
        } else {
            vec!["the thread that reads the ring buffers has ended".to_owned()]
        }
    }

    fn lacks(&self) -> Vec<String> {
        let policy = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        self.ailments()
            .into_iter()
            .chain(policy.iter().cloned())
            .chain(ways.iter().cloned())
            .collect()
    }
}
