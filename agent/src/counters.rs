//! What the counting handlers counted, over the whole node.

use std::collections::{BTreeMap, HashMap};

use ebpf_hello_loader::Counts;
use ebpf_hello_policy::{self as policy, Arch};
use ebpf_hello_proto::v1;

use crate::event::{proto_abi, syscall_name};

/// The kernel's counts as the protocol has them.
pub(crate) fn counters(counts: &Counts, arch: Arch) -> v1::Counters {
    let mut by_call = BTreeMap::new();
    for count in &counts.calls {
        let abi = if count.compat {
            policy::Abi::Compat
        } else {
            policy::Abi::Native
        };
        *by_call.entry((abi, count.number)).or_insert(0) += count.calls;
    }
    let mut by_opcode = BTreeMap::new();
    for count in &counts.operations {
        *by_opcode.entry(count.opcode).or_insert(0) += count.operations;
    }
    let operations = by_opcode
        .into_iter()
        .map(|(opcode, count)| v1::SyscallCount {
            name: policy::io_uring::name(opcode)
                .unwrap_or_default()
                .to_owned(),
            number: Some(u32::from(opcode)),
            abi: v1::Abi::IoUring.into(),
            count,
        });
    let syscalls = by_call
        .into_iter()
        .map(|((abi, number), count)| v1::SyscallCount {
            name: syscall_name(arch, abi, u32::from(number)),
            number: Some(u32::from(number)),
            abi: proto_abi(arch, abi).into(),
            count,
        })
        .chain(operations)
        .collect();
    let mut execs: Vec<_> = counts
        .execs_by_uid
        .iter()
        .map(|(uid, count)| v1::ExecCount {
            uid: Some(*uid),
            count: *count,
        })
        .collect();
    execs.sort_by_key(|count| count.uid);
    v1::Counters {
        execs,
        syscalls,
        execs_overflow: counts.execs_overflow,
        syscalls_overflow: counts.calls_overflow + counts.operations_overflow,
        ..v1::Counters::default()
    }
}

/// The counts of each pod, and in one more row, of no pod, those of no pod that is known. Execs are counted by user, not by
/// cgroup: they and what found no room are in that row as well, so that all rows add up to the node's.
pub(crate) fn by_pod(
    counts: &Counts,
    arch: Arch,
    whose: impl Fn(u64) -> Option<(String, String)>,
) -> Vec<v1::PodCounters> {
    let mut known = HashMap::new();
    let mut whose = |cgroup| known.entry(cgroup).or_insert_with(|| whose(cgroup)).clone();
    let mut pods: BTreeMap<(String, String), Counts> = BTreeMap::new();
    let mut rest = Counts {
        execs_by_uid: counts.execs_by_uid.clone(),
        execs_overflow: counts.execs_overflow,
        calls_overflow: counts.calls_overflow,
        operations_overflow: counts.operations_overflow,
        ..Counts::default()
    };
    for call in &counts.calls {
        let row = whose(call.cgroup_id).map(|pod| pods.entry(pod).or_default());
        row.unwrap_or(&mut rest).calls.push(*call);
    }
    for operation in &counts.operations {
        let row = whose(operation.cgroup_id).map(|pod| pods.entry(pod).or_default());
        row.unwrap_or(&mut rest).operations.push(*operation);
    }
    let rows = pods
        .into_iter()
        .map(|((namespace, pod), counts)| (namespace, pod, counts));
    std::iter::once((String::new(), String::new(), rest))
        .chain(rows)
        .map(|(namespace, pod, counts)| v1::PodCounters {
            namespace,
            pod,
            counters: Some(counters(&counts, arch)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ebpf_hello_loader::CallCount;

    use super::*;

    #[test]
    fn the_rows_of_pods_add_up_to_the_nodes() {
        let call = |cgroup_id, number, calls| CallCount {
            cgroup_id,
            generation: 1,
            number,
            compat: false,
            calls,
        };
        let counts = Counts {
            calls: vec![call(1, 0, 5), call(7, 0, 3), call(8, 0, 4), call(8, 1, 1)],
            execs_by_uid: vec![(0, 9)],
            ..Counts::default()
        };
        let whose = |cgroup| (cgroup >= 7).then(|| ("shop".to_owned(), "cart-0".to_owned()));
        let rows = by_pod(&counts, Arch::X86_64, whose);
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                let counters = row.counters.as_ref().unwrap();
                let calls: Vec<u64> = counters.syscalls.iter().map(|row| row.count).collect();
                (
                    row.namespace.as_str(),
                    row.pod.as_str(),
                    calls,
                    counters.execs.len(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [("", "", vec![5], 1), ("shop", "cart-0", vec![7, 1], 0)]
        );
    }
}
