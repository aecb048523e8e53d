//! Processes that are killed and started again.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{executable, monitor::free_address};

/// Patience with a process that starts on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A process that listens, at the same address whenever it is started.
pub(crate) struct Server {
    program: std::path::PathBuf,
    arguments: Vec<String>,
    address: SocketAddr,
    child: Child,
}

/// A collector without TLS on loopback, with a hub.
pub(crate) fn collector(hub: &[&str]) -> Server {
    let address = free_address();
    let mut arguments = vec!["collector", "--listen"];
    let listen = address.to_string();
    arguments.extend([listen.as_str(), "--metrics-addr", "127.0.0.1:0"]);
    arguments.extend(hub);
    Server::start(&executable::product(), &arguments, address)
}

/// A NATS server that keeps its streams in a directory.
pub(crate) fn nats(directory: &Path) -> Server {
    let address = free_address();
    let port = address.port().to_string();
    let store = directory.to_str().unwrap();
    let arguments = ["-a", "127.0.0.1", "-p", &port, "-js", "-sd", store];
    Server::start(Path::new("nats-server"), &arguments, address)
}

// === impl Server ===

impl Server {
    fn start(program: &Path, arguments: &[&str], address: SocketAddr) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let mut server = Server {
            child: spawn(program, &arguments),
            program: program.to_owned(),
            arguments,
            address,
        };
        server.await_start();
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL, and at once another.
    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.program, &self.arguments);
        self.await_start();
    }

    fn await_start(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}", self.program.display());
            assert!(
                start.elapsed() < START,
                "{} answers",
                self.program.display()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, arguments: &[String]) -> Child {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
