//! When to try again.

use std::time::Duration;

use tonic::Code;

/// First pause after a stream ended.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses that double, each somewhere in its upper half, so that a thousand agents do not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new() -> Self {
        Backoff { next: FIRST }
    }

    /// It worked: the next pause is a short one.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The pause after a failure. Where trying again at once can only do harm it is a long one: another agent
    /// publishes as the same node, and each new stream ends the other's; or the node may not publish at all.
    pub(super) fn pause(&mut self, code: Code) -> Duration {
        if matches!(
            code,
            Code::Aborted | Code::PermissionDenied | Code::Unauthenticated
        ) {
            self.next = LONGEST;
        }
        let pause = self.next.mul_f64(fastrand::f64() / 2.0 + 0.5);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_again() {
        let mut backoff = Backoff::new();
        for exponent in 0..12 {
            let most = (FIRST * 2_u32.pow(exponent)).min(LONGEST);
            let pause = backoff.pause(Code::Unavailable);
            assert!(pause <= most && pause >= most / 2, "{exponent}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause(Code::Unavailable) <= FIRST);
        assert!(backoff.pause(Code::Aborted) >= LONGEST / 2);
    }
}
