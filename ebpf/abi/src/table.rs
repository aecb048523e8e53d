//! Table geometry, and the keys and values of the maps.

/// System call numbers at or above this are out of range: never looked up in a table.
///
/// 511 keeps the last slot of each half for the table's default. Linux's highest number is 469
/// (6.18, `arch/x86/entry/syscalls/syscall_64.tbl`); x32 sets bit 30.
pub const SYSCALL_LIMIT: u32 = 511;
/// Slots of one half (one ABI) of a table.
pub const SLOTS_PER_ABI: u32 = 512;
/// Slots of a table.
pub const SLOTS_PER_TABLE: u32 = 2 * SLOTS_PER_ABI;

/// By which door a system call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Abi {
    /// The kernel's own word size.
    Native = 0,
    /// 32-bit: ia32 on x86_64, AArch32 on aarch64.
    Compat = 1,
}

/// The slot of `number` (below [`SYSCALL_LIMIT`], or the limit itself for the default).
#[inline(always)]
pub const fn slot(table: u32, abi: u32, number: u32) -> u32 {
    (table * 2 + abi) * SLOTS_PER_ABI + number
}

/// One bit for each system call number.
pub type Bitmap = [u64; 8];
/// How many bitmaps there are.
pub const BITMAPS: u32 = 4;
/// The bitmap of calls that sys_exit looks at, whatever their ABI.
pub const BITMAP_EXIT: u32 = 3;
/// The bitmap that is asked first: what any ABI of any live table wants.
pub const BITMAP_UNION: u32 = 0;

/// The bitmap of one ABI.
#[inline(always)]
pub const fn bitmap_of(abi: u32) -> u32 {
    1 + abi
}

/// The place of an [`Abi`] in a [`CountKey`] whose number is an io_uring opcode.
pub const IO_URING: u8 = 2;
/// One bit for each io_uring opcode, which is a byte.
pub type Opcodes = [u64; 4];

/// A table and its generation in one word, so that one store flips both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(pub u64);

impl Outcome {
    const GENERATION_BITS: u32 = 48;
    /// There was no table for this outcome: it has the default's, and what that ignores is a miss.
    const MISSED: u64 = 1 << 63;

    /// Packs a table (below 2^15) and a generation (below 2^48).
    #[inline(always)]
    pub const fn new(table: u16, generation: u64) -> Self {
        Outcome(
            (table as u64) << Self::GENERATION_BITS
                | generation & ((1 << Self::GENERATION_BITS) - 1),
        )
    }

    /// This outcome, for workloads whose own found no free table.
    #[inline(always)]
    pub const fn missed(self) -> Self {
        Outcome(self.0 | Self::MISSED)
    }

    /// Whether what the table ignores is a table miss.
    #[inline(always)]
    pub const fn is_missed(self) -> bool {
        self.0 & Self::MISSED != 0
    }

    /// The table's index.
    #[inline(always)]
    pub const fn table(self) -> u16 {
        ((self.0 & !Self::MISSED) >> Self::GENERATION_BITS) as u16
    }

    /// The policy generation, from 1.
    #[inline(always)]
    pub const fn generation(self) -> u64 {
        self.0 & ((1 << Self::GENERATION_BITS) - 1)
    }
}

/// How a handler reads the arguments of the call in its slot.
///
/// User space knows the call's name; the kernel side only the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Decode {
    /// Arguments as they are.
    Raw = 0,
    /// `timer_create(clockid, …)`.
    TimerCreate = 1,
    /// `timer_settime(id, flags, new, …)` with 64-bit times.
    TimerSettime = 2,
    /// `timer_settime` with 32-bit times (ia32).
    TimerSettime32 = 3,
    /// A call whose first argument is a timer id: gettime, getoverrun, delete.
    TimerId = 4,
    /// `timerfd_create(clockid, flags)`.
    TimerfdCreate = 5,
    /// `timerfd_settime(fd, flags, new, …)` with 64-bit times.
    TimerfdSettime = 6,
    /// `timerfd_settime` with 32-bit times (ia32).
    TimerfdSettime32 = 7,
    /// `timerfd_gettime(fd, …)`.
    TimerfdGettime = 8,
    /// `setitimer(which, new, …)` with 64-bit times.
    Setitimer = 9,
    /// `setitimer` with 32-bit times (ia32).
    Setitimer32 = 10,
    /// `execve(path, argv, …)`.
    Execve = 11,
    /// `execveat(dirfd, path, argv, …)`.
    Execveat = 12,
    /// `socketcall(call, arguments)` (ia32).
    Socketcall = 13,
}

