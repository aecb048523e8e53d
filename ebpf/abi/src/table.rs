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
pub const BITMAPS: u32 = 3;
/// The bitmap that is asked first: what any ABI of any live table wants.
pub const BITMAP_UNION: u32 = 0;

/// The bitmap of one ABI.
#[inline(always)]
pub const fn bitmap_of(abi: u32) -> u32 {
    1 + abi
}

/// A table and its generation in one word, so that one store flips both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(pub u64);

impl Outcome {
    const GENERATION_BITS: u32 = 48;

    /// Packs a table (below 2^16) and a generation (below 2^48).
    #[inline(always)]
    pub const fn new(table: u16, generation: u64) -> Self {
        Outcome(
            (table as u64) << Self::GENERATION_BITS
                | generation & ((1 << Self::GENERATION_BITS) - 1),
        )
    }

    /// The table's index.
    #[inline(always)]
    pub const fn table(self) -> u16 {
        (self.0 >> Self::GENERATION_BITS) as u16
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
    /// A [`Decode`].
    pub decode: u8,
    /// Zero.
    pub padding: [u8; 5],
}

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
    /// System call number, or [`OUT_OF_RANGE`].
    pub number: u16,
    /// An [`Abi`].
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
}

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

const _: () = assert!(size_of::<SlotParameters>() == 8);
const _: () = assert!(size_of::<CountKey>() == 24);
const _: () = assert!(size_of::<Process>() == 48);
const _: () = assert!(size_of::<WhoAmI>() == 32);
