//! When a status may be written: each write reaches every agent's watch. Pure, with the clock handed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long the first write after a spec change waits for all nodes.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time between writes while a change spreads, and how long it is said to.
const SPREADING: Duration = Duration::from_secs(2);
const SPREADS: Duration = Duration::from_secs(10);
/// Time between writes later on.
const STEADY: Duration = Duration::from_secs(30);
/// The same where a node failed or came back, or a condition changed.
const URGENT: Duration = Duration::from_secs(2);
/// Watch events that all status writes may cause, a second.
const WATCH_EVENTS: f64 = 1_000.0;

/// When one filter's status was written, and why that was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When its spec was seen to have changed: while status is about an older one.
    changed: Option<Instant>,
    written: Option<Instant>,
}

/// What the next write would bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Another count.
    Count,
    /// A condition changed, or a node failed or returned.
    Urgent,
}

/// Writes that may be made now: a bucket that fills with time.
#[derive(Debug)]
pub(super) struct Budget {
    left: f64,
    at: Instant,
}

// === impl Pace ===

impl Pace {
    /// Another spec was seen.
    pub(super) fn spec_changed(&mut self, now: Instant) {
        *self = Pace {
            changed: Some(now),
            written: None,
        };
    }

    /// The status was written.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.written = Some(now);
    }

    /// The earliest time of the next write. `is_complete`: all nodes have said what became of the spec.
    pub(super) fn due(&self, now: Instant, is_complete: bool, news: News) -> Instant {
        match (self.changed, self.written) {
            (Some(_), None) if is_complete => now,
            (Some(changed), None) => changed + PATIENCE,
            (changed, Some(written)) => {
                let next = written + SPREADING;
                let spreads = changed.is_some_and(|changed| next < changed + SPREADS);
                match news {
                    _ if spreads => next,
                    News::Urgent => written + URGENT,
                    News::Count => written + STEADY,
                }
            }
            // A filter whose spec is as status has it since before we held the lease.
            (None, None) => now,
        }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Budget { left: 1.0, at: now }
    }

    /// Takes one write of a fleet of so many agents, or says when there is one to take.
    pub(super) fn take(&mut self, now: Instant, agents: usize) -> Result<(), Instant> {
        #[allow(clippy::cast_precision_loss, reason = "a fleet has no 2^52 agents")]
        let rate = WATCH_EVENTS / agents.max(1) as f64;
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        // Of a second's worth at most, and always one.
        self.left = (self.left + gained).min(rate.max(1.0));
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.left) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_write_after_a_change_waits_for_all_nodes_half_a_second_at_most() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.spec_changed(start);
        let now = start + 40 * MILLISECOND;
        assert_eq!(pace.due(now, true, News::Urgent), now);
        assert_eq!(
            pace.due(now, false, News::Urgent),
            start + 500 * MILLISECOND
        );
    }

    #[test]
    fn then_every_two_seconds_for_ten_then_every_thirty() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.spec_changed(start);
        let mut writes = Vec::new();
        let mut now = start;
        while now < start + 100 * SECOND {
            if pace.due(now, false, News::Count) <= now {
                pace.wrote(now);
                writes.push((now - start).as_millis());
            }
            now += 10 * MILLISECOND;
        }
        assert_eq!(writes, [500, 2500, 4500, 6500, 8500, 38500, 68500, 98500]);
    }

    #[test]
    fn a_nodes_failure_or_return_is_not_held_up() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.spec_changed(start);
        pace.wrote(start + 60 * SECOND);
        let due = pace.due(start + 61 * SECOND, false, News::Urgent);
        assert_eq!(due, start + 62 * SECOND);
        // What was written before we held the lease does not hold up either.
        assert_eq!(Pace::default().due(start, false, News::Count), start);
    }

    #[test]
    fn a_fleet_gets_a_thousand_watch_events_a_second_at_most() {
        for agents in [1_usize, 3, 100, 5_000, 20_000] {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            let (mut now, mut writes) = (start, 0_usize);
            let end = start + 100 * SECOND;
            while now < end {
                match budget.take(now, agents) {
                    Ok(()) => writes += 1,
                    Err(next) => now = next.max(now + MILLISECOND / 10),
                }
            }
            let events = writes * agents;
            assert!(events <= 100_000 + 2_000.max(agents), "{agents}: {events}");
            assert!(events >= 90_000, "{agents}: {events}");
        }
    }
}
