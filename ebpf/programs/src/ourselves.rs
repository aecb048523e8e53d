//! Run by the loader, never attached: the kernel tells the agent who it is, in the initial PID
//! namespace, whatever namespace or /proc the agent sees.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_ancestor_cgroup_id},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{Exe, SELF_HINTS, SelfKind, WhoAmI};

use crate::{
    config::{config, offset},
    counters::NOEXIST,
    maps,
    task::{Address, Task},
};

/// Ancestors that are followed.
const ANCESTORS: u32 = 32;
/// Children of one ancestor that are looked at.
const CHILDREN: u32 = 128;
/// Descriptors of a child that are looked at.
const DESCRIPTORS: u32 = 8;
/// Levels of a cgroup hierarchy that are asked.
const LEVELS: u32 = 32;
/// `FMODE_READ` (`include/linux/fs.h`).
const FMODE_READ: u32 = 1;
/// File type bits of a mode, and the types whose readers see our output (`include/uapi/linux/stat.h`).
const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFREG: u16 = 0o100_000;

/// Takes a process for ours. The hint comes first: who sees the process finds it.
#[inline(always)]
pub(crate) fn take(tgid: u32, kind: SelfKind, flags: u64) {
    let _ = maps::SELF_HINTS.set(tgid % SELF_HINTS, 1u64, 0);
    let _ = maps::OURSELVES.insert(tgid, kind as u32, flags);
}

/// Arguments: 1 to take ourselves for ours, 1 to take our ancestors for ours too.
#[raw_tracepoint]
pub fn identify(ctx: RawTracePointContext) -> i32 {
    let exclude_self = ctx.arg::<u64>(0) != 0;
    let exclude_ancestors = ctx.arg::<u64>(1) != 0;
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let task = Task::current();
    let pid = task.leader().0.follow(offset!(task_thread_pid));
    let mut me = WhoAmI {
        tgid,
        namespace_level: pid.read(offset!(pid_level)),
        exe: Exe::default(),
        node_level: 0,
    };
    if exclude_self {
        let inode = task
            .0
            .follow(offset!(task_mm))
            .follow(offset!(mm_exe_file))
            .follow(offset!(file_inode));
        me.exe = Exe {
            inode: inode.read(offset!(inode_number)),
            device: inode
                .follow(offset!(inode_super))
                .read::<u32>(offset!(super_device)) as u64,
        };
        take(tgid, SelfKind::Program, 0);
    }
    if exclude_ancestors {
        let mut ancestor = task;
        for _ in 0..ANCESTORS {
            ancestor = ancestor.parent();
            let tgid = ancestor.tgid();
            if tgid == 0 {
                break;
            }
            take(tgid, SelfKind::Ancestor, 0);
        }
        if let Some(inode) = output(task, 1) {
            let _ = maps::OUTPUTS.insert(inode.0, 0, 0);
        }
    }
    let node = config!(node_cgroup);
    for level in 0..LEVELS {
        // SAFETY: the helper takes any level and answers 0 where there is none.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id != 0 && id == node {
            me.node_level = level as u64;
            break;
        }
    }
    let _ = maps::WHOAMI.set(0, me, 0);
    0
}

/// The inode that a descriptor writes to, where its readers are told by it.
#[inline(always)]
fn output(task: Task, descriptor: u32) -> Option<Address> {
    let inode = task.file(descriptor).follow(offset!(file_inode));
    let kind = inode.read::<u16>(offset!(inode_mode)) & S_IFMT;
    (kind == S_IFIFO || kind == S_IFREG).then_some(inode)
}

/// Marks the children of our `ctx.arg(0)`-th ancestor that have our output open for reading, and
/// takes their own output for ours: in `run | tee log | cat` all of them echo what we print.
#[raw_tracepoint]
pub fn find_readers(ctx: RawTracePointContext) -> i32 {
    let generations: u64 = ctx.arg(0);
    let mut ancestor = Task::current();
    for generation in 0..ANCESTORS {
        if generation as u64 >= generations {
            break;
        }
        ancestor = ancestor.parent();
    }
    if ancestor.tgid() == 0 {
        return 0;
    }
    let head = ancestor.0.embedded(offset!(task_children));
    // `next` is the first member of a list_head.
    let mut entry = head.follow(0);
    for _ in 0..CHILDREN {
        if entry == head || entry.is_null() {
            break;
        }
        let child = Task(Address(entry.0.wrapping_sub(offset!(task_sibling) as u64)));
        if reads_output(child) {
            take(child.tgid(), SelfKind::Reader, NOEXIST);
            if let Some(inode) = output(child, 1) {
                let _ = maps::OUTPUTS.insert(inode.0, 0, 0);
            }
        }
        entry = entry.follow(0);
    }
    0
}

#[inline(always)]
pub(crate) fn reads_output(task: Task) -> bool {
    for descriptor in 0..DESCRIPTORS {
        let file = task.file(descriptor);
        if file.is_null() || file.read::<u32>(offset!(file_mode)) & FMODE_READ == 0 {
            continue;
        }
        let inode = file.follow(offset!(file_inode));
        if maps::OUTPUTS.get_ptr(inode.0).is_some() {
            return true;
        }
    }
    false
}
