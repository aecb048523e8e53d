//! Calls that wait for their sys_exit: for what they return, what the kernel fills in, or a page
//! that was not there. And calls that seccomp refused, which have a sys_exit only.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use ebpf_hello_abi::{
    ABSENT, BITMAP_EXIT, CpuLedger, Fate, Handler, HeaderFlags, Join, Outcome, SYSCALL_LIMIT,
    SlotFlags, SlotParameters, bitmap_of, slot,
};

use crate::{
    admission::is_admitted,
    config::{config, offset},
    counters::NOEXIST,
    dispatch::{abi, is_wanted, outcome_of},
    emit::{self, Scratch},
    entered, events,
    handlers::take_arguments,
    maps,
    task::{Address, Task},
};

/// A blocked call that a signal interrupted returns this or a restart code, never to be taken for
/// seccomp's answer when it was entered before sys_enter was attached (`include/linux/errno.h`).
const EINTR: i64 = 4;
const ERESTARTSYS: i64 = 512;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// Keeps the call in the scratch until its sys_exit. False when there is no room: then the event is
/// made at once, without what only sys_exit knows.
#[inline(always)]
pub(crate) fn defer(scratch: &mut Scratch, handler: Handler) -> bool {
    let pid_tgid = bpf_get_current_pid_tgid();
    let call = &scratch.call;
    let join = &Join {
        time: call.time,
        cgroup_id: call.cgroup_id,
        generation: call.generation,
        arguments: call.arguments,
        suppressed: call.suppressed,
        number: call.number,
        abi: call.abi,
        table: call.table,
        tgid: (pid_tgid >> 32) as u32,
        parameters: call.parameters,
    };
    let tid = pid_tgid as u32;
    if maps::JOINS.insert(tid, join, NOEXIST).is_ok() {
        return true;
    }
    // Full, or the thread's last call never came to its sys_exit.
    let Some(older) = maps::JOINS.get_ptr(tid) else {
        return false;
    };
    // SAFETY: a word of the map; only this thread writes the entry.
    let lost = unsafe { (*older).parameters.handler };
    if lost != Handler::Exec as u8
        && let Some(ledger) = emit::ledger()
    {
        emit::count(ledger, handler, Fate::LostJoinReplaced);
    }
    maps::JOINS.insert(tid, join, 0).is_ok()
}

/// `sys_exit(pt_regs, return value)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let registers = Address(ctx.arg(0));
    let return_value: i64 = ctx.arg(1);
    let number: u64 = registers.read(offset!(registers_call));
    let number = number as u32;
    if number >= SYSCALL_LIMIT || !is_wanted(BITMAP_EXIT, number) {
        return 0;
    }
    let entered = entered::take(bpf_get_current_pid_tgid() as u32);
    let Some(scratch) = emit::scratch() else {
        return 0;
    };
    let Some(ledger) = emit::ledger() else {
        return 0;
    };
    if !emit::claim(scratch, Handler::Dispatch) {
        return 0;
    }
    if take_join(scratch) {
        scratch.call.flags = HeaderFlags::RETURNED;
        scratch.call.return_value = return_value;
        make(scratch, ledger);
    } else if !entered && is_under_seccomp() {
        denied(scratch, ledger, registers, number, return_value);
    }
    emit::release(scratch);
    0
}

/// Whether the current thread has a seccomp filter, without which nothing is refused: who was in a
/// call before its entry was watched has a sys_exit only, too.
#[inline(always)]
fn is_under_seccomp() -> bool {
    let offset = config!(seccomp_mode);
    offset == ABSENT || Task::current().0.read::<u32>(offset) != 0
}

/// The thread ends: what it waited for will not come.
///
/// A global function to the verifier: followed on its own, not as a part of every thread's end.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn abandon_join() -> u64 {
    // Its number will be another thread's.
    entered::take(bpf_get_current_pid_tgid() as u32);
    let Some(scratch) = emit::scratch() else {
        return 0;
    };
    let Some(ledger) = emit::ledger() else {
        return 0;
    };
    if maps::JOINS
        .get_ptr(bpf_get_current_pid_tgid() as u32)
        .is_none()
        || !emit::claim(scratch, Handler::Dispatch)
    {
        return 0;
    }
    if take_join(scratch) {
        scratch.call.flags = 0;
        scratch.call.return_value = 0;
        make(scratch, ledger);
    }
    emit::release(scratch);
    0
}

