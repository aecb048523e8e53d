//! Records in the ring buffers: a [`Header`], then what the kind has, then variable bytes.

/// The kind of a record: the first field of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RecordKind {
    /// [`ExecRecord`].
    Exec = 1,
    /// [`ForkRecord`].
    Fork = 2,
    /// [`ExitRecord`].
    Exit = 3,
    /// [`SyscallRecord`].
    Syscall = 4,
    /// [`TimerRecord`].
    Timer = 5,
    /// [`PathRecord`].
    Path = 6,
    /// [`SockRecord`].
    Sock = 7,
    /// [`CgroupRecord`], the one kind without a [`Header`].
    Cgroup = 8,
}

macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* } size $size:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[cfg_attr(
            feature = "user",
            derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        #[repr(C)]
        pub struct $name { $($body)* }
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(align_of::<$name>() <= 8);
    };
}

record! {
    /// What every record begins with: where, when, who, under which policy.
    pub struct Header {
        /// A [`RecordKind`].
        pub kind: u16,
        /// A [`Handler`](crate::Handler): the row of the ledger.
        pub handler: u8,
        /// An [`Abi`](crate::Abi); 0 for process records.
        pub abi: u8,
        /// The CPU it was made on.
        pub cpu: u32,
        /// From 1, gapless on each CPU: a gap is a lost record.
        pub sequence: u64,
        /// Nanoseconds of `CLOCK_BOOTTIME`.
        pub time: u64,
        /// cgroup v2 id of the process.
        pub cgroup_id: u64,
        /// Identity of the process image, see [`exec_id`](crate::exec_id).
        pub exec_id: u64,
        /// Start of the process, nanoseconds of `CLOCK_BOOTTIME`.
        pub start_time: u64,
        /// Policy generation; 0 for process records.
        pub generation: u64,
        /// Events of the same bucket that were left out by rate and sampling, cumulative.
        pub suppressed: u64,
        /// What the call returned, with [`HeaderFlags::RETURNED`].
        pub return_value: i64,
        /// Process id, initial PID namespace.
        pub tgid: u32,
        /// Thread id, initial PID namespace.
        pub tid: u32,
        /// Parent process id, initial PID namespace.
        pub parent: u32,
        /// Real user id, initial user namespace.
        pub uid: u32,
        /// Real group id, initial user namespace.
        pub gid: u32,
        /// Table that dispatched it; 0 for process records.
        pub table: u16,
        /// Rule that chose the handler, from 1; 0 is the default.
        pub rule: u16,
        /// Name of the thread, NUL-padded.
        pub comm: [u8; 16],
        /// [`HeaderFlags`].
        pub flags: u32,
        /// [`SlotParameters::bucket`](crate::SlotParameters::bucket); 0 for process records.
        pub bucket: u32,
    } size 120
}

/// Bits of [`Header::flags`].
pub struct HeaderFlags;

impl HeaderFlags {
    /// `return_value` is what the call returned.
    pub const RETURNED: u32 = 1;
    /// sys_exit came without its sys_enter: seccomp refused the call.
    pub const DENIED: u32 = 2;
    /// User memory that the call points to could not be read.
    pub const UNREADABLE: u32 = 4;
    /// A path was longer than the record holds.
    pub const TRUNCATED: u32 = 8;
    /// A readiness canary: it ends in the agent.
    pub const CANARY: u32 = 16;
}

/// Bits of [`ExecRecord::flags`].
pub struct ExecFlags;

impl ExecFlags {
    /// argv was longer than the record holds.
    pub const ARGV_TRUNCATED: u32 = 1;
    /// argv could not be read.
    pub const ARGV_UNREADABLE: u32 = 2;
    /// The executed file has no name any more (unlinked, or a memfd).
    pub const DELETED: u32 = 4;
    /// The executable's path was deeper or longer than the record holds.
    pub const BINARY_TRUNCATED: u32 = 8;
    /// The working directory's path was deeper or longer than the record holds.
    pub const CWD_TRUNCATED: u32 = 16;
}

record! {
    /// A successful exec. Followed by `filename`, `argv`, `binary` and `cwd`, in this order.
    pub struct ExecRecord {
        /// The process after the exec.
        pub header: Header,
        /// Identity of the parent's image; 0 when unknown.
        pub parent_exec_id: u64,
        /// Audit login user id; `u32::MAX` when unset.
        pub login_uid: u32,
        /// Process id in its own PID namespace.
        pub namespace_pid: u32,
        /// [`ExecFlags`].
        pub flags: u32,
        /// Bytes of the path given to execve, without its NUL.
        pub filename_length: u16,
        /// Bytes of argv, each argument ended by a NUL.
        pub argv_length: u16,
        /// Bytes of the executable's path: names from leaf to root, each ended by a NUL.
        pub binary_length: u16,
        /// Bytes of the working directory's path: names from leaf to root, each ended by a NUL.
        pub cwd_length: u16,
        /// Zero.
        pub padding: u32,
        /// Name before the exec, NUL-padded; all zero when unknown.
        pub previous_comm: [u8; 16],
    } size 168
}

