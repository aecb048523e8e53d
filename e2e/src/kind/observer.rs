//! `ebpf-hello observe` outside the cluster, as a reader with a ServiceAccount's token runs it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{Cluster, Event, RELEASE, SYSTEM, cluster::run};
use crate::eventually::PATIENCE;

/// A stream that goes on, and all that it showed.
pub struct Observer {
    child: Child,
    events: Arc<Mutex<Vec<Event>>>,
    errors: Arc<Mutex<String>>,
    _directory: tempfile::TempDir,
}

// === impl Observer ===

impl Observer {
    /// Follows with the token of an account, from this moment on, however long the connection takes.
    ///
    /// # Panics
    /// The token cannot be had.
    pub fn follow(
        cluster: &Cluster,
        namespace: &str,
        account: &str,
        arguments: &[&str],
    ) -> Observer {
        let directory = tempfile::tempdir().unwrap();
        let token = cluster.kubectl(&[
            "-n",
            namespace,
            "create",
            "token",
            account,
            "--audience=ebpf-hello",
            "--duration=1h",
        ]);
        let authority = cluster.get(&["-n", SYSTEM, "configmap", &format!("{RELEASE}-ca")]);
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut command = cluster.product();
        command
            .args([
                "observe",
                "-o",
                "json",
                "--follow",
                "--since",
                &now(),
                "--server",
                &cluster.collector_url(),
                "--ca",
            ])
            .arg(file(
                "ca.crt",
                authority["data"]["ca.crt"].as_str().unwrap(),
            ))
            .env("EBPF_HELLO_TOKEN_FILE", file("token", token.trim()))
            .args(arguments);
        Observer::start(command, directory)
    }

    /// Runs a command that prints events, whatever it is.
    pub fn run(command: Command) -> Observer {
        Observer::start(command, tempfile::tempdir().unwrap())
    }

    fn start(mut command: Command, directory: tempfile::TempDir) -> Observer {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("EBPF_HELLO_LOG", "info")
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let errors = Arc::<Mutex<String>>::default();
        let (lines, complaints) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::spawn({
            let events = Arc::clone(&events);
            move || {
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    let event = serde_json::from_str(&line)
                        .unwrap_or_else(|error| panic!("{error}: {line}"));
                    events.lock().unwrap().push(Event(event));
                }
            }
        });
        thread::spawn({
            let errors = Arc::clone(&errors);
            move || {
                for line in BufReader::new(complaints).lines().map_while(Result::ok) {
                    let mut errors = errors.lock().unwrap();
                    errors.push_str(&line);
                    errors.push('\n');
                }
            }
        });
        Observer {
            child,
            events,
            errors,
            _directory: directory,
        }
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// Those that fit.
    pub fn select(&self, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| fits(event))
            .cloned()
            .collect()
    }

    /// The event with what was told later of its cgroup's pod and container: an event does not wait for their names
    /// longer than `--identity-wait`. Only where identities are observed, too.
    pub fn identified(&self, event: &Event) -> Event {
        if !event.text("pod/container/name").is_empty() {
            return event.clone();
        }
        let of_it = |other: &Event| {
            other.is("identity")
                && other.text("cgroupId") == event.text("cgroupId")
                && other.text("node") == event.text("node")
        };
        let mut whole = event.clone();
        if let Some(identity) = self.select(of_it).pop() {
            whole.0["pod"] = identity.0["pod"].clone();
        }
        whole
    }

    /// What it wrote to stderr.
    pub fn complaints(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Waits until so many events fit, and a moment more, in which one too many would come; returns all
    /// that fit.
    ///
    /// # Panics
    /// Fewer come.
    pub fn await_events(
        &self,
        what: &str,
        count: usize,
        fits: impl Fn(&Event) -> bool,
    ) -> Vec<Event> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.select(&fits);
            if found.len() >= count {
                break;
            }
            assert!(
                Instant::now() < end,
                "{what}: {} of {count} events; the stream showed {}, the last: {}\n{}",
                found.len(),
                self.events().len(),
                self.events().last().map(Event::line).unwrap_or_default(),
                self.complaints()
            );
            thread::sleep(Duration::from_millis(100));
        }
        // Longer than an agent's linger, and than an identity that comes late.
        thread::sleep(Duration::from_millis(2500));
        self.select(&fits)
    }

    /// Waits for one.
    ///
    /// # Panics
    /// None comes.
    pub fn await_event(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.select(&fits).into_iter().next() {
                return found;
            }
            assert!(
                Instant::now() < end,
                "{what}: not among {} events\n{}",
                self.events().len(),
                self.complaints()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until it ends by itself: whether it ended well.
    ///
    /// # Panics
    /// It does not end within the time.
    pub fn await_end(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(
                Instant::now() < end,
                "observe does not end\n{}",
                self.complaints()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The wall clock, as `--since` takes it.
fn now() -> String {
    let now = run(
        Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%S.%NZ"]),
        None,
    )
    .unwrap();
    now.trim().to_owned()
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
