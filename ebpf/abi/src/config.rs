//! What user space tells the programs before they are loaded: constants to the verifier, so that
//! what is off costs nothing.

/// An offset of a member that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Symbol of the [`Config`] in the object.
pub const CONFIG: &str = "CONFIG";

macro_rules! layout {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Byte offsets of kernel struct members, found in the running kernel's BTF, or [`ABSENT`].
        ///
        /// A name is `struct_member`; the source is the kernel's own header of that struct.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
        #[repr(C)]
        pub struct Layout {
            $($(#[$meta])* #[allow(missing_docs)] pub $name: u32,)*
        }

        impl Layout {
            /// Every member absent.
            pub const ABSENT: Layout = Layout { $($name: ABSENT,)* };
        }
    };
}

layout! {
    task_compat, task_pid, task_tgid, task_real_parent, task_group_leader, task_start_boottime,
    task_thread_pid, task_signal, task_mm, task_fs, task_files, task_loginuid, task_exit_code,
    task_children, task_sibling,
    signal_live, signal_flags, signal_group_exit_code,
    mm_arg_start, mm_arg_end, mm_exe_file,
    binprm_filename, binprm_file,
    file_path_mnt, file_path_dentry, file_inode, file_mode,
    fs_root_mnt, fs_root_dentry, fs_pwd_mnt, fs_pwd_dentry,
    vfsmount_root, mount_mnt, mount_parent, mount_mountpoint,
    dentry_parent, dentry_name,
    inode_number, inode_links, inode_super, inode_mode,
    super_device,
    pid_level, pid_numbers, upid_size, upid_number,
    files_fdt, fdtable_fd, fdtable_max,
    registers_size,
    native_0, native_1, native_2, native_3, native_4, native_5,
    compat_0, compat_1, compat_2, compat_3, compat_4, compat_5,
    registers_call,
    dentry_name_length,
    cgroup_node, cgroup_root, cgroup_root_hierarchy, node_id, node_name, node_parent,
    task_cgroups, css_set_cgroup,
}

/// Set in the object's read-only data before load.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct Config {
    /// Hash of the boot id.
    pub seed: u64,
    /// cgroup v2 id that every process of this node has as ancestor; 0 for the whole machine.
    pub node_cgroup: u64,
    /// Bits of the `task_compat` word that say a system call is a 32-bit one.
    pub compat_mask: u32,
    /// Ring buffers in use minus one; a power of two minus one.
    pub shard_mask: u32,
    /// Bytes in a ring at which a draining reader is woken all the same.
    pub ring_mark: u32,
    /// 1 when `sched_process_exit` tells whether the whole group is dead (Linux 6.16).
    pub has_group_dead: u32,
    /// 1 where these programs can be preempted (PREEMPT_RT): guard the per-CPU scratch.
    pub nesting_guard: u32,
    /// 1 to report exec, fork and exit; they are followed all the same.
    pub process_events: u32,
    /// Offset of `task_struct.seccomp.mode`, or [`ABSENT`].
    pub seccomp_mode: u32,
    /// Which argument of the io_uring tracepoint is the opcode, or the `struct io_kiocb` that has
    /// it; 0 to 3.
    pub io_uring_argument: u32,
    /// Offset of `io_kiocb.opcode`, or [`ABSENT`] where the argument is the opcode itself.
    pub io_uring_opcode: u32,
    /// Native number of the system call that canaries make.
    pub canary_number: u32,
    /// Nanoseconds between events of a namespace's share; 0 where there are no shares.
    pub namespace_interval: u32,
    /// How far ahead of time a namespace may run, nanoseconds.
    pub namespace_tolerance: u32,
    /// Offsets of kernel struct members.
    pub layout: Layout,
}

impl Config {
    /// What the object carries until the loader sets it.
    pub const UNSET: Config = Config {
        seed: 0,
        node_cgroup: 0,
        compat_mask: 0,
        shard_mask: 0,
        ring_mark: 0,
        has_group_dead: 0,
        nesting_guard: 0,
        process_events: 1,
        seccomp_mode: ABSENT,
        io_uring_argument: 0,
        io_uring_opcode: ABSENT,
        canary_number: u32::MAX,
        namespace_interval: 0,
        namespace_tolerance: 0,
        layout: Layout::ABSENT,
    };
}

const _: () = assert!(size_of::<Config>().is_multiple_of(8));
const _: () = assert!(size_of::<Config>() == 64 + size_of::<Layout>());
