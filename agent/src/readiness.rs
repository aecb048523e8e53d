//! Whether a node does its work, as it was last seen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Way, canary::PATIENCE};

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Ways that no canary came through; `None` before the first was sent.
    ways: Mutex<Option<Vec<Way>>>,
    /// Why the policy is not in the kernel.
    policy: Mutex<Option<String>>,
    /// What the API server has not told yet.
    unheard: Mutex<Vec<String>>,
}

// === impl Readiness ===

impl Readiness {
    pub(crate) fn note_ways(&self, failed: Vec<Way>) {
        let mut ways = lock(&self.ways);
        if ways.as_ref() != Some(&failed) {
            for way in &failed {
                tracing::error!(%way, "not ready: no canary came through in time");
            }
            if failed.is_empty() {
                tracing::info!("ready: canaries come through every attached program");
            }
        }
        *ways = Some(failed);
    }

    pub(crate) fn note_policy(&self, problem: Option<String>) {
        *lock(&self.policy) = problem;
    }

    pub(crate) fn policy_problem(&self) -> Option<String> {
        lock(&self.policy).clone()
    }

    /// Notes what was not heard from the API server yet, a sentence each.
    pub(crate) fn note_unheard(&self, unheard: Vec<String>) {
        *lock(&self.unheard) = unheard;
    }

    /// What is missing, a sentence each. Empty when ready.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let ways = lock(&self.ways);
        let ways = match ways.as_ref() {
            None => vec!["no canary has come through yet".to_owned()],
            Some(failed) => failed
                .iter()
                .map(|way| {
                    format!(
                        "no {way} canary came through within {} s",
                        PATIENCE.as_secs()
                    )
                })
                .collect(),
        };
        lock(&self.policy)
            .iter()
            .map(|problem| format!("the policy is not in the kernel: {problem}"))
            .chain(lock(&self.unheard).iter().cloned())
            .chain(ways)
            .collect()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness {
            ways: Mutex::new(None),
            policy: Mutex::new(None),
            unheard: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
