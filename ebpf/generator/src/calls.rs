//! Bare loops of system calls.

use std::{
    ffi::CStr, path::Path, str::FromStr, sync::Barrier, thread, time::Duration, time::Instant,
};

use anyhow::{Context as _, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::{CallArguments, permission};

/// System calls to make.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(Vec<Number>);

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Number {
    /// As it was given.
    text: String,
    number: i64,
}

/// The portion of a second in which a rate is kept.
const PORTION: Duration = Duration::from_millis(1);
const PORTIONS_PER_SECOND: u64 = 1000;

// === impl Numbers ===

impl Numbers {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Number> {
        self.0.iter()
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(Number::parse)
            .collect::<Result<_, _>>()
            .map(Numbers)
    }
}

// === impl Number ===

impl Number {
    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// As it was given.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => text
                .parse()
                .ok()
                .or_else(|| Some(i64::from(syscalls::Sysno::from_str(text).ok()?.id()))),
        };
        Ok(Number {
            text: text.to_owned(),
            number: number.ok_or_else(|| {
                format!("{text:?} is neither a number nor a system call of this architecture")
            })?,
        })
    }
}

/// Makes every call `count` times in every thread.
pub(crate) fn call(arguments: &CallArguments) -> anyhow::Result<Value> {
    enter(arguments.cgroup.as_deref())?;
    if arguments.seccomp {
        permission::permit()?;
    }
    let cpus = allowed_cpus()?;
    let together = Barrier::new(arguments.threads as usize);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads as usize)
            .map(|index| {
                let (together, cpu) = (&together, cpus[index % cpus.len()]);
                scope.spawn(move || make(arguments, together, cpu))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        match result {
            Ok(result) => result?,
            Err(_) => bail!("a thread panicked"),
        }
    }
    let each = arguments.count * u64::from(arguments.threads);
    Ok(made(&arguments.numbers, each))
}

/// Moves into a cgroup v2 directory, if there is one to move into.
pub(crate) fn enter(cgroup: Option<&Path>) -> anyhow::Result<()> {
    if let Some(directory) = cgroup {
        // 0 is whoever writes it (kernel's Documentation/admin-guide/cgroup-v2.rst).
        std::fs::write(directory.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot move into cgroup {}", directory.display()))?;
    }
    Ok(())
}

fn made(numbers: &Numbers, each: u64) -> Value {
    let made: serde_json::Map<_, _> = numbers
        .0
        .iter()
        .map(|number| (number.text.clone(), json!(each)))
        .collect();
    json!({
        "pid": std::process::id(),
        "made": made,
        "total": each * numbers.0.len() as u64,
    })
}

fn make(arguments: &CallArguments, together: &Barrier, cpu: usize) -> anyhow::Result<()> {
    let pinned = if arguments.pin { pin(cpu) } else { Ok(()) };
    for number in &arguments.numbers.0 {
        together.wait();
        match arguments.rate {
            None => repeat(number.number, arguments.count),
            Some(rate) => keep_rate(number.number, arguments.count, rate),
        }
    }
    // Only now: who failed before the barrier would leave the others waiting.
    pinned
}

/// Nothing but `openat` of a file that is not there.
pub(crate) fn open_missing(count: u32) {
    const MISSING: &CStr = c"/nonexistent/ebpf-hello";
    for _ in 0..count {
        // SAFETY: a path that lives for ever; no mode is read without O_CREAT.
        unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                MISSING.as_ptr(),
                libc::O_RDONLY,
            )
        };
    }
}

/// Nothing but the call.
pub(crate) fn repeat(number: i64, count: u64) {
    for _ in 0..count {
        // SAFETY: the arguments are no addresses or descriptors of ours (see the command's help): a
        // call either takes none or fails.
        unsafe { libc::syscall(number, -1i64, -2i64, -3i64, -4i64, -5i64, -6i64) };
    }
}

fn keep_rate(number: i64, count: u64, rate: u64) {
    let portion = (rate / PORTIONS_PER_SECOND).max(1);
    let mut left = count;
    let mut next = Instant::now();
    while left > 0 {
        let now = portion.min(left);
        repeat(number, now);
        left -= now;
        next += PORTION;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

pub(crate) fn allowed_cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect())
}

pub(crate) fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// Makes 32-bit calls.
#[cfg(target_arch = "x86_64")]
pub(crate) fn int80(numbers: &Numbers, count: u64) -> anyhow::Result<Value> {
    for number in &numbers.0 {
        let number = u32::try_from(number.number)
            .with_context(|| format!("{} does not fit into eax", number.text))?;
        for _ in 0..count {
            // SAFETY: as in `repeat`. The kernel keeps all registers but rax, and in old versions
            // clears r8 to r11; rbx belongs to the compiler and is put back.
            unsafe {
                std::arch::asm!(
                    "push rbx",
                    "mov ebx, -1",
                    "int 0x80",
                    "pop rbx",
                    inlateout("eax") number => _,
                    in("ecx") -2,
                    in("edx") -3,
                    in("esi") -4,
                    in("edi") -5,
                    out("r8") _,
                    out("r9") _,
                    out("r10") _,
                    out("r11") _,
                );
            }
        }
    }
    Ok(made(numbers, count))
}

/// Makes 32-bit calls.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn int80(_numbers: &Numbers, _count: u64) -> anyhow::Result<Value> {
    bail!("`int $0x80` is an x86_64 instruction")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_or_numbered() {
        let numbers: Numbers = "-1,0x40000027,510,getppid".parse().unwrap();
        let numbers: Vec<_> = numbers.0.iter().map(|number| number.number).collect();
        assert_eq!(numbers, [-1, 0x4000_0027, 510, libc::SYS_getppid]);
        let error = "getppid,nonsense".parse::<Numbers>().unwrap_err();
        assert!(error.contains("\"nonsense\""), "{error}");
    }
}
