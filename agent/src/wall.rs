//! From the kernel's boot clock to wall-clock time.

use ebpf_hello_proto::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds from the boot clock's zero to the Unix epoch.
///
/// Read anew for every batch: the wall clock is stepped and slewed, the boot clock is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall(i128);

impl Wall {
    pub(crate) fn now() -> Self {
        // The boot clock is read between two readings of the wall clock, and set against their
        // middle, so that being interrupted in between shifts nothing by more than half of it.
        let before = nanoseconds(ClockId::Realtime);
        let boot = nanoseconds(ClockId::Boottime);
        let after = nanoseconds(ClockId::Realtime);
        Wall((before + after) / 2 - boot)
    }

    /// The time of a `CLOCK_BOOTTIME` reading, which is in nanoseconds.
    pub(crate) fn time(self, boot: u64) -> Timestamp {
        // A machine whose clock stands before 1970 shows 1970.
        Timestamp::from_unix_nanos(u64::try_from(i128::from(boot) + self.0).unwrap_or(0))
    }
}

fn nanoseconds(clock: ClockId) -> i128 {
    let time = clock_gettime(clock);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Nanoseconds of `CLOCK_BOOTTIME` now.
pub(crate) fn boot_now() -> u64 {
    u64::try_from(nanoseconds(ClockId::Boottime)).unwrap_or(0)
}
