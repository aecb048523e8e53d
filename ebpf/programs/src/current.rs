//! The caller of a system call, for the hot path: read from its `task_struct` directly, where the
//! verifier knows its type, instead of through helpers. A helper is a call, and on a CPU whose
//! returns are mitigated a call costs more than what it reads.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{config::offset, task::Number};

/// The current thread, alive while the program runs.
#[derive(Clone, Copy)]
pub(crate) struct Current(Typed);

impl Current {
    #[inline(always)]
    pub(crate) fn get() -> Self {
        // SAFETY: the helper has no preconditions (Linux 5.11).
        let task = unsafe { bpf_get_current_task_btf() };
        Current(Typed(task.cast()))
    }

    /// Its process, in the initial PID namespace.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.0.read(offset!(task_tgid))
    }

    /// The word that says by which door its system call came in.
    #[inline(always)]
    pub(crate) fn compat_word(self) -> u32 {
        self.0.read(offset!(task_compat))
    }

    /// The id of its cgroup v2: `task_dfl_cgroup` and `cgroup_id` of include/linux/cgroup.h.
    #[inline(always)]
    pub(crate) fn cgroup_id(self) -> u64 {
        self.0
            .follow(offset!(task_cgroups))
            .follow(offset!(css_set_cgroup))
            .follow(offset!(cgroup_node))
            .read(offset!(node_id))
    }
}

/// A kernel struct whose type the verifier knows.
#[derive(Clone, Copy)]
struct Typed(*const u8);

impl Typed {
    /// The member at `offset`; the verifier refuses a size that the member there does not have.
    #[inline(always)]
    fn read<T: Number>(self, offset: u32) -> T {
        // SAFETY: the offset is the member's, from this kernel's BTF; the verifier looks again, and
        // has the kernel read zero should the address be bad.
        unsafe { read_volatile(self.0.add(offset as usize).cast::<T>()) }
    }

    /// The struct that the member at `offset` points to, of the type that BTF says.
    #[inline(always)]
    fn follow(self, offset: u32) -> Typed {
        // SAFETY: as in `read`. Read as a pointer: the verifier keeps its type.
        Typed(unsafe { read_volatile(self.0.add(offset as usize).cast::<*const u8>()) })
    }
}
