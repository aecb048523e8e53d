//! `sys_enter`: the cheapest test first, then one tail call into the table of the caller's policy.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ebpf_hello_abi::{
    ABSENT, Abi, BITMAP_UNION, CountKey, Fate, Handler, OUT_OF_RANGE, Outcome, Overflow,
    SYSCALL_LIMIT, bitmap_of, slot,
};

use crate::{
    canary,
    config::{config, offset},
    counters::add,
    current::Current,
    emit, maps,
};

/// `sys_enter(pt_regs, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let number: u64 = ctx.arg(1);
    if number >= SYSCALL_LIMIT as u64 {
        out_of_range();
        return 0;
    }
    let number = number as u32;
    if !is_wanted(BITMAP_UNION, number) {
        return 0;
    }
    let caller = Current::get();
    let abi = abi_of(caller);
    if !is_wanted(bitmap_of(abi), number) {
        return 0;
    }
    if emit::is_foreign() {
        decide(&[Fate::Foreign]);
        return 0;
    }
    let nonce = canary::nonce_of(&ctx, number, abi);
    if nonce != 0 {
        canary::report_call(number, nonce);
        return 0;
    }
    if emit::is_ours(caller.tgid()) {
        decide(&[Fate::Seen, Fate::SelfExcluded]);
        return 0;
    }
    let cgroup_id = caller.cgroup_id();
    let outcome = outcome_of(cgroup_id);
    let Some(scratch) = emit::scratch() else {
        return 0;
    };
    if !emit::claim(scratch, Handler::Dispatch) {
        return 0;
    }
    let table = outcome.table() as u32;
    let call = &mut scratch.call;
    call.cgroup_id = cgroup_id;
    call.generation = outcome.generation();
    call.number = number;
    call.abi = abi;
    call.table = table;
    call.slot = slot(table, abi, number);
    call.suppressed = 0;
    call.return_value = 0;
    call.flags = 0;
    // SAFETY: the handlers take the same context. A call that succeeds does not return.
    unsafe {
        maps::TABLES.tail_call(&ctx, slot(table, abi, number));
        scratch.call.slot = slot(table, abi, SYSCALL_LIMIT);
        maps::TABLES.tail_call(&ctx, slot(table, abi, SYSCALL_LIMIT));
    }
    // No handler, no default: this table ignores the call. Another might not have.
    if outcome.is_missed() {
        decide(&[Fate::Seen, Fate::TableMiss]);
    }
    emit::release(scratch);
    0
}

/// Counts a fate that is decided here, of few calls: what most take has no look-up more than it needs.
#[inline(always)]
fn decide(fates: &[Fate]) {
    if let Some(ledger) = emit::ledger() {
        for fate in fates {
            emit::count(ledger, Handler::Dispatch, *fate);
        }
    }
}

/// What applies to a cgroup: its own outcome, or the node's default.
#[inline(always)]
pub(crate) fn outcome_of(cgroup_id: u64) -> Outcome {
    let id = match maps::CGROUPS.get_ptr(cgroup_id) {
        // SAFETY: a word of the map.
        Some(id) => unsafe { *id },
        None => 0,
    };
    match maps::OUTCOMES.get(id) {
        Some(outcome) => Outcome(*outcome),
        None => Outcome(0),
    }
}

/// Whether a number is in a bitmap.
#[inline(always)]
pub(crate) fn is_wanted(bitmap: u32, number: u32) -> bool {
    match maps::BITMAPS.get(bitmap) {
        Some(bits) => bits[(number >> 6) as usize & 7] & (1 << (number & 63)) != 0,
        None => false,
    }
}

/// By which door the current system call came in.
#[inline(always)]
pub(crate) fn abi() -> u32 {
    abi_of(Current::get())
}

#[inline(always)]
fn abi_of(caller: Current) -> u32 {
    if offset!(task_compat) == ABSENT {
        return Abi::Native as u32;
    }
    (caller.compat_word() & config!(compat_mask) != 0) as u32
}

#[inline(always)]
fn out_of_range() {
    if emit::is_foreign() {
        return;
    }
    let key = CountKey {
        cgroup_id: Current::get().cgroup_id(),
        generation: 0,
        number: OUT_OF_RANGE,
        abi: 0,
        padding: [0; 5],
    };
    add(&maps::COUNTS, &key, Overflow::OutOfRange);
}
