//! What the counting handlers counted, over the whole node.

use std::collections::BTreeMap;

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
