//! What the counting handlers counted, as people see it.

use std::collections::BTreeMap;

use ebpf_hello_loader::Counts;
use ebpf_hello_policy::{self as policy, Arch};

use crate::event::syscall_name;

/// Exec attempts of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecCounter {
    /// Real user id.
    pub uid: u32,
    /// Attempts since load.
    pub attempts: u64,
}

/// Calls of one system call, over all cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallCounter {
    /// The kernel's name.
    pub name: String,
    /// What people call the ABI: `x86_64`, `ia32`, …
    pub abi: &'static str,
    /// Calls since load.
    pub calls: u64,
}

/// Counters, largest first.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Exec attempts per user.
    pub execs: Vec<ExecCounter>,
    /// Attempts that found the map full.
    pub execs_overflow: u64,
    /// Counted calls.
    pub syscalls: Vec<SyscallCounter>,
    /// Calls that found the map full.
    pub syscalls_overflow: u64,
}

// === impl Counters ===

impl Counters {
    pub(crate) fn new(counts: &Counts, arch: Arch) -> Self {
        let mut by_call = BTreeMap::new();
        for count in &counts.calls {
            let abi = if count.compat {
                policy::Abi::Compat
            } else {
                policy::Abi::Native
            };
            *by_call.entry((count.number, abi)).or_insert(0) += count.calls;
        }
        let mut syscalls: Vec<_> = by_call
            .into_iter()
            .map(|((number, abi), calls)| SyscallCounter {
                name: syscall_name(arch, abi, u32::from(number)),
                abi: arch.abi_name(abi),
                calls,
            })
            .collect();
        syscalls.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
        let mut execs: Vec<_> = counts
            .execs_by_uid
            .iter()
            .map(|(uid, attempts)| ExecCounter {
                uid: *uid,
                attempts: *attempts,
            })
            .collect();
        execs.sort_by(|a, b| b.attempts.cmp(&a.attempts).then(a.uid.cmp(&b.uid)));
        Counters {
            execs,
            execs_overflow: counts.execs_overflow,
            syscalls,
            syscalls_overflow: counts.calls_overflow,
        }
    }
}
