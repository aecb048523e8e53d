//! Dentries to names: what `d_path` does, within a program's bounds.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use ebpf_hello_abi::ABSENT;

use crate::{
    config::offset,
    emit::{self, VARIABLE_MASK},
    task::Address,
};

/// Names followed before a path counts as truncated.
const DEPTH: usize = 40;
/// Longest name with its NUL (`NAME_MAX` + 1).
const NAME: usize = 256;
/// Bytes a path may take in a record.
pub(crate) const PATH: usize = 3072;

/// A position in the kernel's tree of mounts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mount: Address,
    pub(crate) dentry: Address,
}

impl Place {
    /// From the root of a mount to where it is mounted; `None` at the top of all mounts.
    #[inline(always)]
    pub(crate) fn above(self) -> Option<Place> {
        let mount = Address(self.mount.0.wrapping_sub(offset!(mount_mnt) as u64));
        let parent = mount.follow(offset!(mount_parent));
        if parent == mount || parent.is_null() {
            return None;
        }
        Some(Place {
            dentry: mount.follow(offset!(mount_mountpoint)),
            mount: parent.embedded(offset!(mount_mnt)),
        })
    }
}

/// Bit of [`write_path`]'s answer that says names are missing.
const TRUNCATED: u64 = 1 << 32;

/// Writes the names from `place` up to `root`, leaf first, each ended by a NUL, at `start` of the
/// scratch. Returns the end, and whether names are missing.
#[inline(always)]
pub(crate) fn write(start: usize, place: Place, root: Place) -> (usize, bool) {
    let answer = write_path(
        place.mount.0,
        place.dentry.0,
        root.mount.0,
        root.dentry.0,
        start as u64,
    );
    (answer as usize & VARIABLE_MASK, answer & TRUNCATED != 0)
}

/// A global function to the verifier: followed once, on its own, whatever its callers know. Inlined
/// twice, two walks of this length exceed a million steps.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn write_path(
    mount: u64,
    dentry: u64,
    root_mount: u64,
    root_dentry: u64,
    start: u64,
) -> u64 {
    let start = start as usize & VARIABLE_MASK;
    let Some(scratch) = emit::scratch() else {
        return start as u64;
    };
    if offset!(mount_mnt) == ABSENT || dentry == 0 {
        return start as u64;
    }
    let root = Place {
        mount: Address(root_mount),
        dentry: Address(root_dentry),
    };
    let mut here = Place {
        mount: Address(mount),
        dentry: Address(dentry),
    };
    let mut end = start;
    for _ in 0..DEPTH {
        if here == root {
            return end as u64;
        }
        let top = here.mount.follow(offset!(vfsmount_root));
        if here.dentry == top {
            let Some(above) = here.above() else {
                return end as u64;
            };
            here = above;
            continue;
        }
        if end.wrapping_sub(start) > PATH - NAME {
            return end as u64 | TRUNCATED;
        }
        let name = here.dentry.follow(offset!(dentry_name));
        // SAFETY: VARIABLE_MASK + NAME bytes lie within the scratch's variable part.
        let written = unsafe {
            bpf_probe_read_kernel_str(
                scratch
                    .variable
                    .as_mut_ptr()
                    .add(end & VARIABLE_MASK)
                    .cast(),
                NAME as u32,
                name.0 as *const _,
            )
        };
        if written > 0 {
            end = (end + written as usize) & VARIABLE_MASK;
        }
        let parent = here.dentry.follow(offset!(dentry_parent));
        if parent == here.dentry {
            // Not in any tree: a memfd or a pipe has only its own name.
            return end as u64;
        }
        here.dentry = parent;
    }
    end as u64 | TRUNCATED
}
