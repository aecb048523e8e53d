//! The log of one collector, on its disk, with the newest entries in memory as well.
//!
//! An acknowledged batch survives a kill of the process: it was handed to the kernel. It survives the loss of power
//! once it was synced, which happens every [`StoreOptions::sync`]: what was acknowledged in the last such time
//! may be lost then, and is found missing by the gap in its node's batch numbers. Who has read it and goes on from
//! there is told: no position is ever given twice.
//!
//! A write that fails (the disk is full) is not acknowledged; the store is opened again until a write
//! succeeds, and agents keep their batches meanwhile. A store that cannot be read is never replaced or repaired
//! silently: opening it fails, and says what to do.

mod disk;
mod writer;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_proto::wire;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    disk::{Chunk, Disk, JUMP},
    writer::{Append, Writer},
};
use super::{
    Appended, BatchKey, DEFAULT_MEMORY, Entry, Log, LogError, Next, Range, Reader, key_of,
    memory::random_id,
    nodes::Nodes,
    record,
    tail::{Found, Tail},
};
use crate::token::TokenKey;

/// Where a store lies, and how much it keeps.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Its directory; made where there is none. One process at a time.
    pub directory: PathBuf,
    /// Bytes of batches it keeps at most, as compressed. On the disk there are up to 192 MiB of journal beside.
    /// It is trimmed by a 32nd at a time.
    pub max_bytes: u64,
    /// Batches older than this go. By a 32nd of it at a time.
    pub max_age: Duration,
    /// Time between syncs to the disk itself: what the loss of power can cost. At least 1 ms.
    pub sync: Duration,
    /// Bytes of the newest entries that are in memory as well.
    pub tail: usize,
    /// Names the boot of the machine: in a later one, a store that was not closed may lack its newest entries.
    pub boot_id: String,
}

/// A log on this machine's disk.
#[derive(Debug)]
pub struct Store {
    id: String,
    token_key: TokenKey,
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Append>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    directory: String,
    tail: Tail,
    nodes: Mutex<Nodes>,
    /// `None` while it cannot be written.
    disk: RwLock<Option<Arc<Disk>>>,
}

/// Reads a [`Store`]: from memory, and from the disk what is no longer there.
struct StoreReader {
    shared: Arc<Shared>,
    end: watch::Receiver<u64>,
    position: u64,
    /// What was read from the disk ahead of the position.
    ahead: VecDeque<Entry>,
}

// === impl StoreOptions ===

impl StoreOptions {
    /// A store of a GiB and seven days, synced every second, in the boot that the kernel names.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        // Where it names none, every store that was not closed is taken for one of another boot.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot_id = boot_id.map_or_else(|_| random_id(), |id| id.trim_end().to_owned());
        StoreOptions {
            directory: directory.into(),
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(7 * 24 * 3600),
            sync: Duration::from_secs(1),
            tail: DEFAULT_MEMORY,
            boot_id,
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store in a directory, or makes one.
    ///
    /// # Errors
    /// Another process has it open, it cannot be read or written, or it is damaged.
    pub async fn open(options: StoreOptions) -> Result<Self, LogError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(options))
            .await
            .unwrap_or_else(|error| {
                Err(LogError::Store {
                    directory: String::new(),
                    message: error.to_string(),
                })
            })
    }

    fn open_blocking(mut options: StoreOptions) -> Result<Self, LogError> {
        let directory = options.directory.display().to_string();
        let error = |message: String| LogError::Store {
            directory: directory.clone(),
            message,
        };
        options.sync = options.sync.max(Duration::from_millis(1));
        let opened = Disk::open(&options.directory, &options.boot_id, 0);
        let (disk, contents) = opened.map_err(|message| {
            error(format!(
                "cannot be opened: {message}. Free it or restore it; or move it away, and a new one is made, without \
                 the events of this one"
            ))
        })?;
        let newest = disk.extents().last().map_or(0, |extent| extent.newest);
        let shared = Arc::new(Shared {
            directory: directory.clone(),
            tail: Tail::new(options.tail, contents.end),
            nodes: Mutex::new(contents.nodes),
            disk: RwLock::new(Some(Arc::new(disk))),
        });
        let writer = Writer {
            shared: shared.clone(),
            options,
            end: contents.end,
            newest,
            dirty: false,
            failed: None,
        };
        let (sender, queue) = mpsc::channel(writer::QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|cause| error(cause.to_string()))?;
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(queue, &runtime))
            .map_err(|cause| error(cause.to_string()))?;
        Ok(Store {
            id: contents.id,
            token_key: contents.token_key,
            shared,
            queue: Some(sender),
            writer: Some(writer),
        })
    }
}

