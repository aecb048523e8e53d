//! The eBPF programs. One object for every supported kernel and architecture: what differs is a
//! constant that the loader sets (`CONFIG`).
//!
//! ```text
//! process.rs    sched_process_exec, _fork, _exit, task_rename: the life of processes
//! executable.rs who runs what: matchBinaries
//! cgroups.rs    cgroup_mkdir, _rmdir: a new cgroup has its policy before its first process
//! dispatch.rs   sys_enter: bounds, bitmaps, ourselves, outcome, tail call
//! handlers.rs   what is tail-called: exec, timer, trace, path, sock, count, ignore
//! admission.rs  users, executables, sampling, rate     counters.rs  exact counts
//! joins.rs      sys_exit: return values, out-parameters, what seccomp refused
//! entered.rs    who is in a call: all others were refused
//! events.rs     the events of system calls
//! io_uring.rs   what passes sys_enter by
//! ourselves.rs  run by the loader: who am I, who reads my output
//! emit.rs       ledger, sequence, ring buffers         maps.rs      every map
//! current.rs    the caller, by typed loads
//! task.rs       kernel structs by offset               path.rs      dentries to names
//! canary.rs     readiness: the agent's own marked call and exec
//! config.rs     constants set before load              atomic.rs    atomic instructions
//! baseline.rs   an empty program, for the benchmarks only
//! ```
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admission;
mod atomic;
mod baseline;
mod canary;
mod cgroups;
mod config;
mod counters;
mod current;
mod dispatch;
mod emit;
mod entered;
mod events;
mod executable;
mod handlers;
mod io_uring;
mod joins;
mod maps;
mod ourselves;
mod path;
mod process;
mod task;

/// The license the kernel asks for before it lends GPL helpers. LICENSE-MIT and LICENSE-GPL2.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}
