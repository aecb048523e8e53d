//! How agents are to publish, by how many there are.

use std::time::Duration;

use ebpf_hello_proto::v1;

use super::check::MAX_BATCH_BYTES;

/// Batches a second of the whole fleet that lingering aims at.
const BATCHES_PER_SECOND: u64 = 5_000;
/// Reports a second of the whole fleet.
const REPORTS_PER_SECOND: u64 = 100;
/// Bounds of the time an event may wait for others.
const LINGER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Bounds of the time between reports: an agent that leaves some out counts as missing.
const REPORT_INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Batches an agent may have unacknowledged.
const WINDOW_BATCHES: u32 = 64;
/// Bytes of them.
const WINDOW_BYTES: u32 = 8 * MAX_BATCH_BYTES as u32;

/// For each of so many agents.
pub(super) fn settings(agents: u64) -> v1::Settings {
    let proto = |time: Duration| {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Some(ebpf_hello_proto::Duration::from_nanos(nanos))
    };
    v1::Settings {
        linger: proto(share(agents, BATCHES_PER_SECOND, LINGER)),
        window_batches: WINDOW_BATCHES,
        window_bytes: WINDOW_BYTES,
        report_interval: proto(report_interval(agents)),
    }
}

/// The time between reports of each of so many agents.
pub(crate) fn report_interval(agents: u64) -> Duration {
    share(agents, REPORTS_PER_SECOND, REPORT_INTERVAL)
}

fn share(agents: u64, per_second: u64, (least, most): (Duration, Duration)) -> Duration {
    Duration::from_micros(agents.saturating_mul(1_000_000) / per_second).clamp(least, most)
}

/// Whether an agent should hear of the new ones: lingering changed by a quarter or more.
pub(super) fn differ(old: &v1::Settings, new: &v1::Settings) -> bool {
    let nanos = |settings: &v1::Settings| {
        settings.linger.map_or(0, |linger| {
            linger.seconds * 1_000_000_000 + i64::from(linger.nanos)
        })
    };
    let (old, new) = (nanos(old), nanos(new));
    (old - new).abs() * 4 >= old.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lingering_grows_with_the_fleet_within_its_bounds() {
        let linger = |agents| settings(agents).linger.map(|linger| linger.to_string());
        assert_eq!(linger(0).as_deref(), Some("0.005s"));
        assert_eq!(linger(1).as_deref(), Some("0.005s"));
        assert_eq!(linger(500).as_deref(), Some("0.100s"));
        assert_eq!(linger(1_000_000).as_deref(), Some("1s"));
        assert!(differ(&settings(500), &settings(1000)));
        assert!(!differ(&settings(500), &settings(510)));
        assert!(!differ(&settings(1), &settings(2)));
    }
}
