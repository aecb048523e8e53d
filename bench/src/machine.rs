//! This machine: which CPU measures, and what it is.

use std::fs;

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPU that the measured loops have, and those that all else has.
pub(crate) struct Place {
    allowed: CpuSet,
    others: CpuSet,
    measured: usize,
}

// === impl Place ===

impl Place {
    /// The last CPU that we may use measures; where there is one only, it does everything.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
        let measured = (0..CpuSet::MAX_CPU)
            .rev()
            .find(|cpu| allowed.is_set(*cpu))
            .context("there is no CPU that may be used")?;
        let mut others = allowed;
        if allowed.count() > 1 {
            others.unset(measured);
        }
        Ok(Place {
            allowed,
            others,
            measured,
        })
    }

    /// The CPU of the loops.
    pub(crate) fn measured(&self) -> usize {
        self.measured
    }

    /// Keeps this thread, and those it starts from here on, off that CPU.
    pub(crate) fn keep_apart(&self) -> anyhow::Result<()> {
        sched_setaffinity(None, &self.others).context("cannot leave the measured CPU")
    }

    /// Lets it, and those it starts from here on, run everywhere again.
    pub(crate) fn release(&self) -> anyhow::Result<()> {
        sched_setaffinity(None, &self.allowed).context("cannot use every CPU again")
    }
}

/// The load averages, as /proc/loadavg has them (proc_loadavg(5)); empty where it cannot be read.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A paragraph for the page.
pub(crate) fn describe(rounds: u32, load_before: &str) -> anyhow::Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    ensure!(cpus > 0, "cannot tell how many CPUs there are");
    let system = rustix::system::uname();
    Ok(format!(
        "Measured {} on {} with {cpus} CPUs ({}{}), Linux {} {}, in {rounds} rounds. Load averages before \
         {load_before}, after {}.\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        system.machine().to_string_lossy(),
        field(&cpuinfo, "model name").unwrap_or("model unknown"),
        if is_virtual(&cpuinfo) {
            ", a virtual machine"
        } else {
            ""
        },
        system.release().to_string_lossy(),
        system.version().to_string_lossy(),
        load(),
    ))
}

/// The first value of a key in /proc/cpuinfo.
fn field<'t>(cpuinfo: &'t str, key: &str) -> Option<&'t str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim())
    })
}

/// x86 says so in a flag (CPUID leaf 1, bit 31 of ECX).
fn is_virtual(cpuinfo: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: A B\nflags\t: fpu hypervisor sse\n\nmodel name\t: C\n";
        assert_eq!(field(cpuinfo, "model name"), Some("A B"));
        assert_eq!(field(cpuinfo, "Features"), None);
        assert!(is_virtual(cpuinfo));
        assert!(!is_virtual("flags : fpu sse\n"));
    }
}
