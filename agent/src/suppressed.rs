//! What rate limits and sampling left out, told once: by the next event of the same bucket, or, while
//! none comes, by a row of counters that is sent once a second.
//!
//! The kernel's counters are cumulative. Here is how much of each was told, by either; both look at
//! it, so that nothing is told twice, in whatever order they come.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ebpf_hello_loader::abi::{Bucket, BucketKey, Header, NAMESPACE_BUCKET};
use ebpf_hello_proto::v1::{self, Counters, Event, SuppressedEvents, event::Kind};

use crate::{
    event::Origin,
    intake::{BATCH, Batch, Item},
    wall::{Wall, boot_now},
};

/// Buckets that are gone and are still remembered: records of theirs may wait to be read.
const ENDED: usize = 1 << 16;

/// How much of each bucket's suppression was told.
#[derive(Debug, Default)]
pub(crate) struct Suppressed(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    by_bucket: HashMap<BucketKey, u64>,
    ended: VecDeque<BucketKey>,
}

// === impl Suppressed ===

impl Suppressed {
    /// What was left out since the last event of the same bucket, or since it was told otherwise.
    pub(crate) fn since_last(&self, header: &Header) -> u64 {
        if header.bucket == 0 || header.suppressed == 0 {
            return 0;
        }
        let key = BucketKey {
            cgroup_id: header.cgroup_id,
            generation: header.generation,
            bucket: u64::from(header.bucket),
        };
        self.told().advance(key, header.suppressed)
    }

    /// Whether all of it was told.
    pub(crate) fn is_told(&self, key: BucketKey, suppressed: u64) -> bool {
        self.told().of(key) >= suppressed
    }

