//! Appending: one batch of a node at a time, each naming the message before it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::jetstream::{
    context::PublishErrorKind,
    message::{PublishMessage, StreamMessage},
    stream::LastRawMessageErrorKind,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{SUBJECTS, Shared, failed};
use crate::log::{Appended, BatchKey, LogError, nodes::MAX_NODES};

const EPOCH: &str = "Ebpf-Hello-Epoch";
const NUMBER: &str = "Ebpf-Hello-Number";
const EVENTS: &str = "Ebpf-Hello-Events";
/// Attempts while other collectors append batches of the same node.
const ATTEMPTS: usize = 8;

/// Who appends next, by node; at most [`MAX_NODES`], and those in use.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Box<str>, Arc<Turn>>>);

/// One node's.
#[derive(Debug)]
struct Turn {
    /// One permit: batches of a node go one after the other.
    one: Semaphore,
    last: Mutex<Last>,
}

/// What is known of the node's last message.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// The last batch this collector has seen in the stream.
    key: Option<BatchKey>,
    /// The sequence of the node's last message, 0 for none; `None` when that is to be asked.
    sequence: Option<u64>,
}

/// The subject of a node: a token has no dots, spaces or wildcards.
fn subject(node: &str) -> String {
    let mut subject = SUBJECTS.to_owned();
    for byte in node.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => subject.push(char::from(byte)),
            other => subject.push_str(&format!("_{other:02x}")),
        }
    }
    subject
}

fn key(message: &StreamMessage) -> Option<BatchKey> {
    let number = |name| message.headers.get(name)?.as_str().parse().ok();
    Some(BatchKey {
        epoch: number(EPOCH)?,
        number: number(NUMBER)?,
    })
}

// === impl Turns ===

impl Turns {
    /// The node's last batch in the stream.
    pub(super) async fn last(
        &self,
        shared: &Shared,
        node: &str,
    ) -> Result<Option<BatchKey>, LogError> {
        let turn = self.turn(node);
        let _permit = turn.take().await?;
        turn.ask(shared, &subject(node)).await?;
        Ok(turn.last().key)
    }

    /// Publishes a batch, unless it is there.
    pub(super) async fn append(
        &self,
        shared: &Shared,
        node: &str,
        key: BatchKey,
        record: Vec<u8>,
        events: usize,
    ) -> Result<Appended, LogError> {
        let turn = self.turn(node);
        let _permit = turn.take().await?;
        let subject = subject(node);
        let message = PublishMessage::build()
            .message_id(format!("{node}/{}/{}", key.epoch, key.number))
            .header(EPOCH, key.epoch.to_string().as_str())
            .header(NUMBER, key.number.to_string().as_str())
            .header(EVENTS, events.to_string().as_str())
            .payload(record.into());
        for _ in 0..ATTEMPTS {
            let known = turn.last().sequence;
            let sequence = match known {
                Some(sequence) => sequence,
                None => turn.ask(shared, &subject).await?,
            };
            if turn.last().key.is_some_and(|last| key <= last) {
                return Ok(Appended::Duplicate);
            }
            // Until there is an answer, what is known may be wrong; also when this is dropped while it waits.
            turn.last().sequence = None;
            let message = message.clone().expected_last_subject_sequence(sequence);
            let published = shared.context.send_publish(subject.clone(), message).await;
            let acknowledged = match published {
                Ok(acknowledgement) => acknowledgement.await,
                Err(error) => Err(error),
            };
            match acknowledged {
                Ok(ack) if ack.duplicate => continue, // asks for the last, which is this or later
                Ok(ack) => {
                    *turn.last() = Last {
                        key: Some(key),
                        sequence: Some(ack.sequence),
                    };
                    return Ok(Appended::Stored(ack.sequence));
                }
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) => return Err(failed(&format!("publishing a batch of {node}"), error)),
            }
        }
        Err(failed(
            &format!("publishing a batch of {node}"),
            "other collectors keep appending batches of this node",
        ))
    }

    /// Forgets what was seen: the stream has lost some of it.
    pub(super) fn forget(&self) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.clear();
    }

    fn turn(&self, node: &str) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(node) {
            return turn.clone();
        }
        if turns.len() >= MAX_NODES {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1); // what it knows can be asked again
        }
        let turn = Arc::new(Turn {
            one: Semaphore::new(1),
            last: Mutex::default(),
        });
        turns.insert(node.into(), turn.clone());
        turn
    }
}

// === impl Turn ===

impl Turn {
    async fn take(&self) -> Result<SemaphorePermit<'_>, LogError> {
        self.one
            .acquire()
            .await
            .map_err(|error| failed("appending", error))
    }

    /// Asks the stream's leader for the node's last message.
    async fn ask(&self, shared: &Shared, subject: &str) -> Result<u64, LogError> {
        let (key, sequence) = match shared.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => (key(&message), message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => (None, 0),
            Err(error) => return Err(failed(&format!("asking for the last of {subject}"), error)),
        };
        let mut last = self.last();
        last.sequence = Some(sequence);
        last.key = last.key.max(key); // the message may have been trimmed since it was seen
        Ok(sequence)
    }

    // Nothing panics while it holds the lock.
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
