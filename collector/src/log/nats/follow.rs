//! The newest entries into memory: one consumer per process, whatever the number of readers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_nats::jetstream::{
    Message,
    consumer::{DeliverPolicy, ReplayPolicy, pull::OrderedConfig},
};
use futures::StreamExt as _;
use tokio::sync::Notify;

use super::{Shared, failed};
use crate::log::{Entry, LogError, record};

/// Time before the consumer is made again when that failed.
const RETRY: Duration = Duration::from_millis(500);
/// Entries whose events are counted, at most.
const COUNTED: usize = 1 << 18;

/// How many events this process saw, by sequence: tells how many were in entries that are gone by the time they
/// are read.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<VecDeque<Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    sequence: u64,
    /// Events of the entries before this, since the process started.
    before: u64,
    events: u64,
}

/// Follows the stream from a sequence on, for ever.
pub(super) async fn follow(shared: Arc<Shared>, mut next: u64, connected: Arc<Notify>) {
    loop {
        if let Err(error) = consume(&shared, &mut next, &connected).await {
            tracing::warn!("{error}; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Returns when there is a new connection: a server that was restarted no longer has the consumer, and the
/// missing heartbeats would tell that only later.
async fn consume(shared: &Shared, next: &mut u64, connected: &Notify) -> Result<(), LogError> {
    let following = |error: &dyn std::fmt::Display| failed("following the stream", error);
    let info = shared.stream.get_info().await;
    let end = info.map_err(|error| following(&error))?.state.last_sequence + 1;
    if end < *next {
        tracing::error!(
            from = end,
            to = *next,
            "the NATS server has lost its newest messages: events that were acknowledged are gone, and resume tokens \
             of them are not valid"
        );
        *next = end;
        shared.tail.set_back(end);
        shared.counts.set_back(end);
        shared.turns.forget();
        shared.set_back.send_replace(end);
    }
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: *next,
        },
        replay_policy: ReplayPolicy::Instant,
        description: Some("the newest events, for a collector".into()),
        ..OrderedConfig::default()
    };
    let consumer = shared.stream.create_consumer(config).await;
    let messages = consumer
        .map_err(|error| following(&error))?
        .messages()
        .await;
    let mut messages = messages.map_err(|error| following(&error))?;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = connected.notified() => return Ok(()),
        };
        let message = message.ok_or_else(|| following(&"the consumer ended"))?;
        let message = message.map_err(|error| following(&error))?;
        let (sequence, entry) = entry(&message).map_err(|error| following(&error))?;
        if sequence < *next {
            continue;
        }
        shared.counts.add(
            sequence,
            entry.as_ref().map_or(0, |e| e.batch.events.len() as u64),
        );
        *next = sequence + 1;
        shared.tail.extend(entry, *next);
    }
}

/// The sequence of a message, and its entry unless it is none of ours.
fn entry(message: &Message) -> Result<(u64, Option<Entry>), String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let sequence = info.stream_sequence;
    let entry = match record::batch(&message.payload) {
        Ok(batch) => Some(Entry {
            position: sequence,
            stored: SystemTime::from(info.published),
            batch,
        }),
        Err(error) => {
            tracing::error!(subject = %message.subject, sequence, "a message that is no batch: {error}");
            None
        }
    };
    Ok((sequence, entry))
}

// === impl Counts ===

impl Counts {
    fn add(&self, sequence: u64, events: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counts.back().map_or(0, |last| last.before + last.events);
        if counts.len() >= COUNTED {
            counts.pop_front();
        }
        counts.push_back(Count {
            sequence,
            before,
            events,
        });
    }

    /// Forgets what was from a sequence on: others come there.
    fn set_back(&self, sequence: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while counts.back().is_some_and(|c| c.sequence >= sequence) {
            counts.pop_back();
        }
    }

    /// Events of the entries from one sequence up to another, if this process saw them all.
    pub(super) fn between(&self, from: u64, to: u64) -> Option<u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |sequence| {
            counts
                .binary_search_by_key(&sequence, |c: &Count| c.sequence)
                .ok()
        };
        let (first, last) = (find(from)?, find(to.checked_sub(1)?)?);
        // Sequences have gaps only where something was trimmed before this process saw it.
        if (last - first) as u64 != to - 1 - from {
            return None;
        }
        let (first, last) = (counts[first], counts[last]);
        Some(last.before + last.events - first.before)
    }
}
