//! The executable of every living process, as policies name it: for `matchBinaries`.

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_probe_read_kernel};
use ebpf_hello_abi::{ABSENT, CONDITION_UIDS, MATCHED_PATH};

use crate::{
    config::offset,
    emit::{self, Executable, Scratch},
    maps,
    path::Place,
    task::{Address, Task},
};

/// Names followed; a deeper path is never matched.
const DEPTH: usize = 32;
/// Where the path's NUL is written.
const END: usize = MATCHED_PATH - 1;
/// Bits of a key before its path.
const CONDITION_BITS: u32 = 32;

/// Notes the path of a new image.
#[inline(always)]
pub(crate) fn remember(task: Task, binprm: Address, tgid: u32) {
    let file = binprm.follow(offset!(binprm_file));
    let fs = task.0.follow(offset!(task_fs));
    let start = write_executable(
        file.follow(offset!(file_path_mnt)).0,
        file.follow(offset!(file_path_dentry)).0,
        fs.follow(offset!(fs_root_mnt)).0,
        fs.follow(offset!(fs_root_dentry)).0,
    ) as usize;
    let Some(scratch) = emit::scratch() else {
        return;
    };
    let path = &mut scratch.binary.path;
    if start == 0 || start >= END {
        *path = [0; MATCHED_PATH / 8];
    } else {
        // SAFETY: MATCHED_PATH bytes from any start below it lie within `backward`; those past the
        // path are zero.
        unsafe {
            bpf_probe_read_kernel(
                path.as_mut_ptr().cast(),
                MATCHED_PATH as u32,
                scratch.backward.as_ptr().add(start & 255).cast(),
            );
        }
    }
    // A full table means a process that no pattern matches.
    let path: &Executable = path;
    let _ = maps::EXECUTABLES.insert(tgid, path, 0);
}

/// A child runs its parent's image until it execs.
#[inline(always)]
pub(crate) fn inherit(parent: u32, child: u32) {
    if let Some(path) = maps::EXECUTABLES.get_ptr(parent) {
        // SAFETY: a value of the map; torn at worst if the parent ends right now.
        let path: &Executable = unsafe { &*path };
        let _ = maps::EXECUTABLES.insert(child, path, 0);
    }
}

/// Writes a path from its end into the scratch; returns where it begins, or 0 when it is too long.
///
/// A global function to the verifier, for the reason that [`crate::path::write_path`] is one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn write_executable(
    mount: u64,
    dentry: u64,
    root_mount: u64,
    root_dentry: u64,
) -> u64 {
    let Some(scratch) = emit::scratch() else {
        return 0;
    };
    if offset!(mount_mnt) == ABSENT || dentry == 0 {
        return 0;
    }
    let root = Place {
        mount: Address(root_mount),
        dentry: Address(root_dentry),
    };
    let mut here = Place {
        mount: Address(mount),
        dentry: Address(dentry),
    };
    let mut start = END;
    for _ in 0..DEPTH {
        if here == root {
            return start as u64;
        }
        if here.dentry == here.mount.follow(offset!(vfsmount_root)) {
            let Some(above) = here.above() else {
                return start as u64;
            };
            here = above;
            continue;
        }
        let name = here.dentry.follow(offset!(dentry_name));
        let length = here.dentry.read::<u32>(offset!(dentry_name_length)) as usize & 255;
        if length + 1 > start {
            return 0;
        }
        start = (start - length - 1) & 255;
        scratch.backward[start] = b'/';
        // SAFETY: start and length are below 256 each, and `backward` has twice that.
        unsafe {
            bpf_probe_read_kernel(
                scratch.backward.as_mut_ptr().add(start + 1).cast(),
                length as u32,
                name.0 as *const _,
            );
        }
        let parent = here.dentry.follow(offset!(dentry_parent));
        if parent == here.dentry {
            return start as u64;
        }
        here.dentry = parent;
    }
    0
}

/// Whether the current process meets a condition.
#[inline(always)]
pub(crate) fn meets(scratch: &mut Scratch, number: u16, tgid: u32, uid: u32) -> bool {
    let Some(condition) = maps::CONDITIONS.get(number as u32) else {
        return false;
    };
    if condition.uid_count != 0 {
        let mut found = false;
        for index in 0..CONDITION_UIDS {
            let [first, last] = condition.uids[index];
            if (index as u32) < condition.uid_count && first <= uid && uid <= last {
                found = true;
                break;
            }
        }
        if !found {
            return false;
        }
    }
    condition.binaries == 0 || matches(scratch, number, tgid)
}

#[inline(always)]
fn matches(scratch: &mut Scratch, number: u16, tgid: u32) -> bool {
    let Some(path) = maps::EXECUTABLES.get_ptr(tgid) else {
        return false;
    };
    let lookup = &mut scratch.binary;
    lookup.prefix_bits = CONDITION_BITS + 8 * MATCHED_PATH as u32;
    lookup.condition = (number as u32).to_be_bytes();
    // SAFETY: an entry goes only when its process ends, and this one is running.
    lookup.path = unsafe { *path };
    // SAFETY: the key is what the trie was declared with: its length in bits, then its bytes.
    let found = unsafe {
        bpf_map_lookup_elem(
            (&raw const maps::BINARIES).cast_mut().cast(),
            core::ptr::from_ref(lookup).cast_mut().cast(),
        )
    };
    !found.is_null()
}
