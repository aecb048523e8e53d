//! How often something happens.

use std::time::Duration;

/// Time over which the average forgets two thirds, in seconds.
const MEMORY: f64 = 10.0;

/// A count, and its rates at the last tick.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    total: u64,
    /// Since the last tick.
    recent: u64,
    per_second: f64,
    average: f64,
    ticked: bool,
}

// === impl Rate ===

impl Rate {
    pub(super) fn add(&mut self, count: u64) {
        self.recent = self.recent.saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    /// Adds what happened before, and is in no rate any more.
    pub(super) fn absorb(&mut self, count: u64) {
        self.total = self.total.saturating_add(count);
    }

    /// A period ends.
    pub(super) fn tick(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.per_second = self.recent as f64 / seconds;
        self.recent = 0;
        if self.ticked {
            let weight = 1.0 - (-seconds / MEMORY).exp();
            self.average += weight * (self.per_second - self.average);
        } else {
            // The first period is all there is: an average that climbs from zero would be wrong.
            self.average = self.per_second;
            self.ticked = true;
        }
    }

    /// Since it began.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// In the last period.
    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Over the last periods, exponentially weighted.
    pub(super) fn average(&self) -> f64 {
        self.average
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_forgets_two_thirds_in_its_memory() {
        let mut rate = Rate::default();
        rate.add(100);
        rate.tick(Duration::from_secs(1));
        assert_eq!((rate.per_second(), rate.average()), (100.0, 100.0));
        for _ in 0..10 {
            rate.tick(Duration::from_secs(1));
        }
        assert_eq!(rate.per_second(), 0.0);
        assert!((rate.average() - 100.0 / std::f64::consts::E).abs() < 0.1);
        assert_eq!(rate.total(), 100);
        // A period without length says nothing.
        rate.tick(Duration::ZERO);
        assert!(rate.average().is_finite());
    }
}
