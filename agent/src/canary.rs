//! Readiness, as it is seen and not as it is believed: a marked exec and a marked system call of our own have to come
//! through every program, ring buffer, reader and queue that others' events take.
//!
//! A canary ends where who prints or publishes events has done with what came with it ([`Events`](crate::Events)), and
//! meets none. They are counted apart.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ebpf_hello_loader::{ExecView, Record, abi::HeaderFlags};

use crate::{AgentError, Node};

/// A canary that takes longer has not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A way that events take, which a canary can take too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// `sched_process_exec`, attached while process events are on.
    Exec,
    /// `sys_enter`, attached while a policy wants system calls.
    Syscall,
}

/// Canaries that have come through.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    /// Those that somebody waits for.
    awaited: Mutex<HashSet<NonZeroU64>>,
    arrived: Condvar,
}

// === impl Way ===

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Exec => "exec",
            Way::Syscall => "system call",
        })
    }
}

// === impl Node ===

impl Node {
    /// Sends a canary down every way that is attached, and says which did not come back within [`PATIENCE`].
    /// `arguments` make this program end at once, whatever is appended; the exec canary's nonce is.
    ///
    /// Blocks for as long; to be called from a thread that may.
    ///
    /// # Errors
    /// The kernel does not take the announcement, or this program cannot be executed.
    pub fn check_ways(&self, arguments: &[&str]) -> Result<Vec<Way>, AgentError> {
        let mut sent = Vec::new();
        let (reports_execs, reports_calls) = {
            let kernel = self.kernel();
            (
                kernel.are_processes_reported(),
                kernel.is_sys_enter_attached(),
            )
        };
        if reports_execs {
            let nonce = new_nonce();
            let nonce_argument = argument(nonce);
            let arguments: Vec<&str> = arguments
                .iter()
                .copied()
                .chain([nonce_argument.as_str()])
                .collect();
            self.canaries.expect(nonce);
            self.kernel().make_exec_canary(nonce, &arguments)?;
            sent.push((Way::Exec, nonce));
        }
        if reports_calls {
            let nonce = new_nonce();
            self.canaries.expect(nonce);
            self.kernel().make_call_canary(nonce)?;
            sent.push((Way::Syscall, nonce));
        }
        let failed: Vec<Way> = sent
            .into_iter()
            .filter(|(_, nonce)| !self.canaries.wait(*nonce))
            .map(|(way, _)| way)
            .collect();
        self.readiness.note_ways(failed.clone());
        Ok(failed)
    }
}

/// A number that no other canary has, in this process or another.
fn new_nonce() -> NonZeroU64 {
    // Seeded by the kernel, another seed each time.
    NonZeroU64::new(RandomState::new().hash_one(())).unwrap_or(NonZeroU64::MIN)
}

// === impl Canaries ===

impl Canaries {
    /// Announces that somebody will wait. Before the canary is made: it may be there at once.
    pub(crate) fn expect(&self, nonce: NonZeroU64) {
        self.awaited().insert(nonce);
    }

    /// Notes that a canary came through. One that nobody waits for any more is late, and of no use.
    pub(crate) fn arrive(&self, nonce: NonZeroU64) {
        if self.awaited().remove(&nonce) {
            self.arrived.notify_all();
        }
    }

    /// Waits for a canary that was expected; false when it did not come within [`PATIENCE`].
    pub(crate) fn wait(&self, nonce: NonZeroU64) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut awaited = self.awaited();
        while awaited.contains(&nonce) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                awaited.remove(&nonce);
                return false;
            }
            awaited = self
                .arrived
                .wait_timeout(awaited, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    #[cfg(test)]
    pub(crate) fn is_awaited(&self, nonce: NonZeroU64) -> bool {
        self.awaited().contains(&nonce)
    }

    fn awaited(&self) -> MutexGuard<'_, HashSet<NonZeroU64>> {
        // A set of numbers is whole whenever a panic leaves it.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nonce of a record that is a canary. A canary with none (an exec whose arguments could not be read) is one
/// that nobody waits for.
pub(crate) fn nonce(record: &Record<'_>) -> Option<u64> {
    if record.header().flags & HeaderFlags::CANARY == 0 {
        return None;
    }
    Some(match record {
        Record::Syscall(call) => call.arguments[ebpf_hello_loader::abi::CANARY_ARGUMENT],
        Record::Exec(exec) => exec_nonce(exec).unwrap_or_default(),
        _ => 0,
    })
}

/// The last argument, as [`argument`] wrote it.
fn exec_nonce(exec: &ExecView<'_>) -> Option<u64> {
    let last = exec.arguments().last()?;
    u64::from_str_radix(std::str::from_utf8(last).ok()?, 16).ok()
}

/// A nonce as an argument.
pub(crate) fn argument(nonce: NonZeroU64) -> String {
    format!("{nonce:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_waited_for_until_it_comes() {
        let canaries = Canaries::default();
        let nonce = NonZeroU64::MIN;
        canaries.expect(nonce);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                canaries.arrive(nonce);
            });
            assert!(canaries.wait(nonce));
        });
        assert!(canaries.awaited().is_empty());
    }
}
