//! Every fault of a collector that there is a way to cause, with what its `/healthz` and `/readyz` then say: unready
//! is who cannot store events, unhealthy whom only a restart can mend, which nothing of this does.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_agent::{
    Accounts,
    publish::{MEMORY, PublishOptions, Publisher},
};
use tonic::transport::Endpoint;

use crate::{
    executable, load,
    monitor::{Answer, free_address, get},
    servers,
};

/// For a fault to be noticed: files are read again every 10 s.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

struct Fault {
    name: &'static str,
    readyz: u16,
    /// In its answer.
    says: &'static str,
    /// What the collector is given.
    arguments: fn(&Place) -> Vec<String>,
    /// Causes it. What is returned undoes it when it is dropped.
    cause: fn(&Place, &Running) -> Box<dyn std::any::Any>,
}

const FAULTS: [Fault; 6] = [
    Fault {
        name: "none",
        readyz: 200,
        says: "ok",
        arguments: |place| vec!["--store".into(), place.path("store")],
        cause: |_, _| Box::new(()),
    },
    Fault {
        name: "no room on the store's disk",
        readyz: 503,
        says: "No space left on device",
        arguments: |place| vec!["--store".into(), place.path("disk/store")],
        cause: |place, collector| {
            // In its mount namespace.
            let root = format!(
                "/proc/{}/root{}",
                collector.child.id(),
                place.path("disk/ballast")
            );
            let full = fs::write(&root, vec![0; 256 << 20]).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            Box::new(Removed(root.into()))
        },
    },
    Fault {
        name: "a NATS server that is gone",
        readyz: 503,
        says: "NATS",
        arguments: |place| {
            let hub = format!("nats://{}", place.nats.address());
            vec!["--hub".into(), hub, "--store-size".into(), "256MiB".into()]
        },
        cause: |place, _| {
            let paused = Paused(place.nats.pid());
            paused.signal("STOP");
            Box::new(paused)
        },
    },
    Fault {
        name: "readers that cannot be read any more",
        readyz: 200,
        says: "ok",
        arguments: |place| {
            fs::write(place.path("readers"), "a-readers-token-0123456789,*\n").unwrap();
            vec!["--readers".into(), place.path("readers")]
        },
        cause: |place, collector| {
            fs::write(place.path("readers"), [0xff, b'\n']).unwrap();
            collector.await_log("the last good one stays");
            Box::new(())
        },
    },
    Fault {
        name: "a certificate that became garbage",
        readyz: 200,
        says: "ok",
        arguments: |place| vec!["--tls-dir".into(), place.path("tls")],
        cause: |place, collector| {
            fs::write(place.path("tls/ca.crt"), "garbage").unwrap();
            collector.await_log("the last good one stays");
            Box::new(())
        },
    },
    Fault {
        name: "agents that are gone",
        readyz: 200,
        says: "ok",
        arguments: |_| Vec::new(),
        cause: |_, _| Box::new(()),
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_healthz_and_readyz() {
    for fault in FAULTS {
        println!("fault: {}", fault.name);
        let place = Place::new();
        let collector = Running::start(&place, &(fault.arguments)(&place));
        collector.await_answer("/readyz", 200, "ok");
        let publisher = publisher(&collector);
        let publisher = tokio::task::spawn_blocking(move || {
            load::generate(&publisher, 1_000, Duration::from_millis(500));
            publisher
        });
        let publisher = publisher.await.unwrap();
        let cause = (fault.cause)(&place, &collector);
        // Whether events can be stored, the next ones show.
        let more = tokio::task::spawn_blocking(move || {
            load::generate(&publisher, 20_000, Duration::from_secs(2));
            publisher
        });
        collector.await_answer("/readyz", fault.readyz, fault.says);
        assert_eq!(collector.get("/healthz").status, 200, "{}", fault.name);
        let publisher = more.await.unwrap();
        assert_eq!(
            collector.get("/readyz").status,
            fault.readyz,
            "{}",
            fault.name
        );
        drop(cause);
        collector.await_answer("/readyz", 200, "ok");
        drop(publisher);
    }
}

#[test]
fn a_store_that_cannot_be_opened_ends_the_collector_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "a file").unwrap();
    let output = Command::new(executable::product())
        .args([
            "collector",
            "--listen",
            "127.0.0.1:0",
            "--metrics-addr",
            "127.0.0.1:0",
            "--store",
        ])
        .arg(file.join("store"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(file.to_str().unwrap()), "{said}");
}

fn publisher(collector: &Running) -> Publisher {
    let epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let options = PublishOptions {
        node: "n1".into(),
        epoch: u64::try_from(epoch.as_micros()).unwrap(),
        version: "load".into(),
        memory: MEMORY,
        spool: None,
        compress: true,
    };
    let socket = format!("unix://{}", collector.socket.display());
    let endpoint = Endpoint::from_shared(socket).unwrap();
    Publisher::start(options, endpoint, Arc::new(Accounts::default())).unwrap()
}

/// What a collector is given.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    nats: servers::Server,
}

/// A collector in a mount namespace with a small disk.
pub(crate) struct Running {
    child: Child,
    metrics: SocketAddr,
    pub(crate) socket: PathBuf,
    log: PathBuf,
}

struct Removed(PathBuf);

/// A process that is stopped until this is dropped.
struct Paused(u32);

// === impl Place ===

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nats = servers::nats(&directory.path().join("nats"));
        fs::create_dir(directory.path().join("disk")).unwrap();
        Place { directory, nats }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().into()
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn start(place: &Place, arguments: &[String]) -> Self {
        let (metrics, listen) = (free_address(), free_address());
        let socket = place.directory.path().join("collector.sock");
        let log = place.directory.path().join("log");
        let script = r#"mount -t tmpfs -o size=24m tmpfs "$PLACE/disk" && exec "$@""#;
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(executable::product())
            .args(["collector", "--metrics-addr"])
            .arg(metrics.to_string())
            .arg("--listen")
            .arg(format!("unix://{}", socket.display()))
            .arg("--listen")
            .arg(listen.to_string())
            .args(arguments)
            .env("PLACE", place.directory.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .process_group(0);
        let running = Running {
            child: command.spawn().unwrap(),
            metrics,
            socket,
            log,
        };
        running.until("it answers", || get(metrics, "/healthz").is_ok());
        running
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        get(self.metrics, path).unwrap()
    }

    fn await_answer(&self, path: &str, status: u16, says: &str) {
        self.until(&format!("{path} is {status}: {says}"), || {
            let answer = self.get(path);
            answer.status == status && answer.text.contains(says)
        });
    }

    /// Waits for a warning or an error that contains this.
    fn await_log(&self, says: &str) {
        self.until(says, || {
            let log = fs::read_to_string(&self.log).unwrap();
            log.lines().any(|line| {
                (line.contains("WARN") || line.contains("ERROR")) && line.contains(says)
            })
        });
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; readyz: {:?}\n{}",
                get(self.metrics, "/readyz"),
                fs::read_to_string(&self.log).unwrap()
            );
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a failed test leaves one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        fs::remove_file(Path::new(&self.0)).unwrap();
    }
}

// === impl Paused ===

impl Paused {
    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.0.to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "kill: {status}");
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
