//! Batches on disk, while the collector is away for longer than memory lasts.
//!
//! Two keyspaces under one key, epoch and number as big-endian integers: `index` says what a batch holds and its
//! checksum, `batches` its bytes. They are apart so that damage to the bytes leaves what is needed to tell exactly
//! what was lost. A write has reached the kernel when it returns: it survives a kill of the process; a power cut
//! can take the last second.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    ops::Bound,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
};

use bytes::Bytes;
use ebpf_hello_loader::abi::HANDLERS;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use prost::Message as _;

use super::{
    backlog::{Encoded, Key},
    tally::{Span, Tally},
};

/// Bytes gathered in memory before a table is written.
const MEMTABLE: u64 = 4 << 20;
/// Blocks read that are kept: each batch is read once.
const CACHE: u64 = 1 << 20;
/// The least the library allows.
const JOURNALS: u64 = 64 << 20;
/// Batches in the spool, at most: the keys are in memory.
const BATCHES: usize = 1 << 17;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// A directory of its own; made if it is not there, with mode 0700.
    pub directory: PathBuf,
    /// Bytes of batches, as encoded. On disk it can be up to about twice as much while the spool is being emptied,
    /// plus journals of at most 64 MiB.
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
    /// What is in it.
    #[error("cannot {what} the spool in {directory}: {error}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Its directory.
        directory: PathBuf,
        /// Why.
        #[source]
        error: Box<fjall::Error>,
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
    store: Store,
    /// What there is.
    entries: BTreeMap<Key, Size>,
    bytes: u64,
    /// The last one that was read.
    read: Option<Key>,
    /// How many of the entries were.
    read_entries: usize,
}

struct Store {
    database: Database,
    index: Keyspace,
    batches: Keyspace,
}

/// Of one batch.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    bytes: u64,
    events: u64,
}

/// A batch's row in the index.
#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(uint64, repeated, tag = "1")]
    counts: Vec<u64>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
    #[prost(fixed32, tag = "3")]
    checksum: u32,
    #[prost(uint64, tag = "4")]
    bytes: u64,
}

// === impl Spool ===

impl Spool {
    /// Opens or makes it. What an earlier run left is there to be read.
    pub(super) fn open(options: SpoolOptions) -> Result<Self, SpoolError> {
        let directory = &options.directory;
        prepare(directory).map_err(|error| SpoolError::Directory {
            directory: directory.clone(),
            error,
        })?;
        let store = Store::open(&options).map_err(|error| options.failed("open", error))?;
        let mut spool = Spool {
            store,
            entries: BTreeMap::new(),
            bytes: 0,
            read: None,
            read_entries: 0,
            options,
        };
        spool.list()?;
        Ok(spool)
    }

    /// Closes it: after a failed write the library refuses all others until it is opened again. Gives back what
    /// [`Spool::open_after`] needs.
    pub(super) fn close(self) -> (SpoolOptions, Option<Key>) {
        (self.options, self.read)
    }

    /// Opens it as one of which everything up to `read` was read.
    pub(super) fn open_after(options: SpoolOptions, read: Option<Key>) -> Result<Self, SpoolError> {
        let mut spool = Self::open(options)?;
        spool.read = read;
        spool.read_entries = read.map_or(0, |read| spool.entries.range(..=read).count());
        Ok(spool)
    }

    fn list(&mut self) -> Result<(), SpoolError> {
        for guard in self.store.index.iter() {
            let (key, row) = guard
                .into_inner()
                .map_err(|error| self.options.failed("list", error))?;
            let Some(key) = Key::decode(&key) else {
                continue;
            };
            // Of a row that cannot be read the reader tells.
            let size = Row::decode(&*row).map_or(Size::default(), |row| Size {
                bytes: row.bytes,
                events: row.spans.iter().map(|span| span.events).sum(),
            });
            self.bytes += size.bytes;
            self.entries.insert(key, size);
        }
        Ok(())
    }

    pub(super) fn options(&self) -> &SpoolOptions {
        &self.options
    }

    /// Whether there is room for a batch.
    pub(super) fn has_room(&self, batch: &Encoded) -> bool {
        self.bytes + batch.bytes.len() as u64 <= self.options.bytes && self.entries.len() < BATCHES
    }

