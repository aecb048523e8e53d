//! What happened, in words.

use std::time::Duration;

use ebpf_hello_proto::{
    Duration as Span,
    v1::{
        Counters, Event, Exec, ExecSource, Exit, Identity, Loss, SuppressedEvents, Syscall, Timer,
        event::Kind,
    },
};

use super::{
    calls,
    escape::{argument, human},
};

/// What an event says; `wide` adds arguments, working directory and the like.
pub(crate) fn what(event: &Event, wide: bool) -> String {
    let by_default = event.policy.as_ref().is_none_or(|policy| policy.rule == 0);
    match &event.kind {
        Some(Kind::Exec(exec)) => exec_words(exec, wide),
        Some(Kind::Exit(exit)) => exit_words(exit),
        Some(Kind::Fork(fork)) => format!("fork {}", fork.child_pid),
        Some(Kind::Syscall(call)) => syscall_words(call, by_default, wide),
        Some(Kind::Timer(timer)) => timer_words(timer),
        Some(Kind::Counters(counters)) if !counters.suppressed.is_empty() => {
            suppressed_words(&counters.suppressed)
        }
        Some(Kind::Path(path)) => calls::path(path),
        Some(Kind::Sock(sock)) => calls::sock(sock),
        Some(Kind::Counters(counters)) => counters_words(counters),
        Some(Kind::Loss(loss)) => loss_words(loss),
        Some(Kind::Identity(identity)) => identity_words(event, identity),
        None => "an event of a kind this version does not know".to_owned(),
    }
}

fn suppressed_words(rows: &[SuppressedEvents]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| format!("{} of {}#{}", row.since_last, human(&row.filter), row.rule))
        .collect();
    format!("left out {}", rows.join(", "))
}

fn exec_words(exec: &Exec, wide: bool) -> String {
    let verb = if exec.source() == ExecSource::Procfs {
        "running"
    } else {
        "exec"
    };
    let mut words = format!("{verb} {}", argument(&exec.filename));
    for text in exec.argv.iter().skip(1) {
        words.push(' ');
        words.push_str(&argument(text));
    }
    if exec.argv_truncated {
        words.push_str(" …");
    }
    if exec.argv_unreadable {
        words.push_str(" (arguments unreadable)");
    }
    if exec.memfd {
        words.push_str(" (memfd)");
    } else if exec.deleted {
        words.push_str(" (deleted)");
    }
    words.push_str(&calls::outcome(
        exec.errno.map(|errno| -i64::from(errno)),
        false,
    ));
    if wide && !exec.cwd.is_empty() {
        words.push_str(&format!(" in {}", argument(&exec.cwd)));
    }
    if wide && !exec.previous_comm.is_empty() {
        words.push_str(&format!(" was {}", human(&exec.previous_comm)));
    }
    words
}

fn exit_words(exit: &Exit) -> String {
    let end = match exit.code {
        Some(code) => code.to_string(),
        None => human(&exit.signal),
    };
    let dumped = if exit.core_dumped {
        " (core dumped)"
    } else {
        ""
    };
    let after = exit
        .lifetime
        .map(|lifetime| format!(" after {}", span(lifetime)))
        .unwrap_or_default();
    format!("exit {end}{dumped}{after}")
}

fn syscall_words(call: &Syscall, by_default: bool, wide: bool) -> String {
    let another = if by_default { "another syscall " } else { "" };
    let name = human(&call.name);
    let outcome = calls::outcome(call.return_value, call.denied);
    if !wide {
        return format!("{another}{name}{outcome}");
    }
    let arguments: Vec<_> = call
        .args
        .iter()
        .map(|argument| format!("{argument:#x}"))
        .collect();
    format!("{another}{name}({}){outcome}", arguments.join(", "))
}

fn counters_words(counters: &Counters) -> String {
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
    let execs = sum(&mut counters.execs.iter().map(|row| row.count));
    let calls = sum(&mut counters.syscalls.iter().map(|row| row.count));
    format!("counted {execs} exec attempts and {calls} calls so far")
}

