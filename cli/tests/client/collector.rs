//! The collector itself, in this process, on a Unix socket.

use std::{fs, path::PathBuf, sync::Arc};

use ebpf_hello_collector::{
    caller::Trusted,
    log::{BatchKey, Log, Memory},
    serve::{Collector, Listener, Options, Socket, serve},
};
use ebpf_hello_proto::v1::{Batch, BatchedEvent, Event};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};

/// A running collector.
pub(crate) struct Running {
    folder: TempDir,
    log: Arc<dyn Log>,
    options: Options,
    runtime: Runtime,
    pub(crate) collector: Arc<Collector>,
    appended: u64,
}

// === impl Running ===

impl Running {
    pub(crate) fn start(options: Options) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = Arc::new(Memory::new(64 << 20));
        let (runtime, collector) = listen(&folder, &log, &options);
        Running {
            folder,
            log,
            options,
            runtime,
            collector,
            appended: 0,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", socket(&self.folder).display())
    }

    /// Another collector over the same log; the connections of the one before break.
    pub(crate) fn replace(&mut self) {
        fs::remove_file(socket(&self.folder)).unwrap();
        let (runtime, collector) = listen(&self.folder, &self.log, &self.options);
        self.collector = collector;
        std::mem::replace(&mut self.runtime, runtime).shutdown_background();
    }

    /// Events of n1, as its agent would publish them.
    pub(crate) fn append(&mut self, events: impl IntoIterator<Item = Event>) {
        self.appended += 1;
        let mut batch = Batch {
            node: "n1".into(),
            epoch: 1,
            number: self.appended,
            ..Batch::default()
        };
        for mut event in events {
            event.node.clear();
            event.epoch = 0;
            let process = part(&mut batch.processes, event.process.take());
            let pod = part(&mut batch.pods, event.pod.take());
            batch.events.push(BatchedEvent {
                event: Some(event),
                process,
                pod,
                ..BatchedEvent::default()
            });
        }
        let key = BatchKey {
            epoch: 1,
            number: self.appended,
        };
        self.runtime
            .block_on(self.log.append("n1", key, batch.encode_to_vec().into()))
            .unwrap();
    }
}

/// The place of an event's part in its batch, from 1; 0: it has none.
fn part<T>(parts: &mut Vec<T>, part: Option<T>) -> u32 {
    let Some(part) = part else { return 0 };
    parts.push(part);
    u32::try_from(parts.len()).unwrap()
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("observer.sock")
}

fn listen(folder: &TempDir, log: &Arc<dyn Log>, options: &Options) -> (Runtime, Arc<Collector>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let collector = Collector::new(log.clone(), None, options.clone());
    let listener = {
        let _inside = runtime.enter();
        Listener {
            socket: Socket::Unix(UnixListener::bind(socket(folder)).unwrap()),
            handshake: None,
            authenticate: Arc::new(Trusted),
        }
    };
    runtime.spawn(serve(collector.clone(), vec![listener]));
    (runtime, collector)
}
