//! The life of processes: exec, fork, exit.
//!
//! `sched_process_exec` is the only source of a successful exec. Nothing here touches other system
//! calls.

use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid,
        generated::{bpf_probe_read_kernel_str, bpf_probe_read_user},
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{
    ABSENT, ExecFlags, ExecRecord, ExitRecord, Fate, ForkRecord, Handler, Process, RecordKind,
    SelfKind,
};

use crate::{
    canary,
    config::{config, offset},
    emit::{self, READ, Scratch, VARIABLE_MASK},
    entered, executable, joins, maps, ourselves,
    path::{self, Place},
    task::{Address, Task},
};

/// `SIGNAL_GROUP_EXIT` (`include/linux/sched/signal.h`): the group's code is the one wait() sees.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// Whether this record is for us to make; counts it where it is not.
#[inline(always)]
fn is_reported(handler: Handler, tgid: u32, is_canary: bool) -> bool {
    let Some(ledger) = emit::ledger() else {
        return false;
    };
    if config!(process_events) == 0 {
        return false;
    }
    if emit::is_foreign() {
        emit::count(ledger, handler, Fate::Foreign);
        return false;
    }
    emit::count(ledger, handler, Fate::Seen);
    if !is_canary && emit::is_ours(tgid) {
        emit::count(ledger, handler, Fate::SelfExcluded);
        return false;
    }
    true
}

/// `sched_process_exec(task, old_pid, linux_binprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let task = Task(Address(ctx.arg(0)));
    let binary = Address(ctx.arg::<u64>(2));
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let parent_exec_id = remember_exec(task, tgid);
    follow_our_program(binary, tgid);
    // The call that became this image, by the thread's number before it became the leader.
    let thread = ctx.arg::<u64>(1) as u32;
    let _ = maps::JOINS.remove(thread);
    entered::take(thread);
    executable::remember(task, binary, tgid);
    let is_canary = canary::is_exec(task);
    if !is_reported(Handler::ProcessExec, tgid, is_canary) {
        return 0;
    }
    let Some(scratch) = emit::scratch() else {
        return 0;
    };
    if !emit::claim(scratch, Handler::ProcessExec) {
        return 0;
    }
    report_exec(scratch, task, binary, tgid, parent_exec_id, is_canary);
    emit::release(scratch);
    0
}

/// Notes one more exec of a process; returns its parent's identity.
#[inline(always)]
fn remember_exec(task: Task, tgid: u32) -> u64 {
    if let Some(process) = maps::PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: the entry lives as long as the process; only its own thread writes it.
        let process = unsafe { &mut *process };
        process.execs += 1;
        process.exec_id = task.exec_id(process.execs);
        return process.parent_exec_id;
    }
    let process = born(task, 1);
    // A full table costs exactness of the next exec's count, nothing else.
    let _ = maps::PROCESSES.insert(tgid, process, 0);
    process.parent_exec_id
}

/// What is known of a process without having seen it before.
#[inline(always)]
fn born(task: Task, execs: u32) -> Process {
    let parent = task.parent();
    let parent_tgid = parent.tgid();
    let parent_exec_id = match maps::PROCESSES.get_ptr(parent_tgid) {
        // SAFETY: a value of the map; torn at worst if the parent ends right now.
        Some(known) => unsafe { (*known).exec_id },
        None => parent.exec_id(0),
    };
    Process {
        exec_id: task.exec_id(execs),
        parent_exec_id,
        start_time: task.start_time(),
        parent: parent_tgid,
        execs,
        previous_comm: [0; 16],
    }
}

/// Every process that runs our own executable is ours, from its first instruction.
#[inline(always)]
fn follow_our_program(binprm: Address, tgid: u32) {
    let Some(me) = maps::WHOAMI.get(0) else {
        return;
    };
    if me.exe.inode == 0 {
        return;
    }
    let inode = binprm
        .follow(offset!(binprm_file))
        .follow(offset!(file_inode));
    let same = inode.read::<u64>(offset!(inode_number)) == me.exe.inode
        && inode
            .follow(offset!(inode_super))
            .read::<u32>(offset!(super_device)) as u64
            == me.exe.device;
    if same {
        ourselves::take(tgid, SelfKind::Program, 0);
    } else if let Some(kind) = maps::OURSELVES.get_ptr(tgid) {
        // SAFETY: a word of the map.
        let kind = unsafe { *kind };
        // A reader may have been a child that had not yet closed what its parent reads: by now
        // what closes on exec is closed.
        if kind == SelfKind::Program as u32
            || kind == SelfKind::Reader as u32 && !ourselves::reads_output(Task::current())
        {
            let _ = maps::OURSELVES.remove(tgid);
        }
    }
}