/// Why and where events are missing, loudly: it stands where they would have been.
fn loss_words(loss: &Loss) -> String {
    let count = match loss.count {
        0 => "an unknown number of".to_owned(),
        count => count.to_string(),
    };
    let (stage, reason) = (loss.stage().label(), loss.reason().label());
    let mut words = format!("LOST {count} events: {stage} {reason}");
    if !loss.node.is_empty() {
        words.push_str(&format!(" of {}", human(&loss.node)));
    }
    if loss.first_sequence != 0 {
        let (first, last) = (loss.first_sequence, loss.last_sequence);
        words.push_str(&format!(" (sequence {first} to {last})"));
    }
    words
}

fn identity_words(event: &Event, identity: &Identity) -> String {
    let whose = match &event.pod {
        Some(pod) => format!("{}/{}", human(&pod.namespace), human(&pod.name)),
        None => "no pod".to_owned(),
    };
    format!(
        "cgroup {} is of {whose}: {} events went before",
        event.cgroup_id, identity.unresolved_events
    )
}

fn timer_words(timer: &Timer) -> String {
    let mut words = human(&timer.name);
    if !timer.clock.is_empty() {
        words.push_str(&format!(" {}", human(&timer.clock)));
    }
    if let Some(id) = timer.timer_id {
        words.push_str(&format!(" timer {id}"));
    }
    if let Some(fd) = timer.fd {
        words.push_str(&format!(" fd {fd}"));
    }
    if timer.unreadable {
        words.push_str(" (setting unreadable)");
    }
    if timer.out_of_range {
        words.push_str(" (setting out of range)");
    }
    match (timer.initial, timer.interval) {
        (Some(initial), Some(interval)) if is_zero(initial) && is_zero(interval) => {
            words.push_str(" disarm")
        }
        (initial, interval) => {
            if let Some(initial) = initial {
                let when = if timer.absolute { "at" } else { "in" };
                words.push_str(&format!(" {when} {}", span(initial)));
            }
            if let Some(interval) = interval.filter(|interval| !is_zero(*interval)) {
                words.push_str(&format!(" every {}", span(interval)));
            }
        }
    }
    words.push_str(&calls::outcome(timer.return_value, timer.denied));
    words
}

fn is_zero(span: Span) -> bool {
    span.seconds == 0 && span.nanos == 0
}

