//! The ledger, the sequence, and the way into the ring buffers.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id,
            bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
        },
    },
    maps::RingBuf,
};
use ebpf_hello_abi::{
    CpuLedger, ExecRecord, Fate, Handler, Header, MATCHED_PATH, PathRecord, RecordKind, SELF_HINTS,
    SlotParameters, SockRecord,
};

use crate::{atomic, config::config, entered, maps, task::Task};

/// Variable bytes start below this; the longest single read ends below [`VARIABLE`].
pub(crate) const VARIABLE_MASK: usize = 0x3fff;
/// Bytes of one read into the variable part, at most.
pub(crate) const READ: usize = 4096;
const VARIABLE: usize = VARIABLE_MASK + 1 + READ;

/// One CPU's work space: the record being built, and the call it is about.
#[repr(C)]
pub(crate) struct Scratch {
    /// The exec record's fixed part; `variable` follows it without a gap.
    pub(crate) exec: ExecRecord,
    pub(crate) variable: [u8; VARIABLE],
    /// A record of fixed size.
    fixed: [u64; FIXED],
    /// The path record's fixed part; its bytes follow it without a gap.
    pub(crate) path: PathRecord,
    pub(crate) path_bytes: [u8; 2 * READ],
    /// The system call that is being handled. The dispatcher fills it: a tail call passes only the
    /// context, and looking again could see a newer policy.
    pub(crate) call: Call,
    /// A look-up of the caller's executable.
    pub(crate) binary: BinaryLookup,
    /// A path that is written from its end; what lies behind [`MATCHED_PATH`] stays zero.
    pub(crate) backward: [u8; 2 * 256],
    /// Holder of this scratch, where programs can be preempted.
    busy: u64,
}

/// A system call on its way through a handler.
#[repr(C)]
pub(crate) struct Call {
    pub(crate) cgroup_id: u64,
    pub(crate) generation: u64,
    /// When it entered.
    pub(crate) time: u64,
    /// Of its bucket, cumulative.
    pub(crate) suppressed: u64,
    pub(crate) return_value: i64,
    pub(crate) arguments: [u64; 6],
    pub(crate) number: u32,
    pub(crate) abi: u32,
    pub(crate) table: u32,
    /// Index of the handler's parameters.
    pub(crate) slot: u32,
    /// HeaderFlags.
    pub(crate) flags: u32,
    pub(crate) padding: u32,
    pub(crate) parameters: SlotParameters,
}

/// A key of the trie of patterns.
#[repr(C)]
pub(crate) struct BinaryLookup {
    pub(crate) prefix_bits: u32,
    pub(crate) condition: [u8; 4],
    pub(crate) path: Executable,
}

/// The path of an executable, from its root, NUL-padded; empty when it is too long to be matched.
pub(crate) type Executable = [u64; MATCHED_PATH / 8];

/// Words of the largest record of fixed size.
const FIXED: usize = size_of::<SockRecord>() / 8;

const _: () = assert!(core::mem::offset_of!(Scratch, variable) == size_of::<ExecRecord>());
const _: () = assert!(
    core::mem::offset_of!(Scratch, path_bytes) - core::mem::offset_of!(Scratch, path)
        == size_of::<PathRecord>()
);
const _: () = assert!(size_of::<Scratch>() <= 32_768);

impl Scratch {
    /// The place of a record of fixed size. Whoever fills it sets every field.
    #[inline(always)]
    pub(crate) fn fixed<T>(&mut self) -> &mut T {
        const {
            assert!(size_of::<T>() <= FIXED * 8 && align_of::<T>() <= 8);
        }
        // SAFETY: large enough, aligned, and any bits are a record.
        unsafe { &mut *self.fixed.as_mut_ptr().cast::<T>() }
    }
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the value is this CPU's own; `claim` keeps a second program of this CPU out.
    unsafe { scratch.as_mut() }
}

#[inline(always)]
pub(crate) fn ledger() -> Option<&'static mut CpuLedger> {
    let ledger = maps::LEDGER.get_ptr_mut(0)?;
    // SAFETY: the value is this CPU's own.
    unsafe { ledger.as_mut() }
}

/// Adds one to a cell of this CPU's ledger.
#[inline(always)]
pub(crate) fn count(ledger: &mut CpuLedger, handler: Handler, fate: Fate) {
    let cell = &mut ledger.cells[handler as usize][fate as usize];
    if config!(nesting_guard) == 0 {
        *cell += 1;
    } else {
        // SAFETY: the cell lives as long as its map and is aligned.
        unsafe { atomic::increment(cell) };
    }
}

/// Takes this CPU's scratch. False when a preempted program holds it: the second is counted lost.
///
/// Tracing programs run with preemption off, except under PREEMPT_RT; there the guard is on.
#[inline(always)]
pub(crate) fn claim(scratch: &mut Scratch, handler: Handler) -> bool {
    if config!(nesting_guard) == 0 {
        return true;
    }
    // SAFETY: the word lives as long as its map and is aligned.
    let taken = unsafe { atomic::swap(&raw mut scratch.busy, 1) };
    if taken == 0 {
        return true;
    }
    // Whatever it was about to note of itself: a lost entry must not look like a refusal.
    entered::note(bpf_get_current_pid_tgid() as u32);
    if let Some(ledger) = ledger() {
        count(ledger, handler, Fate::Seen);
        count(ledger, handler, Fate::LostNested);
    }
    false
}