/// Syncs and closes it: waits for that.
impl Drop for Store {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join(); // a panic of it was told when it happened
        }
    }
}

#[async_trait]
impl Log for Store {
    fn id(&self) -> &str {
        &self.id
    }

    fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError> {
        Ok(self.shared.nodes().last(node))
    }

    async fn append_decoded(
        &self,
        batch: wire::Batch,
        encoded: Bytes,
    ) -> Result<Appended, LogError> {
        let key = key_of(&batch);
        if self.shared.nodes().has(&batch.node, key) {
            return Ok(Appended::Duplicate);
        }
        let record =
            record::compress(&encoded).map_err(|error| self.shared.error(&error.to_string()))?;
        let (reply, replied) = oneshot::channel();
        let append = Append {
            node: batch.node.as_str().into(),
            key,
            batch,
            record,
            reply,
        };
        let closed = || self.shared.error("it is closed");
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(append).await.map_err(|_| closed())?;
        replied.await.map_err(|_| closed())?
    }

    async fn range(&self) -> Result<Range, LogError> {
        let mut range = self.shared.tail.range();
        let extents = self.shared.with_disk(|disk| Ok(disk.extents())).await?;
        let time = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        if let (Some(first), Some(last)) = (extents.first(), extents.last()) {
            range.oldest = first.first;
            range.oldest_stored = Some(time(first.oldest));
            range.newest_stored = Some(time(last.newest));
            range.end = range.end.max(last.end);
        }
        Ok(range)
    }

    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError> {
        if let Some(position) = self.shared.tail.position_at(time) {
            return Ok(position);
        }
        let nanos = record::nanos(time);
        let found = self.shared.with_disk(move |disk| disk.position_at(nanos));
        Ok(found.await?.unwrap_or_else(|| self.shared.tail.range().end))
    }

    async fn end_before(&self, position: u64) -> Result<u64, LogError> {
        let end = self
            .shared
            .with_disk(move |disk| Ok(disk.end_before(position)));
        end.await
    }

    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(StoreReader {
            shared: self.shared.clone(),
            end: self.shared.tail.subscribe(),
            position: position.max(1),
            ahead: VecDeque::new(),
        }))
    }
}

// === impl Shared ===

impl Shared {
    fn error(&self, message: &str) -> LogError {
        LogError::Store {
            directory: self.directory.clone(),
            message: message.into(),
        }
    }

    fn disk(&self) -> Option<Arc<Disk>> {
        self.disk
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    // Nothing panics while it holds the lock but a failed allocation, which aborts.
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that blocks with the open store.
    async fn with_disk<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Disk) -> disk::Result<T> + Send + 'static,
    ) -> Result<T, LogError> {
        let Some(disk) = self.disk() else {
            return Err(self.error("it failed, and is not open again yet"));
        };
        match tokio::task::spawn_blocking(move || act(&disk)).await {
            Ok(done) => done.map_err(|message| self.error(&message)),
            Err(error) => Err(self.error(&error.to_string())),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

// === impl StoreReader ===

impl StoreReader {
    fn give(&mut self, entry: Arc<Entry>) -> Next {
        self.position = entry.position + entry.batch.events.len() as u64;
        Next::Entry(entry)
    }

    fn skip(&mut self, to: u64) -> Next {
        let from = std::mem::replace(&mut self.position, to);
        let positions = to - from;
        Next::Gone {
            from,
            to,
            // So many are no events: there is a hole among them, and how many were lost in it nobody knows.
            events: (positions < JUMP / 2).then_some(positions),
        }
    }
}

#[async_trait]
impl Reader for StoreReader {
    async fn next(&mut self) -> Result<Next, LogError> {
        if let Some(entry) = self.ahead.pop_front() {
            return Ok(self.give(Arc::new(entry)));
        }
        let tail = match self.shared.tail.find(self.position) {
            Found::Entry(entry) => return Ok(self.give(entry)),
            Found::End(position) => {
                self.position = position;
                return Ok(Next::End);
            }
            Found::Before(tail) => tail,
        };
        let position = self.position;
        match self
            .shared
            .with_disk(move |disk| disk.read(position))
            .await?
        {
            Chunk::Entries(entries) => {
                self.ahead = entries.into();
                match self.ahead.pop_front() {
                    Some(entry) => Ok(self.give(Arc::new(entry))),
                    None => Ok(Next::End),
                }
            }
            Chunk::Gone(oldest) => Ok(self.skip(oldest)),
            // Everything before the tail was trimmed.
            Chunk::End => Ok(self.skip(tail)),
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    async fn wait(&mut self) {
        let position = self.position;
        // The sender lives as long as what this reader holds.
        let _ = self.end.wait_for(|end| *end > position).await;
    }
}
