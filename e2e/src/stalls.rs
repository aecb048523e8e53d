//! When this machine stood still: what a test may not hold against the product.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

const PERIOD: Duration = Duration::from_millis(10);
/// A thread that wakes later than this stood still; less is ordinary scheduling.
const LATE: Duration = Duration::from_millis(100);

/// A witness that sleeps, and notes when it overslept.
#[derive(Debug)]
pub struct Stalls(Arc<Mutex<Vec<(SystemTime, SystemTime)>>>);

impl Stalls {
    /// Watches until it is dropped.
    pub fn watch() -> Stalls {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let watched = Arc::downgrade(&seen);
        thread::spawn(move || {
            while let Some(seen) = watched.upgrade() {
                let (start, slept) = (SystemTime::now(), Instant::now());
                thread::sleep(PERIOD);
                let late = slept.elapsed().saturating_sub(PERIOD);
                if late >= LATE {
                    let stall = (start + PERIOD, start + PERIOD + late);
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(stall);
                }
            }
        });
        Stalls(seen)
    }

    /// How long it stood still between two times.
    pub fn within(&self, from: SystemTime, to: SystemTime) -> Duration {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|(start, end)| {
                let (start, end) = ((*start).max(from), (*end).min(to));
                end.duration_since(start).unwrap_or_default()
            })
            .sum()
    }

    /// How long it stood still since a time.
    pub fn since(&self, from: SystemTime) -> Duration {
        // The witness itself may only be about to wake.
        thread::sleep(2 * PERIOD);
        self.within(from, SystemTime::now())
    }
}
