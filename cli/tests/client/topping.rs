//! `top`: as a table for a pipe, and on a terminal.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_proto::v1::{Counters, CountersRow, GetCountersResponse, SyscallCount};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    command::{DEADLINE, assert_done, assert_refused, output, product},
    events::{call, exec, loss},
    server::{Answers, Server, Step, events, hello},
};

fn counters(reads: u64) -> GetCountersResponse {
    GetCountersResponse {
        rows: vec![CountersRow {
            node: "n1".into(),
            namespace: "shop".into(),
            pod: "db-0".into(),
            epoch: 1,
            counters: Some(Counters {
                syscalls: vec![SyscallCount {
                    name: "read".into(),
                    number: Some(0),
                    count: reads,
                    ..SyscallCount::default()
                }],
                ..Counters::default()
            }),
            ..CountersRow::default()
        }],
        ..GetCountersResponse::default()
    }
}

/// Events and counted calls, without end.
fn server() -> Server {
    let mut script = vec![hello("collector"), events(vec![loss(5)], "t")];
    for _ in 0..600 {
        script.push(events(vec![exec(1), exec(2), call("openat", "bash")], "t"));
        script.push(Step::Wait(Duration::from_millis(50)));
    }
    Server::start(Answers {
        streams: [script].into(),
        counters: (1..=600).map(|reading| counters(reading * 1_000)).collect(),
        ..Answers::default()
    })
}

#[test]
fn a_pipe_gets_one_table_with_events_counts_and_losses() {
    let server = server();
    let table = assert_done(&output(&[
        "top",
        "--once",
        "--interval",
        "2s",
        "--server",
        &server.url(),
    ]));
    assert!(table.contains("lost 5"), "{table}");
    let row = |words: &[&str]| {
        let fits = |line: &&str| words.iter().all(|word| line.contains(word));
        let line = table
            .lines()
            .find(fits)
            .unwrap_or_else(|| panic!("{words:?} in:\n{table}"));
        let cells: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        cells
    };
    let [execs, opens, reads] = [
        row(&["shop/cart-0", "n1", "exec"]),
        row(&["bash", "n1", "openat"]),
        row(&["shop/db-0", "n1", "read*"]),
    ];
    let number = |cell: &String| cell.parse::<f64>().unwrap();
    // Two execs with every openat, a thousand reads at each reading.
    assert_eq!(number(&execs[5]), 2.0 * number(&opens[5]), "{table}");
    assert_eq!(number(&reads[5]) % 1_000.0, 0.0, "{table}");
    assert!(
        number(&execs[3]) > 0.0 && execs[3] == execs[6],
        "execs/s are the rate of execs:\n{table}"
    );
    // It asks for what a row is made of, live.
    let asked = &server.answers().observed[0];
    assert!(
        asked.follow
            && asked
                .mask
                .as_ref()
                .unwrap()
                .paths
                .contains(&"pod.name".to_owned())
    );
}

#[test]
fn a_server_that_is_not_there_is_told_on_the_ordinary_screen() {
    let output = output(&["top", "--once", "--server", "unix:///nonexistent/x.sock"]);
    assert_refused(&output, 6, &["/nonexistent/x.sock"]);
}

#[test]
fn on_a_terminal_keys_work_and_the_screen_is_given_back() {
    let server = server();
    let mut terminal = Terminal::start(&server);
    terminal.await_text("shop/cart-0");
    terminal.await_text("lost 5");
    terminal.type_keys("/openat\r");
    terminal.await_text("drops");
    terminal.type_keys("?");
    terminal.await_text("back.");
    terminal.type_keys("xq");
    terminal.await_end();
}

#[test]
fn a_signal_gives_the_screen_back() {
    let server = server();
    let mut terminal = Terminal::start(&server);
    terminal.await_text("shop/cart-0");
    terminal.signal(Signal::TERM);
    terminal.await_end();
}

/// `top` under script(1), which gives it a terminal.
struct Terminal {
    script: Child,
    folder: tempfile::TempDir,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

// === impl Terminal ===

impl Terminal {
    fn start(server: &Server) -> Terminal {
        let folder = tempfile::tempdir().unwrap();
        let pid = Terminal::pid_file(&folder);
        let command = format!(
            "stty cols 120 rows 30; echo $$ > {}; exec {} top --interval 200ms --server {}",
            pid.display(),
            product().display(),
            server.url(),
        );
        let mut script = Command::new("script")
            .args([
                "--quiet",
                "--return",
                "--flush",
                "--command",
                &command,
                "/dev/null",
            ])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) is in every Debian's bsdutils or util-linux");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mut stdout = script.stdout.take().unwrap();
        let reader = thread::spawn({
            let shown = Arc::clone(&shown);
            move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stdout.read(&mut bytes) {
                    shown.lock().unwrap().extend_from_slice(&bytes[..read]);
                }
            }
        });
        Terminal {
            script,
            folder,
            shown,
            reader: Some(reader),
        }
    }

    fn pid_file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("pid")
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits for a word. Only what changes is drawn, so that words may come without the space between them.
    fn await_text(&self, words: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.shown().contains(words) {
            assert!(
                Instant::now() < deadline,
                "{words:?} is not in:\n{:?}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_keys(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(Terminal::pid_file(&self.folder)).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), signal).unwrap();
    }

    /// Ends by itself, with success, and leaves the terminal as it was.
    fn await_end(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.script.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "top does not end:\n{:?}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(20));
        };
        self.reader.take().unwrap().join().unwrap();
        let shown = self.shown();
        assert!(status.success(), "{status}: {shown:?}");
        // The alternate screen (xterm's 1049) is entered and left, the cursor is shown again.
        let (enter, leave) = (shown.find("\u{1b}[?1049h"), shown.rfind("\u{1b}[?1049l"));
        assert!(enter.is_some() && enter < leave, "{shown:?}");
        assert!(
            shown.rfind("\u{1b}[?25h") > shown.rfind("\u{1b}[?25l"),
            "{shown:?}"
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Only a failed test leaves one that runs; script(1) takes its command with it.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
