//! Every fault of an agent that there is a way to cause, with what its `/healthz` and `/readyz` then say: unready is
//! who does not do the work, unhealthy whom only a restart can mend. All else is a metric or a line in the log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    agent::{Agent, Collector},
    executable,
    filter::{FilterFile, UNUSED_CALL, filter},
    generator::{command, generate},
    monitor::free_address,
};

struct Fault {
    name: &'static str,
    healthz: u16,
    readyz: u16,
    /// In the answer of `/readyz`, or of `/healthz` where that fails.
    says: &'static str,
    /// Starts an agent, causes the fault, and returns when the agent knows of it. What is returned beside the agent
    /// keeps the fault there.
    cause: fn(&Place) -> (Agent, Box<dyn std::any::Any>),
    /// What else tells of it.
    told: fn(&Agent),
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "none",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| (place.agent(&[]), Box::new(())),
        told: |agent| {
            agent.await_metric("ebpf_hello_publisher_connected", |it| it == 1.0);
            agent.await_metric("ebpf_hello_spool_failed", |it| it == 0.0);
            agent.await_metric("ebpf_hello_invalid_filters", |it| it == 0.0);
        },
    },
    Fault {
        name: "no collector",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let nobody = format!("http://{}", free_address());
            (place.agent_of(&nobody, &[]), Box::new(()))
        },
        told: |agent| {
            agent.await_metric("ebpf_hello_publisher_connected", |it| it == 0.0);
            agent.await_log("why", |line| line.contains("not publishing"));
        },
    },
    Fault {
        name: "a collector of another authority",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let (ours, url) = place.secure_collector("ours");
            let (other, _) = place.secure_collector("other");
            let agent = place.enrolling(&url, "other/ca.crt", "token");
            (agent, Box::new((ours, other)))
        },
        told: |agent| {
            agent.await_metric("ebpf_hello_publisher_connected", |it| it == 0.0);
            agent.await_log("why", |line| line.contains("certificate"));
        },
    },
    Fault {
        name: "a token that the collector does not know",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let (collector, url) = place.secure_collector("ours");
            let agent = place.enrolling(&url, "ours/ca.crt", "unknown-token-0123456789");
            (agent, Box::new(collector))
        },
        told: |agent| {
            agent.await_metric("ebpf_hello_publisher_connected", |it| it == 0.0);
            agent.await_log("why", |line| line.contains("gives node"));
        },
    },
    Fault {
        name: "a spool that cannot be made",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let file = place.path("file");
            fs::write(&file, "a file").unwrap();
            (
                place.agent(&["--spool", file.to_str().unwrap()]),
                Box::new(()),
            )
        },
        told: |agent| agent.await_metric("ebpf_hello_spool_failed", |it| it == 1.0),
    },
    Fault {
        name: "no room on the spool's disk",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let disk = SmallDisk::mount(place.path("disk"), "1m");
            let nobody = format!("http://{}", free_address());
            let spool = disk.0.join("spool");
            let agent = place.agent_of(&nobody, &["--spool", spool.to_str().unwrap()]);
            generate(&["call", UNUSED_CALL, "60000", "--rate", "30000"]);
            (agent, Box::new(disk))
        },
        told: |agent| {
            agent.await_metric("ebpf_hello_spool_failed", |it| it == 1.0);
            agent.await_log("why", |line| line.contains("No space left on device"));
        },
    },
    Fault {
        name: "a state directory that cannot be written",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let file = place.path("state");
            fs::write(&file, "a file").unwrap();
            (place.agent(&["--spool", "none"]), Box::new(()))
        },
        told: |agent| {
            agent.await_log("why", |line| {
                line.contains("the number of this run is the clock's")
            });
        },
    },
    Fault {
        name: "a filter that became invalid",
        healthz: 200,
        readyz: 200,
        says: "ok",
        cause: |place| {
            let agent = place.agent(&[]);
            agent.await_answer("/readyz", 200, "ok");
            fs::write(
                Path::new(place.filters.path()).join("filter.yaml"),
                "kind: Nonsense\n",
            )
            .unwrap();
            agent.await_log("the mistake", |line| {
                line.contains("the last good ones stay")
            });
            (agent, Box::new(()))
        },
        told: |agent| {
            agent.await_metric("ebpf_hello_invalid_filters", |it| it == 1.0);
            let delivered = "ebpf_hello_events_delivered_total{handler=\"trace\"}";
            let before = agent.metric(delivered);
            generate(&["call", UNUSED_CALL, "10"]);
            agent.await_metric(delivered, |it| it == before + 10.0);
        },
    },
    Fault {
        name: "a reader that is stuck",
        healthz: 200,
        readyz: 503,
        says: "no exec canary came through within 5 s",
        cause: |place| stuck(place.agent(&[]), "ring-reader"),
        told: |_| {},
    },
    Fault {
        name: "a publisher that is stuck",
        healthz: 200,
        readyz: 503,
        says: "no exec canary came through within 5 s",
        cause: |place| stuck(place.agent(&[]), "publisher"),
        told: |_| {},
    },
    Fault {
        name: "ring buffers that are full",
        healthz: 200,
        readyz: 503,
        says: "no system call canary came through within 5 s",
        cause: |place| {
            let fault = stuck(place.agent(&["--ring-size", "64KiB"]), "ring-reader");
            generate(&["call", UNUSED_CALL, "10000"]);
            fault
        },
        told: |agent| {
            let lost = "ebpf_hello_events_lost_total{handler=\"trace\",stage=\"kernel\",reason=\"ringbuf_full\"}";
            assert!(agent.metric(lost) > 1000.0);
        },
    },
    #[cfg(target_arch = "x86_64")]
    Fault {
        name: "a reader that has ended",
        healthz: 503,
        readyz: 503,
        says: "the thread that reads the ring buffers has ended",
        cause: |place| {
            let agent = place.agent(&[]);
            agent.await_answer("/readyz", 200, "ok");
            let reader = agent.thread("ring-reader").to_string();
            let epoll = readers_epoll(agent.pid()).to_string();
            // Its epoll becomes /dev/null.
            generate(&["replace", &reader, "0", &epoll]);
            (agent, Box::new(()))
        },
        told: |_| {},
    },
];

