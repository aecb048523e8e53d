//! Readiness canaries: a system call and an exec of our own that are reported all the same.
//!
//! Each is announced to the kernel by the thread that makes it: in a container the agent does not know its thread's
//! id in the initial PID namespace.

use std::{
    num::NonZeroU64,
    process::{Command, Stdio},
};

use ebpf_hello_abi::program;

use crate::{Kernel, LoadError};

/// The system call that canaries make: rare, without effect, and it ignores the second argument.
pub(crate) const NUMBER: i64 = libc::SYS_sched_get_priority_max;

/// What is announced.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
enum What {
    Call = 0,
    Exec = 1,
}

impl Kernel {
    /// Makes a system call that is reported with `nonce` as its second argument, while `sys_enter` is attached.
    ///
    /// # Errors
    /// The kernel refused to take the announcement.
    pub fn make_call_canary(&mut self, nonce: NonZeroU64) -> Result<(), LoadError> {
        self.announce(What::Call, nonce.get())?;
        // SAFETY: sched_get_priority_max(2) takes any number and touches no memory.
        unsafe { libc::syscall(NUMBER, libc::SCHED_OTHER, nonce.get()) };
        self.announce(What::Call, 0)
    }

    /// Executes this program in a child, with `arguments`, and waits for its end. The exec is reported, while process
    /// events are on.
    ///
    /// # Errors
    /// The kernel refused to take the announcement, or this program could not be executed.
    pub fn make_exec_canary(
        &mut self,
        nonce: NonZeroU64,
        arguments: &[&str],
    ) -> Result<(), LoadError> {
        self.announce(What::Exec, nonce.get())?;
        let ended = Command::new("/proc/self/exe")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        self.announce(What::Exec, 0)?;
        ended.map(drop).map_err(LoadError::Canary)
    }

    fn announce(&mut self, what: What, nonce: u64) -> Result<(), LoadError> {
        let mut arguments = [0; 12];
        arguments[0] = nonce;
        arguments[1] = what as u64;
        self.test_run(program::ANNOUNCE, arguments)
    }
}
