//! Batches on disk, while the collector is away for longer than memory lasts.
//!
//! A directory of [segments](super::segment), each named after the first batch in it, and removed when the last of
//! them is acknowledged. A write has reached the kernel when it returns: it survives a kill of the process; a power
//! cut can take the last second. Damage costs the batches it hits, which are then told as lost; it never keeps the
//! spool from being opened.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    backlog::{Encoded, Key},
    segment::{self, Frame, Part},
    tally::{Span, Tally},
};
use crate::private;

/// Segments of a full spool: room comes back by so much at once.
const SEGMENTS: u64 = 32;
/// Bytes after which a segment gets no further batch.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=8 << 20;
/// Batches in the spool, at most: what is known of them is in memory.
const BATCHES: usize = 1 << 17;
/// Batches that are told one by one when a stretch of a segment cannot be read.
const TOLD_MOST: u64 = 4096;
const SUFFIX: &str = ".segment";
const LOCK: &str = "lock";
/// Made and removed to see whether the disk takes something.
const PROBE: &str = "probe";
/// Holds the last batch that was acknowledged: its segment is there until the others in it are too.
const ACKNOWLEDGED: &str = "acknowledged";

/// Where and how much.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// A directory of its own; made if it is not there, with mode 0700.
    pub directory: PathBuf,
    /// Bytes on disk, at most. A 32nd of them can be taken by batches that were acknowledged.
    pub bytes: u64,
}