/// A span with its two largest units: `12ms`, `1s 500ms`, `2h 3m`.
fn span(span: Span) -> String {
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(span.seconds), u32::try_from(span.nanos)) else {
        return format!(
            "-{}",
            self::span(Span {
                seconds: -span.seconds,
                nanos: -span.nanos
            })
        );
    };
    // Past a second, what is below a millisecond is noise; below it, what is below a microsecond.
    let nanos = match seconds {
        0 if nanos < 1_000 => nanos,
        0 if nanos < 1_000_000 => nanos / 1_000 * 1_000,
        0 => nanos / 1_000_000 * 1_000_000,
        1..60 => nanos / 1_000_000 * 1_000_000,
        _ => 0,
    };
    let text = humantime::format_duration(Duration::new(seconds, nanos)).to_string();
    let units: Vec<_> = text.split(' ').take(2).collect();
    units.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Counters, Path, Policy, event::Kind};

    fn words(kind: Kind, rule: u32) -> String {
        let event = Event {
            policy: Some(Policy {
                rule,
                ..Policy::default()
            }),
            kind: Some(kind),
            ..Event::default()
        };
        what(&event, false)
    }

    #[test]
    fn an_exec_reads_like_a_command_line() {
        let exec = Exec {
            filename: "/usr/bin/ls".into(),
            argv: vec!["ls".into(), "-la".into(), "my file".into()],
            ..Exec::default()
        };
        assert_eq!(
            words(Kind::Exec(exec.clone()), 0),
            "exec /usr/bin/ls -la 'my file'"
        );
        let older = Exec {
            source: ExecSource::Procfs.into(),
            argv_truncated: true,
            ..exec
        };
        assert_eq!(
            words(Kind::Exec(older), 0),
            "running /usr/bin/ls -la 'my file' …"
        );
    }

    #[test]
    fn an_end_tells_code_or_signal_and_lifetime() {
        let lifetime = Some(Span::from_nanos(12_345_678));
        let exit = Exit {
            code: Some(0),
            lifetime,
            ..Exit::default()
        };
        assert_eq!(words(Kind::Exit(exit), 0), "exit 0 after 12ms");
        let killed = Exit {
            signal: "SIGKILL".into(),
            core_dumped: true,
            ..Exit::default()
        };
        assert_eq!(words(Kind::Exit(killed), 0), "exit SIGKILL (core dumped)");
    }

    #[test]
    fn a_call_that_no_rule_names_is_another_syscall() {
        let call = Syscall {
            name: "openat".into(),
            ..Syscall::default()
        };
        assert_eq!(
            words(Kind::Syscall(call.clone()), 0),
            "another syscall openat"
        );
        assert_eq!(words(Kind::Syscall(call), 2), "openat");
    }

    #[test]
    fn a_path_call_tells_every_path_it_has() {
        let path = Path {
            name: "renameat2".into(),
            path: "a b".into(),
            new_path: "/tmp/c".into(),
            return_value: Some(-2),
            ..Path::default()
        };
        assert_eq!(
            words(Kind::Path(path), 1),
            "renameat2 'a b' /tmp/c = -2 (No such file or directory)"
        );
        let unread = Path {
            name: "openat".into(),
            unreadable: true,
            denied: true,
            ..Path::default()
        };
        assert_eq!(
            words(Kind::Path(unread), 1),
            "openat (path unreadable) (refused by seccomp)"
        );
    }

    #[test]
    fn a_timer_tells_what_it_does() {
        let span = |millis: u64| Some(Span::from_nanos(millis * 1_000_000));
        let timer = Timer {
            name: "timer_create".into(),
            clock: "CLOCK_MONOTONIC".into(),
            ..Timer::default()
        };
        assert_eq!(words(Kind::Timer(timer), 1), "timer_create CLOCK_MONOTONIC");
        let set = Timer {
            name: "timer_settime".into(),
            timer_id: Some(3),
            initial: span(500),
            interval: span(1500),
            ..Timer::default()
        };
        assert_eq!(
            words(Kind::Timer(set.clone()), 1),
            "timer_settime timer 3 in 500ms every 1s 500ms"
        );
        let disarm = Timer {
            initial: span(0),
            interval: span(0),
            ..set
        };
        assert_eq!(
            words(Kind::Timer(disarm), 1),
            "timer_settime timer 3 disarm"
        );
    }

    #[test]
    fn what_limits_left_out_is_told_by_rule() {
        let row = |rule, since_last| SuppressedEvents {
            filter: "shop/cart".into(),
            rule,
            count: 100,
            since_last,
            ..SuppressedEvents::default()
        };
        let counters = Counters {
            suppressed: vec![row(1, 9), row(3, 90)],
            ..Counters::default()
        };
        assert_eq!(
            words(Kind::Counters(counters), 0),
            "left out 9 of shop/cart#1, 90 of shop/cart#3"
        );
    }

    #[test]
    fn a_loss_tells_how_many_where_and_why() {
        let mut loss = Loss {
            count: 12,
            node: "n1".into(),
            first_sequence: 5,
            last_sequence: 16,
            ..Loss::default()
        };
        loss.set_stage(ebpf_hello_proto::v1::LossStage::Subscriber);
        loss.set_reason(ebpf_hello_proto::v1::LossReason::QueueFull);
        assert_eq!(
            words(Kind::Loss(loss.clone()), 0),
            "LOST 12 events: subscriber queue_full of n1 (sequence 5 to 16)"
        );
        loss.count = 0;
        assert!(words(Kind::Loss(loss), 0).starts_with("LOST an unknown number of events"));
    }

    #[test]
    fn a_span_keeps_two_units() {
        let show = |nanos| span(Span::from_nanos(nanos));
        assert_eq!(show(999), "999ns");
        assert_eq!(show(12_345), "12us");
        assert_eq!(show(59_999_999_999), "59s 999ms");
        assert_eq!(show(3_723_000_000_000), "1h 2m");
        assert_eq!(show(0), "0s");
    }
}
