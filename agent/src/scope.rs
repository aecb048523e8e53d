//! A pod's own cgroup has the union of what its containers are to have, until it is known which of them a cgroup is.
//! What then proves to be asked of another container only is dropped here (DESIGN, "No start race").
//!
//! ```text
//! event, pod, container ──▶ the table that made it is the union of the pod's? ──▶ does the container's own want it?
//! ```

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_hello_policy::{Abi, Arch, BinaryPattern, Handler, Table, UidRange, syscall};
use ebpf_hello_proto::v1::{Event, event::Kind};

use crate::{policies::Policies, pool::PooledTable};

/// Unions of one pod that are remembered: events of the latest few may wait for their container.
const REMEMBERED: usize = 16;

/// What the containers of a pod are to have, and what it has while they are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// For each of the containers whatever any of them is to have.
    pub(crate) union: PooledTable,
    /// By the container's name.
    pub(crate) containers: BTreeMap<String, PooledTable>,
}

/// The scopes of the node's pods. Shared by who compiles them and who resolves events.
#[derive(Debug, Default)]
pub(crate) struct Scopes(RwLock<HashMap<String, VecDeque<Arc<Scope>>>>);

// === impl Scope ===

impl Scope {
    /// Whether it matters which container it is.
    fn is_divided(&self) -> bool {
        self.containers.values().any(|table| *table != self.union)
    }
}

// === impl Scopes ===

impl Scopes {
    /// Notes what a pod's cgroups are to have from now on. To be called before the kernel is told.
    pub(crate) fn insert(&self, cgroup_uid: &str, scope: Scope) {
        let mut scopes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match scopes.get_mut(cgroup_uid) {
            Some(known) => {
                if known.front().is_some_and(|latest| **latest == scope) {
                    return;
                }
                known.push_front(Arc::new(scope));
                known.truncate(REMEMBERED);
            }
            // Nothing to decide, as for nearly all pods.
            None if !scope.is_divided() => {}
            None => {
                scopes.insert(cgroup_uid.to_owned(), [Arc::new(scope)].into());
            }
        }
    }

    /// Forgets pods that are gone.
    pub(crate) fn retain(&self, stays: impl Fn(&str) -> bool) {
        let mut scopes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        scopes.retain(|cgroup_uid, _| stays(cgroup_uid));
    }

    /// Whether an event of a pod's cgroup stays, now that its container is known; with `None`, now that nobody waits
    /// for that any longer.
    pub(crate) fn keep(
        &self,
        event: &Event,
        policies: &Policies,
        arch: Arch,
        cgroup_uid: &str,
        container: Option<&str>,
    ) -> bool {
        let Some(scope) = self.scope_of(event, policies, cgroup_uid) else {
            return true;
        };
        let Some(call) = call(event) else {
            return true;
        };
        let wants = |table: &Table| wants(table, arch, call, event);
        match container.and_then(|name| scope.containers.get(name)) {
            Some(table) => wants(table),
            // An ephemeral container, or a sandbox: what every container of the pod is to have.
            None => scope.containers.values().all(|table| wants(table)),
        }
    }

    /// What the pod's containers were to have, where the event was made under the union of that.
    fn scope_of(
        &self,
        event: &Event,
        policies: &Policies,
        cgroup_uid: &str,
    ) -> Option<Arc<Scope>> {
        let policy = event.policy.as_ref()?;
        let scopes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = scopes.get(cgroup_uid)?;
        let table = policies.table(policy.generation)?;
        known
            .iter()
            .find(|scope| scope.union.is(&table))
            .filter(|scope| scope.is_divided())
            .cloned()
    }
}

/// The system call that an event tells of; `None` for what no table decides.
fn call(event: &Event) -> Option<&str> {
    match event.kind.as_ref()? {
        Kind::Syscall(syscall) => Some(&syscall.name),
        Kind::Timer(timer) => Some(&timer.name),
        Kind::Path(path) => Some(&path.name),
        Kind::Sock(sock) => Some(&sock.name),
        // A failed one: successful ones have no policy.
        Kind::Exec(_) => Some("execve"),
        _ => None,
    }
}

/// Whether a table makes an event of a call of this process. A call has the same slot on both ABIs.
fn wants(table: &Table, arch: Arch, call: &str, event: &Event) -> bool {
    let found = Abi::ALL.iter().find_map(|abi| {
        let number = syscall::number(arch, *abi, call)?;
        Some((table.half(*abi), number))
    });
    let (half, number) = match found {
        Some((half, number)) => (half, Some(number)),
        // Newer than our tables: only a default can have made it.
        None => (&table.native, None),
    };
    let (handler, uids, binaries) = match number.and_then(|number| half.slots.get(&number)) {
        Some(slot) => (slot.handler, &slot.match_uids, &slot.match_binaries),
        None => {
            let default = &half.default;
            let handler = default.action.handler_for(call);
            (handler, &default.match_uids, &default.match_binaries)
        }
    };
    !matches!(handler, Handler::Ignore | Handler::Count) && is_matched(event, uids, binaries)
}

fn is_matched(event: &Event, uids: &[UidRange], binaries: &[BinaryPattern]) -> bool {
    let process = event.process.as_ref();
    let uid = process.and_then(|process| process.uid);
    let binary = process.map(|process| process.binary.as_str());
    // What is not known is not held against it.
    let of_user = |uid| uids.is_empty() || uids.iter().any(|range| range.contains(uid));
    let of_binary = |path: &str| {
        path.is_empty() || binaries.is_empty() || binaries.iter().any(|one| one.matches(path))
    };
    uid.is_none_or(of_user) && binary.is_none_or(of_binary)
}
