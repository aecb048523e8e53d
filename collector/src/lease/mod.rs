//! One holder among several collectors: a `coordination.k8s.io/v1` Lease, as Kubernetes' own controllers use it.
//!
//! ```text
//! keeper (a task: get, create, update) ──▶ Term ──▶ status writer
//!    └── election (pure): what a record means, by the local monotonic clock
//! ```
//!
//! No clock is compared with another machine's: a lease has expired when its record has not changed for its whole
//! duration *as seen here*. The holder counts from when it asked for its last renewal, which is before anybody could
//! see it, and stops at two thirds of the duration.

mod election;
mod keeper;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use self::keeper::Keeper;
use crate::kubernetes::Kubernetes;

/// How long it may take to give the lease back.
const RELEASE: Duration = Duration::from_secs(3);

/// Which lease, and its times.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Name of the Lease object.
    pub name: String,
    /// Who we are: unlike every other process that wants the lease.
    pub identity: String,
    /// How long others wait after they last saw it renewed. Whole seconds, at least 1.
    pub duration: Duration,
    /// Time between attempts to renew or to acquire, plus up to a fifth of it. Well below the duration.
    pub interval: Duration,
}

/// Takes part in the election until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    holding: Holding,
    stop: watch::Sender<bool>,
    keeper: JoinHandle<()>,
}

/// The holder's right, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When we acquired the lease.
    pub since: Instant,
    /// When we stop, unless it is renewed before.
    pub until: Instant,
}

/// Whether we hold the lease.
#[derive(Clone, Debug)]
pub struct Holding {
    term: watch::Receiver<Option<Term>>,
    is_answered: Arc<AtomicBool>,
}

// === impl LeaseOptions ===

impl LeaseOptions {
    /// The times of Kubernetes' own controllers (15 s, tried every 2 s), and an identity that starts with the host's
    /// name, which in a pod is the pod's.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        LeaseOptions {
            name: name.to_owned(),
            identity: format!("{host}_{:016x}", fastrand::u64(..)),
            duration: Duration::from_secs(15),
            interval: Duration::from_secs(2),
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Starts to take part. Needs a Tokio runtime. An API server that is away is asked again.
    #[must_use]
    pub fn start(kubernetes: &Kubernetes, options: LeaseOptions) -> Self {
        let (sender, term) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let is_answered = Arc::new(AtomicBool::new(false));
        let keeper = Keeper::new(kubernetes, options, sender, is_answered.clone());
        Lease {
            holding: Holding { term, is_answered },
            stop,
            keeper: tokio::spawn(keeper.run(stopped)),
        }
    }

    /// What tells whether we hold it.
    #[must_use]
    pub fn holding(&self) -> Holding {
        self.holding.clone()
    }

    /// Gives it back, so that another takes it at once. What the right was needed for must have ended before.
    pub async fn release(mut self) {
        self.stop.send_replace(true);
        if timeout(RELEASE, &mut self.keeper).await.is_err() {
            tracing::warn!("the lease was not given back in time: it expires by itself");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

// === impl Holding ===

impl Holding {
    /// Our term, if it is not over.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        self.term
            .borrow()
            .filter(|term| Instant::now() < term.until)
    }

    /// Whether the API server answered when it was last asked for the lease.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Relaxed)
    }

    /// Returns when a term begins, is prolonged or ends early. Cancel safe. Never returns once the lease is dropped.
    pub async fn changed(&mut self) {
        if self.term.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
