//! The log: every batch in one order, kept for a while, read by whoever subscribes.
//!
//! Two kinds, with the same tests: on this machine (memory, or a store on disk with the newest entries in
//! memory as well), and NATS JetStream, which any number of collectors share.
//!
//! A batch is stored once: what an agent sends again, because it did not hear the acknowledgement, is found by
//! its key. Agents send in the order of (epoch, number), so that the last key of each node is enough to know.

mod memory;
mod nats;
mod nodes;
mod record;
mod store;
mod tail;

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_proto::wire;
use prost::Message as _;

pub use memory::{DEFAULT_MEMORY, Memory};
pub use nats::{Nats, NatsOptions};
pub use store::{Store, StoreOptions};

use crate::token::TokenKey;

/// Which run of a node's agent, and which of its batches. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchKey {
    /// The agent's run.
    pub epoch: u64,
    /// From 1 without a gap within the run.
    pub number: u64,
}

/// A place between two entries or two events of one: everything before it has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Position of the entry that is read next.
    pub position: u64,
    /// Events of that entry that have been read already.
    pub event: u32,
}

/// A batch in the log.
#[derive(Debug)]
pub struct Entry {
    /// Its position: from 1, growing. It has gaps: where the log counts its own (memory and store), the next
    /// entry's position is this one's plus its events, and may be later still where entries may have been lost.
    pub position: u64,
    /// When it was stored.
    pub stored: SystemTime,
    /// The batch, shallowly decoded.
    pub batch: wire::Batch,
}

/// What became of a batch that was to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log, at this position.
    Stored(u64),
    /// It was there before.
    Duplicate,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Position of the oldest entry; of the next one to come when the log is empty.
    pub oldest: u64,
    /// Position the next entry will have at least.
    pub end: u64,
    /// When the oldest entry was stored.
    pub oldest_stored: Option<SystemTime>,
    /// When the newest entry was stored.
    pub newest_stored: Option<SystemTime>,
}

/// What a reader meets next.
#[derive(Clone, Debug)]
pub enum Next {
    /// An entry.
    Entry(Arc<Entry>),
    /// Entries that were between the reader's place and this position are gone: trimmed before they were read, or lost
    /// with the power.
    Gone {
        /// Position of the first entry that is gone.
        from: u64,
        /// Position the reader goes on at; before `from` where a shared log was set back.
        to: u64,
        /// Events they held, where the log knows; also those that a `Place` within the first of them had read.
        events: Option<u64>,
    },
    /// Nothing more for now: the reader is at the end; of a shared log, as far as this process has received it.
    End,
}

/// Why the log could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store on disk.
    #[error("the store in {directory}: {message}")]
    Store {
        /// Its directory.
        directory: String,
        /// What failed.
        message: String,
    },
    /// The NATS server.
    #[error("NATS: {0}")]
    Nats(String),
    /// Bytes that are no batch.
    #[error("not a batch: {0}")]
    Malformed(String),
}

/// A log of batches.
#[async_trait]
pub trait Log: Send + Sync + std::fmt::Debug {
    /// Names the log: tokens of one are not valid on another. Stable across restarts and replicas.
    fn id(&self) -> &str;

    /// What authenticates resume tokens of this log: kept with it, the same on every replica.
    fn token_key(&self) -> &TokenKey;

    /// The last batch of a node in the log, across restarts.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError>;

    /// Appends an encoded `v1::Batch` of `node`, unless its key is not after the node's last. When it returns,
    /// the batch survives a kill of this process.
    ///
    /// # Errors
    /// It is no batch, one without events, or another than `node` and `key` say; or the log cannot be written:
    /// then it is not in the log.
    async fn append(&self, node: &str, key: BatchKey, batch: Bytes) -> Result<Appended, LogError> {
        let (batch, encoded) = decode(node, key, &batch)?;
        self.append_decoded(batch, encoded).await
    }

    /// The same for who has decoded the batch, and found an event in it. Its parts lie in `encoded`, which holds
    /// nothing beside it.
    ///
    /// # Errors
    /// The log cannot be written: then it is not in the log.
    async fn append_decoded(
        &self,
        batch: wire::Batch,
        encoded: Bytes,
    ) -> Result<Appended, LogError>;

    /// What the log holds now.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn range(&self) -> Result<Range, LogError>;

    /// Position of the first entry stored at or after a time; the end if there is none.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError>;

    /// Where the entries before a position end: that position, unless the log has left positions free before it.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn end_before(&self, position: u64) -> Result<u64, LogError> {
        Ok(position)
    }

    /// A reader that starts with the first entry at or after a position.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError>;
}

/// Reads a log in order, at its own pace.
#[async_trait]
pub trait Reader: Send {
    /// The next entry, without waiting for one that is not there yet.
    ///
    /// # Errors
    /// The log cannot be read; the reader keeps its place and can be asked again.
    async fn next(&mut self) -> Result<Next, LogError>;

    /// Where it goes on: everything before has been given, or is not in the log.
    fn position(&self) -> u64;

    /// Returns when there may be something after the end. Cancel safe.
    async fn wait(&mut self);
}

/// Decodes a batch that is to be appended, from bytes of its own: a slice of a receive buffer would keep all
/// of the buffer for as long as the entry lives.
fn decode(node: &str, key: BatchKey, encoded: &[u8]) -> Result<(wire::Batch, Bytes), LogError> {
    let encoded = Bytes::copy_from_slice(encoded);
    let batch = wire::Batch::decode(encoded.clone())
        .map_err(|error| LogError::Malformed(error.to_string()))?;
    if batch.node != node || (batch.epoch, batch.number) != (key.epoch, key.number) {
        return Err(LogError::Malformed(format!(
            "batch {}/{} of node {:?}, announced as {}/{} of node {node:?}",
            batch.epoch, batch.number, batch.node, key.epoch, key.number,
        )));
    }
    if batch.events.is_empty() {
        return Err(LogError::Malformed("it has no events".into()));
    }
    Ok((batch, encoded))
}

/// The key of a batch.
fn key_of(batch: &wire::Batch) -> BatchKey {
    BatchKey {
        epoch: batch.epoch,
        number: batch.number,
    }
}
