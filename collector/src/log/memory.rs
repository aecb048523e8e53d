//! The log of a process that keeps none: the newest entries, in memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_proto::wire;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;

use super::{
    Appended, BatchKey, Entry, Log, LogError, Next, Range, Reader, key_of,
    nodes::Nodes,
    tail::{Found, Tail},
};
use crate::token::TokenKey;

/// Bytes of a [`Memory`] where nothing else is said.
pub const DEFAULT_MEMORY: usize = 64 << 20;

/// The newest entries, in memory. It begins empty and ends with the process: nothing of it survives a restart.
#[derive(Debug)]
pub struct Memory {
    id: String,
    token_key: TokenKey,
    tail: Arc<Tail>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    nodes: Nodes,
    end: u64,
    stored: SystemTime,
}

/// Reads a [`Memory`].
struct MemoryReader {
    tail: Arc<Tail>,
    end: watch::Receiver<u64>,
    position: u64,
}

/// A random name, of 32 hexadecimal digits.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("getrandom(2) does not fail once the system is up");
    format!("{:032x}", u128::from_be_bytes(bytes))
}

// === impl Memory ===

impl Memory {
    /// An empty log of at most `capacity` bytes, counted as they lie in memory; but always the newest entry.
    pub fn new(capacity: usize) -> Self {
        const FIRST: u64 = 1;
        Memory {
            id: random_id(),
            token_key: TokenKey::random(),
            tail: Arc::new(Tail::new(capacity, FIRST)),
            writer: Mutex::new(Writer {
                nodes: Nodes::default(),
                end: FIRST,
                stored: SystemTime::UNIX_EPOCH,
            }),
        }
    }

    // Nothing panics while it holds the lock but a failed allocation, which aborts.
    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new(DEFAULT_MEMORY)
    }
}

#[async_trait]
impl Log for Memory {
    fn id(&self) -> &str {
        &self.id
    }

    fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError> {
        Ok(self.writer().nodes.last(node))
    }

    async fn append_decoded(&self, batch: wire::Batch, _: Bytes) -> Result<Appended, LogError> {
        let (node, key) = (batch.node.as_str(), key_of(&batch));
        let mut writer = self.writer();
        if writer.nodes.has(node, key) {
            return Ok(Appended::Duplicate);
        }
        let position = writer.end;
        writer.end += batch.events.len() as u64;
        // The clock may step back; the log's times do not.
        writer.stored = writer.stored.max(SystemTime::now());
        writer.nodes.set(node, key, position);
        let entry = Entry {
            position,
            stored: writer.stored,
            batch,
        };
        self.tail.extend([entry], writer.end);
        Ok(Appended::Stored(position))
    }

    async fn range(&self) -> Result<Range, LogError> {
        Ok(self.tail.range())
    }

    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError> {
        let at = self.tail.position_at(time);
        Ok(at.unwrap_or_else(|| self.tail.range().oldest))
    }

    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(MemoryReader {
            tail: self.tail.clone(),
            end: self.tail.subscribe(),
            position: position.max(1),
        }))
    }
}

// === impl MemoryReader ===

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self) -> Result<Next, LogError> {
        Ok(match self.tail.find(self.position) {
            Found::Entry(entry) => {
                self.position = entry.position + entry.batch.events.len() as u64;
                Next::Entry(entry)
            }
            Found::Before(oldest) => {
                let from = std::mem::replace(&mut self.position, oldest);
                Next::Gone {
                    from,
                    to: oldest,
                    events: Some(oldest - from),
                }
            }
            Found::End(position) => {
                self.position = position;
                Next::End
            }
        })
    }

    fn position(&self) -> u64 {
        self.position
    }

    async fn wait(&mut self) {
        let position = self.position;
        // The sender lives as long as the tail that this reader holds.
        let _ = self.end.wait_for(|end| *end > position).await;
    }
}
