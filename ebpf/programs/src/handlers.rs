//! What the dispatcher tail-calls. Each handler decides a call's fate on entry.

use aya_ebpf::{
    helpers::{bpf_get_current_uid_gid, bpf_probe_read_user},
    macros::raw_tracepoint,
    maps::HashMap,
    programs::RawTracePointContext,
};
use ebpf_hello_abi::{
    Abi, CountKey, CpuLedger, Decode, Fate, Handler, Header, Overflow, RecordKind, SlotParameters,
    SyscallRecord, TimerRecord,
};

use crate::{
    atomic,
    config::offset,
    emit::{self, Call, Scratch},
    maps,
    task::Address,
};

/// A call as a handler meets it.
struct Entered {
    call: Call,
    ledger: &'static mut CpuLedger,
    scratch: &'static mut Scratch,
}

#[inline(always)]
fn enter(handler: Handler) -> Option<Entered> {
    let scratch = emit::scratch()?;
    let ledger = emit::ledger()?;
    emit::count(ledger, handler, Fate::Seen);
    Some(Entered {
        call: scratch.call,
        ledger,
        scratch,
    })
}

#[inline(always)]
fn parameters(call: &Call) -> SlotParameters {
    match maps::PARAMETERS.get(call.slot) {
        Some(parameters) => *parameters,
        None => SlotParameters {
            rule: 0,
            decode: 0,
            padding: [0; 5],
        },
    }
}

#[inline(always)]
fn stamp(
    header: &mut Header,
    entered: &mut Entered,
    parameters: &SlotParameters,
    kind: RecordKind,
    handler: Handler,
) {
    emit::stamp(header, entered.ledger, kind, handler);
    header.abi = entered.call.abi as u8;
    header.cgroup_id = entered.call.cgroup_id;
    header.generation = entered.call.generation;
    header.table = entered.call.table as u16;
    header.rule = parameters.rule;
}

/// The six arguments, in the call's own ABI.
#[inline(always)]
fn arguments(registers: Address, abi: u32) -> [u64; 6] {
    if abi == Abi::Compat as u32 {
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
    }
}

/// Exec attempts per user; the event is `sched_process_exec`'s.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_exec(_ctx: RawTracePointContext) -> i32 {
    let Some(entered) = enter(Handler::Exec) else {
        return 0;
    };
    let uid = bpf_get_current_uid_gid() as u32;
    add(&maps::EXECS_BY_UID, &uid, Overflow::ExecsByUid);
    emit::count(entered.ledger, Handler::Exec, Fate::Counted);
    emit::release(entered.scratch);
    0
}

/// Calls per cgroup, generation and number.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_count(_ctx: RawTracePointContext) -> i32 {
    let Some(entered) = enter(Handler::Count) else {
        return 0;
    };
    let key = CountKey {
        cgroup_id: entered.call.cgroup_id,
        generation: entered.call.generation,
        number: entered.call.number as u16,
        abi: entered.call.abi as u8,
        padding: [0; 5],
    };
    add(&maps::COUNTS, &key, Overflow::Counts);
    emit::count(entered.ledger, Handler::Count, Fate::Counted);
    emit::release(entered.scratch);
    0
}

/// Number and raw arguments.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_trace(ctx: RawTracePointContext) -> i32 {
    let Some(mut entered) = enter(Handler::Trace) else {
        return 0;
    };
    let parameters = parameters(&entered.call);
    // SAFETY: all zero is a valid record.
    let mut record: SyscallRecord = unsafe { core::mem::zeroed() };
    stamp(
        &mut record.header,
        &mut entered,
        &parameters,
        RecordKind::Syscall,
        Handler::Trace,
    );
    record.number = entered.call.number;
    record.arguments = arguments(Address(ctx.arg(0)), entered.call.abi);
    emit::send_fixed(&record, entered.ledger, Handler::Trace);
    emit::release(entered.scratch);
    0
}

/// Timers: which clock, which timer, which interval.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_timer(ctx: RawTracePointContext) -> i32 {
    let Some(mut entered) = enter(Handler::Timer) else {
        return 0;
    };
    let parameters = parameters(&entered.call);
    // SAFETY: all zero is a valid record.
    let mut record: TimerRecord = unsafe { core::mem::zeroed() };
    stamp(
        &mut record.header,
        &mut entered,
        &parameters,
        RecordKind::Timer,
        Handler::Timer,
    );
    let arguments = arguments(Address(ctx.arg(0)), entered.call.abi);
    let decode = parameters.decode;
    record.number = entered.call.number;
    record.decode = decode as u32;
    record.subject = arguments[0] as i32;
    if decode == Decode::TimerSettime as u8
        || decode == Decode::TimerfdSettime as u8
        || decode == Decode::TimerSettime32 as u8
        || decode == Decode::TimerfdSettime32 as u8
        || decode == Decode::TimerfdCreate as u8
    {
        record.flags = arguments[1] as u32;
    }
    if decode == Decode::TimerSettime as u8 || decode == Decode::TimerfdSettime as u8 {
        read_setting::<i64>(&mut record, arguments[2]);
    } else if decode == Decode::TimerSettime32 as u8 || decode == Decode::TimerfdSettime32 as u8 {
        read_setting::<i32>(&mut record, arguments[2]);
    } else if decode == Decode::Setitimer as u8 {
        read_setting::<i64>(&mut record, arguments[1]);
    } else if decode == Decode::Setitimer32 as u8 {
        read_setting::<i32>(&mut record, arguments[1]);
    }
    emit::send_fixed(&record, entered.ledger, Handler::Timer);
    emit::release(entered.scratch);
    0
}

/// `struct itimerspec` or `itimerval`: interval then initial value, seconds then fraction each.
#[inline(always)]
fn read_setting<T: Copy + Into<i64>>(record: &mut TimerRecord, address: u64) {
    record.has_setting = 1;
    // SAFETY: the helper takes any user address and reports those it cannot read.
    match unsafe { bpf_probe_read_user(address as *const [T; 4]) } {
        Ok([interval, interval_fraction, initial, initial_fraction]) => {
            record.interval_seconds = interval.into();
            record.interval_fraction = interval_fraction.into();
            record.initial_seconds = initial.into();
            record.initial_fraction = initial_fraction.into();
        }
        Err(_) => record.unreadable = 1,
    }
}

/// Returns at once: for a call that a table whose default is not Ignore leaves out.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn handle_ignore(_ctx: RawTracePointContext) -> i32 {
    if let Some(scratch) = emit::scratch() {
        emit::release(scratch);
    }
    0
}

/// Adds one at `key`, exactly: whoever is first inserts zero, everybody adds to what is there.
#[inline(always)]
pub(crate) fn add<K>(map: &HashMap<K, u64>, key: &K, cell: Overflow) {
    const BPF_NOEXIST: u64 = 1;
    let counter = match map.get_ptr_mut(key) {
        Some(counter) => Some(counter),
        None => {
            // Another CPU may be first, or the map may be full: the second look tells.
            let _ = map.insert(key, 0, BPF_NOEXIST);
            map.get_ptr_mut(key)
        }
    };
    let counter = match counter {
        Some(counter) => counter,
        None => match maps::OVERFLOW.get_ptr_mut(cell as u32) {
            Some(overflow) => overflow,
            None => return,
        },
    };
    // SAFETY: values live as long as their map and are aligned to 8.
    unsafe { atomic::increment(counter) };
}
