//! The thread that writes: what many agents append at once is one write.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_proto::wire;
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    Shared, StoreOptions,
    disk::{Addition, Disk, Extent},
};
use crate::log::{Appended, BatchKey, Entry, LogError, record};

/// Batches that wait for the writer at most; who appends more waits.
pub(super) const QUEUE: usize = 256;
/// Bytes of records in one write, after which it takes no more.
const GROUP_BYTES: usize = 8 << 20;
/// A store that failed is opened again not more often than this.
const RETRY: Duration = Duration::from_secs(1);
/// How long readers may take to let go of a store that failed.
const RELEASE: Duration = Duration::from_secs(10);
/// Segments of a full store: it is trimmed by so much of its size or age at once.
const SEGMENTS: u32 = 32;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=256 << 20;

/// A batch to append.
pub(super) struct Append {
    pub(super) node: Box<str>,
    pub(super) key: BatchKey,
    pub(super) batch: wire::Batch,
    /// Of [`record::compress`].
    pub(super) record: Vec<u8>,
    pub(super) reply: Reply,
}

type Reply = oneshot::Sender<Result<Appended, LogError>>;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) options: StoreOptions,
    /// Position of the next entry.
    pub(super) end: u64,
    /// Time of the newest entry, in nanoseconds since the epoch.
    pub(super) newest: u64,
    /// Whether something was written since the last sync.
    pub(super) dirty: bool,
    pub(super) failed: Option<Failure>,
}

/// Why the store is closed, and since when.
pub(super) struct Failure {
    message: String,
    tried: Instant,
}

// === impl Writer ===

