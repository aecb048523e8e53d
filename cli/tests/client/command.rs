//! The binary under test.

use std::{
    env,
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Far more than anything here takes, so that a busy machine fails nothing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The product: `EBPF_HELLO_BIN`, else what cargo built for this test: target/<profile>/deps/client-<hash>
/// is this test, what it tests two levels up.
pub(crate) fn product() -> PathBuf {
    let path = env::var_os("EBPF_HELLO_BIN").map_or_else(
        || {
            let test = env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().join("ebpf-hello")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// A command with nothing of the user's environment that changes what it prints.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(product());
    command
        .args(arguments)
        .env_remove("EBPF_HELLO_LOG")
        .env_remove("EBPF_HELLO_SERVER")
        .env_remove("EBPF_HELLO_TOKEN_FILE")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// What came out, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// It must fail with this status and all of these words on stderr.
pub(crate) fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word} is not in:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// It must succeed; gives its stdout.
pub(crate) fn assert_done(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}:\n{}",
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A running command; killed when a test fails before its end.
pub(crate) struct Running {
    child: Child,
    stdout: Option<Lines>,
    stderr: Lines,
}

/// Lines of a pipe, as they come.
struct Lines {
    lines: Receiver<String>,
    seen: Vec<String>,
}

// === impl Running ===

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Running {
        let mut running = Running::unread(arguments);
        let stdout = running.child.stdout.take().unwrap();
        running.stdout = Some(Lines::read(stdout));
        running
    }

    /// Nobody reads its stdout yet.
    pub(crate) fn unread(arguments: &[&str]) -> Running {
        let mut child = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Lines::read(child.stderr.take().unwrap());
        Running {
            child,
            stdout: None,
            stderr,
        }
    }

    /// Its stdout, to be read or closed.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Waits for a line on stdout with these words.
    pub(crate) fn await_line(&mut self, words: &str) -> String {
        self.stdout.as_mut().unwrap().await_line(words)
    }

    /// Waits for a line on stderr with these words.
    pub(crate) fn await_notice(&mut self, words: &str) -> String {
        self.stderr.await_line(words)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ended by itself.
    pub(crate) fn end(mut self) -> Output {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end; stderr: {:?}",
                self.stderr.rest()
            );
            thread::sleep(Duration::from_millis(5));
        };
        let join = |lines: Vec<String>| lines.concat().into_bytes();
        Output {
            status,
            stdout: join(self.stdout.as_mut().map(Lines::rest).unwrap_or_default()),
            stderr: join(self.stderr.rest()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a failed test leaves one that runs; it has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Lines ===

impl Lines {
    fn read(pipe: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            loop {
                let mut line = String::new();
                if pipe.read_line(&mut line).unwrap_or(0) == 0 || sender.send(line).is_err() {
                    return;
                }
            }
        });
        Lines {
            lines,
            seen: Vec::new(),
        }
    }

    fn await_line(&mut self, words: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{words:?} did not come; what did: {:#?}", self.seen)
                }
            }
        }
    }

    /// Everything, to the pipe's end.
    fn rest(&mut self) -> Vec<String> {
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        self.seen.clone()
    }
}
