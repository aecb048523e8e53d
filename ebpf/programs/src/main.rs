//! The eBPF programs. One object for every supported kernel and architecture: what differs is a
//! constant that the loader sets (`CONFIG`).
//!
//! ```text
//! process.rs   sched_process_exec, _fork, _exit, task_rename: the life of processes
//! dispatch.rs  sys_enter: bounds, bitmaps, ourselves, outcome, tail call
//! handlers.rs  what is tail-called: exec, timer, trace, count, ignore
//! ourselves.rs run by the loader: who am I, who reads my output
//! task.rs      kernel structs by offset        path.rs    dentries to names
//! emit.rs      ledger, sequence, ring buffers  maps.rs    every map
//! config.rs    constants set before load       atomic.rs  atomic adds
//! ```
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod config;
mod dispatch;
mod emit;
mod handlers;
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