/// Why the spool could not do something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory.
    #[error(
        "cannot use {directory} as spool: {error}; expected a directory that this user may write"
    )]
    Directory {
        /// Its path.
        directory: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another process uses it.
    #[error("cannot use {0} as spool: another agent uses it; expected one for each agent")]
    Locked(PathBuf),
    /// A file in it.
    #[error("cannot {what} {path} of the spool: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// What was read.
#[derive(Debug)]
pub(super) enum Read {
    /// A batch as it was written.
    Batch(Encoded),
    /// It is not what was written: what it held, where that is still known.
    Damaged(Key, Tally),
}

#[derive(Debug)]
pub(super) struct Spool {
    options: SpoolOptions,
    /// Held while this is open.
    _lock: File,
    /// By the first batch in them.
    segments: BTreeMap<Key, Segment>,
    /// What there is.
    entries: BTreeMap<Key, Entry>,
    writing: Option<Writing>,
    /// The segment that was read last.
    reading: Option<(Key, File)>,
    /// The batch that was written last.
    before: Option<(Key, Tally)>,
    bytes: u64,
    /// The last one that was read.
    read: Option<Key>,
    /// How many of the entries were.
    read_entries: usize,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    /// Entries that are in it.
    entries: usize,
}

#[derive(Debug)]
struct Entry {
    segment: Key,
    place: Place,
    events: u64,
}

#[derive(Debug)]
enum Place {
    At {
        offset: u64,
        length: usize,
    },
    /// It cannot be read: what is known of it.
    Lost(Box<Tally>),
}

/// The segment that batches are written to.
#[derive(Debug)]
struct Writing {
    segment: Key,
    file: File,
    path: PathBuf,
    length: u64,
    /// The directory does not have it on disk yet.
    is_new: bool,
}

/// The newest run that left batches in a spool; `None` without any, or where it cannot be read.
#[must_use]
pub fn spooled_epoch(directory: &Path) -> Option<u64> {
    let segments = list(directory).ok()?;
    segments.last().map(|newest| newest.epoch)
}

// === impl Spool ===

impl Spool {
    /// Opens or makes it. What an earlier run left is there to be read.
    pub(super) fn open(options: SpoolOptions) -> Result<Self, SpoolError> {
        let directory = &options.directory;
        let unusable = |error| SpoolError::Directory {
            directory: directory.clone(),
            error,
        };
        private::directory(directory).map_err(unusable)?;
        let lock = private().open(directory.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SpoolError::Locked(directory.clone()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let segments = list(directory).map_err(unusable)?;
        let mut spool = Spool {
            _lock: lock,
            segments: BTreeMap::new(),
            entries: BTreeMap::new(),
            writing: None,
            reading: None,
            before: None,
            bytes: 0,
            read: None,
            read_entries: 0,
            options,
        };
        spool.recover(segments);
        if let Some(last) = spool.acknowledged() {
            spool.remove(last)?;
        }
        Ok(spool)
    }

    /// Finds what is in the segments.
    fn recover(&mut self, segments: Vec<Key>) {
        // A stretch that holds no frame, and the batch that it begins with.
        let mut damage: Option<(Key, Key)> = None;
        for first in segments {
            if let Some((segment, from)) = damage.take() {
                self.miss(segment, from, first);
            }
            let path = self.path(first);
            let bytes = std::fs::read(&path).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "a segment of the spool cannot be read");
                Vec::new()
            });
            let parts = segment::scan(&bytes);
            // One that ended before its first batch was written.
            let is_empty = std::fs::metadata(&path).is_ok_and(|file| file.len() == 0);
            self.segments.insert(
                first,
                Segment {
                    bytes: bytes.len() as u64,
                    entries: 0,
                },
            );
            self.bytes += bytes.len() as u64;
            let mut next = first;
            if parts.is_empty() && !is_empty {
                damage = Some((first, next));
            }
            for part in parts {
                match part {
                    Part::Damage => damage = Some((first, next)),
                    Part::Frame(frame) => {
                        if let Some((segment, from)) = damage.take() {
                            self.miss(segment, from, frame.key);
                        }
                        next = frame.key.next();
                        self.found(first, *frame);
                    }
                }
            }
        }
        if let Some((segment, from)) = damage {
            self.miss(segment, from, from.next());
        }
        self.remove_segments().unwrap_or_else(|error| {
            tracing::warn!(%error, "an empty segment of the spool stays");
        });
    }

    fn found(&mut self, segment: Key, frame: Frame) {
        if let Some((key, tally)) = frame.before
            && let Some(Entry {
                place: Place::Lost(known),
                events,
                ..
            }) = self.entries.get_mut(&key)
        {
            *events = tally.events();
            **known = tally;
        }
        let entry = Entry {
            segment,
            place: Place::At {
                offset: frame.offset as u64,
                length: frame.length,
            },
            events: frame.tally.events(),
        };
        self.insert(frame.key, entry);
    }

    /// Notes that the batches from one up to, and without, another cannot be read.
    fn miss(&mut self, segment: Key, from: Key, to: Key) {
        let end = if from.epoch == to.epoch {
            to.number.min(from.number + TOLD_MOST)
        } else {
            from.number + 1
        };
        for number in from.number..end {
            let key = Key {
                epoch: from.epoch,
                number,
            };
            let entry = Entry {
                segment,
                place: Place::Lost(Box::default()),
                events: 0,
            };
            self.insert(key, entry);
        }
        tracing::error!(
            segment = %self.path(segment).display(),
            epoch = from.epoch,
            first = from.number,
            batches = end.saturating_sub(from.number),
            "a segment of the spool is damaged: what it held there is lost"
        );
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.entries += 1;
        }
        if let Some(before) = self.entries.insert(key, entry) {
            self.forget(&before);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.entries -= 1;
        }
    }

    fn path(&self, segment: Key) -> PathBuf {
        let name = format!("{:020}-{:020}{SUFFIX}", segment.epoch, segment.number);
        self.options.directory.join(name)
    }

    /// Whether there is room for a batch.
    pub(super) fn has_room(&self, batch: &Encoded) -> bool {
        self.bytes + batch.bytes.len() as u64 <= self.options.bytes && self.entries.len() < BATCHES
    }

    /// Writes a batch. On an error it is not in the spool; another try may succeed.
    pub(super) fn write(&mut self, batch: &Encoded) -> Result<(), SpoolError> {
        let head = segment::encode(batch.key, &batch.tally, self.before.as_ref(), &batch.bytes);
        let length = head.len() + batch.bytes.len();
        let writing = self.segment_for(batch.key)?;
        let (segment, offset) = (writing.segment, writing.length);
        let written = writing.file.write_all_at(&head, offset).and_then(|()| {
            writing
                .file
                .write_all_at(&batch.bytes, offset + head.len() as u64)
        });
        if let Err(error) = written {
            // Half a frame takes room that there is none of. Should it stay, the next one is written over it.
            let _ = writing.file.set_len(offset);
            return Err(SpoolError::File {
                what: "write",
                path: writing.path.clone(),
                error,
            });
        }
        writing.length += length as u64;
        self.bytes += length as u64;
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.bytes += length as u64;
        }
        let entry = Entry {
            segment,
            place: Place::At { offset, length },
            events: batch.tally.events(),
        };
        self.insert(batch.key, entry);
        self.before = Some((batch.key, batch.tally.clone()));
        Ok(())
    }

    /// The segment at hand, or a new one that begins with `key`.
    fn segment_for(&mut self, key: Key) -> Result<&mut Writing, SpoolError> {
        let most =
            (self.options.bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        if let Some(full) = self.writing.take_if(|writing| writing.length >= most) {
            full.sync(&self.options.directory)?;
        }
        let writing = match self.writing.take() {
            Some(writing) => writing,
            None => {
                let path = self.path(key);
                // It may have been removed by whoever cleans up.
                let file = private::directory(&self.options.directory)
                    .and_then(|()| private().create_new(true).open(&path))
                    .map_err(|error| SpoolError::File {
                        what: "make",
                        path: path.clone(),
                        error,
                    })?;
                self.segments.insert(key, Segment::default());
                Writing {
                    segment: key,
                    file,
                    path,
                    length: 0,
                    is_new: true,
                }
            }
        };
        Ok(self.writing.insert(writing))
    }

    /// The oldest batch that was not read; `None` when all were.
    pub(super) fn read(&mut self) -> Option<Read> {
        let start = self.read.map_or(Bound::Unbounded, Bound::Excluded);
        let (&key, entry) = self.entries.range((start, Bound::Unbounded)).next()?;
        self.read = Some(key);
        self.read_entries += 1;
        let (segment, events) = (entry.segment, entry.events);
        let (offset, length) = match &entry.place {
            Place::Lost(tally) => return Some(Read::Damaged(key, (**tally).clone())),
            Place::At { offset, length } => (*offset, *length),
        };
        let bytes = self.bytes_at(segment, offset, length).unwrap_or_else(|error| {
            tracing::error!(path = %self.path(segment).display(), %error, "a segment of the spool cannot be read");
            Vec::new()
        });
        let frame = segment::frame(&bytes, 0).filter(|frame| frame.key == key);
        Some(match frame {
            Some(frame) => match segment::batch(&bytes) {
                Some(bytes) => Read::Batch(Encoded {
                    key,
                    bytes,
                    tally: frame.tally,
                    spooled: true,
                }),
                None => Read::Damaged(key, frame.tally),
            },
            None => Read::Damaged(key, self.tally_behind(key).unwrap_or(of(events))),
        })
    }

    /// What a batch held, as the frame behind it has it.
    fn tally_behind(&mut self, key: Key) -> Option<Tally> {
        let (_, entry) = self.entries.range(key.next()..).next()?;
        let Place::At { offset, length } = entry.place else {
            return None;
        };
        let bytes = self.bytes_at(entry.segment, offset, length).ok()?;
        let (before, tally) = segment::frame(&bytes, 0)?.before?;
        (before == key).then_some(tally)
    }

    /// Bytes of a segment; fewer where it ends before.
    fn bytes_at(&mut self, segment: Key, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = match self.reading.take_if(|(open, _)| *open == segment) {
            Some((_, file)) => file,
            None => File::open(self.path(segment))?,
        };
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        self.reading = Some((segment, file));
        Ok(bytes)
    }

    /// Forgets every batch up to and with `last`.
    pub(super) fn remove(&mut self, last: Key) -> Result<(), SpoolError> {
        let keep = self.entries.split_off(&last.next());
        let gone = std::mem::replace(&mut self.entries, keep);
        if gone.is_empty() {
            return Ok(());
        }
        for entry in gone.values() {
            self.forget(entry);
        }
        // What is gone need not be read any more.
        let read = self.read.map_or(last, |read| read.max(last));
        self.read = Some(read);
        self.read_entries = self.entries.range(..=read).count();
        if self.entries.is_empty() {
            self.writing = None;
        }
        self.remove_segments()?;
        if self.entries.is_empty() {
            return Ok(());
        }
        self.note_acknowledged(last)
    }

    /// Removes the segments that nothing is left in.
    fn remove_segments(&mut self) -> Result<(), SpoolError> {
        let writing = self.writing.as_ref().map(|writing| writing.segment);
        let empty: Vec<Key> = self
            .segments
            .iter()
            .filter(|(key, segment)| segment.entries == 0 && Some(**key) != writing)
            .map(|(key, _)| *key)
            .collect();
        for key in empty {
            let path = self.path(key);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SpoolError::File {
                        what: "remove",
                        path,
                        error,
                    });
                }
                _ => {}
            }
            self.reading.take_if(|(open, _)| *open == key);
            self.bytes -= self
                .segments
                .remove(&key)
                .map_or(0, |segment| segment.bytes);
        }
        Ok(())
    }

    /// Not synced: should it be lost, some batches are sent again, and known to the collector.
    fn note_acknowledged(&self, last: Key) -> Result<(), SpoolError> {
        let path = self.options.directory.join(ACKNOWLEDGED);
        let written = private()
            .open(&path)
            .and_then(|file| file.write_all_at(&last.to_record(), 0));
        written.map_err(|error| SpoolError::File {
            what: "write",
            path,
            error,
        })
    }

    fn acknowledged(&self) -> Option<Key> {
        let record = std::fs::read(self.options.directory.join(ACKNOWLEDGED)).ok()?;
        Key::of_record(&record)
    }

    /// Waits until the disk has everything.
    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        writing.sync(&self.options.directory)?;
        writing.is_new = false;
        Ok(())
    }

    /// Writes something of a block's size to the disk itself, and takes it away again.
    pub(super) fn probe(&self) -> Result<(), SpoolError> {
        let path = self.options.directory.join(PROBE);
        let written = private::directory(&self.options.directory)
            .and_then(|()| private().open(&path))
            .and_then(|file| {
                file.write_all_at(&[0; 4096], 0)?;
                file.sync_all()
            });
        // Half of it would take room that there is none of.
        let removed = std::fs::remove_file(&path);
        written.and(removed).map_err(|error| SpoolError::File {
            what: "write",
            path,
            error,
        })
    }

    pub(super) fn unread(&self) -> usize {
        self.entries.len() - self.read_entries
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn batches(&self) -> usize {
        self.entries.len()
    }

    /// Events there are of one run.
    pub(super) fn events(&self, epoch: u64) -> u64 {
        let key = |number| Key { epoch, number };
        let entries = self.entries.range(key(0)..=key(u64::MAX));
        entries.map(|(_, entry)| entry.events).sum()
    }

    /// The newest batch there is.
    pub(super) fn newest(&self) -> Option<Key> {
        self.entries.last_key_value().map(|(key, _)| *key)
    }
}