    /// Writes a batch. On an error it is not in the spool, and nothing can be written before it is opened
    /// again; it can still be read.
    pub(super) fn write(&mut self, batch: &Encoded) -> Result<(), SpoolError> {
        let bytes = batch.bytes.len() as u64;
        let row = Row {
            counts: batch.tally.counts.to_vec(),
            spans: batch.tally.spans.clone(),
            checksum: crc32fast::hash(&batch.bytes),
            bytes,
        };
        let key = batch.key.encode();
        let mut write = self.store.database.batch();
        write.insert(&self.store.index, key, row.encode_to_vec());
        write.insert(&self.store.batches, key, &batch.bytes[..]);
        write
            .commit()
            .map_err(|error| self.options.failed("write", error))?;
        let size = Size {
            bytes,
            events: batch.tally.events(),
        };
        if let Some(before) = self.entries.insert(batch.key, size) {
            self.bytes -= before.bytes;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// The oldest batch that was not read; `None` when all were.
    pub(super) fn read(&mut self) -> Option<Read> {
        let start = self.read.map_or(Bound::Unbounded, Bound::Excluded);
        let (&key, _) = self.entries.range((start, Bound::Unbounded)).next()?;
        self.read = Some(key);
        self.read_entries += 1;
        let row = self.store.index.get(key.encode()).ok().flatten();
        let row = row.and_then(|row| Row::decode(&*row).ok());
        let bytes = self.store.batches.get(key.encode()).ok().flatten();
        let Some(row) = row else {
            return Some(Read::Damaged(key, Tally::default()));
        };
        let intact = bytes.filter(|bytes| crc32fast::hash(bytes) == row.checksum);
        let tally = row.tally();
        Some(match intact {
            Some(bytes) => Read::Batch(Encoded {
                key,
                bytes: Bytes::copy_from_slice(&bytes),
                tally,
                spooled: true,
            }),
            None => Read::Damaged(key, tally),
        })
    }

    /// Forgets every batch up to and with `last`.
    pub(super) fn remove(&mut self, last: Key) -> Result<(), SpoolError> {
        let keep = match self
            .entries
            .range((Bound::Excluded(last), Bound::Unbounded))
            .next()
        {
            Some((key, _)) => self.entries.split_off(&key.clone()),
            None => BTreeMap::new(),
        };
        let gone = std::mem::replace(&mut self.entries, keep);
        if gone.is_empty() {
            return Ok(());
        }
        self.bytes -= gone.values().map(|size| size.bytes).sum::<u64>();
        // What is gone need not be read any more.
        let read = self.read.map_or(last, |read| read.max(last));
        self.read = Some(read);
        self.read_entries = self.entries.range(..=read).count();
        let failed = |error| self.options.failed("empty", error);
        if self.entries.is_empty() {
            // Gives the disk back at once; removals do so only when tables are merged.
            self.store.index.clear().map_err(failed)?;
            return self.store.batches.clear().map_err(failed);
        }
        let mut write = self.store.database.batch();
        for key in gone.keys() {
            write.remove(&self.store.index, key.encode());
            write.remove(&self.store.batches, key.encode());
        }
        write.commit().map_err(failed)
    }

    /// Waits until the disk has everything.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.store
            .database
            .persist(PersistMode::SyncAll)
            .map_err(|error| self.options.failed("sync", error))
    }

    pub(super) fn unread(&self) -> usize {
        self.entries.len() - self.read_entries
    }

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
        entries.map(|(_, size)| size.events).sum()
    }

    /// The newest batch there is.
    pub(super) fn newest(&self) -> Option<Key> {
        self.entries.last_key_value().map(|(key, _)| *key)
    }
}

impl SpoolOptions {
    fn failed(&self, what: &'static str, error: fjall::Error) -> SpoolError {
        SpoolError::Store {
            what,
            directory: self.directory.clone(),
            error: Box::new(error),
        }
    }
}

/// Makes the directory, for this user alone: it holds what processes did.
fn prepare(directory: &PathBuf) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

// === impl Store ===