#[inline(always)]
fn report_exec(
    scratch: &mut Scratch,
    task: Task,
    binprm: Address,
    tgid: u32,
    parent_exec_id: u64,
    is_canary: bool,
) {
    let Some(ledger) = emit::ledger() else {
        return;
    };
    emit::stamp(
        &mut scratch.exec.header,
        ledger,
        RecordKind::Exec,
        Handler::ProcessExec,
    );
    if is_canary {
        canary::mark(&mut scratch.exec.header);
    }
    scratch.exec.parent_exec_id = parent_exec_id;
    scratch.exec.login_uid = match offset!(task_loginuid) {
        ABSENT => u32::MAX,
        offset => task.0.read(offset),
    };
    scratch.exec.namespace_pid = task.namespace_pid();
    scratch.exec.previous_comm = match maps::PROCESSES.get_ptr(tgid) {
        // SAFETY: the entry of the running process.
        Some(process) => unsafe { (*process).previous_comm },
        None => [0; 16],
    };
    scratch.exec.padding = 0;
    let mut flags = 0;

    let mut end = write_filename(scratch, binprm);
    scratch.exec.filename_length = end as u16;

    let start = end;
    (end, flags) = write_argv(scratch, start, task, flags);
    scratch.exec.argv_length = (end - start) as u16;

    let file = binprm.follow(offset!(binprm_file));
    let links: u32 = file.follow(offset!(file_inode)).read(offset!(inode_links));
    if !file.is_null() && links == 0 {
        flags |= ExecFlags::DELETED;
    }
    let fs = task.0.follow(offset!(task_fs));
    let root = Place {
        mount: fs.follow(offset!(fs_root_mnt)),
        dentry: fs.follow(offset!(fs_root_dentry)),
    };
    let start = end;
    let place = Place {
        mount: file.follow(offset!(file_path_mnt)),
        dentry: file.follow(offset!(file_path_dentry)),
    };
    let truncated;
    (end, truncated) = path::write(start, place, root);
    if truncated {
        flags |= ExecFlags::BINARY_TRUNCATED;
    }
    scratch.exec.binary_length = end.wrapping_sub(start) as u16;

    let start = end;
    let place = Place {
        mount: fs.follow(offset!(fs_pwd_mnt)),
        dentry: fs.follow(offset!(fs_pwd_dentry)),
    };
    let truncated;
    (end, truncated) = path::write(start, place, root);
    if truncated {
        flags |= ExecFlags::CWD_TRUNCATED;
    }
    scratch.exec.cwd_length = end.wrapping_sub(start) as u16;

    scratch.exec.flags = flags;
    let length = size_of::<ExecRecord>() + (end & VARIABLE_MASK);
    let sent = emit::send(
        (&raw const scratch.exec).cast(),
        length,
        ledger,
        Handler::ProcessExec,
    );
    if is_canary {
        canary::settle(ledger, sent);
    }
}

/// The path given to execve, without its NUL; returns where it ends.
#[inline(always)]
fn write_filename(scratch: &mut Scratch, binprm: Address) -> usize {
    let name = binprm.follow(offset!(binprm_filename));
    // SAFETY: READ bytes lie within the scratch's variable part.
    let written = unsafe {
        bpf_probe_read_kernel_str(
            scratch.variable.as_mut_ptr().cast(),
            READ as u32,
            name.0 as *const _,
        )
    };
    if written > 0 {
        (written as usize - 1) & VARIABLE_MASK
    } else {
        0
    }
}

/// argv as the new image sees it, between `arg_start` and `arg_end`: what follows is the
/// environment, which is nobody's business.
#[inline(always)]
fn write_argv(scratch: &mut Scratch, start: usize, task: Task, mut flags: u32) -> (usize, u32) {
    let mm = task.0.follow(offset!(task_mm));
    let from: u64 = mm.read(offset!(mm_arg_start));
    let to: u64 = mm.read(offset!(mm_arg_end));
    let length = to.wrapping_sub(from);
    let taken = if length > READ as u64 {
        flags |= ExecFlags::ARGV_TRUNCATED;
        READ as u64
    } else {
        length
    };
    // SAFETY: VARIABLE_MASK + READ bytes lie within the scratch's variable part; the helper takes
    // any user address and reports those it cannot read.
    let failed = unsafe {
        bpf_probe_read_user(
            scratch
                .variable
                .as_mut_ptr()
                .add(start & VARIABLE_MASK)
                .cast(),
            taken as u32,
            from as *const _,
        )
    };
    if failed != 0 {
        return (start, flags | ExecFlags::ARGV_UNREADABLE);
    }
    ((start + taken as usize) & VARIABLE_MASK, flags)
}

