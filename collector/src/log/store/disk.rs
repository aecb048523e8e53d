//! The database in the store's directory. Everything here blocks.
//!
//! Entries lie in *segments*, each a keyspace of its own: trimming deletes a keyspace, which frees its files at
//! once, where deleted keys would stay until a compaction. An entry's key is its position.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | `format`, `id`, `token-key`, `end`, `open` | |
//! | `nodes` | name | epoch, number and position of the node's last batch |
//! | `segments` | first position | end, bytes, time of the oldest and of the newest entry |
//! | `segment-…` | position | see [`record`] |
//!
//! `open` is there from the first append until the store is closed, and names the boot of the machine: where it names
//! another, what was not yet on the disk itself is lost, and its positions may stand in tokens. They are never given
//! again: the next entry comes [`JUMP`] positions later, in a segment of its own, and what is between is a *hole*.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::CompressionPolicy,
};

use crate::{
    log::{BatchKey, Entry, memory::random_id, nodes::Nodes, record},
    token::TokenKey,
};

/// Layout of the database.
const FORMAT: &[u8] = b"1";
/// Bytes that a segment keeps in memory before they go into a table on disk.
const MEMTABLE: u64 = 16 << 20;
/// Bytes of the journal at most, beside the segments.
const JOURNAL: u64 = 128 << 20;
/// Bytes of blocks that were read, kept in memory.
const CACHE: u64 = 8 << 20;
/// Positions that are left free where the newest entries may be lost: more than were ever given since the last sync,
/// and there is room for 16 million such holes.
pub(super) const JUMP: u64 = 1 << 40;
/// A read ends after so many entries or bytes.
const READ_ENTRIES: usize = 64;
const READ_BYTES: usize = 2 << 20;

/// Fails with what the database says; who calls adds the directory.
pub(super) type Result<T> = std::result::Result<T, String>;

/// An open database.
pub(super) struct Disk {
    database: Database,
    meta: Keyspace,
    nodes: Keyspace,
    directory: Keyspace,
    /// By first position.
    segments: RwLock<BTreeMap<u64, Segment>>,
    boot_id: String,
    /// `open` names this boot.
    is_marked: AtomicBool,
}

#[derive(Clone)]
struct Segment {
    entries: Keyspace,
    extent: Extent,
}

/// What a segment holds: positions, bytes of its records, times in nanoseconds since the epoch.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) oldest: u64,
    pub(super) newest: u64,
}

/// What the database holds beside entries.
pub(super) struct Contents {
    pub(super) id: String,
    pub(super) token_key: TokenKey,
    /// Position of the next entry: after every one that was ever given.
    pub(super) end: u64,
    pub(super) nodes: Nodes,
}

/// A batch that gets a position.
pub(super) struct Addition {
    pub(super) node: Box<str>,
    pub(super) key: BatchKey,
    pub(super) position: u64,
    pub(super) record: Vec<u8>,
}

/// What a read found.
pub(super) enum Chunk {
    Entries(Vec<Entry>),
    /// The next entry is after the position, here: what was between was trimmed, or never was.
    Gone(u64),
    End,
}

fn said(error: fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => error.to_string(),
        fjall::Error::Locked => "another process has it open".into(),
        fjall::Error::Poisoned => "an earlier write failed; is the disk full?".into(),
        error => error.to_string(),
    }
}

fn segment_name(first: u64) -> String {
    format!("segment-{first:020}")
}

/// Records are compressed, and never overwritten.
fn entries() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
}

// === impl Disk ===