    /// The bucket is gone: nothing is added to it any more.
    pub(crate) fn end(&self, key: BucketKey) {
        let mut told = self.told();
        told.ended.push_back(key);
        if told.ended.len() > ENDED
            && let Some(oldest) = told.ended.pop_front()
        {
            told.by_bucket.remove(&oldest);
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Told ===

impl Told {
    fn of(&self, key: BucketKey) -> u64 {
        self.by_bucket.get(&key).copied().unwrap_or(0)
    }

    /// Notes that all up to `cumulative` is told; returns how much of it was not.
    fn advance(&mut self, key: BucketKey, cumulative: u64) -> u64 {
        let told = self.by_bucket.entry(key).or_default();
        // Records of several CPUs come a little out of order.
        let since = cumulative.saturating_sub(*told);
        *told += since;
        since
    }
}

/// Sends what no event has told yet, one event for each cgroup. `send` must not wait: readers of
/// records do meanwhile. What it does not take stays to be told.
pub(crate) fn tell(
    origin: &Origin,
    buckets: &[(BucketKey, Bucket)],
    mut send: impl FnMut(Batch) -> bool,
) {
    let mut told = origin.suppressed.told();
    let mut untold: BTreeMap<(bool, u64), Vec<(BucketKey, u64)>> = BTreeMap::new();
    for (key, bucket) in buckets {
        if bucket.suppressed > told.of(*key) {
            let is_shared = key.bucket == NAMESPACE_BUCKET;
            let rows = untold.entry((is_shared, key.cgroup_id)).or_default();
            rows.push((*key, bucket.suppressed));
        }
    }
    let wall = Wall::now();
    let cgroups: Vec<_> = untold.into_values().collect();
    for cgroups in cgroups.chunks(BATCH) {
        let batch = cgroups
            .iter()
            .map(|rows| Item {
                handler: None,
                event: event(origin, wall, &told, rows),
            })
            .collect();
        if !send(batch) {
            return;
        }
        for (key, cumulative) in cgroups.iter().flatten() {
            told.advance(*key, *cumulative);
        }
    }
}

fn event(origin: &Origin, wall: Wall, told: &Told, rows: &[(BucketKey, u64)]) -> Event {
    // Of a namespace's share: whichever its filter, pod and cgroup.
    let shared = rows
        .first()
        .filter(|(key, _)| key.bucket == NAMESPACE_BUCKET);
    let namespace = shared.and_then(|(key, _)| origin.policies.namespace(key.cgroup_id));
    let mut suppressed: Vec<_> = rows
        .iter()
        .map(|(key, cumulative)| {
            if let Some(namespace) = &namespace {
                return SuppressedEvents {
                    filter: format!("{namespace}/*"),
                    count: *cumulative,
                    since_last: cumulative.saturating_sub(told.of(*key)),
                    ..SuppressedEvents::default()
                };
            }
            let (filter, rule) = origin.policies.limited(key.generation, key.bucket);
            SuppressedEvents {
                filter,
                rule,
                generation: key.generation,
                count: *cumulative,
                since_last: cumulative.saturating_sub(told.of(*key)),
            }
        })
        .collect();
    suppressed
        .sort_by(|a, b| (a.generation, &a.filter, a.rule).cmp(&(b.generation, &b.filter, b.rule)));
    Event {
        time: Some(wall.time(boot_now())),
        node: origin.node.clone(),
        epoch: origin.epoch,
        cgroup_id: match rows.first() {
            Some((key, _)) if shared.is_none() => key.cgroup_id,
            _ => 0,
        },
        pod: namespace.map(|namespace| v1::Pod {
            namespace,
            ..v1::Pod::default()
        }),
        kind: Some(Kind::Counters(Counters {
            suppressed,
            ..Counters::default()
        })),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::call::tests::header;

    fn origin() -> Origin {
        Origin {
            node: "n".into(),
            epoch: 1,
            arch: ebpf_hello_policy::Arch::X86_64,
            policies: Arc::default(),
            suppressed: Arc::default(),
            redactor: crate::Redactor::default(),
        }
    }

    fn bucket(cgroup_id: u64, suppressed: u64) -> (BucketKey, Bucket) {
        let key = BucketKey {
            cgroup_id,
            generation: 1,
            bucket: 1,
        };
        let bucket = Bucket {
            suppressed,
            ..Bucket::default()
        };
        (key, bucket)
    }

    fn by_event(origin: &Origin, cgroup_id: u64, suppressed: u64) -> u64 {
        origin.suppressed.since_last(&Header {
            cgroup_id,
            generation: 1,
            bucket: 1,
            suppressed,
            ..header()
        })
    }

    /// Cgroup, cumulative, not told before.
    fn by_rows(origin: &Origin, buckets: &[(BucketKey, Bucket)]) -> Vec<(u64, u64, u64)> {
        let mut rows = Vec::new();
        tell(origin, buckets, |batch| {
            for item in batch {
                let Some(Kind::Counters(counters)) = item.event.kind else {
                    panic!("{:?}", item.event);
                };
                let cgroup = item.event.cgroup_id;
                let told = counters.suppressed.into_iter();
                rows.extend(told.map(|row| (cgroup, row.count, row.since_last)));
            }
            true
        });
        rows
    }

    #[test]
    fn events_tell_what_was_left_out_once() {
        let origin = origin();
        let told: Vec<_> = [3, 5, 4, 5, 6].map(|all| by_event(&origin, 1, all)).into();
        assert_eq!(told, [3, 2, 0, 0, 1]);
        let without_limits = Header {
            suppressed: 9,
            ..header()
        };
        assert_eq!(origin.suppressed.since_last(&without_limits), 0);
    }

    #[test]
    fn what_an_event_told_no_row_tells_and_the_other_way_round() {
        let origin = origin();
        assert_eq!(by_event(&origin, 1, 3), 3);
        assert_eq!(
            by_rows(&origin, &[bucket(1, 5), bucket(2, 7)]),
            [(1, 5, 2), (2, 7, 7)]
        );
        assert_eq!(by_rows(&origin, &[bucket(1, 5), bucket(2, 7)]), []);
        // A record that was made before the row, and is read after it.
        assert_eq!(by_event(&origin, 1, 4), 0);
        assert_eq!(by_event(&origin, 1, 6), 1);
    }

    #[test]
    fn what_is_not_taken_is_told_later() {
        let origin = origin();
        tell(&origin, &[bucket(1, 5)], |_| false);
        assert!(!origin.suppressed.is_told(bucket(1, 5).0, 5));
        assert_eq!(by_rows(&origin, &[bucket(1, 5)]), [(1, 5, 5)]);
        assert!(origin.suppressed.is_told(bucket(1, 5).0, 5));
    }

    #[test]
    fn a_bucket_that_is_gone_is_remembered_for_records_that_wait() {
        let origin = origin();
        by_rows(&origin, &[bucket(1, 5)]);
        origin.suppressed.end(bucket(1, 5).0);
        assert_eq!(by_event(&origin, 1, 4), 0);
        for cgroup in 0..ENDED as u64 {
            origin.suppressed.end(bucket(cgroup + 2, 0).0);
        }
        assert_eq!(origin.suppressed.told().by_bucket.len(), 0);
    }
}
