//! Operations of io_uring: what system calls do, without them.

use anyhow::{Context as _, bail};
use io_uring::{IoUring, opcode, types};
use serde_json::{Value, json};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    /// Nothing.
    Nop,
    /// Open /dev/null.
    Openat,
}

/// Submits the operation `count` times, one after the other.
pub(crate) fn submit(operation: Operation, count: u64) -> anyhow::Result<Value> {
    let mut ring = IoUring::new(8)
        .context("cannot make an io_uring (is it off in /proc/sys/kernel/io_uring_disabled?)")?;
    for _ in 0..count {
        let entry = match operation {
            Operation::Nop => opcode::Nop::new().build(),
            Operation::Openat => {
                let directory = types::Fd(libc::AT_FDCWD);
                opcode::OpenAt::new(directory, c"/dev/null".as_ptr()).build()
            }
        };
        // SAFETY: the path is static, and the operation is over before the next.
        unsafe { ring.submission().push(&entry) }.context("the submission queue is full")?;
        ring.submit_and_wait(1).context("cannot submit")?;
        let result = ring.completion().next().context("no completion")?.result();
        match operation {
            _ if result < 0 => bail!("{operation:?} answered errno {}", -result),
            Operation::Nop => {}
            // SAFETY: the descriptor was opened just now, for nobody else.
            Operation::Openat => drop(unsafe {
                <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(result)
            }),
        }
    }
    Ok(json!({ "pid": std::process::id(), "total": count }))
}
