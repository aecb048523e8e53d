//! The one table of kernel struct members that the programs read, and its resolution against a
//! kernel's BTF into the offsets they are given before load.
//!
//! A required member that is missing, or is not of the size and kind that the programs read, is
//! an error that names all such members. An optional one belongs to an [`Output`]: without it
//! *all* members of that output are `ABSENT`, so that a program tests any one of them.

use std::fmt;

use ebpf_hello_abi::{ABSENT, Layout};

use super::{Btf, Kind, LookupError, Member};

/// The instruction set of the kernel that the BTF describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little endian.
    Aarch64,
}

/// What is left out of the events when an optional member is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Telling 32-bit system calls from native ones.
    Compat,
    /// The working directory and the executed file's path.
    Paths,
    /// What the process has open.
    OpenFiles,
    /// The audit login uid.
    LoginUid,
    /// The process's children.
    Children,
}

/// An optional member that this kernel does not have, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{disables} left out: {refusal}")]
pub struct Missing {
    /// The output that is disabled.
    pub disables: Output,
    /// The member and what is wrong with it.
    pub refusal: Refusal,
}

/// A member that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{structure}.{path}: {reason}")]
pub struct Refusal {
    /// The struct.
    pub structure: &'static str,
    /// The path of the member within it, by its newest name.
    pub path: &'static str,
    /// Why it cannot be used.
    pub reason: Reason,
}

/// Why a member cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It was not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It was found, and is not what the programs read.
    #[error("expected {expected}, this kernel has {}", Found(.found))]
    Shape {
        /// What the programs read.
        expected: Shape,
        /// What the kernel has.
        found: Member,
    },
}

/// The kernel lacks members without which no event can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel's BTF lacks what ebpf-hello needs (Linux 5.15 or newer has all of it): {}",
    listed(.refusals)
)]
pub struct LayoutError {
    /// Every required member that cannot be used, in the table's order.
    pub refusals: Vec<Refusal>,
}

/// What the programs read at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An integer of this many bytes, signed or not, and no bitfield.
    Integer(u32),
    /// A pointer.
    Pointer,
    /// A struct or union that lies in the outer one.
    Embedded,
    /// An array that lies in the outer struct.
    Array,
}

/// Where a row's number comes from.
enum Source {
    /// The offset of the first of these paths that the kernel has: newest name first.
    Offset(&'static [&'static str], Shape),
    /// The size of the struct.
    Size,
}

enum Need {
    Required,
    For(Output),
}

struct Row {
    slot: fn(&mut Layout) -> &mut u32,
    structure: &'static str,
    source: Source,
    need: Need,
    /// The architecture that has it; `None` for all.
    only: Option<Architecture>,
}

/// `slot: { "struct"."path" or "older path" => Shape; for Output; on Architecture }`, the last two
/// optional, or `slot: { size of "struct" }`.
macro_rules! rows {
    (@need) => { Need::Required };
    (@need $output:ident) => { Need::For(Output::$output) };
    (@only) => { None };
    (@only $architecture:ident) => { Some(Architecture::$architecture) };
    (@row $slot:ident size of $structure:literal) => {
        Row {
            slot: |layout| &mut layout.$slot,
            structure: $structure,
            source: Source::Size,
            need: Need::Required,
            only: None,
        }
    };
    (@row $slot:ident $structure:literal . $($path:literal)or+ => $shape:expr
        $(; for $output:ident)? $(; on $architecture:ident)?) => {
        Row {
            slot: |layout| &mut layout.$slot,
            structure: $structure,
            source: Source::Offset(&[$($path),+], $shape),
            need: rows!(@need $($output)?),
            only: rows!(@only $($architecture)?),
        }
    };
    ($($slot:ident: { $($row:tt)+ })+) => { &[$(rows!(@row $slot $($row)+)),+] };
}

use Shape::{Array, Embedded, Integer, Pointer};

