//! Which of the calls that a rule selects become events: users and executables, sampling, rate.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_ktime_get_ns,
};
use ebpf_hello_abi::{Bucket, BucketKey, CpuLedger, Fate, Handler, Overflow, SlotParameters};

use crate::{
    atomic,
    counters::{entry, overflow},
    emit::{self, Scratch},
    executable, maps,
};

/// Tries at a contended bucket before the event counts as suppressed.
const TRIES: u32 = 8;

/// Whether the caller is one of those the rule is for; counts it where it is not.
#[inline(always)]
pub(crate) fn is_matched(scratch: &mut Scratch, ledger: &mut CpuLedger, handler: Handler) -> bool {
    let condition = scratch.call.parameters.condition;
    if condition == 0 {
        return true;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let uid = bpf_get_current_uid_gid() as u32;
    if executable::meets(scratch, condition, tgid, uid) {
        return true;
    }
    emit::count(ledger, handler, Fate::SuppressedMatch);
    false
}

/// Whether an event may be made; counts it where it may not.
#[inline(always)]
pub(crate) fn is_admitted(scratch: &mut Scratch, ledger: &mut CpuLedger, handler: Handler) -> bool {
    if !is_matched(scratch, ledger, handler) {
        return false;
    }
    let parameters = scratch.call.parameters;
    if parameters.sampling <= 1 && parameters.interval == 0 {
        return true;
    }
    let key = BucketKey {
        cgroup_id: scratch.call.cgroup_id,
        generation: scratch.call.generation,
        bucket: parameters.bucket as u64,
    };
    let empty = Bucket {
        arrival: 0,
        calls: 0,
        suppressed: 0,
    };
    let Some(bucket) = entry(&maps::BUCKETS, &key, &empty) else {
        overflow(Overflow::Buckets);
        emit::count(ledger, handler, Fate::SuppressedRate);
        return false;
    };
    let fate = if !is_sampled(bucket, parameters.sampling) {
        Fate::SuppressedSampling
    } else if parameters.interval != 0 && !is_in_rate(bucket, &parameters) {
        Fate::SuppressedRate
    } else {
        // SAFETY: values live as long as their map.
        scratch.call.suppressed = unsafe { (*bucket).suppressed };
        return true;
    };
    // SAFETY: values live as long as their map and are aligned to 8.
    unsafe { atomic::increment(&raw mut (*bucket).suppressed) };
    emit::count(ledger, handler, fate);
    false
}

/// The first call of every `sampling` calls.
#[inline(always)]
fn is_sampled(bucket: *mut Bucket, sampling: u32) -> bool {
    if sampling <= 1 {
        return true;
    }
    // SAFETY: values live as long as their map and are aligned to 8.
    let number = unsafe { atomic::take_number(&raw mut (*bucket).calls) };
    number % sampling as u64 == 0
}

/// The generic cell rate algorithm (ITU-T I.371): one word holds the time at which the next event
/// is due; an event may come up to `tolerance` early.
#[inline(always)]
fn is_in_rate(bucket: *mut Bucket, parameters: &SlotParameters) -> bool {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: values live as long as their map.
    let mut due = unsafe { core::ptr::read_volatile(&raw const (*bucket).arrival) };
    for _ in 0..TRIES {
        let from = if due > now { due } else { now };
        if from - now > parameters.tolerance {
            return false;
        }
        // SAFETY: values live as long as their map and are aligned to 8.
        let held = unsafe {
            atomic::compare_exchange(
                &raw mut (*bucket).arrival,
                due,
                from + parameters.interval as u64,
            )
        };
        if held == due {
            return true;
        }
        due = held;
    }
    false
}
