//! Readiness canaries: the agent's own marked system call and exec, told although they are its own, so that it
//! sees whether what it attached reports.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use ebpf_hello_abi::{
    Abi, CANARY_ARGUMENT, CpuLedger, Fate, Handler, Header, HeaderFlags, RecordKind, SyscallRecord,
    canary_call, canary_exec,
};

use crate::{
    config::{config, offset},
    emit, maps,
    task::{Address, Task},
};

// `native_1` below is the second argument.
const _: () = assert!(CANARY_ARGUMENT == 1);

/// The nonce of a call that the agent announced: by this thread, of that number, with that nonce. 0 of any other.
#[inline(always)]
pub(crate) fn nonce_of(ctx: &RawTracePointContext, number: u32, abi: u32) -> u64 {
    if number != config!(canary_number) || abi != Abi::Native as u32 {
        return 0;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(announced) = maps::CANARIES.get_ptr(canary_call(tid)) else {
        return 0;
    };
    let nonce = Address(ctx.arg(0)).read::<u64>(offset!(native_1));
    // SAFETY: a word of the map.
    if unsafe { *announced } == nonce {
        nonce
    } else {
        0
    }
}

/// Tells the announced call.
#[inline(always)]
pub(crate) fn report_call(number: u32, nonce: u64) {
    let handler = Handler::Trace;
    let (Some(scratch), Some(ledger)) = (emit::scratch(), emit::ledger()) else {
        return;
    };
    if !emit::claim(scratch, handler) {
        return;
    }
    emit::count(ledger, handler, Fate::Seen);
    let record = scratch.fixed::<SyscallRecord>();
    emit::stamp(&mut record.header, ledger, RecordKind::Syscall, handler);
    mark(&mut record.header);
    record.arguments = [0; 6];
    record.arguments[CANARY_ARGUMENT] = nonce;
    record.number = number;
    record.padding = 0;
    let sent = emit::send_fixed(record, ledger, handler);
    settle(ledger, sent);
    emit::release(scratch);
}

/// Marks a record as a canary's.
#[inline(always)]
pub(crate) fn mark(header: &mut Header) {
    header.flags = HeaderFlags::CANARY;
    header.sequence = 0;
}

/// Gives back the sequence number of a canary that was sent: no consumer sees it, and to them a gap is a loss.
#[inline(always)]
pub(crate) fn settle(ledger: &mut CpuLedger, sent: bool) {
    if sent {
        ledger.sequence -= 1;
    }
}

/// Whether this exec is a child's that the agent announced.
#[inline(always)]
pub(crate) fn is_exec(task: Task) -> bool {
    maps::CANARIES
        .get_ptr(canary_exec(task.parent().tgid()))
        .is_some()
}

/// Run by the loader on the thread that will make the canary, never attached. Arguments: the nonce, or 0 to
/// withdraw; 0 for a call of this thread, 1 for an exec of a child of this process.
#[raw_tracepoint]
pub fn announce(ctx: RawTracePointContext) -> i32 {
    let nonce: u64 = ctx.arg(0);
    let pid_tgid = bpf_get_current_pid_tgid();
    let key = if ctx.arg::<u64>(1) == 0 {
        canary_call(pid_tgid as u32)
    } else {
        canary_exec((pid_tgid >> 32) as u32)
    };
    // A map that is full shows as a canary that does not come.
    let _ = if nonce == 0 {
        maps::CANARIES.remove(key)
    } else {
        maps::CANARIES.insert(key, nonce, 0)
    };
    0
}
