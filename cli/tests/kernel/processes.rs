//! Processes: each exec and each end exactly once, whoever of a process's threads it was.

use std::{
    collections::HashMap,
    io::Read as _,
    process::{Command, Stdio},
};

use ebpf_hello_proto::v1::{Event, ExecSource, Exit};

use crate::{
    events::{any_exec, exec, exit, fork, of_process, pid_of, process},
    executable,
    generator::{MadeProcess, generate},
    instance::Instance,
};

/// Bytes of arguments that an exec event shows (`ebpf/programs`, and the proto's `Exec.argv`).
const ARGV: usize = 4096;

/// Process events alone: `sys_enter` stays detached.
fn observe_processes() -> Instance {
    Instance::run(&["--default", "ignore", "-o", "json", "--duration", "120s"])
}

pub(crate) fn two_thousand_execs_are_reported_once_each_with_pid_argv_uid_and_code() {
    const USER: u32 = 54_321;
    let run = observe_processes();
    let uid = USER.to_string();
    let made = generate(&["burst", "2000", "--uid", &uid, "--", "/bin/true", "burst"]);
    let ended = run.end();
    ended.ledger().assert_complete();

    let events = ended.events();
    let of_burst: Vec<_> = events
        .iter()
        .filter(|event| process(event).parent_pid == made.pid())
        .collect();
    let execs: Vec<_> = of_burst
        .iter()
        .filter(|event| exec(event).is_some_and(|exec| exec.filename == "/bin/true"))
        .collect();
    assert_eq!(execs.len(), 2000, "exec events of the burst");
    let mut by_pid: HashMap<u32, &Event> = HashMap::new();
    for event in &execs {
        assert!(
            by_pid.insert(pid_of(event), event).is_none(),
            "twice: {event:?}"
        );
    }
    let mut exits: HashMap<u32, Vec<&Exit>> = HashMap::new();
    for event in &of_burst {
        if let Some(exit) = exit(event) {
            exits.entry(pid_of(event)).or_default().push(exit);
        }
    }
    for child in made.processes() {
        let event = by_pid[&child.pid];
        let exec = exec(event).unwrap();
        assert_eq!(exec.argv, ["/bin/true", "burst", &child.label], "{event:?}");
        assert!(!exec.argv_truncated, "{event:?}");
        let process = process(event);
        assert_eq!(
            (process.uid, process.gid),
            (Some(USER), Some(USER)),
            "{event:?}"
        );
        assert_eq!(
            (process.tid, process.comm.as_str()),
            (child.pid, "true"),
            "{event:?}"
        );
        assert_ends_as_waited(&exits[&child.pid], &child);
    }
}

/// Exactly one end, with the status that wait() saw.
fn assert_ends_as_waited(exits: &[&Exit], child: &MadeProcess) {
    let [exit] = exits else {
        panic!("{} ends of {child:?}: {exits:?}", exits.len());
    };
    match child.signal {
        Some(9) => assert_eq!(
            (exit.code, exit.signal.as_str()),
            (None, "SIGKILL"),
            "{child:?}"
        ),
        Some(_) => panic!("nobody sent this: {child:?}"),
        None => assert_eq!(
            (exit.code, exit.signal.as_str()),
            (child.code, ""),
            "{child:?}"
        ),
    }
    assert!(exit.lifetime.is_some(), "{child:?}: {exit:?}");
}