/// Puts the call that the current thread entered back into the scratch.
#[inline(always)]
fn take_join(scratch: &mut Scratch) -> bool {
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(join) = maps::JOINS.get_ptr(tid) else {
        return false;
    };
    // SAFETY: only this thread writes and removes the entry.
    let join = unsafe { &*join };
    let call = &mut scratch.call;
    call.time = join.time;
    call.cgroup_id = join.cgroup_id;
    call.generation = join.generation;
    call.arguments = join.arguments;
    call.suppressed = join.suppressed;
    call.number = join.number;
    call.abi = join.abi;
    call.table = join.table;
    call.parameters = join.parameters;
    let _ = maps::JOINS.remove(tid);
    true
}

/// Makes the event of a call that has returned, or never will.
#[inline(always)]
fn make(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    let handler = scratch.call.parameters.handler;
    if handler == Handler::Trace as u8 {
        events::trace(scratch, ledger);
    } else if handler == Handler::Timer as u8 {
        events::timer(scratch, ledger);
    } else if handler == Handler::Path as u8 {
        // As it can be read now: if not even the call brought it in, the event says so.
        events::read_path(scratch);
        events::path(scratch, ledger);
    } else if handler == Handler::Sock as u8 {
        events::read_address(scratch);
        events::sock(scratch, ledger);
    } else if handler == Handler::Exec as u8 && scratch.call.return_value < 0 {
        let asked = scratch.call.parameters.flags & SlotFlags::FAILED_EXEC != 0;
        if asked || scratch.call.flags & HeaderFlags::DENIED != 0 {
            events::failed_exec(scratch, ledger);
        }
    }
}

/// A sys_exit without its sys_enter: seccomp answered in the call's place.
#[inline(always)]
fn denied(
    scratch: &mut Scratch,
    ledger: &mut CpuLedger,
    registers: Address,
    number: u32,
    return_value: i64,
) {
    let error = -return_value;
    if error <= 0 || error == EINTR || (ERESTARTSYS..=ERESTART_RESTARTBLOCK).contains(&error) {
        return;
    }
    let abi = abi();
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_wanted(bitmap_of(abi), number) || emit::is_foreign() || emit::is_ours(tgid) {
        return;
    }
    let cgroup_id = emit::cgroup_id();
    let outcome: Outcome = outcome_of(cgroup_id);
    let index = slot(outcome.table() as u32, abi, number);
    let Some(parameters) = maps::PARAMETERS.get(index) else {
        return;
    };
    if parameters.flags & SlotFlags::DENIED == 0 {
        return;
    }
    let call = &mut scratch.call;
    call.cgroup_id = cgroup_id;
    call.generation = outcome.generation();
    call.number = number;
    call.abi = abi;
    call.table = outcome.table() as u32;
    call.parameters = *parameters;
    call.suppressed = 0;
    call.flags = HeaderFlags::RETURNED | HeaderFlags::DENIED;
    call.return_value = return_value;
    take_arguments(scratch, registers);
    let Some(handler) = handler_of(parameters) else {
        return;
    };
    // A refused exec is a failed exec, which makes its own entry in the ledger.
    if parameters.handler != Handler::Exec as u8 {
        emit::count(ledger, handler, Fate::Seen);
    }
    if is_admitted(scratch, ledger, handler) {
        make(scratch, ledger);
    }
}

#[inline(always)]
fn handler_of(parameters: &SlotParameters) -> Option<Handler> {
    let number = parameters.handler;
    [
        Handler::Trace,
        Handler::Timer,
        Handler::Path,
        Handler::Sock,
        Handler::Exec,
    ]
    .into_iter()
    .find(|handler| *handler as u8 == number)
}
