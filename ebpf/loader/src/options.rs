//! What a caller can choose.

use ebpf_hello_abi::MAX_RING_SHARDS;

use crate::LoadError;

/// Most tables that can be made: a table's index has 16 bits, the program array's 32.
pub const MAX_TABLES: u32 = 4096;

/// How to load the programs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tables to make room for, 1 to [`MAX_TABLES`]. Fixed at load; one costs 12 KiB.
    pub tables: u32,
    /// Bytes of each ring buffer: a power of two, at least one page, at most 1 GiB.
    pub ring_size: u32,
    /// Ring buffers to spread CPUs over, a power of two from 1 to 8; 0 chooses by the machine.
    pub ring_shards: u32,
    /// Report exec, fork and exit.
    pub process_events: bool,
    /// Whose doings are not reported.
    pub exclusion: crate::Exclusion,
    /// Entries of the map that counts calls, 1 to 2^24.
    pub count_entries: u32,
    /// Entries of the map of calls that wait for their return, 1 to 2^24: a call that finds none is
    /// told without it.
    pub join_entries: u32,
    /// Events per second that the slots of one namespace may make together, 1 to 1,000,000, a tenth of them at once;
    /// 0 for no bound.
    pub namespace_rate: u32,
    /// Guard the per-CPU scratch as on PREEMPT_RT kernels, also where it is not needed.
    pub force_nesting_guard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tables: 256,
            ring_size: 4 << 20,
            ring_shards: 0,
            process_events: true,
            exclusion: crate::Exclusion::SelfAndAncestors,
            count_entries: 65_536,
            join_entries: 16_384,
            namespace_rate: 0,
            force_nesting_guard: false,
        }
    }
}

impl Options {
    /// Checks every range.
    pub(crate) fn validate(&self) -> Result<(), LoadError> {
        let out_of_range = |option, expected, value: String| LoadError::Option {
            option,
            expected,
            value,
        };
        if !(1..=MAX_TABLES).contains(&self.tables) {
            return Err(out_of_range(
                "tables",
                "from 1 to 4096",
                self.tables.to_string(),
            ));
        }
        let page = rustix::param::page_size() as u32;
        if !self.ring_size.is_power_of_two() || self.ring_size < page || self.ring_size > 1 << 30 {
            return Err(out_of_range(
                "ring size",
                "a power of two from one page (4KiB on most machines) to 1GiB",
                format!("{} bytes", self.ring_size),
            ));
        }
        if self.ring_shards != 0
            && !(self.ring_shards.is_power_of_two() && self.ring_shards <= MAX_RING_SHARDS)
        {
            return Err(out_of_range(
                "ring shards",
                "1, 2, 4 or 8",
                self.ring_shards.to_string(),
            ));
        }
        for (option, entries) in [
            ("count entries", self.count_entries),
            ("join entries", self.join_entries),
        ] {
            if !(1..=1 << 24).contains(&entries) {
                return Err(out_of_range(
                    option,
                    "from 1 to 16777216",
                    entries.to_string(),
                ));
            }
        }
        if self.namespace_rate > 1_000_000 {
            return Err(out_of_range(
                "namespace rate",
                "from 0 to 1000000",
                self.namespace_rate.to_string(),
            ));
        }
        Ok(())
    }

    /// The number of ring buffers in use.
    pub(crate) fn shards(&self) -> u32 {
        if self.ring_shards != 0 {
            return self.ring_shards;
        }
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        // One ring serves several CPUs well; a ring for each would cost memory and wake-ups.
        (cpus.div_ceil(4)).next_power_of_two().min(MAX_RING_SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        for (options, name) in [
            (
                Options {
                    tables: 0,
                    ..Options::default()
                },
                "tables",
            ),
            (
                Options {
                    tables: MAX_TABLES + 1,
                    ..Options::default()
                },
                "tables",
            ),
            (
                Options {
                    ring_size: 5000,
                    ..Options::default()
                },
                "ring size",
            ),
            (
                Options {
                    ring_size: 1024,
                    ..Options::default()
                },
                "ring size",
            ),
            (
                Options {
                    ring_shards: 3,
                    ..Options::default()
                },
                "ring shards",
            ),
            (
                Options {
                    ring_shards: 16,
                    ..Options::default()
                },
                "ring shards",
            ),
            (
                Options {
                    count_entries: 0,
                    ..Options::default()
                },
                "count entries",
            ),
            (
                Options {
                    join_entries: (1 << 24) + 1,
                    ..Options::default()
                },
                "join entries",
            ),
            (
                Options {
                    namespace_rate: 1_000_001,
                    ..Options::default()
                },
                "namespace rate",
            ),
        ] {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