/// Gives this CPU's scratch back.
#[inline(always)]
pub(crate) fn release(scratch: &mut Scratch) {
    if config!(nesting_guard) != 0 {
        // SAFETY: as in `claim`.
        unsafe { atomic::swap(&raw mut scratch.busy, 0) };
    }
}

/// Whether the current process belongs to another node that shares this kernel.
#[inline(always)]
pub(crate) fn is_foreign() -> bool {
    let node = config!(node_cgroup);
    if node == 0 {
        return false;
    }
    let Some(me) = maps::WHOAMI.get(0) else {
        return false;
    };
    // SAFETY: the helper takes any level and answers 0 where there is none.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(me.node_level as i32) };
    ancestor != node
}

/// Whether `tgid` is one of our own processes.
#[inline(always)]
pub(crate) fn is_ours(tgid: u32) -> bool {
    let may_be = maps::SELF_HINTS
        .get(tgid % SELF_HINTS)
        .is_some_and(|hint| *hint != 0);
    may_be && maps::OURSELVES.get_ptr(tgid).is_some()
}

/// The cgroup v2 id of the current process.
#[inline(always)]
pub(crate) fn cgroup_id() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_cgroup_id() }
}

/// Fills in who, where and when; takes the next sequence number. What comes after must be
/// [`send`], so that every number taken is either sent or counted lost.
#[inline(always)]
pub(crate) fn stamp(
    header: &mut Header,
    ledger: &mut CpuLedger,
    kind: RecordKind,
    handler: Handler,
) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    let tgid = (pid_tgid >> 32) as u32;
    ledger.sequence += 1;
    header.kind = kind as u16;
    header.handler = handler as u8;
    header.abi = 0;
    // SAFETY: neither helper has preconditions.
    (header.cpu, header.time) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_boot_ns()) };
    header.sequence = ledger.sequence;
    header.cgroup_id = cgroup_id();
    header.generation = 0;
    header.tgid = tgid;
    header.tid = pid_tgid as u32;
    header.uid = uid_gid as u32;
    header.gid = (uid_gid >> 32) as u32;
    header.table = 0;
    header.rule = 0;
    header.suppressed = 0;
    header.return_value = 0;
    header.flags = 0;
    header.bucket = 0;
    header.comm = bpf_get_current_comm().unwrap_or_default();
    if let Some(process) = maps::PROCESSES.get_ptr(tgid) {
        // SAFETY: an entry goes only when its process ends, and this one is running.
        let process = unsafe { &*process };
        header.exec_id = process.exec_id;
        header.start_time = process.start_time;
        header.parent = process.parent;
    } else {
        let task = Task::current();
        header.exec_id = task.exec_id(0);
        header.start_time = task.start_time();
        header.parent = task.parent().tgid();
    }
}

/// Sends `length` bytes at `record`, which [`stamp`] began. False when there was no room, and that is counted.
#[inline(always)]
pub(crate) fn send(
    record: *const u8,
    length: usize,
    ledger: &mut CpuLedger,
    handler: Handler,
) -> bool {
    let sent = post(record, length);
    if !sent {
        count(ledger, handler, Fate::LostRingFull);
    }
    sent
}

/// Puts `length` bytes at `record` into this CPU's ring; false when it has no room.
#[inline(always)]
pub(crate) fn post(record: *const u8, length: usize) -> bool {
    // SAFETY: the helper has no preconditions.
    let shard = unsafe { bpf_get_smp_processor_id() } & config!(shard_mask);
    // One call each: the verifier wants to know which map a call is for.
    match shard {
        0 => output(&maps::RING_0, 0, record, length),
        1 => output(&maps::RING_1, 1, record, length),
        2 => output(&maps::RING_2, 2, record, length),
        3 => output(&maps::RING_3, 3, record, length),
        4 => output(&maps::RING_4, 4, record, length),
        5 => output(&maps::RING_5, 5, record, length),
        6 => output(&maps::RING_6, 6, record, length),
        _ => output(&maps::RING_7, 7, record, length),
    }
}

#[inline(always)]
fn output(ring: &RingBuf, shard: u32, record: *const u8, length: usize) -> bool {
    // A reader that drains on a timer needs no wake-up before the ring fills; one that sleeps
    // needs one now.
    let draining = maps::DRAINING.get(shard).is_some_and(|flag| *flag != 0);
    let flags = if draining {
        let waiting = ring.query(BPF_RB_AVAIL_DATA as u64);
        let mark = config!(ring_mark) as u64;
        if waiting < mark && waiting + length as u64 >= mark {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }
    } else {
        BPF_RB_FORCE_WAKEUP
    };
    // SAFETY: the callers pass `length` initialized bytes of this CPU's scratch or of their stack.
    unsafe {
        aya_ebpf::helpers::generated::bpf_ringbuf_output(
            core::ptr::from_ref(ring).cast_mut().cast(),
            record.cast_mut().cast(),
            length as u64,
            flags as u64,
        ) == 0
    }
}

/// Sends a record of fixed size.
#[inline(always)]
pub(crate) fn send_fixed<T>(record: &T, ledger: &mut CpuLedger, handler: Handler) -> bool {
    send(
        core::ptr::from_ref(record).cast(),
        size_of::<T>(),
        ledger,
        handler,
    )
}
