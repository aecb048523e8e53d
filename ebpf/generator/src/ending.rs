//! A process of several threads that ends in a chosen way.

use std::{
    io::Write as _, os::unix::process::CommandExt as _, process::Command, sync::Barrier, thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

/// How a process of several threads ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ending {
    /// The leader exits first, with the code; the others follow one by one, with one more. Which of
    /// the two wait() sees is the kernel's business: the last one's where kernel/exit.c has
    /// `synchronize_group_exit`, the leader's in older ones.
    LeaderFirst,
    /// The leader exits first, with another code; then a thread ends all with the code.
    Group,
    /// The leader exits first; the rest say so on stdout and wait to be killed.
    Kill,
    /// Another thread than the leader executes a program, which exits with the code.
    Exec,
}

/// A stack that is enough to do nothing on: there are thousands of them.
const STACK: usize = 64 << 10;
/// How often the leader is looked at.
const LOOK: Duration = Duration::from_millis(1);

// === impl Ending ===

impl Ending {
    pub(crate) const ALL: [Ending; 4] = [
        Ending::LeaderFirst,
        Ending::Group,
        Ending::Kill,
        Ending::Exec,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Ending::LeaderFirst => "leader-first",
            Ending::Group => "group",
            Ending::Kill => "kill",
            Ending::Exec => "exec",
        }
    }
}

/// Makes the threads and ends. Returns only on failure.
pub(crate) fn end(threads: u32, ending: Ending, code: u8) -> anyhow::Result<Value> {
    let code = i32::from(code);
    let others = threads - 1;
    // Twice: all are there, and the end may begin.
    let together: &'static Barrier = Box::leak(Box::new(Barrier::new(threads as usize)));
    let begin: &'static Barrier = Box::leak(Box::new(Barrier::new(others as usize)));
    for index in 0..others {
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                together.wait();
                follow(index == 0, ending, code, begin)
            })
            .context("cannot start a thread")?;
    }
    together.wait();
    match ending {
        Ending::LeaderFirst => exit_thread(code),
        Ending::Group | Ending::Kill => exit_thread(code + 1),
        Ending::Exec => loop {
            thread::park();
        },
    }
}

/// What every thread but the leader does.
fn follow(first: bool, ending: Ending, code: i32, begin: &Barrier) -> ! {
    if first && ending != Ending::Exec {
        wait_until_leader_is_gone();
    }
    begin.wait();
    match ending {
        Ending::LeaderFirst => exit_thread(code + 1),
        Ending::Group if first => std::process::exit(code),
        Ending::Kill if first => {
            // Whoever waits for the line and does not get it says so.
            let _ = writeln!(std::io::stdout(), "ready");
        }
        Ending::Exec if first => {
            let error = Command::new("/proc/self/exe")
                .arg0("ebpf-hello-generator")
                .args(["exit", &code.to_string()])
                .exec();
            eprintln!("ebpf-hello-generator: cannot execute itself: {error}");
            std::process::exit(255);
        }
        _ => {}
    }
    loop {
        thread::park();
    }
}

/// A leader that has exited is a zombie until its threads are gone too.
fn wait_until_leader_is_gone() {
    let path = format!("/proc/self/task/{}/stat", std::process::id());
    loop {
        // After the name, which is in parentheses and can hold anything, comes the state.
        let gone = std::fs::read_to_string(&path)
            .ok()
            .and_then(|stat| {
                stat.rsplit_once(") ")
                    .map(|(_, rest)| rest.starts_with('Z'))
            })
            .unwrap_or(false);
        if gone {
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Ends this thread alone, with a status of its own: exit(2), not exit(3).
fn exit_thread(code: i32) -> ! {
    loop {
        // SAFETY: the thread's stack stays; what it holds is never looked at again.
        unsafe { libc::syscall(libc::SYS_exit, code) };
    }
}
