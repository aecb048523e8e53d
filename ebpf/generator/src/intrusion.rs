//! Faults put into another process: one of its threads is held, or made to replace a file descriptor of its own.
//!
//! By ptrace(2): nothing in the process has to be prepared for it.

use std::{io, ptr};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Holds a thread until stdin ends.
pub(crate) fn hold(tid: i32) -> anyhow::Result<Value> {
    let thread = Thread::stop(tid)?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("cannot wait for the end of stdin")?;
    thread.release()?;
    Ok(json!({ "held": tid }))
}

/// Makes a thread that waits in a system call do `dup2(from, to)` in between.
#[cfg(target_arch = "x86_64")]
pub(crate) fn replace(tid: i32, from: u32, to: u32) -> anyhow::Result<Value> {
    let thread = Thread::stop(tid)?;
    let before = thread.registers()?;
    let syscall = before.rip - 2;
    ensure!(
        thread.peek(syscall)? & 0xffff == 0x050f,
        "thread {tid} is in no system call"
    );
    thread.set_registers(&libc::user_regs_struct {
        rax: libc::SYS_dup2 as u64,
        // Nothing to be restarted.
        orig_rax: u64::MAX,
        rdi: u64::from(from),
        rsi: u64::from(to),
        rip: syscall,
        ..before
    })?;
    thread.step()?;
    let answer = thread.registers()?.rax as i64;
    let interrupted = -i64::from(libc::EINTR) as u64;
    // The call that it waited in was interrupted, whatever the kernel calls that inside (linux/errno.h).
    let rax = match before.rax as i64 {
        -516..=-512 => interrupted,
        _ => before.rax,
    };
    thread.set_registers(&libc::user_regs_struct {
        rax,
        orig_rax: u64::MAX,
        ..before
    })?;
    thread.release()?;
    ensure!(
        answer == i64::from(to),
        "dup2({from}, {to}) in thread {tid}: {answer}"
    );
    Ok(json!({ "replaced": to }))
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn replace(_: i32, _: u32, _: u32) -> anyhow::Result<Value> {
    anyhow::bail!("registers are known for x86_64 only")
}

/// A stopped thread of another process.
struct Thread(i32);

// === impl Thread ===

impl Thread {
    fn stop(tid: i32) -> anyhow::Result<Self> {
        request(libc::PTRACE_SEIZE, tid, 0)
            .with_context(|| format!("cannot seize thread {tid}"))?;
        request(libc::PTRACE_INTERRUPT, tid, 0)
            .with_context(|| format!("cannot interrupt thread {tid}"))?;
        let thread = Thread(tid);
        thread.wait()?;
        Ok(thread)
    }

    fn wait(&self) -> anyhow::Result<()> {
        let mut status = 0;
        // SAFETY: the status is ours.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        ensure!(
            waited == self.0 && libc::WIFSTOPPED(status),
            "thread {} does not stop: {}",
            self.0,
            io::Error::last_os_error()
        );
        Ok(())
    }

    fn release(self) -> anyhow::Result<()> {
        request(libc::PTRACE_DETACH, self.0, 0)
            .with_context(|| format!("cannot release thread {}", self.0))
    }
}

#[cfg(target_arch = "x86_64")]
impl Thread {
    fn registers(&self) -> anyhow::Result<libc::user_regs_struct> {
        // SAFETY: a struct of numbers, for which zeroes are values.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        request(libc::PTRACE_GETREGS, self.0, (&raw mut registers) as usize)
            .context("cannot read registers")?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> anyhow::Result<()> {
        request(
            libc::PTRACE_SETREGS,
            self.0,
            ptr::from_ref(registers) as usize,
        )
        .context("cannot write registers")
    }

    fn peek(&self, address: u64) -> anyhow::Result<u64> {
        // SAFETY: errno is this thread's; the address is read by the kernel, in the other process.
        let (word, error) = unsafe {
            *libc::__errno_location() = 0;
            let word = libc::ptrace(libc::PTRACE_PEEKTEXT, self.0, address, 0);
            (word, *libc::__errno_location())
        };
        ensure!(
            error == 0,
            "cannot read its code: {}",
            io::Error::from_raw_os_error(error)
        );
        Ok(word as u64)
    }

    fn step(&self) -> anyhow::Result<()> {
        request(libc::PTRACE_SINGLESTEP, self.0, 0).context("cannot step")?;
        self.wait()
    }
}

/// A request whose data is a number, or the address of what the kernel reads or writes.
fn request(request: libc::c_uint, tid: i32, data: usize) -> io::Result<()> {
    // SAFETY: the callers' data is none, or lives through the call and has the request's type.
    match unsafe { libc::ptrace(request, tid, ptr::null_mut::<libc::c_void>(), data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