/// Sources: `include/linux/{sched,sched/signal,mm_types,binfmts,fs,path,fs_struct,mount,dcache,
/// pid,fdtable}.h`, `fs/mount.h`, `arch/*/include/asm/{thread_info,ptrace}.h`.
const TABLE: &[Row] = rows! {
    // TS_COMPAT is a bit of x86's `status`; TIF_32BIT one of arm64's `flags`.
    task_compat:           { "task_struct"."thread_info.status" => Integer(4); for Compat; on X86_64 }
    task_compat:           { "task_struct"."thread_info.flags" => Integer(8); for Compat; on Aarch64 }
    task_pid:              { "task_struct"."pid" => Integer(4) }
    task_tgid:             { "task_struct"."tgid" => Integer(4) }
    task_real_parent:      { "task_struct"."real_parent" => Pointer }
    task_group_leader:     { "task_struct"."group_leader" => Pointer }
    // Renamed in 5.5.
    task_start_boottime:   { "task_struct"."start_boottime" or "real_start_time" => Integer(8) }
    task_thread_pid:       { "task_struct"."thread_pid" => Pointer }
    task_signal:           { "task_struct"."signal" => Pointer }
    task_mm:               { "task_struct"."mm" => Pointer }
    task_fs:               { "task_struct"."fs" => Pointer; for Paths }
    task_files:            { "task_struct"."files" => Pointer; for OpenFiles }
    // Only with CONFIG_AUDIT.
    task_loginuid:         { "task_struct"."loginuid.val" => Integer(4); for LoginUid }
    task_exit_code:        { "task_struct"."exit_code" => Integer(4) }
    task_children:         { "task_struct"."children" => Embedded; for Children }
    task_sibling:          { "task_struct"."sibling" => Embedded; for Children }

    signal_live:           { "signal_struct"."live.counter" => Integer(4) }
    signal_flags:          { "signal_struct"."flags" => Integer(4) }
    signal_group_exit_code: { "signal_struct"."group_exit_code" => Integer(4) }

    mm_arg_start:          { "mm_struct"."arg_start" => Integer(8) }
    mm_arg_end:            { "mm_struct"."arg_end" => Integer(8) }
    mm_exe_file:           { "mm_struct"."exe_file" => Pointer }

    binprm_filename:       { "linux_binprm"."filename" => Pointer }
    binprm_file:           { "linux_binprm"."file" => Pointer }

    // From 6.16 on, `f_path` is the read-only name of `__f_path`, in an anonymous union with it.
    file_path_mnt:         { "file"."f_path.mnt" or "__f_path.mnt" => Pointer }
    file_path_dentry:      { "file"."f_path.dentry" or "__f_path.dentry" => Pointer }
    file_inode:            { "file"."f_inode" => Pointer }
    file_mode:             { "file"."f_mode" => Integer(4) }

    fs_root_mnt:           { "fs_struct"."root.mnt" => Pointer; for Paths }
    fs_root_dentry:        { "fs_struct"."root.dentry" => Pointer; for Paths }
    fs_pwd_mnt:            { "fs_struct"."pwd.mnt" => Pointer; for Paths }
    fs_pwd_dentry:         { "fs_struct"."pwd.dentry" => Pointer; for Paths }
    vfsmount_root:         { "vfsmount"."mnt_root" => Pointer; for Paths }
    mount_mnt:             { "mount"."mnt" => Embedded; for Paths }
    mount_parent:          { "mount"."mnt_parent" => Pointer; for Paths }
    mount_mountpoint:      { "mount"."mnt_mountpoint" => Pointer; for Paths }

    dentry_parent:         { "dentry"."d_parent" => Pointer }
    dentry_name:           { "dentry"."d_name.name" => Pointer }
    dentry_name_length:    { "dentry"."d_name.len" => Integer(4) }

    // 8 bytes on 64-bit kernels, as `unsigned long` and as the `u64` that replaces it.
    inode_number:          { "inode"."i_ino" => Integer(8) }
    inode_links:           { "inode"."i_nlink" or "__i_nlink" => Integer(4) }
    inode_super:           { "inode"."i_sb" => Pointer }
    inode_mode:            { "inode"."i_mode" => Integer(2) }
    super_device:          { "super_block"."s_dev" => Integer(4) }

    pid_level:             { "pid"."level" => Integer(4) }
    pid_numbers:           { "pid"."numbers" => Array }
    upid_size:             { size of "upid" }
    upid_number:           { "upid"."nr" => Integer(4) }

    files_fdt:             { "files_struct"."fdt" => Pointer; for OpenFiles }
    fdtable_fd:            { "fdtable"."fd" => Pointer; for OpenFiles }
    fdtable_max:           { "fdtable"."max_fds" => Integer(4); for OpenFiles }

    registers_size:        { size of "pt_regs" }
    // The six arguments of a system call, in order: 64-bit calls, then `int 0x80` and the like.
    native_0:              { "pt_regs"."di" => Integer(8); on X86_64 }
    native_1:              { "pt_regs"."si" => Integer(8); on X86_64 }
    native_2:              { "pt_regs"."dx" => Integer(8); on X86_64 }
    native_3:              { "pt_regs"."r10" => Integer(8); on X86_64 }
    native_4:              { "pt_regs"."r8" => Integer(8); on X86_64 }
    native_5:              { "pt_regs"."r9" => Integer(8); on X86_64 }
    compat_0:              { "pt_regs"."bx" => Integer(8); on X86_64 }
    compat_1:              { "pt_regs"."cx" => Integer(8); on X86_64 }
    compat_2:              { "pt_regs"."dx" => Integer(8); on X86_64 }
    compat_3:              { "pt_regs"."si" => Integer(8); on X86_64 }
    compat_4:              { "pt_regs"."di" => Integer(8); on X86_64 }
    compat_5:              { "pt_regs"."bp" => Integer(8); on X86_64 }
    // `regs[0]` is the return value by the time of sys_exit; the kernel itself reads the first
    // argument here (`syscall_get_arguments`). 32-bit calls use the same registers.
    native_0:              { "pt_regs"."orig_x0" => Integer(8); on Aarch64 }
    native_1:              { "pt_regs"."regs[1]" => Integer(8); on Aarch64 }
    native_2:              { "pt_regs"."regs[2]" => Integer(8); on Aarch64 }
    native_3:              { "pt_regs"."regs[3]" => Integer(8); on Aarch64 }
    native_4:              { "pt_regs"."regs[4]" => Integer(8); on Aarch64 }
    native_5:              { "pt_regs"."regs[5]" => Integer(8); on Aarch64 }
    compat_0:              { "pt_regs"."orig_x0" => Integer(8); on Aarch64 }
    compat_1:              { "pt_regs"."regs[1]" => Integer(8); on Aarch64 }
    compat_2:              { "pt_regs"."regs[2]" => Integer(8); on Aarch64 }
    compat_3:              { "pt_regs"."regs[3]" => Integer(8); on Aarch64 }
    compat_4:              { "pt_regs"."regs[4]" => Integer(8); on Aarch64 }
    compat_5:              { "pt_regs"."regs[5]" => Integer(8); on Aarch64 }
    // The system call's number by the time of sys_exit.
    registers_call:        { "pt_regs"."orig_ax" => Integer(8); on X86_64 }
    registers_call:        { "pt_regs"."syscallno" => Integer(4); on Aarch64 }

    task_cgroups:          { "task_struct"."cgroups" => Pointer }
    // The one in the hierarchy of cgroup v2, `dfl` for default.
    css_set_cgroup:        { "css_set"."dfl_cgrp" => Pointer }
    cgroup_node:           { "cgroup"."kn" => Pointer }
    cgroup_root:           { "cgroup"."root" => Pointer }
    cgroup_root_hierarchy: { "cgroup_root"."hierarchy_id" => Integer(4) }
    // A union with the inode number and generation until 5.5.
    node_id:               { "kernfs_node"."id" or "id.id" => Integer(8) }
    node_name:             { "kernfs_node"."name" => Pointer }
    // Under RCU, hence renamed, from 6.15 on.
    node_parent:           { "kernfs_node"."__parent" or "parent" => Pointer }
};

