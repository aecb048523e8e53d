//! Cgroups come and go: a new one has its policy before its first process can run, and user space
//! is told of both.
//!
//! Both tracepoints fire for every mounted hierarchy, whose ids collide with v2's: only v2's count.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{
    CGROUP_NAME, CGROUP_RECORD_NAME, CgroupChange, CgroupName, CgroupRecord, Overflow, RecordKind,
};

use crate::{config::offset, counters::overflow, emit, maps, task::Address};

/// What a change is worked out in. One for all CPUs: the kernel makes and removes cgroups one at a
/// time (`cgroup_mutex` in `kernel/cgroup/cgroup.c`).
#[repr(C)]
pub(crate) struct Change {
    record: CgroupRecord,
    key: CgroupName,
}

/// `cgroup_mkdir(cgroup, path)`.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let Some((change, length)) = read(Address(ctx.arg(0)), CgroupChange::Made) else {
        return 0;
    };
    let outcome = outcome_of_name(change, length).or_else(|| outcome_of(change.record.parent));
    if let Some(outcome) = outcome
        && maps::CGROUPS.insert(change.record.id, outcome, 0).is_err()
    {
        overflow(Overflow::Cgroups);
    }
    tell(change);
    0
}

/// `cgroup_rmdir(cgroup, path)`.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    if let Some((change, _)) = read(Address(ctx.arg(0)), CgroupChange::Removed) {
        let _ = maps::CGROUPS.remove(change.record.id);
        tell(change);
    }
    0
}

/// Which cgroup it is, and the length of its name with its NUL. `None` unless it is of the v2
/// hierarchy, whose number is 0 (`cgroup_init_early` in `kernel/cgroup/cgroup.c`).
#[inline(always)]
fn read(cgroup: Address, what: CgroupChange) -> Option<(&'static mut Change, usize)> {
    let root = cgroup.follow(offset!(cgroup_root));
    let hierarchy: u32 = root.read(offset!(cgroup_root_hierarchy));
    if root.is_null() || hierarchy != 0 {
        return None;
    }
    let change = maps::CGROUP_CHANGE.get_ptr_mut(0)?;
    // SAFETY: the kernel calls these programs one at a time.
    let change = unsafe { &mut *change };
    let node = cgroup.follow(offset!(cgroup_node));
    let record = &mut change.record;
    record.kind = RecordKind::Cgroup as u16;
    record.change = what as u16;
    record.padding = 0;
    record.id = node.read(offset!(node_id));
    record.parent = node.follow(offset!(node_parent)).read(offset!(node_id));
    record.name = [0; CGROUP_RECORD_NAME];
    let name = node.follow(offset!(node_name));
    // SAFETY: `name` has CGROUP_RECORD_NAME bytes.
    let length = unsafe {
        bpf_probe_read_kernel_str(
            record.name.as_mut_ptr().cast(),
            CGROUP_RECORD_NAME as u32,
            name.0 as *const _,
        )
    };
    Some((change, if length > 0 { length as usize } else { 0 }))
}

/// What was stored for a directory of this name before it came to be: in this parent, or in any.
#[inline(always)]
fn outcome_of_name(change: &mut Change, length: usize) -> Option<u32> {
    // A longer one is no key: it would be cut, and look like another.
    if length == 0 || length > CGROUP_NAME {
        return None;
    }
    let key = &mut change.key;
    key.name
        .copy_from_slice(change.record.name.first_chunk::<CGROUP_NAME>()?);
    key.parent = change.record.parent;
    named(key).or_else(|| {
        key.parent = 0;
        named(key)
    })
}

#[inline(always)]
fn named(key: &CgroupName) -> Option<u32> {
    let outcome = maps::CGROUP_NAMES.get_ptr(key)?;
    // SAFETY: a word of the map.
    Some(unsafe { *outcome })
}

#[inline(always)]
fn outcome_of(id: u64) -> Option<u32> {
    let outcome = maps::CGROUPS.get_ptr(id)?;
    // SAFETY: a word of the map.
    Some(unsafe { *outcome })
}

#[inline(always)]
fn tell(change: &Change) {
    let record = core::ptr::from_ref(&change.record).cast();
    if !emit::post(record, size_of::<CgroupRecord>()) {
        overflow(Overflow::CgroupChanges);
    }
}