impl Store {
    fn open(options: &SpoolOptions) -> fjall::Result<Self> {
        let database = Database::builder(&options.directory)
            .cache_size(CACHE)
            .max_journaling_size(JOURNALS)
            .worker_threads(1)
            .open()?;
        let plain = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE);
        let index = database.keyspace("index", plain)?;
        let batches = database.keyspace("batches", || {
            plain().with_kv_separation(Some(KvSeparationOptions::default()))
        })?;
        Ok(Store {
            database,
            index,
            batches,
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

// === impl Row ===

impl Row {
    fn tally(self) -> Tally {
        let mut counts = [0; HANDLERS];
        for (count, written) in counts.iter_mut().zip(self.counts) {
            *count = written;
        }
        Tally {
            counts,
            spans: self.spans,
        }
    }
}

// === impl Key ===

impl Key {
    /// Sorts as the key does.
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (epoch, number) = bytes.split_first_chunk::<8>()?;
        Some(Key {
            epoch: u64::from_be_bytes(*epoch),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use ebpf_hello_loader::abi::Handler;

    use super::*;

    fn batch(epoch: u64, number: u64, length: usize) -> Encoded {
        let mut tally = Tally::default();
        tally.add(Some(Handler::Trace), Some(2), number);
        Encoded {
            key: Key { epoch, number },
            bytes: contents(number, length).into(),
            tally,
            spooled: false,
        }
    }

    /// Bytes that cannot be compressed, the same for the same number.
    fn contents(number: u64, length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(number);
        std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect()
    }

    fn options(directory: &tempfile::TempDir, bytes: u64) -> SpoolOptions {
        SpoolOptions {
            directory: directory.path().join("spool"),
            bytes,
        }
    }

    fn read_all(spool: &mut Spool) -> Vec<(u64, u64, usize)> {
        std::iter::from_fn(|| spool.read())
            .map(|read| match read {
                Read::Batch(batch) => (batch.key.epoch, batch.key.number, batch.bytes.len()),
                Read::Damaged(key, _) => panic!("{key:?} is damaged"),
            })
            .collect()
    }

    #[test]
    fn it_survives_a_restart_older_runs_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
        spool.write(&batch(5, 300, 5000)).unwrap();
        spool.write(&batch(5, 4, 10)).unwrap();
        drop(spool);
        let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
        spool.write(&batch(256, 1, 10)).unwrap();
        assert_eq!((spool.unread(), spool.bytes()), (3, 5020));
        assert_eq!(
            read_all(&mut spool),
            [(5, 4, 10), (5, 300, 5000), (256, 1, 10)]
        );
        assert_eq!(spool.unread(), 0);
        spool
            .remove(Key {
                epoch: 5,
                number: 300,
            })
            .unwrap();
        drop(spool);
        let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
        assert_eq!(read_all(&mut spool), [(256, 1, 10)]);
        let mode = std::fs::metadata(directory.path().join("spool"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn its_size_is_bounded_and_room_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(options(&directory, 100)).unwrap();
        spool.write(&batch(1, 1, 60)).unwrap();
        assert!(!spool.has_room(&batch(1, 2, 41)));
        assert!(spool.has_room(&batch(1, 2, 40)));
        spool
            .remove(Key {
                epoch: 1,
                number: 1,
            })
            .unwrap();
        assert!(spool.has_room(&batch(1, 2, 41)));
        assert_eq!((spool.bytes(), spool.batches()), (0, 0));
    }

    #[test]
    fn a_damaged_batch_still_says_what_it_held() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
        for number in 1..=3 {
            spool.write(&batch(1, number, 100)).unwrap();
        }
        let key = Key {
            epoch: 1,
            number: 2,
        };
        spool.store.batches.insert(key.encode(), "other").unwrap();
        assert!(matches!(spool.read(), Some(Read::Batch(_))));
        let Some(Read::Damaged(damaged, tally)) = spool.read() else {
            panic!("it was not noticed");
        };
        assert_eq!((damaged, tally), (key, batch(1, 2, 100).tally));
        assert!(matches!(spool.read(), Some(Read::Batch(_))));
    }

    #[test]
    fn flipped_bytes_on_disk_cost_their_batch_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(options(&directory, 64 << 20)).unwrap();
        for number in 1..=8 {
            spool.write(&batch(1, number, 4096)).unwrap();
        }
        spool.store.index.rotate_memtable_and_wait().unwrap();
        spool.store.batches.rotate_memtable_and_wait().unwrap();
        let folder = spool.store.batches.path().to_path_buf();
        drop(spool);
        let damaged = damage(&folder, &contents(5, 64));
        assert_eq!(damaged, 1, "the fifth batch is found once in {folder:?}");
        let mut spool = Spool::open(options(&directory, 64 << 20)).unwrap();
        let read: Vec<_> = std::iter::from_fn(|| spool.read()).collect();
        assert_eq!(read.len(), 8);
        for (number, read) in (1..).zip(read) {
            match read {
                Read::Damaged(key, tally) => {
                    assert_eq!((key.number, tally.events()), (5, 1), "damaged");
                }
                Read::Batch(batch) => assert!(number != 5 && batch.key.number == number),
            }
        }
    }

    /// Changes a byte wherever `pattern` begins, in every file below `folder`; says in how many files.
    fn damage(folder: &std::path::Path, pattern: &[u8]) -> usize {
        let mut damaged = 0;
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                damaged += damage(&entry.path(), pattern);
                continue;
            }
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if let Some(at) = bytes
                .windows(pattern.len())
                .position(|here| here == pattern)
            {
                bytes[at + 9] ^= 0xff;
                std::fs::write(entry.path(), bytes).unwrap();
                damaged += 1;
            }
        }
        damaged
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Spool::open(SpoolOptions {
            directory: file.path().join("spool"),
            bytes: 1,
        })
        .unwrap_err();
        assert!(error.to_string().starts_with("cannot use /"), "{error}");
    }
}