/// An argument number that says the call has no such argument.
pub const NO_ARGUMENT: u8 = u8::MAX;

/// Bits of [`SlotParameters::flags`].
pub struct SlotFlags;

impl SlotFlags {
    /// The event waits for sys_exit: its rule asks for the return value, or the call's result is
    /// an out-parameter.
    pub const JOIN: u8 = 1;
    /// Calls that seccomp refused are reported too. Who enters such a call is noted, because at
    /// its sys_exit nothing else tells the two apart.
    pub const DENIED: u8 = 2;
    /// The flags argument points to the flags.
    pub const FLAGS_POINTEE: u8 = 4;
    /// The address is the kernel's to fill in.
    pub const ADDRESS_OUT: u8 = 8;
    /// Failed execs are reported.
    pub const FAILED_EXEC: u8 = 16;
}

/// What a slot's handler needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[repr(C)]
pub struct SlotParameters {
    /// The rule that chose the handler, from 1; 0 is the table's default.
    pub rule: u16,
    /// Which bucket of its table counts for rate and sampling.
    pub bucket: u16,
    /// Index of the [`Condition`] the caller must meet; 0 for none.
    pub condition: u16,
    /// A [`Decode`].
    pub decode: u8,
    /// [`SlotFlags`].
    pub flags: u8,
    /// Nanoseconds between events of the sustained rate; 0 for no limit.
    pub interval: u32,
    /// One event in so many; 0 and 1 for all.
    pub sampling: u32,
    /// How far ahead of time the bucket may run, nanoseconds: (burst - 1) intervals.
    pub tolerance: u64,
    /// The [`Handler`](crate::Handler) in the slot, for sys_exit, which is not tail-called.
    pub handler: u8,
    /// Which argument is the path or the address, or [`NO_ARGUMENT`].
    pub pointer: u8,
    /// Which argument is the directory descriptor or the address's length.
    pub second: u8,
    /// Which argument is the flags.
    pub third: u8,
    /// Which argument is the second path.
    pub fourth: u8,
    /// Which argument is the second path's directory descriptor.
    pub fifth: u8,
    /// Which call a socketcall is (`include/uapi/linux/net.h`), once it was made; 0 in a slot.
    pub call: u16,
    /// Whose share of the node's events an event is taken from: a namespace's number; 0 for nobody's.
    pub namespace: u32,
    /// Zero.
    pub padding: u32,
}

/// Users that a condition can name.
pub const CONDITION_UIDS: usize = 16;

/// Who a slot is for: every list that is not empty must match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Condition {
    /// Ranges in use; 0 matches every user.
    pub uid_count: u32,
    /// 1 when the executable must match one of the patterns under this condition's number.
    pub binaries: u32,
    /// First and last user id of each range.
    pub uids: [[u32; 2]; CONDITION_UIDS],
}

/// Bytes of an executable's path that can be matched, its NUL included.
pub const MATCHED_PATH: usize = 248;

/// A pattern, and what is looked up against the patterns: longest prefix first.
///
/// An exact pattern includes the path's NUL, a prefix does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BinaryKey {
    /// The condition's number, big-endian, so that its bits come first.
    pub condition: [u8; 4],
    /// The path.
    pub path: [u8; MATCHED_PATH],
}

/// Whose limits: one container cgroup and one rule of one policy generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct BucketKey {
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// Policy generation.
    pub generation: u64,
    /// [`SlotParameters::bucket`], or [`NAMESPACE_BUCKET`].
    pub bucket: u64,
}

/// The bucket of a namespace's share: its `cgroup_id` is the namespace's number, its generation 0.
pub const NAMESPACE_BUCKET: u64 = u64::MAX;

