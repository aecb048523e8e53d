//! Cgroups come and go: a new one has its policy before its first process can run.
//!
//! Both tracepoints fire for every mounted hierarchy, whose ids collide with v2's: only v2's count.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{CGROUP_NAME, Overflow};

use crate::{config::offset, counters::overflow, emit, maps, task::Address};

/// `cgroup_mkdir(cgroup, path)`.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let Some(node) = node_of_v2(Address(ctx.arg(0))) else {
        return 0;
    };
    let Some(outcome) = outcome_of_name(node).or_else(|| outcome_of_parent(node)) else {
        return 0;
    };
    let id: u64 = node.read(offset!(node_id));
    if maps::CGROUPS.insert(id, outcome, 0).is_err() {
        overflow(Overflow::Cgroups);
    }
    0
}

/// `cgroup_rmdir(cgroup, path)`.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    if let Some(node) = node_of_v2(Address(ctx.arg(0))) {
        let id: u64 = node.read(offset!(node_id));
        let _ = maps::CGROUPS.remove(id);
    }
    0
}

/// The kernfs node of a cgroup of the v2 hierarchy, whose number is 0 (`cgroup_init_early` in
/// `kernel/cgroup/cgroup.c`).
#[inline(always)]
fn node_of_v2(cgroup: Address) -> Option<Address> {
    let root = cgroup.follow(offset!(cgroup_root));
    let hierarchy: u32 = root.read(offset!(cgroup_root_hierarchy));
    (!root.is_null() && hierarchy == 0).then(|| cgroup.follow(offset!(cgroup_node)))
}

/// What was stored for a directory of this name, before it came to be.
#[inline(always)]
fn outcome_of_name(node: Address) -> Option<u32> {
    let scratch = emit::scratch()?;
    scratch.name = [0; CGROUP_NAME];
    let name = node.follow(offset!(node_name));
    // SAFETY: `name` has CGROUP_NAME bytes.
    let length = unsafe {
        bpf_probe_read_kernel_str(
            scratch.name.as_mut_ptr().cast(),
            CGROUP_NAME as u32,
            name.0 as *const _,
        )
    };
    if length <= 0 {
        return None;
    }
    let name = &scratch.name;
    let outcome = maps::CGROUP_NAMES.get_ptr(name)?;
    // SAFETY: a word of the map.
    Some(unsafe { *outcome })
}

#[inline(always)]
fn outcome_of_parent(node: Address) -> Option<u32> {
    let id: u64 = node.follow(offset!(node_parent)).read(offset!(node_id));
    let outcome = maps::CGROUPS.get_ptr(id)?;
    // SAFETY: a word of the map.
    Some(unsafe { *outcome })
}
