//! How well identity does its work, in numbers.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Seconds from a cgroup's first event to the answer whose it is.
const BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0,
];

/// What is to be known of an event's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Pod,
    Container,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    level: &'static str,
}

/// The numbers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    resolved: Family<Labels, Counter>,
    unresolved: Family<Labels, Counter>,
    /// The same, by level and whether resolved: looked up once.
    counters: [[Counter; 2]; 2],
}

// === impl Level ===

impl Level {
    fn labels(self) -> Labels {
        Labels {
            level: match self {
                Level::Pod => "pod",
                Level::Container => "container",
            },
        }
    }
}

// === impl Figures ===

impl Default for Figures {
    fn default() -> Self {
        let seconds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let resolved = Family::<Labels, Counter>::default();
        let unresolved = Family::<Labels, Counter>::default();
        // What never happened is 0, not missing.
        let counters = [Level::Pod, Level::Container].map(|level| {
            drop(seconds.get_or_create(&level.labels()));
            [&unresolved, &resolved].map(|family| family.get_or_create(&level.labels()).clone())
        });
        Figures {
            seconds,
            resolved,
            unresolved,
            counters,
        }
    }
}

impl Figures {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "ebpf_hello_identity",
            "Time from the first event of a pod's cgroup to the answer whose it is",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "ebpf_hello_identity_resolved",
            "Events of pods that went out with their pod, or container",
            self.resolved.clone(),
        );
        registry.register(
            "ebpf_hello_identity_unresolved",
            "Events of pods that went out without: an identity event follows when it is known",
            self.unresolved.clone(),
        );
    }

    /// An answer came.
    pub(super) fn answered(&self, level: Level, after: Duration) {
        self.seconds
            .get_or_create(&level.labels())
            .observe(after.as_secs_f64());
    }

    /// Events went out.
    pub(super) fn count(&self, level: Level, resolved: bool, events: u64) {
        self.counters[level as usize][usize::from(resolved)].inc_by(events);
    }

    #[cfg(test)]
    pub(super) fn unresolved(&self, level: Level) -> u64 {
        self.counters[level as usize][0].get()
    }
}