/// `sched_process_fork(parent, child)`: processes only.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let parent = Task(Address(ctx.arg(0)));
    let child = Task(Address(ctx.arg(1)));
    let child_tgid = child.tgid();
    if child_tgid != child.tid() {
        return 0;
    }
    let parent_tgid = parent.tgid();
    let mut process = born(child, 0);
    // A child made with CLONE_PARENT has its maker's parent; `born` asked the kernel, so it is
    // right, and the maker is the record's process.
    process.previous_comm = [0; 16];
    let _ = maps::PROCESSES.insert(child_tgid, process, 0);
    executable::inherit(parent_tgid, child_tgid);
    canary::follow_fork(parent_tgid, child_tgid);
    if !is_reported(Handler::ProcessFork, parent_tgid, false) {
        return 0;
    }
    let Some(ledger) = emit::ledger() else {
        return 0;
    };
    // SAFETY: all zero is a valid record.
    let mut record: ForkRecord = unsafe { core::mem::zeroed() };
    emit::stamp(
        &mut record.header,
        ledger,
        RecordKind::Fork,
        Handler::ProcessFork,
    );
    record.child = child_tgid;
    record.child_exec_id = process.exec_id;
    emit::send_fixed(&record, ledger, Handler::ProcessFork);
    0
}

/// `sched_process_exit(task[, group_dead])`: one record for a process, at its last thread.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let task = Task(Address(ctx.arg(0)));
    let signal = task.0.follow(offset!(task_signal));
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    joins::abandon_join();
    if config!(has_group_dead) != 0 {
        if ctx.arg::<u64>(1) & 0xff == 0 {
            return 0;
        }
    } else if signal.read::<u32>(offset!(signal_live)) != 0 {
        return 0;
    }
    // SAFETY: a value of the map, copied before its entry goes.
    let process = maps::PROCESSES
        .get_ptr(tgid)
        .map(|process| unsafe { *process });
    // Without `group_dead` the last threads may all find nobody alive: whoever takes the entry
    // out is the one that reports.
    let taken = maps::PROCESSES.remove(tgid).is_ok();
    let told_apart = taken || config!(has_group_dead) != 0;
    if told_apart || process.is_none() {
        if is_reported(Handler::ProcessExit, tgid, false) {
            report_exit(task, signal, process, told_apart);
        }
        let _ = maps::OURSELVES.remove(tgid);
        let _ = maps::EXECUTABLES.remove(tgid);
    }
    0
}

#[inline(always)]
fn report_exit(task: Task, signal: Address, process: Option<Process>, told_apart: bool) {
    let Some(ledger) = emit::ledger() else {
        return;
    };
    if !told_apart {
        emit::count(ledger, Handler::ProcessExit, Fate::LostProcessTableFull);
        return;
    }
    // SAFETY: all zero is a valid record.
    let mut record: ExitRecord = unsafe { core::mem::zeroed() };
    emit::stamp(
        &mut record.header,
        ledger,
        RecordKind::Exit,
        Handler::ProcessExit,
    );
    if let Some(process) = process {
        record.header.exec_id = process.exec_id;
        record.header.start_time = process.start_time;
        record.header.parent = process.parent;
    }
    // As wait_task_zombie() in kernel/exit.c.
    let group = signal.read::<u32>(offset!(signal_flags)) & SIGNAL_GROUP_EXIT != 0;
    record.status = if group {
        signal.read(offset!(signal_group_exit_code))
    } else {
        task.leader().0.read(offset!(task_exit_code))
    };
    emit::send_fixed(&record, ledger, Handler::ProcessExit);
}

/// `task_rename(task, new_name)`, before the new name is set: an exec renames its process, and
/// `sched_process_exec` comes too late to see the old name.
#[raw_tracepoint(tracepoint = "task_rename")]
pub fn process_rename(ctx: RawTracePointContext) -> i32 {
    let task = Task(Address(ctx.arg(0)));
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    // An exec runs in the group's leader by now; other threads may rename themselves as they like.
    if tgid != pid_tgid as u32 || task.tid() != tgid {
        return 0;
    }
    let Ok(comm) = bpf_get_current_comm() else {
        return 0;
    };
    if let Some(process) = maps::PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: the entry lives as long as the process; only its own thread writes it.
        unsafe { (*process).previous_comm = comm };
    }
    0
}
