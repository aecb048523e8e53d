//! The log that any number of collectors share: a stream of NATS JetStream.
//!
//! Each node has a subject. A batch is published with the sequence of its node's last message, so that the
//! server refuses what another collector has appended since: no batch is there twice or out of order,
//! whichever collectors an agent talks to. Positions are the stream's sequences.
//!
//! An acknowledged batch is in the stream's file: it survives a kill of the server; what the loss of power can cost
//! is the server's `sync_interval` (with three replicas, of a majority of them). While the server is away,
//! appends fail (agents keep their batches) and readers wait; both go on when it returns.
//!
//! A server that lost its newest messages gives their sequences again. A collector that had seen them finds that when
//! it is connected again, tells it, and its readers hear of a loss and go on with the new ones. A token of a lost
//! message is refused until the stream is as long as it was; after that nothing tells that it stands for another place.
//!
//! The last key of a node is the one of its last message: a node all of whose messages were trimmed has none,
//! but for the collectors that appended them.

mod append;
mod connect;
mod follow;
mod read;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::jetstream;
use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_proto::wire;
use tokio::{sync::watch, task::JoinHandle};

use self::{append::Turns, follow::Counts, read::NatsReader};
use super::{
    Appended, BatchKey, DEFAULT_MEMORY, Log, LogError, Range, Reader, key_of, record, tail::Tail,
};
use crate::token::TokenKey;

/// Name of the stream.
const STREAM: &str = "EBPF_HELLO";
/// Its subjects: this and a node's token.
const SUBJECTS: &str = "ebpf-hello.events.";

/// Which server, how to get in, and how much the stream keeps.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Servers of one cluster, separated by commas: `nats://` or `tls://`, with `user:password@` or `token@`
    /// where the server wants that, percent-encoded.
    pub url: String,
    /// A credentials file (JWT and nkey seed).
    pub credentials: Option<PathBuf>,
    /// Certificates, PEM, of the authorities to trust. `None`: the system's.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key, PEM, for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Bytes of messages the stream keeps at most. The collector that starts last sets the limits.
    pub max_bytes: u64,
    /// Messages older than this go.
    pub max_age: Duration,
    /// Servers that keep each message: 1, or 3 or 5 in a cluster. Only when the stream is made.
    pub replicas: usize,
    /// Bytes of the newest entries that are in this process's memory as well.
    pub tail: usize,
}

/// A log in a NATS server.
#[derive(Debug)]
pub struct Nats {
    id: String,
    token_key: TokenKey,
    client: async_nats::Client,
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

/// What readers need.
#[derive(Debug)]
struct Shared {
    context: jetstream::Context,
    stream: jetstream::stream::Stream<()>,
    tail: Tail,
    counts: Counts,
    turns: Turns,
    /// The position that the stream was last set back to; 0 if it never was.
    set_back: watch::Sender<u64>,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> LogError {
    LogError::Nats(format!("{doing}: {error}"))
}

// === impl NatsOptions ===

impl NatsOptions {
    /// A stream of 8 GiB and seven days on a server.
    pub fn new(url: impl Into<String>) -> Self {
        NatsOptions {
            url: url.into(),
            credentials: None,
            authorities: None,
            certificate: None,
            max_bytes: 8 << 30,
            max_age: Duration::from_secs(7 * 24 * 3600),
            replicas: 1,
            tail: DEFAULT_MEMORY,
        }
    }
}

// === impl Nats ===

impl Nats {
    /// Connects to the server, and makes the stream if there is none.
    ///
    /// # Errors
    /// The server cannot be reached or refuses us, has no JetStream, or has a stream of that name that is not ours.
    pub async fn open(options: NatsOptions) -> Result<Self, LogError> {
        let connection = connect::connect(&options).await?;
        let connect::Opened {
            id,
            token_key,
            stream,
            end,
        } = connect::open_stream(&connection.context, &options).await?;
        let shared = Arc::new(Shared {
            context: connection.context,
            stream,
            tail: Tail::new(options.tail, end),
            counts: Counts::default(),
            turns: Turns::default(),
            set_back: watch::Sender::new(0),
        });
        let follower = follow::follow(shared.clone(), end, connection.connected);
        Ok(Nats {
            id,
            token_key,
            client: connection.client,
            shared,
            follower: tokio::spawn(follower),
        })
    }

    /// The connection, for what collectors tell each other besides.
    pub(crate) fn client(&self) -> async_nats::Client {
        self.client.clone()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait]
impl Log for Nats {
    fn id(&self) -> &str {
        &self.id
    }

    fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError> {
        self.shared.turns.last(&self.shared, node).await
    }

    async fn append_decoded(
        &self,
        batch: wire::Batch,
        encoded: Bytes,
    ) -> Result<Appended, LogError> {
        let record = record::compress(&encoded).map_err(|error| failed("compressing", error))?;
        let (key, events) = (key_of(&batch), batch.events.len());
        let shared = &self.shared;
        shared
            .turns
            .append(shared, &batch.node, key, record, events)
            .await
    }

    async fn range(&self) -> Result<Range, LogError> {
        let info = self.shared.stream.get_info().await;
        let state = info
            .map_err(|error| failed("asking for the stream", error))?
            .state;
        let empty = state.messages == 0;
        Ok(Range {
            oldest: match empty {
                true => state.last_sequence + 1,
                false => state.first_sequence,
            },
            end: state.last_sequence + 1,
            oldest_stored: (!empty).then(|| state.first_timestamp.into()),
            newest_stored: (!empty).then(|| state.last_timestamp.into()),
        })
    }

    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError> {
        if let Some(position) = self.shared.tail.position_at(time) {
            return Ok(position);
        }
        let range = self.range().await?;
        // What is before `low` is too old, what is at `high` is not.
        let (mut low, mut high) = (range.oldest, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.shared.first_from(middle).await? {
                Some(message) if SystemTime::from(message.time) < time => {
                    low = message.sequence + 1
                }
                _ => high = middle,
            }
        }
        Ok(low)
    }

    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(NatsReader::new(self.shared.clone(), position)))
    }
}
