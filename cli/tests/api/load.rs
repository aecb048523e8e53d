//! Events in a known number, at a known rate, through a real publisher.

use std::{
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_agent::{Batch, Item, publish::Publisher};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::{
    Timestamp,
    v1::{self, Event, event::Kind},
};

/// CPUs that the events are of.
const CPUS: u64 = 2;
/// Between two batches.
const STEP: Duration = Duration::from_millis(10);

/// Offers `per_second` events a second for a time; returns how many.
pub(crate) fn generate(publisher: &Publisher, per_second: u64, time: Duration) -> u64 {
    let start = Instant::now();
    let mut made = 0;
    while start.elapsed() < time {
        let due = per_second * u64::try_from(start.elapsed().as_millis()).unwrap() / 1_000;
        let batch: Batch = (made..due).map(item).collect();
        made = due;
        publisher.offer(batch, Duration::ZERO);
        thread::sleep(STEP);
    }
    made
}

/// Which event it is, from 0, whatever CPU it is of.
pub(crate) fn number(event: &Event) -> u64 {
    (event.sequence - 1) * CPUS + u64::from(event.cpu())
}

fn item(number: u64) -> Item {
    let event = Event {
        time: Some(Timestamp::from(std::time::SystemTime::now())),
        cpu: Some(u32::try_from(number % CPUS).unwrap()),
        sequence: number / CPUS + 1,
        cgroup_id: 1,
        process: Some(v1::Process {
            pid: 42,
            tid: 42,
            comm: "load".into(),
            ..v1::Process::default()
        }),
        kind: Some(Kind::Syscall(v1::Syscall {
            name: "getppid".into(),
            number: Some(110),
            ..v1::Syscall::default()
        })),
        ..Event::default()
    };
    Item {
        handler: Some(Handler::Trace),
        event,
    }
}
