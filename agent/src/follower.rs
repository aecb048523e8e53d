//! The thread that gives a cgroup its policy when the kernel tells that it came: not the reader's,
//! whose rings fill meanwhile.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use ebpf_hello_loader::Kernel;

use crate::{cgroups::Change, node::AgentError, placement::Placement};

/// Changes that wait. What finds no room is found by the next sweep.
const QUEUE: usize = 4096;

/// The policy, and the kernel it is programmed into. Whoever wants both takes the policy first.
pub(crate) struct Core {
    kernel: Mutex<Kernel>,
    placement: Mutex<Placement>,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(kernel: Kernel, placement: Placement) -> Self {
        Core {
            kernel: Mutex::new(kernel),
            placement: Mutex::new(placement),
        }
    }

    pub(crate) fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A panic while it was held left at worst a map half read.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn placement(&self) -> MutexGuard<'_, Placement> {
        // A panic while it was held left at worst a policy half programmed; the next one is whole.
        self.placement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the reader hands on what the kernel tells of cgroups.
#[derive(Debug)]
pub(crate) struct Changes(SyncSender<Change>);

// === impl Changes ===

impl Changes {
    pub(crate) fn new() -> (Changes, Receiver<Change>) {
        let (sender, receiver) = sync_channel(QUEUE);
        (Changes(sender), receiver)
    }

    pub(crate) fn send(&self, change: Change) {
        match self.0.try_send(change) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(change)) => {
                tracing::debug!(?change, "cgroups come faster than they are placed");
            }
        }
    }
}

/// Starts the thread; it ends when the sender does.
pub(crate) fn spawn(
    core: Arc<Core>,
    changes: Receiver<Change>,
) -> Result<JoinHandle<()>, AgentError> {
    std::thread::Builder::new()
        .name("cgroups".into())
        .spawn(move || {
            while let Ok(first) = changes.recv() {
                let batch: Vec<Change> = std::iter::once(first).chain(changes.try_iter()).collect();
                // Both are held only as long as a batch takes.
                let followed = core.placement().follow(&batch, &mut core.kernel());
                if let Err(error) = followed {
                    tracing::error!(%error, "cannot give a new cgroup its policy");
                }
            }
        })
        .map_err(|error| AgentError::Thread {
            name: "cgroups",
            error,
        })
}