impl Disk {
    /// Opens the database, or makes it, in a boot of the machine. Positions before `given` are taken.
    pub(super) fn open(directory: &Path, boot_id: &str, given: u64) -> Result<(Self, Contents)> {
        // The database's own checks of what it finds on disk are in part assertions.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder(directory)
                .journal_compression(CompressionType::None)
                .max_journaling_size(JOURNAL)
                .cache_size(CACHE)
                .worker_threads(2)
                .open()
                .map_err(said)?;
            Self::read_contents(database, boot_id, given)
        }));
        opened.unwrap_or_else(|_| Err("its files contradict each other".into()))
    }

    fn read_contents(database: Database, boot_id: &str, given: u64) -> Result<(Self, Contents)> {
        let keyspace = |name: &str| {
            database
                .keyspace(name, KeyspaceCreateOptions::default)
                .map_err(said)
        };
        let (meta, nodes, directory) =
            (keyspace("meta")?, keyspace("nodes")?, keyspace("segments")?);
        if meta.get("format").map_err(said)?.is_none() {
            if directory.first_key_value().is_some() {
                return Err("it has entries but no format".into());
            }
            let mut batch = database.batch();
            batch.insert(&meta, "format", FORMAT);
            batch.insert(&meta, "id", random_id().as_str());
            batch.insert(&meta, "token-key", TokenKey::random().as_bytes().as_slice());
            batch.insert(&meta, "end", record::pack([1]));
            batch.commit().map_err(said)?;
            database.persist(PersistMode::SyncAll).map_err(said)?;
        }
        let value = |name: &str| {
            let value = meta.get(name).map_err(said)?;
            value.ok_or_else(|| format!("it has no {name}"))
        };
        let format = value("format")?;
        if &*format != FORMAT {
            return Err(format!(
                "it has the format {:?}, known is \"1\"",
                String::from_utf8_lossy(&format)
            ));
        }
        let token_key = <[u8; 32]>::try_from(&*value("token-key")?)
            .map_err(|_| "its token-key has not 32 bytes")?;
        let [mut end] = record::unpack(&value("end")?)?;
        let open = meta.get("open").map_err(said)?;
        // A kill within one boot loses nothing: what was written is in the kernel's page cache.
        let is_cut_off = open
            .as_deref()
            .is_some_and(|open| open != boot_id.as_bytes());
        if is_cut_off || end < given {
            tracing::warn!(
                end,
                "the newest events of the store may be lost: it was open when the machine stopped, or the disk failed"
            );
            end = end.saturating_add(JUMP);
        }
        let id = String::from_utf8(value("id")?.to_vec()).map_err(|error| error.to_string())?;
        let contents = Contents {
            id,
            token_key: token_key.into(),
            end,
            nodes: read_nodes(&nodes)?,
        };
        let segments = read_segments(&database, &directory)?;
        let disk = Disk {
            database,
            meta,
            nodes,
            directory,
            segments: RwLock::new(segments),
            boot_id: boot_id.to_owned(),
            is_marked: AtomicBool::new(open.is_some() && !is_cut_off),
        };
        Ok((disk, contents))
    }

    /// Says on the disk itself that the store is open, before the first position is given: that is `end`.
    fn mark(&self, end: u64) -> Result<()> {
        if self.is_marked.load(Relaxed) {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "open", &*self.boot_id);
        // In one with the boot: else a kill here would leave the end before the hole, and nothing that tells.
        batch.insert(&self.meta, "end", record::pack([end]));
        batch.commit().map_err(said)?;
        self.is_marked.store(true, Relaxed);
        Ok(())
    }

    /// Brings everything to the disk itself, and says there that the store is closed; the next entry will be at `end`.
    /// Nothing is appended any more.
    pub(super) fn close(&self, end: u64) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "end", record::pack([end]));
        batch.remove(&self.meta, "open");
        batch.commit().map_err(said)
    }

    /// What each segment holds, the oldest first.
    pub(super) fn extents(&self) -> Vec<Extent> {
        self.segments().values().map(|s| s.extent).collect()
    }

    /// Writes batches in one go, all or none, into the segment that is `extent` after it. They survive a kill of
    /// the process when it returns; what it returns is now each node's last.
    pub(super) fn append(
        &self,
        extent: Extent,
        additions: Vec<Addition>,
    ) -> Result<Vec<(Box<str>, BatchKey, u64)>> {
        if let Some(first) = additions.first() {
            self.mark(first.position)?;
        }
        let known = self.segments().get(&extent.first).cloned();
        let segment = match known {
            Some(segment) => segment.entries,
            None => self
                .database
                .keyspace(&segment_name(extent.first), entries)
                .map_err(said)?,
        };
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let mut lasts = Vec::with_capacity(additions.len());
        for Addition {
            node,
            key,
            position,
            record,
        } in additions
        {
            let last = record::pack([key.epoch, key.number, position]);
            batch.insert(&self.nodes, &*node, last);
            batch.insert(&segment, record::pack([position]), record);
            lasts.push((node, key, position));
        }
        let [first, rest @ ..] = extent.numbers();
        batch.insert(&self.directory, record::pack([first]), record::pack(rest));
        batch.insert(&self.meta, "end", record::pack([extent.end]));
        batch.commit().map_err(said)?;
        let segment = Segment {
            entries: segment,
            extent,
        };
        self.segments_mut().insert(extent.first, segment);
        Ok(lasts)
    }

    /// Forgets a node's last batch.
    pub(super) fn forget(&self, node: &str) -> Result<()> {
        self.nodes.remove(node).map_err(said)
    }

    /// Entries from a position on, some of them.
    pub(super) fn read(&self, position: u64) -> Result<Chunk> {
        let segment = {
            let segments = self.segments();
            let Some((&oldest, _)) = segments.first_key_value() else {
                return Ok(Chunk::End);
            };
            if position < oldest {
                return Ok(Chunk::Gone(oldest));
            }
            let before = segments.range(..=position).next_back();
            match before.filter(|(_, segment)| position < segment.extent.end) {
                Some((_, segment)) => segment.clone(),
                None => {
                    let after = segments.range(position..).next();
                    return Ok(after.map_or(Chunk::End, |(&first, _)| Chunk::Gone(first)));
                }
            }
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for pair in segment.entries.range(record::pack([position])..) {
            let (key, value) = pair.into_inner().map_err(said)?;
            let [position] = record::unpack(&key)?;
            bytes += value.len();
            entries.push(record::entry(position, &value)?);
            if entries.len() >= READ_ENTRIES || bytes >= READ_BYTES {
                break;
            }
        }
        match entries.is_empty() {
            // Within the segment's last entry.
            true => self.read(segment.extent.end),
            false => Ok(Chunk::Entries(entries)),
        }
    }

    /// Where the entries before a position end: before it only if there is a hole before it.
    pub(super) fn end_before(&self, position: u64) -> u64 {
        let segments = self.segments();
        let before = segments.range(..position).next_back();
        before.map_or(position, |(_, segment)| position.min(segment.extent.end))
    }

    /// Position of the first entry stored at or after a time, in nanoseconds since the epoch.
    pub(super) fn position_at(&self, time: u64) -> Result<Option<u64>> {
        let segment = self
            .segments()
            .values()
            .find(|s| s.extent.newest >= time)
            .cloned();
        let Some(Segment { entries, extent }) = segment else {
            return Ok(None);
        };
        // The first entry at or after `low` is too old, the one at `high` is not.
        let (mut low, mut high) = (extent.first, extent.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = entries.range(record::pack([middle])..).next();
            match entry
                .map(|pair| pair.into_inner())
                .transpose()
                .map_err(said)?
            {
                Some((key, value)) if record::stored(&value)? < time => {
                    let [position] = record::unpack(&key)?;
                    low = position + 1;
                }
                _ => high = middle,
            }
        }
        let entry = entries.range(record::pack([low])..).next();
        let key = entry.map(|pair| pair.key()).transpose().map_err(said)?;
        match key {
            Some(key) => Ok(Some(record::unpack::<1>(&key)?[0])),
            None => Ok(Some(extent.end)),
        }
    }

    /// Lets a segment's memory go to disk, where it is no longer written.
    pub(super) fn seal(&self, first: u64) -> Result<()> {
        let Some(segment) = self.segments().get(&first).cloned() else {
            return Ok(());
        };
        segment.entries.rotate_memtable().map_err(said)?;
        Ok(())
    }

    /// Drops the oldest segment.
    pub(super) fn drop_oldest(&self) -> Result<()> {
        let Some((first, segment)) = self.segments_mut().pop_first() else {
            return Ok(());
        };
        self.directory.remove(record::pack([first])).map_err(said)?;
        // A keyspace is deleted on the disk itself: a row without one must not come back with the power.
        self.sync()?;
        self.database.delete_keyspace(segment.entries).map_err(said)
    }

    /// Brings everything to the disk itself.
    pub(super) fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(said)
    }

    // Nothing panics while it holds the lock but a failed allocation, which aborts.
    fn segments(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u64, Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Segment>> {
        self.segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_nodes(keyspace: &Keyspace) -> Result<Nodes> {
    let mut nodes = Nodes::default();
    for pair in keyspace.iter() {
        let (node, last) = pair.into_inner().map_err(said)?;
        let node = std::str::from_utf8(&node).map_err(|error| error.to_string())?;
        let (key, position) = record::unpack_last(&last)?;
        nodes.set(node, key, position);
    }
    Ok(nodes)
}

/// The segments; what a kill or the loss of power left of others goes. That the oldest are missing is such a rest: they
/// were trimmed.
fn read_segments(database: &Database, directory: &Keyspace) -> Result<BTreeMap<u64, Segment>> {
    let mut segments = BTreeMap::new();
    for pair in directory.iter() {
        let (key, value) = pair.into_inner().map_err(said)?;
        let [first] = record::unpack(&key)?;
        let [end, bytes, oldest, newest] = record::unpack(&value)?;
        let name = segment_name(first);
        if !database.keyspace_exists(&name) {
            if !segments.is_empty() {
                return Err(format!("the entries from {first} to {end} are missing"));
            }
            tracing::warn!(
                first,
                end,
                "entries were about to be trimmed when the machine stopped: they are gone"
            );
            directory.remove(key).map_err(said)?;
            continue;
        }
        let entries = database.keyspace(&name, entries).map_err(said)?;
        let extent = Extent {
            first,
            end,
            bytes,
            oldest,
            newest,
        };
        segments.insert(first, Segment { entries, extent });
    }
    for name in database.list_keyspace_names() {
        let first = name.strip_prefix("segment-").map(str::parse::<u64>);
        if let Some(Ok(first)) = first
            && !segments.contains_key(&first)
        {
            let left = database.keyspace(&name, entries).map_err(said)?;
            database.delete_keyspace(left).map_err(said)?;
        }
    }
    Ok(segments)
}

// === impl Extent ===

impl Extent {
    fn numbers(&self) -> [u64; 5] {
        [self.first, self.end, self.bytes, self.oldest, self.newest]
    }

    /// Whether its newest entry is older than so much.
    pub(super) fn is_past(&self, age: Duration, now: u64) -> bool {
        u128::from(now.saturating_sub(self.newest)) > age.as_nanos()
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