/// A thread of an agent that was ready stands still.
fn stuck(agent: Agent, thread: &str) -> (Agent, Box<dyn std::any::Any>) {
    agent.await_answer("/readyz", 200, "ok");
    let held = command(&["hold", &agent.thread(thread).to_string()]);
    (agent, Box::new(held))
}

pub(crate) fn each_fault_has_its_healthz_and_readyz() {
    for fault in FAULTS {
        println!("fault: {}", fault.name);
        let place = Place::new();
        let (agent, kept) = (fault.cause)(&place);
        agent.await_answer("/readyz", fault.readyz, fault.says);
        agent.await_answer(
            "/healthz",
            fault.healthz,
            if fault.healthz == 200 {
                "ok"
            } else {
                fault.says
            },
        );
        (fault.told)(&agent);
        // It stays so while the fault does.
        let (ready, healthy) = (agent.get("/readyz"), agent.get("/healthz"));
        assert_eq!(
            (ready.status, healthy.status),
            (fault.readyz, fault.healthz),
            "{}: {ready:?} {healthy:?}",
            fault.name
        );
        drop(kept);
    }
}

pub(crate) fn a_reader_that_goes_on_makes_the_agent_ready_again() {
    let place = Place::new();
    let agent = place.agent(&[]);
    agent.await_answer("/readyz", 200, "ok");
    let held = command(&["hold", &agent.thread("ring-reader").to_string()]);
    agent.await_answer("/readyz", 503, "canary");
    held.end();
    agent.await_answer("/readyz", 200, "ok");
    let (_, ledger) = agent.end();
    ledger.assert_balanced();
}

