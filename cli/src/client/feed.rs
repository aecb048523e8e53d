//! A stream of events that outlives its connections.
//!
//! Every message carries a resume token, which stands for the place after it; when a connection breaks
//! or falls silent, the stream goes on from the last one, on whatever replica answers. What cannot be
//! had again the server tells as `loss`.

use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use ebpf_hello_proto::v1::{
    Event, Heartbeat, ObserveRequest, ObserverHello, Selection, observe_response::Message,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};

use super::{Observer, observer, refusal};
use crate::{connect::ConnectArgs, exit::Unreachable};

/// A stream with neither events nor heartbeats for this long is dead: three heartbeats (observer.proto).
pub(crate) const SILENCE: Duration = Duration::from_secs(45);
/// Wait before the first and the longest wait before a further attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Attempts in a row to finish a stream that does not follow: somebody waits for its end.
const ATTEMPTS: u32 = 5;
/// Messages between the connection and whoever shows them: each is at most what gRPC lets through,
/// 4 MiB. While they are not taken, the connection is not read.
const QUEUE: usize = 4;

/// What to stream, and from where.
#[derive(Clone, Debug)]
pub(crate) struct FeedOptions {
    pub(crate) connect: ConnectArgs,
    pub(crate) request: ObserveRequest,
    /// How long without a message a stream counts as alive: [`SILENCE`].
    pub(crate) silence: Duration,
}

/// What a stream has to say. Tokens stand for the place after the message.
#[derive(Debug)]
pub(crate) enum Update {
    /// A connection is there: the first, or another one.
    Hello(ObserverHello),
    Events {
        events: Vec<Event>,
        token: String,
    },
    Heartbeat {
        heartbeat: Heartbeat,
        token: String,
    },
    /// The connection broke; the next attempt comes after `again_in`.
    Interrupted {
        reason: String,
        again_in: Duration,
    },
}

/// A running stream. It ends when this is dropped.
pub(crate) struct Feed {
    updates: mpsc::Receiver<anyhow::Result<Update>>,
}

/// Where a stream is.
struct Session {
    options: FeedOptions,
    updates: mpsc::Sender<anyhow::Result<Update>>,
    /// The place after everything that came.
    token: String,
    /// A connection was there once: from now on an end is an interruption.
    established: bool,
    /// Events came.
    delivered: bool,
    /// Attempts since the last message.
    attempts: u32,
}

/// How one connection ended.
enum End {
    /// There is no more.
    Complete,
    /// The same request may succeed a moment later.
    Broken(anyhow::Error),
    /// It will not.
    Refused(anyhow::Error),
    /// Its token is about to end: the next one goes on with another.
    Renewed,
    /// Nobody listens to us any more.
    Unwanted,
}

// === impl Feed ===

impl Feed {
    /// Starts to stream, on the running event loop.
    pub(crate) fn start(options: FeedOptions) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let session = Session {
            token: options.request.resume_token.clone(),
            options,
            updates: sender,
            established: false,
            delivered: false,
            attempts: 0,
        };
        tokio::spawn(session.run());
        Feed { updates }
    }

    /// The next update; `None` after the stream's end. Cancellation safe.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, refuses, or has no more to resume from. Nothing follows.
    pub(crate) async fn next(&mut self) -> Option<anyhow::Result<Update>> {
        self.updates.recv().await
    }
}

// === impl Session ===

impl Session {
    async fn run(mut self) {
        loop {
            let error = match self.stream().await {
                End::Complete | End::Unwanted => return,
                End::Renewed => continue,
                End::Refused(error) => error,
                End::Broken(error) => match self.wait(error).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            // Nobody listens: then nobody needs the error.
            let _ = self.updates.send(Err(error)).await;
            return;
        }
    }

    /// Waits for the next attempt, unless there is none.
    async fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if !self.established {
            return Err(error);
        }
        self.attempts += 1;
        if !self.options.request.follow && self.attempts >= ATTEMPTS {
            return Err(error.context(format!("gave up after {ATTEMPTS} attempts")));
        }
        if self.delivered && self.token.is_empty() {
            return Err(error.context("the server gave no token to go on with"));
        }
        let again_in = backoff(self.attempts);
        let reason = format!("{error:#}");
        let interrupted = Update::Interrupted { reason, again_in };
        if self.updates.send(Ok(interrupted)).await.is_err() {
            bail!("nobody listens");
        }
        sleep(again_in).await;
        Ok(())
    }

