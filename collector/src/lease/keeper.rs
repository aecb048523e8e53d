//! The task that acquires, renews and gives back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    LeaseOptions, Term,
    election::{Election, Verdict},
};
use crate::kubernetes::Kubernetes;

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    leases: Api<Lease>,
    options: LeaseOptions,
    election: Election,
    /// The object as we last wrote it, while it is ours.
    held: Option<Lease>,
    /// A claim was sent, and nothing told since whether it was written.
    is_claiming: bool,
    term: watch::Sender<Option<Term>>,
    is_answered: Arc<AtomicBool>,
    /// The last failure was told.
    failing: bool,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        kubernetes: &Kubernetes,
        options: LeaseOptions,
        term: watch::Sender<Option<Term>>,
        is_answered: Arc<AtomicBool>,
    ) -> Self {
        Keeper {
            leases: Api::namespaced(kubernetes.client.clone(), &kubernetes.namespace),
            election: Election::new(options.identity.clone(), options.duration),
            options,
            held: None,
            is_claiming: false,
            term,
            is_answered,
            failing: false,
        }
    }

    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            // A request that is cut off leaves nothing that the next read would not find; who gives back reads too.
            let pause = tokio::select! {
                pause = self.round() => pause,
                _ = stopped.wait_for(|stop| *stop) => break,
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        self.give_back().await;
    }

    /// One attempt; says when the next is due.
    async fn round(&mut self) -> Duration {
        let round = self.attempt().await;
        if let Err(error) = &round {
            if self.failing {
                tracing::debug!(lease = self.options.name, error = chain(error), "no lease");
            } else {
                tracing::warn!(
                    lease = self.options.name,
                    error = chain(error),
                    "the lease cannot be asked for: trying again"
                );
            }
        }
        self.failing = round.is_err();
        self.is_answered.store(round.is_ok(), Relaxed);
        let over = self
            .term
            .borrow()
            .is_some_and(|term| term.until <= Instant::now());
        if over {
            self.lose("it could not be renewed in time");
        }
        let pause = match round {
            // At the moment it would be free, not up to an interval later.
            Ok(Some(free)) => (free - Instant::now()).min(self.options.interval),
            Ok(None) => self.options.interval,
            // A holder has some attempts before its right is over.
            Err(_) => self.options.interval / 2,
        };
        pause + self.options.interval.mul_f64(fastrand::f64() / 5.0)
    }

    /// Renews or acquires; if it is another's, says until when at least.
    async fn attempt(&mut self) -> Result<Option<Instant>, Error> {
        if let Some(held) = self.held.take() {
            match self.claim(Some(held.clone())).await {
                Ok(()) => return Ok(None),
                // Somebody wrote it, perhaps we did and did not hear the answer: look.
                Err(Error::Refused(kube::Error::Api(status))) if status.code == 409 => {}
                Err(error) => {
                    self.held = Some(held);
                    return Err(error);
                }
            }
        }
        let found = answer(self.leases.get_opt(&self.options.name)).await?;
        let record = found.as_ref().and_then(|lease| lease.spec.clone());
        let verdict = self
            .election
            .judge(&record.unwrap_or_default(), Instant::now());
        match verdict {
            Verdict::Taken(until) => {
                self.is_claiming = false;
                if self.term.borrow().is_some() {
                    self.lose("another took it");
                }
                Ok(Some(until))
            }
            Verdict::Ours | Verdict::Free => {
                match self.claim(found).await {
                    Ok(()) => Ok(None),
                    // Another was first: its record is judged next time.
                    Err(Error::Refused(kube::Error::Api(status))) if status.code == 409 => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Writes our name on it, if it is still as it was found.
    async fn claim(&mut self, found: Option<Lease>) -> Result<(), Error> {
        let before = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let spec = Some(self.election.claim(before, Timestamp::now()));
        let name = &self.options.name;
        let parameters = PostParams::default();
        let asked = Instant::now();
        self.is_claiming = true;
        let written = match found {
            Some(found) => {
                let lease = Lease { spec, ..found };
                answer(self.leases.replace(name, &parameters, &lease)).await?
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec };
                answer(self.leases.create(&parameters, &lease)).await?
            }
        };
        self.is_claiming = false;
        self.held = Some(written);
        let until = asked + self.election.right();
        // One that ended while we asked was another term: what it knew may be old.
        let current = self.term.borrow().filter(|term| asked < term.until);
        if current.is_none() {
            tracing::info!(lease = name, identity = self.options.identity, "holding");
        }
        let since = current.map_or_else(Instant::now, |term| term.since);
        self.term.send_replace(Some(Term { since, until }));
        Ok(())
    }

    fn lose(&mut self, why: &str) {
        tracing::warn!(lease = self.options.name, why, "no longer holding");
        self.held = None;
        self.term.send_replace(None);
    }

    async fn give_back(&mut self) {
        self.term.send_replace(None);
        let name = self.options.name.clone();
        match self.try_give_back().await {
            Ok(true) => tracing::info!(lease = name, "given back"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(lease = name, error = chain(&error), "not given back");
            }
        }
    }

    /// Whether it was ours.
    async fn try_give_back(&mut self) -> Result<bool, Error> {
        let name = &self.options.name;
        let mut held = self.held.take();
        if held.is_none() && !self.is_claiming {
            return Ok(false);
        }
        loop {
            let lease = match held.take() {
                Some(held) => held,
                // A claim that was cut off may have been written, then and until now.
                None => match answer(self.leases.get_opt(name)).await? {
                    Some(found) => found,
                    None => return Ok(false),
                },
            };
            let record = lease.spec.as_ref();
            let Some(record) = record.filter(|record| self.election.is_ours(record)) else {
                return Ok(false);
            };
            let lease = Lease {
                spec: Some(self.election.farewell(record, Timestamp::now())),
                ..lease
            };
            match answer(self.leases.replace(name, &PostParams::default(), &lease)).await {
                Ok(_) => return Ok(true),
                // Our own claim, which was under way: look. Whoever releases waits only so long.
                Err(Error::Refused(kube::Error::Api(status))) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server does not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("the API server refuses or cannot be reached")]
    Refused(#[source] kube::Error),
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    timeout(ANSWER, request)
        .await
        .map_err(|_| Error::Silent)?
        .map_err(Error::Refused)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