/// So many events, of which nothing else is known.
fn of(events: u64) -> Tally {
    let span = Span {
        events,
        ..Span::default()
    };
    Tally {
        spans: if events == 0 { Vec::new() } else { vec![span] },
        ..Tally::default()
    }
}

/// A file for this user alone, made where it is not there.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .mode(0o600);
    options
}

/// The segments in a directory, in the order of their batches. What has another name is not ours.
fn list(directory: &Path) -> io::Result<Vec<Key>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let key = name.to_str().and_then(|name| {
            let (epoch, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
            Some(Key {
                epoch: epoch.parse().ok()?,
                number: number.parse().ok()?,
            })
        });
        segments.extend(key);
    }
    segments.sort_unstable();
    Ok(segments)
}

// === impl Writing ===

impl Writing {
    fn sync(&self, directory: &Path) -> Result<(), SpoolError> {
        let synced = self.file.sync_data().and_then(|()| {
            if self.is_new {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        });
        synced.map_err(|error| SpoolError::File {
            what: "sync",
            path: self.path.clone(),
            error,
        })
    }
}

// === impl Key ===

impl Key {
    /// The key of the batch behind it.
    fn next(self) -> Self {
        Key {
            epoch: self.epoch,
            number: self.number.saturating_add(1),
        }
    }

    fn to_record(self) -> [u8; 20] {
        let mut record = [0; 20];
        record[..8].copy_from_slice(&self.epoch.to_le_bytes());
        record[8..16].copy_from_slice(&self.number.to_le_bytes());
        let checksum = crc32fast::hash(&record[..16]);
        record[16..].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    fn of_record(record: &[u8]) -> Option<Self> {
        let (epoch, rest) = record.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let key = Key {
            epoch: u64::from_le_bytes(*epoch),
            number: u64::from_le_bytes(*number),
        };
        (record == key.to_record()).then_some(key)
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
