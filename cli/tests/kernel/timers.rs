//! Timers: each call decoded as it was made.

use ebpf_hello_proto::{
    Duration,
    v1::{Abi, Timer},
};

use crate::{
    events::{of_process, timer},
    filter::filter,
    generator::generate,
    instance::Instance,
};

fn native() -> Abi {
    if cfg!(target_arch = "x86_64") {
        Abi::X8664
    } else {
        Abi::Aarch64
    }
}

fn call(name: &str) -> Timer {
    Timer {
        name: name.into(),
        abi: native().into(),
        ..Timer::default()
    }
}

fn span(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

/// What ebpf/generator/src/timers.rs does, call by call.
fn script(timer: i32, descriptor: i32) -> Vec<Timer> {
    let posix = |name| Timer {
        timer_id: Some(timer),
        ..call(name)
    };
    vec![
        Timer {
            clock: "CLOCK_MONOTONIC".into(),
            return_value: Some(0),
            ..posix("timer_create")
        },
        Timer {
            interval: span(1, 500_000_000),
            initial: span(600, 7),
            ..posix("timer_settime")
        },
        Timer {
            interval: span(0, 0),
            initial: span(1 << 31, 0),
            absolute: true,
            ..posix("timer_settime")
        },
        posix("timer_gettime"),
        posix("timer_getoverrun"),
        Timer {
            unreadable: true,
            ..posix("timer_settime")
        },
        posix("timer_delete"),
        Timer {
            clock: "CLOCK_BOOTTIME".into(),
            fd: Some(descriptor),
            return_value: Some(descriptor.into()),
            ..call("timerfd_create")
        },
        Timer {
            fd: Some(descriptor),
            interval: span(0, 20_000_000),
            initial: span(600, 0),
            ..call("timerfd_settime")
        },
        Timer {
            fd: Some(descriptor),
            ..call("timerfd_gettime")
        },
        Timer {
            clock: "ITIMER_VIRTUAL".into(),
            interval: span(3, 250_000_000),
            initial: span(600, 1_000),
            ..call("setitimer")
        },
    ]
}

pub(crate) fn every_timer_call_is_decoded_and_what_cannot_be_read_is_marked() {
    let filter = filter("Timer", &["@timer"]);
    let run = Instance::run(&["--filters", filter.path(), "-o", "json"]);
    let made = generate(&["timers"]);
    let ended = run.end();
    ended.ledger().assert_complete();

    let events = ended.events();
    let decoded: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| {
            let policy = event
                .policy
                .as_ref()
                .map(|policy| (policy.filter.as_str(), policy.rule));
            let mut timer = timer(event)?.clone();
            assert_eq!(policy, Some(("kernel-test", 1)), "{event:?}");
            assert!(timer.number.take().is_some(), "{event:?}");
            Some(timer)
        })
        .collect();
    let number = |field| i32::try_from(made.number(field)).unwrap();
    assert_eq!(decoded, script(number("timer"), number("descriptor")));
}
