//! When a watch is opened again. Pure but for chance.
//!
//! A watch that is cut is opened again at once: the server is most likely there. What then fails waits, a little longer
//! each time, so that a blink costs nothing. A server that refuses or has been away for a while gets its thousands of
//! agents back over half a minute, not all at once.

use std::time::{Duration, Instant};

/// The first wait; each is twice the one before.
const FIRST: Duration = Duration::from_millis(100);
/// The longest of them.
const LONGEST: Duration = Duration::from_secs(2);
/// Time after which a server is away.
pub(super) const AWAY: Duration = Duration::from_secs(5);
/// Over how long agents spread that wait for a server that refuses or is away.
const SPREAD: Duration = Duration::from_secs(30);
/// A watch that was open for so long was not refused by what cut it.
const STEADY: Duration = Duration::from_secs(1);

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An open watch ended.
    Cut,
    /// The server could not be asked.
    Away,
    /// The server answered that it will not.
    Refused,
}

/// The failures in a row of one watch.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The first of them.
    since: Option<Instant>,
    /// Waits so far.
    waits: u32,
    /// The last cut.
    cut: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    /// The server answers.
    pub(super) fn reset(&mut self) {
        self.since = None;
        self.waits = 0;
    }

    /// How long to wait before it is tried again. `chance` is in 0..1.
    pub(super) fn wait(&mut self, failure: Failure, now: Instant, chance: f64) -> Duration {
        if failure == Failure::Cut {
            let before = self.cut.replace(now);
            if before.is_none_or(|before| now - before > STEADY) {
                self.reset();
                return Duration::ZERO;
            }
        }
        let since = *self.since.get_or_insert(now);
        if failure == Failure::Refused || now - since >= AWAY {
            return SPREAD.mul_f64(chance);
        }
        let longest = FIRST.saturating_mul(1 << self.waits.min(8)).min(LONGEST);
        self.waits += 1;
        // From half of it on: also the shortest is a pause.
        longest.mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: f64 = 0.5;

    #[test]
    fn a_cut_watch_is_opened_at_once_and_then_ever_more_slowly() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(backoff.wait(Failure::Cut, at(0), MIDDLE), Duration::ZERO);
        let waits: Vec<u128> = [10, 100, 300, 700, 1500, 3000]
            .map(|now| backoff.wait(Failure::Away, at(now), MIDDLE).as_millis())
            .into();
        assert_eq!(waits, [75, 150, 300, 600, 1200, 1500]);
        // Away since 10 ms.
        let wait = |backoff: &mut Backoff, chance| backoff.wait(Failure::Away, at(5010), chance);
        assert_eq!(wait(&mut backoff, 0.0), Duration::ZERO);
        assert_eq!(wait(&mut backoff, 0.9), Duration::from_secs(27));
        backoff.reset();
        assert_eq!(
            backoff.wait(Failure::Away, at(9000), MIDDLE).as_millis(),
            75
        );
    }

    #[test]
    fn a_server_that_refuses_is_asked_over_half_a_minute() {
        let mut backoff = Backoff::default();
        let wait = backoff.wait(Failure::Refused, Instant::now(), MIDDLE);
        assert_eq!(wait, Duration::from_secs(15));
    }

    #[test]
    fn a_watch_that_is_cut_again_and_again_is_no_busy_loop() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let mut cut = |milliseconds| {
            backoff.wait(
                Failure::Cut,
                start + Duration::from_millis(milliseconds),
                MIDDLE,
            )
        };
        assert_eq!(cut(0), Duration::ZERO);
        assert!(cut(5) > Duration::ZERO && cut(200) > Duration::ZERO);
        assert_eq!(cut(5000), Duration::ZERO);
    }
}
