//! Reading: from this process's memory, and from the server what is no longer there.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use async_nats::jetstream::{message::StreamMessage, stream::DirectGetErrorKind};
use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::watch;

use super::{SUBJECTS, Shared, failed};
use crate::log::{Entry, LogError, Next, Reader, record, tail::Found};

/// Messages that are asked for at once.
const AHEAD: u64 = 16;

/// Reads a [`Nats`](super::Nats).
pub(super) struct NatsReader {
    shared: Arc<Shared>,
    end: watch::Receiver<u64>,
    set_back: watch::Receiver<u64>,
    position: u64,
    /// What was read from the server ahead of the position.
    ahead: VecDeque<Arc<Entry>>,
}

// === impl Shared ===

impl Shared {
    /// The first message at or after a sequence.
    pub(super) async fn first_from(
        &self,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, LogError> {
        let get = self.stream.direct_get_builder().sequence(sequence);
        match get.next_by_subject(format!("{SUBJECTS}*")).send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&format!("reading from {sequence}"), error)),
        }
    }

    /// Messages from one sequence up to another, until one is missing; [`AHEAD`] at most.
    async fn stretch(&self, from: u64, to: u64) -> Result<Vec<StreamMessage>, LogError> {
        let sequences = from..to.min(from.saturating_add(AHEAD));
        let gets = sequences.map(|sequence| self.stream.direct_get(sequence));
        let mut messages = Vec::new();
        for got in join_all(gets).await {
            match got {
                Ok(message) => messages.push(message),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(_) if !messages.is_empty() => break, // the next read meets it
                Err(error) => return Err(failed(&format!("reading from {from}"), error)),
            }
        }
        Ok(messages)
    }

    /// Sequence of the oldest message, as the stream's leader knows it.
    async fn oldest(&self) -> Result<u64, LogError> {
        let info = self.stream.get_info().await;
        let state = info
            .map_err(|error| failed("asking for the stream", error))?
            .state;
        Ok(match state.messages {
            0 => state.last_sequence + 1,
            _ => state.first_sequence,
        })
    }
}

// === impl NatsReader ===

impl NatsReader {
    pub(super) fn new(shared: Arc<Shared>, position: u64) -> Self {
        NatsReader {
            end: shared.tail.subscribe(),
            set_back: shared.set_back.subscribe(),
            shared,
            position: position.max(1),
            ahead: VecDeque::new(),
        }
    }

    /// Gives an entry, or first what is missing before it.
    fn give(&mut self, entry: Arc<Entry>) -> Next {
        if entry.position > self.position {
            let to = entry.position;
            self.ahead.push_front(entry);
            return self.skip(to);
        }
        self.position = entry.position + 1;
        Next::Entry(entry)
    }

    /// What this reader had read is gone from the stream, and others come in its place.
    fn go_back(&mut self) -> Option<Next> {
        // The sender lives as long as what this reader holds.
        if !self.set_back.has_changed().unwrap_or(false) {
            return None;
        }
        let to = *self.set_back.borrow_and_update();
        self.ahead.clear();
        (to < self.position).then(|| {
            let from = std::mem::replace(&mut self.position, to);
            Next::Gone {
                from,
                to,
                events: None,
            }
        })
    }

    fn skip(&mut self, to: u64) -> Next {
        let from = std::mem::replace(&mut self.position, to);
        let events = self.shared.counts.between(from, to);
        Next::Gone { from, to, events }
    }
}

#[async_trait]
impl Reader for NatsReader {
    async fn next(&mut self) -> Result<Next, LogError> {
        if let Some(gone) = self.go_back() {
            return Ok(gone);
        }
        if let Some(entry) = self.ahead.pop_front() {
            return Ok(self.give(entry));
        }
        let tail = match self.shared.tail.find(self.position) {
            Found::Entry(entry) => return Ok(self.give(entry)),
            Found::End(position) => {
                self.position = position;
                return Ok(Next::End);
            }
            Found::Before(tail) => tail,
        };
        let messages = self.shared.stretch(self.position, tail).await?;
        if messages.is_empty() {
            // A replica that lags has less than the leader: only the leader knows what is gone.
            let oldest = self.shared.oldest().await?;
            if oldest > self.position {
                return Ok(self.skip(oldest.min(tail)));
            }
            let position = self.position;
            return Err(failed(
                &format!("reading from {position}"),
                "it is not there yet",
            ));
        }
        let mut entries = VecDeque::with_capacity(messages.len());
        for message in messages {
            let batch = record::batch(&message.payload)
                .map_err(|error| failed(&format!("message {}", message.sequence), error))?;
            entries.push_back(Arc::new(Entry {
                position: message.sequence,
                stored: SystemTime::from(message.time),
                batch,
            }));
        }
        self.ahead = entries;
        match self.ahead.pop_front() {
            Some(entry) => Ok(self.give(entry)),
            None => Ok(Next::End),
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    async fn wait(&mut self) {
        let position = self.position;
        // The senders live as long as what this reader holds.
        tokio::select! {
            _ = self.end.wait_for(|end| *end > position) => {}
            _ = self.set_back.changed() => self.set_back.mark_changed(),
        }
    }
}
