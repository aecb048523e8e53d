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
use ebpf_hello_proto::v1::{self, Event, event::Kind};

use crate::{identity::ContainerScope, policies::Policies, pool::PooledTable};

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
#[derive(Debug)]
pub(crate) struct Scopes {
    /// By the UID that the pod's cgroups carry, which events have as the pod's, the latest first.
    by_pod: RwLock<HashMap<String, VecDeque<Arc<Scope>>>>,
    policies: Arc<Policies>,
    arch: Arch,
}

// === impl Scope ===

impl Scope {
    /// Whether it matters which container it is.
    fn is_divided(&self) -> bool {
        self.containers.values().any(|table| *table != self.union)
    }
}

// === impl Scopes ===

impl Scopes {
    pub(crate) fn new(policies: Arc<Policies>, arch: Arch) -> Self {
        Scopes {
            by_pod: RwLock::default(),
            policies,
            arch,
        }
    }

    /// Notes what the cgroups that carry this pod's UID are to have from now on. To be called before the kernel is
    /// told.
    pub(crate) fn insert(&self, pod: &str, scope: Scope) {
        let mut scopes = self.by_pod.write().unwrap_or_else(PoisonError::into_inner);
        match scopes.get_mut(pod) {
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
                scopes.insert(pod.to_owned(), [Arc::new(scope)].into());
            }
        }
    }

    /// Forgets pods that are gone.
    pub(crate) fn retain(&self, stays: impl Fn(&str) -> bool) {
        let mut scopes = self.by_pod.write().unwrap_or_else(PoisonError::into_inner);
        scopes.retain(|pod, _| stays(pod));
    }

    /// What the pod's containers were to have, where the event was made under the union of that.
    fn scope_of(&self, event: &Event, pod: &str) -> Option<Arc<Scope>> {
        let policy = event.policy.as_ref()?;
        let scopes = self.by_pod.read().unwrap_or_else(PoisonError::into_inner);
        let known = scopes.get(pod)?;
        let table = self.policies.table(policy.generation)?;
        known
            .iter()
            .find(|scope| scope.union.is(&table))
            .filter(|scope| scope.is_divided())
            .cloned()
    }
}

impl ContainerScope for Scopes {
    fn admits(&self, event: &mut Event, pod: &v1::Pod, container: Option<&str>) -> bool {
        let Some(scope) = self.scope_of(event, &pod.uid) else {
            return true;
        };
        let Some(wish) = Wish::of(event) else {
            return true;
        };
        let wants = |table: &Table| wish.is_granted(table, self.arch);
        match container.and_then(|name| scope.containers.get(name)) {
            // A sandbox, an ephemeral container, or one that nobody names: what every container is to have.
            None => scope
                .containers
                .values()
                .all(|table| wants(table).is_some()),
            Some(table) => match wants(table) {
                None => false,
                // The union names one of the rules that want the call; this is the container's own.
                Some((filter, rule)) => {
                    if let Some(policy) = &mut event.policy {
                        policy.filter = filter;
                        policy.rule = rule;
                    }
                    true
                }
            },
        }
    }
}

/// What must be wanted for an event to be.
struct Wish {
    call: String,
    uid: Option<u32>,
    binary: String,
}

// === impl Wish ===

impl Wish {
    /// `None` for what no table decides.
    fn of(event: &Event) -> Option<Wish> {
        let call = match event.kind.as_ref()? {
            Kind::Syscall(syscall) => &syscall.name,
            Kind::Timer(timer) => &timer.name,
            Kind::Path(path) => &path.name,
            Kind::Sock(sock) => &sock.name,
            // A failed one: successful ones have no policy.
            Kind::Exec(_) => "execve",
            _ => return None,
        };
        let process = event.process.as_ref();
        Some(Wish {
            call: call.to_owned(),
            uid: process.and_then(|process| process.uid),
            binary: process.map_or_else(String::new, |process| process.binary.clone()),
        })
    }