/// Resolves the table: the offset in bytes of every member that the programs read.
///
/// Optional members that are missing are `ABSENT` in the layout, together with all others of
/// their output, and are listed with the reason.
///
/// # Errors
///
/// A [`LayoutError`] that lists every required member this kernel lacks or has in another shape.
pub fn resolve(
    btf: &Btf,
    architecture: Architecture,
) -> Result<(Layout, Vec<Missing>), LayoutError> {
    let mut layout = Layout::ABSENT;
    let mut refusals = Vec::new();
    let mut missing: Vec<Missing> = Vec::new();
    let of_this_kernel = || {
        TABLE
            .iter()
            .filter(|row| row.only.is_none_or(|a| a == architecture))
    };
    for row in of_this_kernel() {
        match (row.find(btf), &row.need) {
            (Ok(value), _) => *(row.slot)(&mut layout) = value,
            (Err(refusal), Need::Required) => refusals.push(refusal),
            (Err(refusal), Need::For(output)) => {
                missing.push(Missing {
                    disables: *output,
                    refusal,
                });
            }
        }
    }
    if !refusals.is_empty() {
        return Err(LayoutError { refusals });
    }
    for row in of_this_kernel() {
        if let Need::For(output) = row.need
            && missing.iter().any(|missing| missing.disables == output)
        {
            *(row.slot)(&mut layout) = ABSENT;
        }
    }
    Ok((layout, missing))
}

