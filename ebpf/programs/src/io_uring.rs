//! io_uring: operations that do what system calls do and never pass `sys_enter`. They are counted,
//! by cgroup and opcode, where the policy wants the call.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use ebpf_hello_abi::{ABSENT, CountKey, IO_URING, Overflow};

use crate::{config::config, counters::add, dispatch::outcome_of, emit, maps, task::Address};

/// `io_uring_submit_req(io_kiocb)`, or `io_uring_submit_sqe` with the opcode at a place that differs
/// by version. Runs in the task that submits, or in its kernel thread, which is of its cgroup.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
pub fn io_uring_submit(ctx: RawTracePointContext) -> i32 {
    // A kernel refuses a program that could read past the tracepoint's arguments.
    let argument: u64 = match config!(io_uring_argument) {
        0 => ctx.arg(0),
        1 => ctx.arg(1),
        2 => ctx.arg(2),
        _ => ctx.arg(3),
    };
    let opcode = match config!(io_uring_opcode) {
        ABSENT => argument as u8,
        offset => Address(argument).read::<u8>(offset),
    } as u32;
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if emit::is_foreign() || emit::is_ours(tgid) {
        return 0;
    }
    let cgroup_id = emit::cgroup_id();
    let outcome = outcome_of(cgroup_id);
    let Some(wanted) = maps::IO_URING.get(outcome.table() as u32) else {
        return 0;
    };
    if wanted[(opcode >> 6) as usize & 3] & (1 << (opcode & 63)) != 0 {
        let key = CountKey {
            cgroup_id,
            generation: outcome.generation(),
            number: opcode as u16,
            abi: IO_URING,
            padding: [0; 5],
        };
        add(&maps::COUNTS, &key, Overflow::IoUring);
    }
    0
}