/// State of a rate limit and of sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Bucket {
    /// GCRA's theoretical arrival time, nanoseconds of `CLOCK_BOOTTIME`, as the events' times.
    pub arrival: u64,
    /// Calls that came to the sampler.
    pub calls: u64,
    /// Events left out by either, cumulative.
    pub suppressed: u64,
}

/// Length of a cgroup directory's name that outcomes can be bound to, its NUL included.
pub const CGROUP_NAME: usize = 128;

/// A cgroup directory that is yet to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct CgroupName {
    /// cgroup v2 id of the directory it will be in; 0 for any.
    pub parent: u64,
    /// Its name, NUL-padded.
    pub name: [u8; CGROUP_NAME],
}

/// Thread ids there can be: `PID_MAX_LIMIT` of 64-bit kernels (`include/linux/threads.h`).
pub const THREADS: u32 = 1 << 22;
/// Words that hold one bit for each of them.
pub const THREAD_WORDS: u32 = THREADS / 64;

/// The `number` under which calls out of range are counted.
pub const OUT_OF_RANGE: u16 = u16::MAX;

/// Whose calls, which calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct CountKey {
    /// cgroup v2 id of the caller.
    pub cgroup_id: u64,
    /// Policy generation that counted it; 0 for calls out of range, which no policy chose.
    pub generation: u64,
    /// System call number, or [`OUT_OF_RANGE`], or io_uring opcode.
    pub number: u16,
    /// An [`Abi`], or [`IO_URING`].
    pub abi: u8,
    /// Zero.
    pub padding: [u8; 5],
}

/// Which counting map had no room: an index of the overflow map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Overflow {
    /// Calls of counted system calls.
    Counts = 0,
    /// Exec attempts per user.
    ExecsByUid = 1,
    /// Calls out of range.
    OutOfRange = 2,
    /// New cgroups that found no room for their parent's outcome.
    Cgroups = 3,
    /// Calls whose rate limit or sampling found no room; they count as suppressed.
    Buckets = 4,
    /// Cgroups that came or went while a ring buffer had no room to say so.
    CgroupChanges = 5,
    /// io_uring operations.
    IoUring = 6,
}

/// How many overflow cells there are.
pub const OVERFLOWS: u32 = 7;

/// What is remembered of a living process, by its tgid in the initial PID namespace.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[repr(C)]
pub struct Process {
    /// Identity of its present image.
    pub exec_id: u64,
    /// Identity of its parent's image at the fork; 0 when unknown.
    pub parent_exec_id: u64,
    /// Start, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_time: u64,
    /// Parent at the fork, initial PID namespace.
    pub parent: u32,
    /// Successful execs seen.
    pub execs: u32,
    /// The name before its latest rename.
    pub previous_comm: [u8; 16],
}

/// Cells of the map of hints; a tgid's is its remainder.
pub const SELF_HINTS: u32 = 16_384;

/// Why a process is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SelfKind {
    /// It runs the agent's own executable.
    Program = 1,
    /// An ancestor of the agent.
    Ancestor = 2,
    /// It reads the agent's output.
    Reader = 3,
}

/// An executable file, as the kernel tells files apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Exe {
    /// `inode.i_ino`; 0 means none.
    pub inode: u64,
    /// `super_block.s_dev`.
    pub device: u64,
}

/// What the kernel told the agent about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct WhoAmI {
    /// The agent's tgid in the initial PID namespace.
    pub tgid: u32,
    /// Depth of the agent's PID namespace; 0 is the initial one.
    pub namespace_level: u32,
    /// The agent's executable.
    pub exe: Exe,
    /// Level of the node's cgroup in its hierarchy; 0, the root's, where the node is the machine.
    pub node_level: u64,
}

const _: () = assert!(size_of::<SlotParameters>() == 40);
const _: () = assert!(size_of::<Condition>() == 136);
const _: () = assert!(size_of::<BinaryKey>() == 252);
const _: () = assert!(size_of::<Bucket>() == 24);
const _: () = assert!(size_of::<CgroupName>() == 136);
const _: () = assert!(size_of::<CountKey>() == 24);
const _: () = assert!(size_of::<Process>() == 48);
const _: () = assert!(size_of::<WhoAmI>() == 32);