/// Names of the structs that the table has members of, each once.
pub fn structures() -> impl Iterator<Item = &'static str> {
    let first_row = |&(at, row): &(usize, &'static Row)| {
        TABLE
            .iter()
            .position(|other| other.structure == row.structure)
            == Some(at)
    };
    TABLE
        .iter()
        .enumerate()
        .filter(first_row)
        .map(|(_, row)| row.structure)
}

fn listed(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(Refusal::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

// === impl Architecture ===

impl Architecture {
    /// The architecture that this program was built for, whose kernel it runs on; `None` where
    /// the programs have no table for it.
    #[must_use]
    pub const fn of_this_build() -> Option<Architecture> {
        if cfg!(target_arch = "x86_64") {
            Some(Architecture::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            Some(Architecture::Aarch64)
        } else {
            None
        }
    }

    /// The bits of the `task_compat` word that mark a 32-bit system call: `TS_COMPAT` of x86's
    /// `asm/thread_info.h`, `_TIF_32BIT` of arm64's.
    #[must_use]
    pub const fn compat_mask(self) -> u32 {
        match self {
            Architecture::X86_64 => 0x2,
            Architecture::Aarch64 => 1 << 22,
        }
    }
}

// === impl Output ===

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Output::Compat => "telling 32-bit system calls from native ones is",
            Output::Paths => "working directory and binary path are",
            Output::OpenFiles => "what processes have open is",
            Output::LoginUid => "the login uid is",
            Output::Children => "children of processes are",
        })
    }
}

// === impl Row ===

impl Row {
    fn find(&self, btf: &Btf) -> Result<u32, Refusal> {
        let structure = self.structure;
        match self.source {
            Source::Size => btf.struct_size(structure).map_err(|error| Refusal {
                structure,
                path: "(size)",
                reason: error.into(),
            }),
            Source::Offset(paths, expected) => {
                let path = paths.first().copied().unwrap_or_default();
                let refuse = |reason| Refusal {
                    structure,
                    path,
                    reason,
                };
                let found = btf
                    .member_of_any(structure, paths)
                    .map_err(|error| refuse(Reason::Lookup(error)))?;
                if expected.fits(&found) {
                    Ok(found.offset)
                } else {
                    Err(refuse(Reason::Shape { expected, found }))
                }
            }
        }
    }
}

// === impl Shape ===

impl Shape {
    fn fits(self, found: &Member) -> bool {
        found.bits.is_none()
            && match self {
                Integer(size) => {
                    matches!(found.kind, Kind::Integer | Kind::Enumeration) && found.size == size
                }
                Pointer => found.kind == Kind::Pointer,
                Embedded => found.kind == Kind::Struct,
                Array => found.kind == Kind::Array,
            }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer(size) => write!(f, "an integer of {size} bytes"),
            Pointer => f.write_str("a pointer"),
            Embedded => f.write_str("an embedded struct"),
            Array => f.write_str("an array"),
        }
    }
}

/// A member as a sentence says it.
struct Found<'a>(&'a Member);

// === impl Found ===

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.kind {
            Kind::Integer => "an integer",
            Kind::Bool => "a bool",
            Kind::Enumeration => "an enumeration",
            Kind::Float => "a floating-point number",
            Kind::Pointer => "a pointer",
            Kind::Struct => "an embedded struct",
            Kind::Array => "an array",
        };
        match self.0.bits {
            Some(bits) => write!(f, "a bitfield of {} bits", bits.width),
            None => write!(f, "{kind} of {} bytes", self.0.size),
        }
    }
}
