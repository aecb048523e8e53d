//! Kernel structs, by the offsets the loader found in BTF.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};
use ebpf_hello_abi::{NANOSECONDS_PER_TICK, exec_id};

use crate::config::{config, offset};

/// What can be read from a kernel struct: any bits are a value.
pub(crate) trait Number: Copy {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}

/// Address of a kernel struct. Reading through it cannot fault: a bad address reads as zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// The member at `offset`, or zero where it cannot be read.
    #[inline(always)]
    pub(crate) fn read<T: Number>(self, offset: u32) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        let source = self.0.wrapping_add(offset as u64);
        // The answer is not looked at: a branch at each read would double what the verifier has
        // to follow.
        //
        // SAFETY: the helper takes any address, and fills the destination with zeros where it
        // cannot read (`bpf_probe_read_kernel_common` in kernel/trace/bpf_trace.c); any bits are
        // a number.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                source as *const _,
            );
            value.assume_init()
        }
    }

    /// The struct that the member at `offset` points to.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u32) -> Address {
        Address(self.read(offset))
    }

    /// A struct embedded at `offset`.
    #[inline(always)]
    pub(crate) fn embedded(self, offset: u32) -> Address {
        Address(self.0.wrapping_add(offset as u64))
    }

    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0 == 0
    }
}

/// A `struct task_struct`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task(pub(crate) Address);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Task {
        // SAFETY: the helper has no preconditions.
        Task(Address(unsafe { bpf_get_current_task() }))
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.0.read(offset!(task_pid))
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.0.read(offset!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn parent(self) -> Task {
        Task(self.0.follow(offset!(task_real_parent)))
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Task {
        Task(self.0.follow(offset!(task_group_leader)))
    }

    /// Start of the process, nanoseconds of CLOCK_BOOTTIME.
    #[inline(always)]
    pub(crate) fn start_time(self) -> u64 {
        self.leader().0.read(offset!(task_start_boottime))
    }

    /// Identity of the process image after `execs` execs.
    #[inline(always)]
    pub(crate) fn exec_id(self, execs: u32) -> u64 {
        exec_id(
            config!(seed),
            self.tgid(),
            self.start_time() / NANOSECONDS_PER_TICK,
            execs,
        )
    }

    /// Process id in its own PID namespace.
    #[inline(always)]
    pub(crate) fn namespace_pid(self) -> u32 {
        let pid = self.leader().0.follow(offset!(task_thread_pid));
        let level: u32 = pid.read(offset!(pid_level));
        // The kernel nests PID namespaces at most 32 deep (MAX_PID_NS_LEVEL).
        pid.embedded(offset!(pid_numbers))
            .embedded((level & 31) * offset!(upid_size))
            .read(offset!(upid_number))
    }

    /// The file behind a descriptor.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> Address {
        let table = self
            .0
            .follow(offset!(task_files))
            .follow(offset!(files_fdt));
        let limit: u32 = table.read(offset!(fdtable_max));
        if table.is_null() || descriptor >= limit {
            return Address(0);
        }
        table.follow(offset!(fdtable_fd)).follow(descriptor * 8)
    }
}
