//! Pods on both nodes that count: each exec has the next number, so whoever reads the numbers sees what is missing.

use std::{collections::BTreeMap, time::Duration};

use ebpf_hello_e2e::kind::{Container, Event, Namespace, Observer, Workload, ask_until};

/// Longest time until the numbers go on, whatever was away.
const PATIENCE: Duration = Duration::from_secs(90);

/// Two pods that count, and the text by which their execs are known.
pub(crate) struct Counter {
    nonce: String,
}

// === impl Counter ===

impl Counter {
    /// Of this name; nothing runs yet.
    pub(crate) fn of(shop: &Namespace<'_>, name: &str) -> Counter {
        Counter {
            nonce: shop.nonce(name),
        }
    }

    /// Starts to count, five times a second, a pod on each node.
    pub(crate) fn start(&self, shop: &Namespace<'_>) {
        let script = format!("i=$((${{i:-0}}+1)); /bin/true {} $POD $i", self.nonce);
        let web = Container::repeating("web", &script, 0.2);
        shop.run(&Workload::of("counter", 2, [web]));
    }

    /// Whether the event is an exec that counts.
    pub(crate) fn is_counted(&self, event: &Event) -> bool {
        event.mentions(&self.nonce) && event.argv()[0] == "/bin/true"
    }

    /// What was counted, told so far.
    pub(crate) fn counted(&self, observer: &Observer) -> Vec<Event> {
        observer.select(|event| self.is_counted(event))
    }

    /// Numbers each pod was told with, in the order they came.
    pub(crate) fn numbers(&self, observer: &Observer) -> BTreeMap<String, Vec<u64>> {
        let mut numbers = BTreeMap::<String, Vec<u64>>::new();
        for event in self.counted(observer) {
            let argv = event.argv();
            numbers
                .entry(argv[2].to_owned())
                .or_default()
                .push(argv[3].parse().unwrap());
        }
        numbers
    }

    /// Waits until each pod has been told with so many numbers more.
    pub(crate) fn await_more(&self, observer: &Observer, more: usize) {
        let before = self.numbers(observer);
        ask_until(PATIENCE, || {
            let now = self.numbers(observer);
            let grown = now.len() >= 2
                && now
                    .iter()
                    .all(|(pod, told)| told.len() >= before.get(pod).map_or(0, Vec::len) + more);
            if grown {
                Ok(())
            } else {
                let counts: Vec<_> = now.values().map(Vec::len).collect();
                Err(format!("{counts:?}"))
            }
        })
        .unwrap_or_else(|counts| {
            panic!(
                "{more} more of each pod: {counts}\n{}",
                observer.complaints()
            )
        });
    }

    /// Every pod's numbers go up by one: nothing is missing, nothing comes twice.
    pub(crate) fn assert_nothing_missing(&self, observer: &Observer) {
        for (pod, mut told) in self.numbers(observer) {
            told.sort_unstable();
            for pair in told.windows(2) {
                let (number, next) = (pair[0], pair[1]);
                assert_eq!(next, number + 1, "{pod}: between {number} and {next}");
            }
        }
    }
}
