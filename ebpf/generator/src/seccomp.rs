//! Calls that seccomp refuses: they never enter the kernel's table of system calls.

use std::io;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::calls::{Numbers, repeat};

/// What the refused calls answer; not what they would answer themselves.
const REFUSAL: u32 = libc::EACCES as u32;

/// Makes every call `count` times, forbids them to itself, and makes them again.
pub(crate) fn denied(numbers: &Numbers, count: u64) -> anyhow::Result<Value> {
    let call = || {
        for number in numbers.iter() {
            repeat(number.number(), count);
        }
    };
    call();
    forbid(numbers)?;
    call();
    Ok(json!({
        "pid": std::process::id(),
        "entered": count * numbers.iter().count() as u64,
        "denied": count * numbers.iter().count() as u64,
        "errno": REFUSAL,
    }))
}

/// seccomp(2), without asking for the architecture: these are our own calls.
fn forbid(numbers: &Numbers) -> anyhow::Result<()> {
    const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let instruction = |code: u32, jt, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let mut program = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        NUMBER,
    )];
    for number in numbers.iter() {
        let number = u32::try_from(number.number()).context("a call's number")?;
        let compare = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let answer = libc::BPF_RET | libc::BPF_K;
        program.push(libc::sock_filter {
            jf: 1,
            ..instruction(compare, 0, number)
        });
        program.push(instruction(answer, 0, libc::SECCOMP_RET_ERRNO | REFUSAL));
    }
    program.push(instruction(
        libc::BPF_RET | libc::BPF_K,
        0,
        libc::SECCOMP_RET_ALLOW,
    ));
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).context("too many calls")?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: prctl(2) with numbers; then a program that lives until the call has copied it.
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
