//! A seccomp filter that refuses nothing: whoever has it could be refused a call, and is not.

use std::io;

use anyhow::Context as _;

/// Gives the current thread the filter, and those that it starts.
pub(crate) fn permit() -> anyhow::Result<()> {
    let mut instruction = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    // SAFETY: prctl(2) with numbers; then a program that lives until seccomp(2) has copied it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot install a seccomp filter");
    }
    Ok(())
}