    fn request(&self) -> ObserveRequest {
        let mut request = self.options.request.clone();
        if !self.token.is_empty() {
            request.resume_token = self.token.clone();
            request.since = None;
            request.last = 0;
        }
        request
    }

    /// One connection, from its start to its end.
    async fn stream(&mut self) -> End {
        let silence = self.options.silence;
        let mut client = match observer(&self.options.connect).await {
            Ok(client) => client,
            Err(error) => return End::Broken(error),
        };
        let opened = timeout(silence, open(&mut client, self.request())).await;
        let mut stream = match opened {
            Err(_) => return End::Broken(silent(silence)),
            Ok(Err(status)) => return self.end(&status),
            Ok(Ok(stream)) => stream,
        };
        let renewal = self.options.connect.renewal();
        let renewal = renewal.map(|life| Instant::now() + life);
        loop {
            let left = renewal.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return End::Renewed;
            }
            let patience = left.map_or(silence, |left| left.min(silence));
            let response = match timeout(patience, stream.message()).await {
                Err(_) if patience < silence => return End::Renewed,
                Err(_) => return End::Broken(silent(silence)),
                // A token that ended meanwhile: its file may hold another by now.
                Ok(Err(status)) if status.code() == Code::Unauthenticated => {
                    return End::Broken(self.explain(&status));
                }
                Ok(Err(status)) => return self.end(&status),
                Ok(Ok(None)) if self.is_complete() => return End::Complete,
                Ok(Ok(None)) => {
                    return End::Broken(
                        anyhow!("the server ended the stream").context(Unreachable),
                    );
                }
                Ok(Ok(Some(response))) => response,
            };
            self.established = true;
            let token = response.resume_token;
            if !token.is_empty() {
                self.token.clone_from(&token);
            }
            let update = match response.message {
                Some(Message::Hello(hello)) => Update::Hello(hello),
                Some(Message::Events(list)) => {
                    (self.delivered, self.attempts) = (true, 0);
                    let events = list.events;
                    Update::Events { events, token }
                }
                Some(Message::Heartbeat(heartbeat)) => {
                    self.attempts = 0;
                    Update::Heartbeat { heartbeat, token }
                }
                // A message newer than this version: only its token is of use.
                None => continue,
            };
            if self.updates.send(Ok(update)).await.is_err() {
                return End::Unwanted;
            }
        }
    }

    /// Whether a stream that the server ended has brought everything that was asked for.
    fn is_complete(&self) -> bool {
        let request = &self.options.request;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        // The server's clock decides when `until` has passed; a second covers the difference.
        !request.follow || request.until.is_some_and(|until| until.seconds <= now + 1)
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        let selection = self.options.request.selection.as_ref();
        refusal::explain(status, selection.unwrap_or(&Selection::default()))
    }

    fn end(&self, status: &Status) -> End {
        let error = self.explain(status);
        if refusal::is_transient(status) {
            End::Broken(if self.established {
                error.context(Unreachable)
            } else {
                error
            })
        } else {
            End::Refused(error)
        }
    }
}

async fn open(
    client: &mut Observer,
    request: ObserveRequest,
) -> Result<tonic::Streaming<ebpf_hello_proto::v1::ObserveResponse>, Status> {
    Ok(client.observe(request).await?.into_inner())
}

fn silent(silence: Duration) -> anyhow::Error {
    anyhow!(
        "the server was silent for {}",
        humantime::format_duration(silence)
    )
    .context(Unreachable)
}

/// Doubles, and differs between clients that lost the same server.
fn backoff(attempt: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let wait = first
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(longest);
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    wait / 2 + (wait / 2).mul_f64(f64::from(nanos % 1_000_000) / 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let (first, longest) = BACKOFF;
        assert!((first / 2..=first).contains(&backoff(1)));
        assert!((first..=first * 2).contains(&backoff(2)));
        for attempt in [10, 100, u32::MAX] {
            assert!((longest / 2..=longest).contains(&backoff(attempt)));
        }
    }
}