record! {
    /// A process, not a thread, was made. The header is the parent's.
    pub struct ForkRecord {
        /// The parent.
        pub header: Header,
        /// Identity of the child, until it execs.
        pub child_exec_id: u64,
        /// Process id of the child, initial PID namespace.
        pub child: u32,
        /// Zero.
        pub padding: u32,
    } size 136
}

record! {
    /// The last thread of a process has ended.
    pub struct ExitRecord {
        /// The process.
        pub header: Header,
        /// As `wait(2)` gives it: exit code << 8, or signal with 0x80 for a core dump.
        pub status: u32,
        /// Zero.
        pub padding: u32,
    } size 128
}

record! {
    /// A system call with its arguments as they are.
    pub struct SyscallRecord {
        /// The caller.
        pub header: Header,
        /// Arguments, in the ABI's order; 32-bit ones zero-extended.
        pub arguments: [u64; 6],
        /// System call number of the header's ABI.
        pub number: u32,
        /// Zero.
        pub padding: u32,
    } size 176
}

record! {
    /// A timer call, decoded.
    pub struct TimerRecord {
        /// The caller.
        pub header: Header,
        /// `it_interval` seconds.
        pub interval_seconds: i64,
        /// `it_interval` nanoseconds (microseconds for setitimer).
        pub interval_fraction: i64,
        /// `it_value` seconds.
        pub initial_seconds: i64,
        /// `it_value` nanoseconds (microseconds for setitimer).
        pub initial_fraction: i64,
        /// System call number of the header's ABI.
        pub number: u32,
        /// A [`Decode`](crate::Decode).
        pub decode: u32,
        /// First argument: clock id, timer id, descriptor or `which`, as `decode` says.
        pub subject: i32,
        /// Flags argument, where the call has one.
        pub flags: u32,
        /// 1 when the call carries a new setting (the interval fields hold it unless unreadable).
        pub has_setting: u32,
        /// The timer's id that timer_create filled in, with `HeaderFlags::RETURNED` and success.
        pub created: i32,
    } size 176
}

record! {
    /// A call that takes a path, or two. Followed by the path and the second path, without NULs.
    pub struct PathRecord {
        /// The caller.
        pub header: Header,
        /// Flags argument, where the slot has one.
        pub open_flags: u64,
        /// System call number of the header's ABI.
        pub number: u32,
        /// Directory descriptor, where the slot has one; `AT_FDCWD` otherwise.
        pub directory: i32,
        /// Bytes of the path.
        pub path_length: u32,
        /// Bytes of the second path.
        pub new_path_length: u32,
        /// Directory descriptor of the second path, where the slot has one; `AT_FDCWD` otherwise.
        pub new_directory: i32,
        /// Bit 0: the call has a directory descriptor; bit 1: flags; bit 2: one for the second path.
        pub has: u32,
    } size 152
}

/// Bytes of a socket address that are kept: `struct sockaddr_storage`.
pub const SOCKET_ADDRESS: usize = 128;

record! {
    /// A call that takes a socket address.
    pub struct SockRecord {
        /// The caller.
        pub header: Header,
        /// The address as user memory has it, `address_length` bytes of it.
        pub address: [u8; SOCKET_ADDRESS],
        /// System call number of the header's ABI.
        pub number: u32,
        /// The socket's descriptor.
        pub descriptor: i32,
        /// Bytes of the address; 0 where the call gave none.
        pub address_length: u32,
        /// Which call a socketcall is (`include/uapi/linux/net.h`); 0 for other calls.
        pub call: u32,
    } size 264
}

/// What became of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CgroupChange {
    /// Its directory was made.
    Made = 1,
    /// Its directory was removed.
    Removed = 2,
}

/// Bytes of a cgroup directory's name, its NUL included: `NAME_MAX` and one.
pub const CGROUP_RECORD_NAME: usize = 256;

record! {
    /// A cgroup v2 directory came or went. For user space alone, no event: it takes no sequence
    /// number and is in no cell of the ledger.
    pub struct CgroupRecord {
        /// [`RecordKind::Cgroup`].
        pub kind: u16,
        /// A [`CgroupChange`].
        pub change: u16,
        /// Zero.
        pub padding: u32,
        /// Its cgroup v2 id, never used again.
        pub id: u64,
        /// The id of the cgroup it is in.
        pub parent: u64,
        /// The directory's name, NUL-padded.
        pub name: [u8; CGROUP_RECORD_NAME],
    } size 280
}

record! {
    /// A call that waits for its sys_exit: what was known when it entered.
    pub struct Join {
        /// When it entered, nanoseconds of `CLOCK_BOOTTIME`.
        pub time: u64,
        /// cgroup v2 id.
        pub cgroup_id: u64,
        /// Policy generation.
        pub generation: u64,
        /// Arguments, in the ABI's order.
        pub arguments: [u64; 6],
        /// Of its bucket, cumulative.
        pub suppressed: u64,
        /// System call number.
        pub number: u32,
        /// An [`Abi`](crate::Abi).
        pub abi: u32,
        /// Table that dispatched it.
        pub table: u32,
        /// Of the caller.
        pub tgid: u32,
        /// Of the slot, which may be refilled before the call returns.
        pub parameters: crate::SlotParameters,
    } size 136
}
