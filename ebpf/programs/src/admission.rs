//! Which of the calls that a rule selects become events: users and executables, sampling, rate.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_ktime_get_boot_ns,
};
use ebpf_hello_abi::{Bucket, BucketKey, CpuLedger, Fate, Handler, NAMESPACE_BUCKET, Overflow};

use crate::{
    atomic,
    config::config,
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

/// Whether an event may be made; counts it where it may not. Sets the call's time, which is read once: a limit holds
/// by the times that events tell, whatever delays this CPU.
#[inline(always)]
pub(crate) fn is_admitted(scratch: &mut Scratch, ledger: &mut CpuLedger, handler: Handler) -> bool {
    if !is_matched(scratch, ledger, handler) {
        return false;
    }
    let parameters = scratch.call.parameters;
    if parameters.sampling <= 1 && parameters.interval == 0 {
        read_clock(scratch);
        return is_in_share(scratch, ledger, handler);
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
    if !is_sampled(bucket, parameters.sampling) {
        return suppress(bucket, ledger, handler, Fate::SuppressedSampling);
    }
    let now = read_clock(scratch);
    if parameters.interval != 0
        && !is_in_rate(bucket, now, parameters.interval, parameters.tolerance)
    {
        return suppress(bucket, ledger, handler, Fate::SuppressedRate);
    }
    // SAFETY: values live as long as their map.
    scratch.call.suppressed = unsafe { (*bucket).suppressed };
    is_in_share(scratch, ledger, handler)
}

/// Sets the call's time. What sampling left out needs none.
#[inline(always)]
fn read_clock(scratch: &mut Scratch) -> u64 {
    // SAFETY: the helper has no preconditions.
    scratch.call.time = unsafe { bpf_ktime_get_boot_ns() };
    scratch.call.time
}

/// Counts a call that becomes no event, in its bucket and in the ledger.
#[inline(always)]
fn suppress(bucket: *mut Bucket, ledger: &mut CpuLedger, handler: Handler, fate: Fate) -> bool {
    // SAFETY: values live as long as their map and are aligned to 8.
    unsafe { atomic::increment(&raw mut (*bucket).suppressed) };
    emit::count(ledger, handler, fate);
    false
}

/// Whether the namespace whose filter asked has not had its share of the node's events: one that asks for everything
/// fills no ring that others need.
#[inline(always)]
fn is_in_share(scratch: &Scratch, ledger: &mut CpuLedger, handler: Handler) -> bool {
    let namespace = scratch.call.parameters.namespace;
    let interval = config!(namespace_interval);
    if namespace == 0 || interval == 0 {
        return true;
    }
    let key = BucketKey {
        cgroup_id: namespace as u64,
        generation: 0,
        bucket: NAMESPACE_BUCKET,
    };
    let empty = Bucket {
        arrival: 0,
        calls: 0,
        suppressed: 0,
    };
    match entry(&maps::BUCKETS, &key, &empty) {
        Some(bucket)
            if is_in_rate(
                bucket,
                scratch.call.time,
                interval,
                config!(namespace_tolerance) as u64,
            ) =>
        {
            return true;
        }
        // SAFETY: values live as long as their map and are aligned to 8.
        Some(bucket) => unsafe { atomic::increment(&raw mut (*bucket).suppressed) },
        None => overflow(Overflow::Buckets),
    }
    emit::count(ledger, handler, Fate::SuppressedRate);
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
fn is_in_rate(bucket: *mut Bucket, now: u64, interval: u32, tolerance: u64) -> bool {
    // SAFETY: values live as long as their map.
    let mut due = unsafe { core::ptr::read_volatile(&raw const (*bucket).arrival) };
    for _ in 0..TRIES {
        let from = if due > now { due } else { now };
        if from - now > tolerance {
            return false;
        }
        // SAFETY: values live as long as their map and are aligned to 8.
        let held = unsafe {
            atomic::compare_exchange(&raw mut (*bucket).arrival, due, from + interval as u64)
        };
        if held == due {
            return true;
        }
        due = held;
    }
    false
}
