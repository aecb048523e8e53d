//! What a Lease's record means: pure, with the local clock handed in.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp,
};
use tokio::time::Instant;

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
}

/// Somebody's record, and when it was first seen as it is.
#[derive(Debug)]
struct Seen {
    record: LeaseSpec,
    at: Instant,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is ours: renew it.
    Ours,
    /// Nobody's, or expired: take it.
    Free,
    /// Another's, at least until then.
    Taken(Instant),
}

// === impl Election ===

impl Election {
    pub(super) fn new(identity: String, duration: Duration) -> Self {
        Election {
            identity,
            duration,
            seen: None,
        }
    }

    /// Judges a record that was read now.
    pub(super) fn judge(&mut self, record: &LeaseSpec, now: Instant) -> Verdict {
        let at = match &self.seen {
            Some(seen) if seen.record == *record => seen.at,
            _ => {
                self.seen = Some(Seen {
                    record: record.clone(),
                    at: now,
                });
                now
            }
        };
        match record.holder_identity.as_deref() {
            None | Some("") => Verdict::Free,
            Some(holder) if holder == self.identity => Verdict::Ours,
            Some(_) => {
                let duration = match record.lease_duration_seconds {
                    Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
                    None => self.duration,
                };
                let end = at + duration;
                if end <= now {
                    Verdict::Free
                } else {
                    Verdict::Taken(end)
                }
            }
        }
    }

    /// Whether a record names us.
    pub(super) fn is_ours(&self, record: &LeaseSpec) -> bool {
        record.holder_identity.as_deref() == Some(self.identity.as_str())
    }

    /// The record with which we take or renew the lease.
    pub(super) fn claim(&self, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let renewed = before.filter(|record| self.is_ours(record));
        let transitions = before.and_then(|record| record.lease_transitions);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.duration.as_secs())
                    .unwrap_or(i32::MAX)
                    .max(1),
            ),
            acquire_time: match renewed {
                Some(record) => record.acquire_time.clone(),
                None => Some(MicroTime(wall)),
            },
            renew_time: Some(MicroTime(wall)),
            lease_transitions: match (renewed, before) {
                (Some(_), _) => transitions,
                (None, None) => Some(0),
                (None, Some(_)) => Some(transitions.unwrap_or(0).saturating_add(1)),
            },
            ..LeaseSpec::default()
        }
    }

    /// The record with which we give it back.
    pub(super) fn farewell(&self, held: &LeaseSpec, wall: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(wall)),
            ..held.clone()
        }
    }

    /// How long after asking for a renewal that was granted the right lasts: others wait the whole duration from
    /// when they see it, which is later.
    pub(super) fn right(&self) -> Duration {
        self.duration * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn election(identity: &str) -> Election {
        Election::new(identity.into(), 15 * SECOND)
    }

    /// A record that `holder` wrote when its clock showed so many seconds.
    fn record(holder: &str, clock: i64) -> LeaseSpec {
        election(holder).claim(None, Timestamp::from_second(clock).unwrap())
    }

    #[test]
    fn a_lease_expires_by_how_long_it_was_seen_unchanged_whatever_its_clock_says() {
        let start = Instant::now();
        for clock in [0, 4_000_000_000] {
            let mut election = election("b");
            let found = record("a", clock);
            let end = start + 15 * SECOND;
            assert_eq!(election.judge(&found, start), Verdict::Taken(end));
            assert_eq!(
                election.judge(&found, start + 14 * SECOND),
                Verdict::Taken(end)
            );
            assert_eq!(election.judge(&found, end), Verdict::Free);
        }
    }

    #[test]
    fn each_renewal_starts_the_wait_again() {
        let start = Instant::now();
        let mut election = election("b");
        election.judge(&record("a", 1), start);
        let renewed = election.judge(&record("a", 2), start + 14 * SECOND);
        assert_eq!(renewed, Verdict::Taken(start + 29 * SECOND));
    }

    #[test]
    fn what_was_given_back_is_free_at_once() {
        let (mut b, a) = (election("b"), election("a"));
        let held = record("a", 1);
        let given = a.farewell(&held, Timestamp::from_second(2).unwrap());
        assert_eq!(b.judge(&given, Instant::now()), Verdict::Free);
        assert_eq!(
            b.judge(&LeaseSpec::default(), Instant::now()),
            Verdict::Free
        );
    }

    #[test]
    fn a_claim_counts_transitions_and_a_renewal_does_not() {
        let (a, b) = (election("a"), election("b"));
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = a.claim(None, at(1));
        let renewed = a.claim(Some(&first), at(2));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(0));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(2))));
        let taken = b.claim(Some(&renewed), at(3));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(taken.acquire_time, Some(MicroTime(at(3))));
    }

    #[test]
    fn the_holder_stops_before_anybody_may_take_over() {
        let election = election("a");
        assert!(election.right() < election.duration);
    }
}
