//! Observers of this machine: they see what `run` prints, and every instance serves its own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use ebpf_hello_proto::v1::Event;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    events::{exec, exit, of_process, process, syscall},
    executable,
    filter::{UNUSED_CALL, filter},
    generator::generate,
    instance::Instance,
    stream::Stream,
};

/// A running `observe -f`; killed when a test fails before its end.
struct Observer {
    child: Child,
    stdout: Option<Stream>,
    stderr: Stream,
}

/// A directory that is `/run/ebpf-hello` for the instances of a test: others may run on this machine.
struct Sockets(TempDir);

pub(crate) fn an_observer_sees_what_run_prints_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/observer.sock", directory.path().display());
    let filter = filter("Trace", &[UNUSED_CALL]);
    let run = Instance::run(&["--filters", filter.path(), "-o", "json", "--listen", &url]);
    let observer = Observer::follow(&url);
    let calls = generate(&["call", UNUSED_CALL, "500"]);
    let burst = generate(&["burst", "20", "--", "/bin/true"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let (printed, observed) = (ended.events(), observer.end());

    // It came later, and then missed nothing.
    let first = printed.iter().position(|event| *event == observed[0]);
    let first = first.expect("what is observed is printed");
    assert_eq!(observed.len(), printed.len() - first);
    for (observed, printed) in observed.iter().zip(&printed[first..]) {
        assert_eq!(observed, printed);
    }
    let own = of_process(&observed, calls.pid());
    let made = own.iter().filter_map(|event| syscall(event)).count();
    assert_eq!(made as u64, calls.of(UNUSED_CALL));
    let execs = observed
        .iter()
        .filter(|event| process(event).parent_pid == burst.pid() && exec(event).is_some());
    assert_eq!(execs.count(), 20);
}

pub(crate) fn a_second_instance_serves_its_observers_beside_the_first() {
    let sockets = Sockets::make();
    let filter = filter("Trace", &[UNUSED_CALL]);
    let first = sockets.run(&["--process-events", "off", "--filters", filter.path()]);
    let second = sockets.run(&["--default", "ignore"]);
    let names = [
        "observer.sock".to_owned(),
        format!("{}.observer.sock", second.pid()),
    ];
    for (instance, name) in [(&first, &names[0]), (&second, &names[1])] {
        instance.await_log("where it serves", |line| {
            line.contains("serving observers") && line.contains(&format!("/run/ebpf-hello/{name}"))
        });
    }
    let [of_first, of_second] = [0, 1].map(|at| Observer::follow(&sockets.url(&names[at])));
    let made = generate(&["call", UNUSED_CALL, "100"]);
    first.end();
    let of_first = of_first.end();
    assert!(!sockets.has(&names[0]), "it goes with its instance");
    // The other's end is nothing to it.
    let later = generate(&["burst", "1", "--", "/bin/true"]);
    second.end();
    let of_second = of_second.end();
    assert!(!sockets.has(&names[1]), "it goes with its instance");

    let calls = |events: &[Event]| events.iter().filter_map(syscall).count();
    assert_eq!(calls(&of_first), of_first.len(), "of its own instance");
    let own = of_process(&of_first, made.pid());
    assert_eq!(own.len() as u64, made.of(UNUSED_CALL));
    assert_eq!(calls(&of_second), 0, "of its own instance");
    for pid in [made.pid(), later.processes()[0].pid] {
        let own = of_process(&of_second, pid);
        assert_eq!(own.iter().filter(|event| exit(event).is_some()).count(), 1);
    }
}

pub(crate) fn an_instance_after_a_killed_one_serves_where_observers_look() {
    let sockets = Sockets::make();
    let killed = sockets.run(&["--default", "ignore"]);
    killed.signal(Signal::KILL);
    killed.await_end();
    assert!(sockets.has("observer.sock"), "nobody is left to remove it");
    let run = sockets.run(&["--default", "ignore"]);
    let observer = Observer::follow(&sockets.url("observer.sock"));
    let made = generate(&["burst", "1", "--", "/bin/true"]);
    run.end();
    let events = observer.end();
    let own = of_process(&events, made.processes()[0].pid);
    assert_eq!(own.iter().filter(|event| exec(event).is_some()).count(), 1);
}

// === impl Observer ===

impl Observer {
    /// Follows a server, and waits until it has answered.
    fn follow(url: &str) -> Observer {
        let mut child = Command::new(executable::product())
            .args(["observe", "-f", "-o", "json", "--server", url])
            .env_remove("EBPF_HELLO_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let observer = Observer {
            stdout: child.stdout.take().map(Stream::read),
            stderr: Stream::read(child.stderr.take().unwrap()),
            child,
        };
        observer
            .stderr
            .await_line("the server's hello", |line| line.contains("only node"));
        observer
    }

    /// What it printed until its server ended, which is waited for.
    fn end(mut self) -> Vec<Event> {
        self.stderr
            .await_line("the server's end", |line| line.contains("interrupted"));
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let lines = self.stdout.take().unwrap().into_lines();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        lines
            .iter()
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Sockets ===

impl Sockets {
    fn make() -> Sockets {
        Sockets(tempfile::tempdir().unwrap())
    }

    /// Starts `run` with this directory as its `/run/ebpf-hello`.
    fn run(&self, arguments: &[&str]) -> Instance {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "/bin/sh", "-c"])
            .arg(
                "mount -t tmpfs tmpfs /run && mkdir /run/ebpf-hello && \
                 mount --bind \"$1\" /run/ebpf-hello && shift && exec \"$0\" run \"$@\"",
            )
            .arg(executable::product())
            .arg(self.0.path())
            .args(arguments)
            .stdout(Stdio::null());
        Instance::start(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("unix://{}", self.path(name).display())
    }

    fn has(&self, name: &str) -> bool {
        fs::exists(self.path(name)).unwrap()
    }
}
