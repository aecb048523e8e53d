//! One of each timer call, the same ones every time: what is set where is in the tests that expect it.

use std::{io, ptr};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// An address in the first page, which nobody may map (`vm.mmap_min_addr`).
const UNREADABLE: usize = 8;

/// Makes the calls, in this order; says the ids that the kernel gave.
pub(crate) fn script() -> anyhow::Result<Value> {
    let timer = posix_timer().context("POSIX timer")?;
    let descriptor = timerfd().context("timerfd")?;
    // Far away: it must not fire while the process lives.
    let setting = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 3,
            tv_usec: 250_000,
        },
        it_value: libc::timeval {
            tv_sec: 600,
            tv_usec: 1,
        },
    };
    // SAFETY: a valid setting, and no place for the old one.
    let set = unsafe {
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_VIRTUAL,
            &raw const setting,
            ptr::null_mut::<libc::itimerval>(),
        )
    };
    check("setitimer", set)?;
    Ok(json!({ "pid": std::process::id(), "timer": timer, "descriptor": descriptor }))
}

fn posix_timer() -> anyhow::Result<i32> {
    // SAFETY: all zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_NONE;
    let mut timer: i32 = 0;
    // SAFETY: a valid sigevent, and room for the kernel's timer id, which is an int.
    let made = unsafe {
        libc::syscall(
            libc::SYS_timer_create,
            libc::CLOCK_MONOTONIC,
            &raw mut event,
            &raw mut timer,
        )
    };
    check("timer_create", made)?;
    settime(
        libc::SYS_timer_settime,
        timer,
        0,
        &spec(1, 500_000_000, 600, 7),
    )?;
    settime(
        libc::SYS_timer_settime,
        timer,
        libc::TIMER_ABSTIME,
        &spec(0, 0, 1 << 31, 0),
    )?;
    let mut now = spec(0, 0, 0, 0);
    // SAFETY: room for the setting.
    let got = unsafe { libc::syscall(libc::SYS_timer_gettime, timer, &raw mut now) };
    check("timer_gettime", got)?;
    // SAFETY: takes no address.
    let overrun = unsafe { libc::syscall(libc::SYS_timer_getoverrun, timer) };
    check("timer_getoverrun", overrun)?;
    // SAFETY: the kernel finds the address unreadable and says so.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            timer,
            0,
            UNREADABLE,
            ptr::null_mut::<libc::itimerspec>(),
        )
    };
    let error = io::Error::last_os_error();
    ensure!(
        refused == -1 && error.raw_os_error() == Some(libc::EFAULT),
        "timer_settime of an unreadable address was not refused with EFAULT"
    );
    // SAFETY: takes no address.
    let deleted = unsafe { libc::syscall(libc::SYS_timer_delete, timer) };
    check("timer_delete", deleted)?;
    Ok(timer)
}

fn timerfd() -> anyhow::Result<i32> {
    // SAFETY: takes no address.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_timerfd_create,
            libc::CLOCK_BOOTTIME,
            libc::TFD_NONBLOCK,
        )
    };
    check("timerfd_create", descriptor)?;
    let descriptor = i32::try_from(descriptor)?;
    settime(
        libc::SYS_timerfd_settime,
        descriptor,
        0,
        &spec(0, 20_000_000, 600, 0),
    )?;
    let mut now = spec(0, 0, 0, 0);
    // SAFETY: room for the setting.
    let got = unsafe { libc::syscall(libc::SYS_timerfd_gettime, descriptor, &raw mut now) };
    check("timerfd_gettime", got)?;
    Ok(descriptor)
}

fn settime(
    call: libc::c_long,
    subject: i32,
    flags: i32,
    new: &libc::itimerspec,
) -> anyhow::Result<()> {
    // SAFETY: a valid setting, and no place for the old one.
    let set = unsafe {
        libc::syscall(
            call,
            subject,
            flags,
            &raw const *new,
            ptr::null_mut::<libc::itimerspec>(),
        )
    };
    check("settime", set)
}

fn spec(interval: i64, interval_nanos: i64, initial: i64, initial_nanos: i64) -> libc::itimerspec {
    libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: interval,
            tv_nsec: interval_nanos,
        },
        it_value: libc::timespec {
            tv_sec: initial,
            tv_nsec: initial_nanos,
        },
    }
}

fn check(call: &'static str, result: libc::c_long) -> anyhow::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error()).context(call);
    }
    Ok(())
}