    /// The filter and rule by which a table makes an event of it. A call has the same slot on both ABIs.
    fn is_granted(&self, table: &Table, arch: Arch) -> Option<(String, u32)> {
        let slot = Abi::ALL.iter().find_map(|abi| {
            let number = syscall::number(arch, *abi, &self.call)?;
            table.half(*abi).slots.get(&number)
        });
        let default = &table.native.default;
        let (handler, filter, rule, uids, binaries) = match slot {
            Some(slot) => (
                slot.handler,
                &slot.filter,
                slot.rule,
                &slot.match_uids,
                &slot.match_binaries,
            ),
            None => (
                default.action.handler_for(&self.call),
                &default.filter,
                0,
                &default.match_uids,
                &default.match_binaries,
            ),
        };
        if matches!(handler, Handler::Ignore | Handler::Count) || !self.meets(uids, binaries) {
            return None;
        }
        let filter = filter.as_ref().map(ToString::to_string);
        Some((filter.unwrap_or_default(), u32::from(rule)))
    }

    /// What is not known of the process is not held against it.
    fn meets(&self, uids: &[UidRange], binaries: &[BinaryPattern]) -> bool {
        let of_user = |uid| uids.is_empty() || uids.iter().any(|range| range.contains(uid));
        let mut binaries_met = binaries.iter();
        self.uid.is_none_or(of_user)
            && (self.binary.is_empty()
                || binaries.is_empty()
                || binaries_met.any(|one| one.matches(&self.binary)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ebpf_hello_policy::{Filter, merge, read};
    use ebpf_hello_proto::v1::{Policy, Syscall};

    use super::*;
    use crate::pool::Pool;

    fn filter(name: &str, call: &str) -> Filter {
        let text = format!(
            "{{apiVersion: ebpf-hello.dev/v1alpha1, kind: ClusterSyscallFilter, metadata: {{name: {name}}}, \
             spec: {{rules: [{{syscalls: [{call}], handler: Trace}}]}}}}"
        );
        read("test", &text).unwrap().remove(0).filter
    }

    fn event(call: &str) -> Event {
        Event {
            policy: Some(Policy {
                generation: 7,
                ..Policy::default()
            }),
            kind: Some(Kind::Syscall(Syscall {
                name: call.to_owned(),
                ..Syscall::default()
            })),
            ..Event::default()
        }
    }

    /// A pod whose `web` is asked for getppid and `db` for getpgrp, with the union of both at generation 7.
    fn scopes() -> Scopes {
        let scopes = Scopes::new(Arc::default(), Arch::X86_64);
        let mut pool = Pool::default();
        let [web, db] = [("a", "getppid"), ("b", "getpgrp")]
            .map(|(name, call)| merge(vec![&filter(name, call)], Arch::X86_64).table);
        let union = pool.take(web.union(&db));
        let policies = &scopes.policies;
        policies.insert(7, union.to_arc(), &HashSet::new());
        let containers =
            [("web", web), ("db", db)].map(|(name, table)| (name.to_owned(), pool.take(table)));
        scopes.insert(
            "u",
            Scope {
                union,
                containers: containers.into(),
            },
        );
        scopes
    }

    fn admits(scopes: &Scopes, call: &str, container: Option<&str>) -> Option<String> {
        let mut event = event(call);
        let pod = v1::Pod {
            uid: "u".to_owned(),
            ..v1::Pod::default()
        };
        let admitted = scopes.admits(&mut event, &pod, container);
        admitted.then(|| event.policy.unwrap().filter)
    }

    #[test]
    fn what_the_container_was_not_asked_for_is_dropped() {
        let scopes = scopes();
        assert_eq!(
            admits(&scopes, "getppid", Some("web")).as_deref(),
            Some("a")
        );
        assert_eq!(admits(&scopes, "getpgrp", Some("db")).as_deref(), Some("b"));
        for (call, container) in [
            ("getppid", Some("db")),
            ("getpgrp", Some("web")),
            ("getppid", None),
            ("getpgrp", Some("debugger")),
        ] {
            assert_eq!(
                admits(&scopes, call, container),
                None,
                "{call} {container:?}"
            );
        }
    }

    #[test]
    fn what_was_made_under_another_table_stays() {
        let scopes = scopes();
        let mut other = event("getppid");
        other.policy.as_mut().unwrap().generation = 8;
        let pod = |uid: &str| v1::Pod {
            uid: uid.to_owned(),
            ..v1::Pod::default()
        };
        assert!(scopes.admits(&mut other, &pod("u"), Some("db")));
        assert!(scopes.admits(&mut event("getppid"), &pod("v"), Some("db")));
        let mut exit = Event::default();
        assert!(scopes.admits(&mut exit, &pod("u"), Some("db")));
    }
}
