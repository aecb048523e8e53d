//! What this machine is: may we load BPF, does the kernel have what we need, where is the node's
//! cgroup, what is the boot's identity.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::{maps::MapType, sys::is_map_supported};

use crate::{LoadError, cgroup_mount};

/// Capability numbers, `include/uapi/linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The part of the machine that is reported.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeScope {
    /// Every process of this kernel.
    Machine,
    /// The cgroup whose id this is, and what is below it: one node of several on one kernel.
    Cgroup {
        /// cgroup v2 id.
        id: u64,
        /// Where its directory is mounted here.
        mount: PathBuf,
    },
}

/// Refuses early, and with what to do, where loading could only fail.
pub(crate) fn check() -> Result<(), LoadError> {
    // Absent without securityfs or lockdown support: then there is no lockdown.
    if let Ok(lockdown) = fs::read_to_string("/sys/kernel/security/lockdown")
        && lockdown.contains("[confidentiality]")
    {
        return Err(LoadError::Kernel(
            "lockdown is in confidentiality mode, which forbids BPF programs to read kernel \
             memory; boot with lockdown=integrity or none"
                .into(),
        ));
    }
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok(()),
        Ok(false) => Err(LoadError::Kernel(
            "BPF ring buffers (Linux 5.8); ebpf-hello needs the features of Linux 5.15".into(),
        )),
        Err(error) => Err(refused("to make a BPF map", &error)),
    }
}

/// The kernel's refusal, with what may be missing. Asked afterwards: only the kernel knows what it asks for.
pub(crate) fn refused(what: &str, error: &dyn std::error::Error) -> LoadError {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    LoadError::Privilege(if missing.is_empty() {
        format!(
            "the kernel refuses {what} ({error}); are you root in the initial user namespace, and does a security \
             module or seccomp profile forbid bpf(2)?"
        )
    } else {
        format!(
            "the kernel refuses {what} ({error}): {} missing; run as root (sudo), or grant them to the process",
            missing.join(" and ")
        )
    })
}

/// Names of the capabilities needed and not effective in a `/proc/<pid>/status`.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective & (1 << capability) != 0;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter_map(|(capability, name)| (!has(capability)).then_some(name))
        .collect()
}

/// A hash of the boot id: two boots of a machine never share process identities.
pub(crate) fn boot_seed() -> Result<u64, LoadError> {
    let id = read("/proc/sys/kernel/random/boot_id")?;
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let value = u128::from_str_radix(&digits, 16).map_err(|error| {
        LoadError::Kernel(format!(
            "a boot id in /proc/sys/kernel/random/boot_id, which holds {id:?}: {error}"
        ))
    })?;
    Ok((value >> 64) as u64 ^ value as u64)
}

/// Whether tracing programs can be preempted.
pub(crate) fn is_preempt_rt() -> bool {
    rustix::system::uname()
        .version()
        .to_string_lossy()
        .contains("PREEMPT_RT")
}

/// Finds the cgroup v2 mount, and what its root is.
///
/// In a container or on a node of kind the root of the mount is a cgroup below the hierarchy's
/// own root, whose inode is 1 (`kernfs_create_root` in `fs/kernfs/dir.c`).
pub(crate) fn node_scope() -> Result<NodeScope, LoadError> {
    let Some(mount) = cgroup_mount() else {
        return Ok(NodeScope::Machine);
    };
    let id = fs::metadata(&mount)
        .map_err(LoadError::system(format!("stat {}", mount.display())))?
        .ino();
    Ok(match id {
        1 => NodeScope::Machine,
        id => NodeScope::Cgroup { id, mount },
    })
}

fn read(path: &str) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(LoadError::system(format!("read {path}")))
}

/// Waits until every program that was running when it is called has returned.
///
/// `membarrier(2)`'s global command waits for an RCU grace period; about 10 ms.
pub(crate) fn wait_for_programs() -> Result<(), LoadError> {
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).map_err(|error| {
        LoadError::system("membarrier(MEMBARRIER_CMD_GLOBAL)")(io::Error::from(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let status = |mask: &str| format!("Name:\tx\nCapEff:\t{mask}\n");
        assert!(missing_capabilities(&status("000001ffffffffff")).is_empty());
        assert!(missing_capabilities(&status("000000c000000000")).is_empty());
        assert_eq!(
            missing_capabilities(&status("0000008000000000")),
            ["CAP_PERFMON"]
        );
        assert_eq!(
            missing_capabilities(&status("0")),
            ["CAP_BPF", "CAP_PERFMON"]
        );
        assert_eq!(missing_capabilities(""), ["CAP_BPF", "CAP_PERFMON"]);
    }
}
