//! The policies that are measured, as the filters anyone would write.

use std::fmt::Write as _;

use anyhow::anyhow;
use ebpf_hello_policy::{Filter, read};

use crate::syscalls::Fate;

/// Calls of which [`Policy::OtherCalls`] selects each in a filter of its own: what an administrator
/// may want to hear of, and what no measured loop makes.
const OTHER_CALLS: [&str; 20] = [
    "mount",
    "umount2",
    "pivot_root",
    "swapon",
    "swapoff",
    "reboot",
    "sethostname",
    "setdomainname",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "keyctl",
    "add_key",
    "request_key",
    "ptrace",
    "perf_event_open",
    "setns",
    "chroot",
    "acct",
];

/// What the node is told to do with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Twenty filters, none for the call that is measured.
    OtherCalls,
    /// The same, one with a return value, so that sys_exit is attached too.
    OtherCallsWithReturns,
    /// Selected in one cgroup, measured in another.
    Elsewhere,
    /// Counted.
    Count,
    /// 500 events a second; all others are suppressed.
    RateLimited,
    /// An event each.
    Trace,
    /// An event each with the path that was asked for, made on entry.
    Path,
}

// === impl Policy ===

impl Policy {
    /// Its filters; `elsewhere` is the `matchCgroup` of a cgroup where nothing runs.
    pub(crate) fn filters(self, elsewhere: &str) -> anyhow::Result<Vec<Filter>> {
        let documents = read("bench", &self.text(elsewhere)).map_err(|mistakes| {
            let list: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
            anyhow!("the filters of {self:?} are invalid: {}", list.join("; "))
        })?;
        Ok(documents
            .into_iter()
            .map(|document| document.filter)
            .collect())
    }

    /// What calls meet under it.
    pub(crate) fn fate(self) -> Fate {
        match self {
            Policy::OtherCalls | Policy::OtherCallsWithReturns | Policy::Elsewhere => Fate::Unseen,
            Policy::Count => Fate::Counted,
            Policy::RateLimited => Fate::Suppressed,
            Policy::Trace | Policy::Path => Fate::Delivered,
        }
    }

    fn text(self, elsewhere: &str) -> String {
        let all = "host: true";
        match self {
            Policy::OtherCalls => others(""),
            Policy::OtherCallsWithReturns => others(", returns: true"),
            Policy::Elsewhere => filter(
                0,
                &format!("matchCgroup: {elsewhere}"),
                "{syscalls: [getppid], handler: Count}",
            ),
            Policy::Count => filter(0, all, "{syscalls: [getppid], handler: Count}"),
            Policy::RateLimited => filter(
                0,
                all,
                "{syscalls: [getppid], handler: Trace, rateLimit: {eventsPerSecond: 500, burst: 50}}",
            ),
            Policy::Trace => filter(0, all, "{syscalls: [getppid], handler: Trace}"),
            Policy::Path => filter(0, all, "{syscalls: [openat], handler: Path}"),
        }
    }
}

fn others(more: &str) -> String {
    OTHER_CALLS
        .iter()
        .enumerate()
        .fold(String::new(), |mut text, (number, call)| {
            let more = if number == 0 { more } else { "" };
            let rule = format!(
                "{{syscalls: [{call}], handler: Trace, rateLimit: {{eventsPerSecond: {}}}{more}}}",
                100 + number
            );
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}---", filter(number, "host: true", &rule));
            text
        })
}

fn filter(number: usize, scope: &str, rule: &str) -> String {
    format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\n\
         metadata: {{name: bench-{number}}}\nspec:\n  {scope}\n  rules:\n  - {rule}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_valid() {
        for (policy, filters) in [
            (Policy::OtherCalls, 20),
            (Policy::OtherCallsWithReturns, 20),
            (Policy::Elsewhere, 1),
            (Policy::Count, 1),
            (Policy::RateLimited, 1),
            (Policy::Trace, 1),
            (Policy::Path, 1),
        ] {
            assert_eq!(
                policy.filters("/some").unwrap().len(),
                filters,
                "{policy:?}"
            );
        }
    }
}