pub(crate) fn processes_of_sixteen_threads_end_once_however_they_end() {
    let run = observe_processes();
    let made = generate(&["processes", "200", "16"]);
    let ended = run.end();
    ended.ledger().assert_complete();

    let events = ended.events();
    let children = made.processes();
    assert_eq!(children.len(), 200);
    for child in &children {
        let own = of_process(&events, child.pid);
        let execs: Vec<_> = own
            .iter()
            .filter_map(|event| Some((*event, exec(event)?)))
            .collect();
        let (last, rest) = execs.split_last().unwrap();
        assert_eq!(
            process(last.0).tid,
            child.pid,
            "the leader's number is the exec's: {child:?}"
        );
        if child.label == "exec" {
            let code = child.code.unwrap().to_string();
            assert_eq!(
                last.1.argv,
                ["ebpf-hello-generator", "exit", &code],
                "{child:?}"
            );
            assert_eq!(
                rest.len(),
                1,
                "one exec by the generator, one by a thread: {execs:?}"
            );
            assert_ne!(
                process(rest[0].0).exec_id,
                process(last.0).exec_id,
                "{execs:?}"
            );
        } else {
            assert_eq!(
                last.1.argv[1..4],
                ["process", "16", &child.label],
                "{child:?}"
            );
            assert_eq!(rest.len(), 0, "{execs:?}");
        }
        let exits: Vec<_> = own.iter().filter_map(|event| exit(event)).collect();
        assert_ends_as_waited(&exits, child);
        let end = own.iter().find(|event| exit(event).is_some()).unwrap();
        assert_eq!(process(end).exec_id, process(last.0).exec_id, "{child:?}");
    }
    for ending in ["leader-first", "group", "kill", "exec"] {
        let count = children
            .iter()
            .filter(|child| child.label == ending)
            .count();
        assert_eq!(count, 50, "{ending}");
    }
    let mut forked: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| Some(fork(event)?.child_pid))
        .collect();
    let mut pids: Vec<_> = children.iter().map(|child| child.pid).collect();
    forked.sort_unstable();
    pids.sort_unstable();
    assert_eq!(
        forked, pids,
        "one fork event for each process, none for a thread"
    );
}

pub(crate) fn arguments_past_the_bound_are_cut_and_marked() {
    let program = "/bin/true";
    let before = program.len() + 1;
    // The last ones end, with their NUL, exactly at the bound and one past it.
    let lengths = [10_000, ARGV - before - 1, ARGV - before];
    let run = observe_processes();
    let children = lengths.map(|length| {
        let mut child = Command::new(program)
            .arg("x".repeat(length))
            .spawn()
            .unwrap();
        child.wait().unwrap();
        child.id()
    });
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    for (pid, length) in children.into_iter().zip(lengths) {
        let own = of_process(&events, pid);
        let execs: Vec<_> = own.iter().filter_map(|event| exec(event)).collect();
        let [exec] = execs[..] else {
            panic!("{} execs of one process: {execs:?}", execs.len());
        };
        let fits = before + length < ARGV;
        assert_eq!(exec.argv_truncated, !fits, "{length} bytes");
        assert_eq!(
            exec.argv.len(),
            2,
            "the environment follows and is nobody's business"
        );
        assert_eq!(exec.argv[0], program);
        let shown = if fits { length } else { ARGV - before };
        assert_eq!(exec.argv[1], "x".repeat(shown), "{length} bytes");
    }
}

pub(crate) fn a_process_older_than_the_instance_is_told_once_and_keeps_its_identity() {
    let mut older = Command::new(executable::generator())
        .arg("wait")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let run = observe_processes();
    drop(older.stdin.take());
    // It has exec'ed for sure: its own end closes the pipe.
    older
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut Vec::new())
        .unwrap();
    older.wait().unwrap();
    let ended = run.end();
    ended.ledger().assert_complete();

    let events = ended.events();
    let own = of_process(&events, older.id());
    let execs: Vec<_> = own
        .iter()
        .filter_map(|event| Some((event, any_exec(event)?)))
        .collect();
    let [(told, exec)] = execs[..] else {
        panic!("{} execs of one process: {execs:?}", execs.len());
    };
    assert_eq!(exec.source(), ExecSource::Procfs);
    assert_eq!(exec.argv.get(1).map(String::as_str), Some("wait"));
    assert_eq!(told.sequence, 0, "no CPU recorded it");
    let ends: Vec<_> = own.iter().filter(|event| exit(event).is_some()).collect();
    let [end] = ends[..] else {
        panic!("{} ends of one process: {ends:?}", ends.len());
    };
    assert_eq!(exit(end).unwrap().code, Some(0));
    assert_eq!(process(end).exec_id, process(told).exec_id);
    assert_eq!(process(end).binary, process(told).binary);
}