impl Writer {
    /// Writes until nobody can append any more, then closes the store.
    pub(super) fn run(
        mut self,
        mut queue: mpsc::Receiver<Append>,
        runtime: &tokio::runtime::Runtime,
    ) {
        runtime.block_on(async {
            let mut tick = tokio::time::interval(self.options.sync);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    append = queue.recv() => match append {
                        Some(append) => self.write(gather(append, &mut queue)),
                        None => break,
                    },
                    _ = tick.tick() => self.tick(),
                }
            }
        });
        self.tick();
        if let Some(disk) = self.shared.disk()
            && let Err(message) = disk.close(self.end)
        {
            tracing::error!(directory = %self.options.directory.display(), "closing the store: {message}");
        }
        self.release();
    }

    fn write(&mut self, group: Vec<Append>) {
        let mut entries = Vec::new();
        let mut replies = Vec::new();
        match self.try_write(group, &mut entries, &mut replies) {
            Ok(()) => {
                if !entries.is_empty() {
                    self.shared.tail.extend(entries, self.end);
                }
                for (reply, appended) in replies {
                    let _ = reply.send(Ok(appended)); // who appended may be gone
                }
                if let Err(message) = self.trim() {
                    self.fail(message);
                }
            }
            Err(message) => {
                for (reply, _) in replies {
                    let _ = reply.send(Err(self.shared.error(&message)));
                }
                self.fail(message);
            }
        }
    }

    /// All or none: on an error, that is the reply to all.
    fn try_write(
        &mut self,
        group: Vec<Append>,
        entries: &mut Vec<Entry>,
        replies: &mut Vec<(Reply, Appended)>,
    ) -> Result<(), String> {
        let disk = self.disk();
        let now = record::nanos(SystemTime::now()).max(self.newest);
        let mut end = self.end;
        let mut bytes = 0;
        let mut additions: Vec<Addition> = Vec::new();
        for append in group {
            let Append { node, key, .. } = append;
            let in_group = |known: &Addition| known.node == node && key <= known.key;
            if self.shared.nodes().has(&node, key) || additions.iter().any(in_group) {
                replies.push((append.reply, Appended::Duplicate));
                continue;
            }
            replies.push((append.reply, Appended::Stored(end)));
            let mut record = append.record;
            record::set_stored(&mut record, now);
            bytes += record.len() as u64;
            additions.push(Addition {
                node,
                key,
                position: end,
                record,
            });
            entries.push(Entry {
                position: end,
                stored: SystemTime::UNIX_EPOCH + Duration::from_nanos(now),
                batch: append.batch,
            });
            end += entries
                .last()
                .map_or(0, |entry| entry.batch.events.len() as u64);
        }
        let disk = disk?;
        if additions.is_empty() {
            return Ok(());
        }
        let segment = self.segment(&disk, now)?;
        let extent = Extent {
            end,
            bytes: segment.bytes + bytes,
            newest: now,
            ..segment
        };
        let lasts = disk.append(extent, additions)?;
        (self.end, self.newest, self.dirty) = (end, now, true);
        for (node, key, position) in lasts {
            let forgotten = self.shared.nodes().set(&node, key, position);
            if let Some(node) = forgotten {
                disk.forget(&node)?;
            }
        }
        Ok(())
    }

    /// The segment to write to, a new one where the newest is full or positions were left free after it.
    fn segment(&self, disk: &Disk, now: u64) -> Result<Extent, String> {
        let newest = disk.extents().pop();
        let max = self.options.max_bytes / u64::from(SEGMENTS);
        let max = max.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let age = (self.options.max_age / SEGMENTS).as_nanos();
        match newest {
            Some(segment)
                if segment.end == self.end
                    && segment.bytes < max
                    && u128::from(now.saturating_sub(segment.oldest)) < age =>
            {
                return Ok(segment);
            }
            Some(full) => disk.seal(full.first)?,
            None => {}
        }
        Ok(Extent {
            first: self.end,
            end: self.end,
            bytes: 0,
            oldest: now,
            newest: now,
        })
    }

    fn tick(&mut self) {
        let Ok(disk) = self.disk() else { return };
        if std::mem::take(&mut self.dirty)
            && let Err(message) = disk.sync()
        {
            drop(disk);
            return self.fail(message);
        }
        drop(disk);
        if let Err(message) = self.trim() {
            self.fail(message);
        }
    }

    /// Drops the oldest segments while there are too many bytes or they are too old.
    fn trim(&mut self) -> Result<(), String> {
        let disk = self.disk()?;
        let now = record::nanos(SystemTime::now());
        let extents = disk.extents();
        let mut bytes: u64 = extents.iter().map(|extent| extent.bytes).sum();
        let mut oldest = None;
        for (index, extent) in extents.iter().enumerate() {
            let over = bytes > self.options.max_bytes && index + 1 < extents.len();
            if !over && !extent.is_past(self.options.max_age, now) {
                break;
            }
            disk.drop_oldest()?;
            bytes -= extent.bytes;
            oldest = Some(extent.end);
        }
        if let Some(oldest) = oldest {
            self.shared.tail.trim(oldest);
        }
        Ok(())
    }

    /// The store; opened again when it failed a while ago.
    fn disk(&mut self) -> Result<Arc<Disk>, String> {
        if let Some(disk) = self.shared.disk() {
            return Ok(disk);
        }
        if let Some(failure) = &self.failed
            && failure.tried.elapsed() < RETRY
        {
            return Err(failure.message.clone());
        }
        let StoreOptions {
            directory, boot_id, ..
        } = &self.options;
        match Disk::open(directory, boot_id, self.end) {
            Ok((disk, contents)) => {
                tracing::info!(directory = %directory.display(), "the store is open again");
                self.end = contents.end;
                *self.shared.nodes() = contents.nodes;
                let disk = Arc::new(disk);
                *self
                    .shared
                    .disk
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = Some(disk.clone());
                // A write that was said to have failed may be in the journal all the same.
                self.shared.tail.restart(self.end);
                self.failed = None;
                Ok(disk)
            }
            Err(message) => {
                self.failed = Some(Failure {
                    message: message.clone(),
                    tried: Instant::now(),
                });
                Err(message)
            }
        }
    }

    /// Closes a store that cannot be written: the database takes no more writes until it is opened again.
    fn fail(&mut self, message: String) {
        if self.shared.disk().is_none() {
            return; // it was closed already, and is tried again in its time
        }
        tracing::error!(directory = %self.options.directory.display(), "the store failed: {message}");
        self.failed = Some(Failure {
            message,
            tried: Instant::now(),
        });
        self.release();
    }

    /// Lets go of the database, which unlocks its directory.
    fn release(&mut self) {
        let disk = self
            .shared
            .disk
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(disk) = disk else { return };
        let start = Instant::now();
        while Arc::strong_count(&disk) > 1 && start.elapsed() < RELEASE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An append and those that wait behind it.
fn gather(first: Append, queue: &mut mpsc::Receiver<Append>) -> Vec<Append> {
    let mut bytes = first.record.len();
    let mut group = vec![first];
    while bytes < GROUP_BYTES
        && group.len() < QUEUE
        && let Ok(append) = queue.try_recv()
    {
        bytes += append.record.len();
        group.push(append);
    }
    group
}
