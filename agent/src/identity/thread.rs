//! The thread of the [`Stage`].

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Identity, stage::Stage};
use crate::{
    Accounts,
    event::Origin,
    events::{Out, Parcel},
    node::AgentError,
};

/// How often is looked for news while events wait.
const WAITING: Duration = Duration::from_millis(10);
/// The same while only answers are owed.
const OWING: Duration = Duration::from_millis(250);
/// How often is looked for cgroups that are gone.
const TIDY: Duration = Duration::from_secs(30);

/// Starts the thread between who reads and who consumes. It ends after the last who sends to `events`, when all that
/// waited has left.
pub(crate) fn spawn(
    identity: Arc<Identity>,
    origin: Arc<Origin>,
    accounts: Arc<Accounts>,
    events: Receiver<Parcel>,
    out: Out,
) -> Result<JoinHandle<()>, AgentError> {
    let stage = Stage::new(&identity, origin, accounts);
    std::thread::Builder::new()
        .name("identity".into())
        .spawn(move || run(&identity, stage, &events, &out))
        .map_err(|error| AgentError::Thread {
            name: "identity",
            error,
        })
}

fn run(identity: &Identity, mut stage: Stage, events: &Receiver<Parcel>, out: &Out) {
    let paths = &identity.paths;
    let mut changes = identity.options.pods.changes();
    let mut version = paths.version();
    let mut tidied = Instant::now();
    loop {
        let timeout = match (stage.is_waiting(), stage.is_open()) {
            (true, _) => WAITING,
            (false, true) => OWING,
            (false, false) => TIDY,
        };
        let parcel = events.recv_timeout(timeout);
        let now = Instant::now();
        let is_paths = std::mem::replace(&mut version, paths.version()) != version;
        let is_pods = changes.has_changed().unwrap_or(false);
        if is_pods {
            stage.renew(*changes.borrow_and_update());
        }
        if (is_pods || is_paths) && stage.is_open() {
            stage.look_again(now);
        }
        let mut canaries = Vec::new();
        match parcel {
            Ok(parcel) => {
                canaries = parcel.canaries;
                for item in parcel.batch {
                    stage.take(item, now);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        stage.expire(now);
        if now - tidied >= TIDY {
            tidied = now;
            stage.forget(now);
        }
        // Canaries wait for no pod.
        let batch = stage.out();
        let parcel = Parcel { batch, canaries };
        if !parcel.is_empty() {
            // The consumer is gone only when the whole pipeline ends, or where it panicked; what it did not take stays
            // in flight.
            let _ = out.send(parcel);
        }
    }
    stage.end(Instant::now());
    let _ = out.send(stage.out().into());
}