pub(crate) fn a_spool_without_disk_loses_what_finds_no_room_and_says_exactly_how_much() {
    let place = Place::new();
    let disk = SmallDisk::mount(place.path("disk"), "1m");
    let socket = free_address();
    let spool = disk.0.join("spool");
    let agent = place.agent_of(
        &format!("http://{socket}"),
        &[
            "--spool",
            spool.to_str().unwrap(),
            "--process-events",
            "off",
        ],
    );
    // More than memory and the disk have room for.
    let made = generate(&["call", UNUSED_CALL, "600000", "--rate", "100000"]).of(UNUSED_CALL);
    agent.await_metric("ebpf_hello_spool_failed", |it| it == 1.0);
    let collector = Command::new(executable::product())
        .args(["collector", "--metrics-addr", "127.0.0.1:0", "--listen"])
        .arg(socket.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _collector = Killed(collector);
    agent.await_metric("ebpf_hello_publisher_connected", |it| it == 1.0);
    let settled = |agent: &Agent| {
        let delivered = agent.metric("ebpf_hello_events_delivered_total{handler=\"trace\"}");
        let text = agent.get("/metrics").text;
        let lost: f64 = text
            .lines()
            .filter(|line| line.starts_with("ebpf_hello_events_lost_total{handler=\"trace\""))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum();
        (delivered, lost)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (delivered, lost) = settled(&agent);
        if delivered + lost == made as f64 {
            assert!(lost > 0.0 && delivered > 0.0, "{delivered} {lost}");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{delivered} delivered and {lost} lost of {made}"
        );
        thread::sleep(Duration::from_millis(100));
    }
    let (_, ledger) = agent.end();
    ledger.assert_balanced();
}

/// What a fault has at hand: a collector that is well, a filter, a directory.
struct Place {
    directory: TempDir,
    collector: Collector,
    filters: FilterFile,
}

/// A file system of its own that is soon full.
struct SmallDisk(PathBuf);

/// A process that is killed when this is dropped.
struct Killed(Child);

// === impl Place ===

impl Place {
    fn new() -> Place {
        Place {
            directory: tempfile::tempdir().unwrap(),
            collector: Collector::start(),
            filters: filter("Trace", &[UNUSED_CALL]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn agent(&self, more: &[&str]) -> Agent {
        self.agent_of(&self.collector.url(), more)
    }

    fn agent_of(&self, collector: &str, more: &[&str]) -> Agent {
        let filters = ["--filters", self.filters.path()];
        let arguments: Vec<&str> = filters.into_iter().chain(more.iter().copied()).collect();
        Agent::start(collector, &self.path("state"), &arguments)
    }

    fn enrolling(&self, collector: &str, authority: &str, token: &str) -> Agent {
        let (ca, file) = (self.path(authority), self.path("agents-token"));
        fs::write(&file, token).unwrap();
        let arguments = [
            "--ca",
            ca.to_str().unwrap(),
            "--token-file",
            file.to_str().unwrap(),
        ];
        self.agent_of(collector, &arguments)
    }

    /// A collector with an authority of its own.
    fn secure_collector(&self, name: &str) -> (Killed, String) {
        let address = free_address();
        let directory = self.path(name);
        let tokens = self.path("tokens");
        fs::write(&tokens, "token-of-a-node-0123456789\n").unwrap();
        let child = Command::new(executable::product())
            .args(["collector", "--metrics-addr", "127.0.0.1:0", "--listen"])
            .arg(address.to_string())
            .arg("--tls-dir")
            .arg(&directory)
            .arg("--bootstrap-tokens")
            .arg(&tokens)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let collector = Killed(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the collector does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        (collector, format!("https://{address}"))
    }
}

// === impl SmallDisk ===

impl SmallDisk {
    fn mount(directory: PathBuf, size: &str) -> SmallDisk {
        fs::create_dir(&directory).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&directory)
            .status()
            .unwrap();
        assert!(status.success(), "mount: {status}");
        SmallDisk(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who has it open keeps it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The epoll of the thread that reads ring buffers: the one that has one of them.
#[cfg(target_arch = "x86_64")]
fn readers_epoll(pid: u32) -> u32 {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let link = |fd: &str| fs::read_link(process.join("fd").join(fd)).unwrap_or_default();
    let is_readers = |fd: &str| {
        link(fd) == Path::new("anon_inode:[eventpoll]")
            && fs::read_to_string(process.join("fdinfo").join(fd))
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next())
                .any(|target| link(target) == Path::new("anon_inode:bpf-map"))
    };
    let fds = fs::read_dir(process.join("fd")).unwrap();
    let names = fds.map(|fd| fd.unwrap().file_name().into_string().unwrap());
    let found: Vec<u32> = names
        .filter(|fd| is_readers(fd))
        .map(|fd| fd.parse().unwrap())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}
