//! The ledger: what became of every call and process record.
//!
//! One equation holds when the pipeline is drained: `seen = delivered + counted + suppressed +
//! self + canary + table_miss + lost + in_flight`. The kernel keeps every term but `delivered`.

/// Who decided a call's fate, or made a record: a row of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Handler {
    /// `sys_enter` itself, before any handler.
    Dispatch = 0,
    /// Successful execs.
    ProcessExec = 1,
    /// Forks of processes.
    ProcessFork = 2,
    /// Ends of processes.
    ProcessExit = 3,
    /// Exec attempts, counted per user.
    Exec = 4,
    /// Decoded timers.
    Timer = 5,
    /// Number and raw arguments.
    Trace = 6,
    /// Counted, no event.
    Count = 7,
    /// Decoded paths.
    Path = 8,
    /// Decoded socket addresses.
    Sock = 9,
}

/// How many rows the ledger has.
pub const HANDLERS: usize = 10;

impl Handler {
    /// Every handler, by row.
    pub const ALL: [Handler; HANDLERS] = [
        Handler::Dispatch,
        Handler::ProcessExec,
        Handler::ProcessFork,
        Handler::ProcessExit,
        Handler::Exec,
        Handler::Timer,
        Handler::Trace,
        Handler::Count,
        Handler::Path,
        Handler::Sock,
    ];

    /// The name shown to people and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Handler::Dispatch => "dispatch",
            Handler::ProcessExec => "process_exec",
            Handler::ProcessFork => "process_fork",
            Handler::ProcessExit => "process_exit",
            Handler::Exec => "exec",
            Handler::Timer => "timer",
            Handler::Trace => "trace",
            Handler::Count => "count",
            Handler::Path => "path",
            Handler::Sock => "sock",
        }
    }
}

/// What became of a call or record: a column of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fate {
    /// Its fate was decided here.
    Seen = 0,
    /// Counted in a map, no event by design.
    Counted = 1,
    /// Ours, not reported.
    SelfExcluded = 2,
    /// Lost: no room in the ring buffer.
    LostRingFull = 3,
    /// Lost: a second entry on this CPU while the first was at work (PREEMPT_RT only).
    LostNested = 4,
    /// Lost: the end of a process that could not be told from that of one of its threads, because
    /// the table of processes was full when it started.
    LostProcessTableFull = 5,
    /// Beside the equation: of another node on the same kernel.
    Foreign = 6,
    /// Left out by a rate limit.
    SuppressedRate = 7,
    /// Left out by sampling.
    SuppressedSampling = 8,
    /// Left out because user or executable did not match.
    SuppressedMatch = 9,
    /// No table for the caller's policy, and the default ignores the call.
    TableMiss = 10,
    /// Lost: the thread entered another call while one still waited for its sys_exit.
    LostJoinReplaced = 11,
}

/// How many columns the ledger has.
pub const FATES: usize = 12;

/// One CPU's ledger.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct CpuLedger {
    /// The last sequence number that a record of this CPU took; a record that was lost took one too.
    pub sequence: u64,
    /// Counters by handler and fate.
    pub cells: [[u64; FATES]; HANDLERS],
}

const _: () = assert!(size_of::<CpuLedger>() == 8 + 8 * FATES * HANDLERS);
