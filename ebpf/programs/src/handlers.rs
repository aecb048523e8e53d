//! What the dispatcher tail-calls. Each handler decides a call's fate on entry; the events are
//! made in `events.rs`, at once or at sys_exit.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_ktime_get_boot_ns,
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{Abi, CountKey, CpuLedger, Fate, Handler, Overflow, SlotFlags};

use crate::{
    admission::{is_admitted, is_matched},
    config::offset,
    counters::add,
    emit::{self, Scratch},
    entered, events, joins, maps,
    task::Address,
};

/// Exec attempts per user; the event is `sched_process_exec`'s, or a failed exec's at sys_exit.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_exec(ctx: RawTracePointContext) -> i32 {
    let handler = Handler::Exec;
    let Some((scratch, ledger)) = enter(handler) else {
        return 0;
    };
    if is_matched(scratch, ledger, handler) {
        let uid = bpf_get_current_uid_gid() as u32;
        add(&maps::EXECS_BY_UID, &uid, Overflow::ExecsByUid);
        emit::count(ledger, handler, Fate::Counted);
        if scratch.call.parameters.flags & SlotFlags::FAILED_EXEC != 0 {
            // SAFETY: the helper has no preconditions.
            scratch.call.time = unsafe { bpf_ktime_get_boot_ns() };
            take_arguments(scratch, Address(ctx.arg(0)));
            // The attempt is counted; a failure is a record of its own.
            joins::defer(scratch, handler);
        }
    }
    emit::release(scratch);
    0
}

/// Calls per cgroup, generation and number.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_count(_ctx: RawTracePointContext) -> i32 {
    let handler = Handler::Count;
    let Some((scratch, ledger)) = enter(handler) else {
        return 0;
    };
    if is_matched(scratch, ledger, handler) {
        let key = CountKey {
            cgroup_id: scratch.call.cgroup_id,
            generation: scratch.call.generation,
            number: scratch.call.number as u16,
            abi: scratch.call.abi as u8,
            padding: [0; 5],
        };
        add(&maps::COUNTS, &key, Overflow::Counts);
        emit::count(ledger, handler, Fate::Counted);
    }
    emit::release(scratch);
    0
}

/// Number and raw arguments.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_trace(ctx: RawTracePointContext) -> i32 {
    if let Some((scratch, ledger)) = begin(&ctx, Handler::Trace) {
        events::trace(scratch, ledger);
        emit::release(scratch);
    }
    0
}

/// Timers: which clock, which timer, which interval.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_timer(ctx: RawTracePointContext) -> i32 {
    if let Some((scratch, ledger)) = begin(&ctx, Handler::Timer) {
        events::timer(scratch, ledger);
        emit::release(scratch);
    }
    0
}

/// Paths, as they were asked for. One on a page that was never touched cannot be read here: the
/// call itself brings it in, so it is read at sys_exit.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_path(ctx: RawTracePointContext) -> i32 {
    if let Some((scratch, ledger)) = begin(&ctx, Handler::Path) {
        if events::read_path(scratch) || !joins::defer(scratch, Handler::Path) {
            events::path(scratch, ledger);
        }
        emit::release(scratch);
    }
    0
}

/// Socket addresses that the caller gives.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_sock(ctx: RawTracePointContext) -> i32 {
    if let Some((scratch, ledger)) = begin(&ctx, Handler::Sock) {
        if events::read_address(scratch) || !joins::defer(scratch, Handler::Sock) {
            events::sock(scratch, ledger);
        }
        emit::release(scratch);
    }
    0
}

/// Returns at once: for a call that a table whose default is not Ignore leaves out.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_ignore(_ctx: RawTracePointContext) -> i32 {
    if let Some(scratch) = emit::scratch() {
        emit::release(scratch);
    }
    0
}

type Entered = (&'static mut Scratch, &'static mut CpuLedger);

#[inline(always)]
fn enter(handler: Handler) -> Option<Entered> {
    let scratch = emit::scratch()?;
    let ledger = emit::ledger()?;
    emit::count(ledger, handler, Fate::Seen);
    // Copied: a call that waits for its sys_exit may outlive the slot's present content.
    scratch.call.parameters = *maps::PARAMETERS.get(scratch.call.slot)?;
    if scratch.call.parameters.flags & SlotFlags::DENIED != 0 {
        entered::note(bpf_get_current_pid_tgid() as u32);
    }
    Some((scratch, ledger))
}

/// Enters a handler that makes events; `None` when there is none to make now.
#[inline(always)]
fn begin(ctx: &RawTracePointContext, handler: Handler) -> Option<Entered> {
    let (scratch, ledger) = enter(handler)?;
    if !is_admitted(scratch, ledger, handler) {
        emit::release(scratch);
        return None;
    }
    take_arguments(scratch, Address(ctx.arg(0)));
    if scratch.call.parameters.flags & SlotFlags::JOIN != 0 && joins::defer(scratch, handler) {
        emit::release(scratch);
        return None;
    }
    Some((scratch, ledger))
}

/// The six arguments, in the call's own ABI.
#[inline(always)]
pub(crate) fn take_arguments(scratch: &mut Scratch, registers: Address) {
    let call = &mut scratch.call;
    call.arguments = if call.abi == Abi::Compat as u32 {
        // 32-bit callers own only the lower halves.
        [
            registers.read::<u32>(offset!(compat_0)) as u64,
            registers.read::<u32>(offset!(compat_1)) as u64,
            registers.read::<u32>(offset!(compat_2)) as u64,
            registers.read::<u32>(offset!(compat_3)) as u64,
            registers.read::<u32>(offset!(compat_4)) as u64,
            registers.read::<u32>(offset!(compat_5)) as u64,
        ]
    } else {
        [
            registers.read(offset!(native_0)),
            registers.read(offset!(native_1)),
            registers.read(offset!(native_2)),
            registers.read(offset!(native_3)),
            registers.read(offset!(native_4)),
            registers.read(offset!(native_5)),
        ]
    };
}
