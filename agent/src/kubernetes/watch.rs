//! A watch that never ends: what a part of the API server has now, and each change from there on.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Config, Error, Event, InitialListStrategy, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::{
    PATIENCE,
    backoff::{AWAY, Backoff, Failure},
};

/// An attempt that has not failed by then has succeeded: the client gives up before, where nobody is there and where
/// nobody answers.
const OPEN: Duration = PATIENCE.answer.saturating_add(Duration::from_secs(1));

/// Whether an API server answers, as its watches see it. Shared by all of them.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<Mutex<Option<Instant>>>);

// === impl Reach ===

impl Reach {
    /// How long the server has been away; `None` while it answers.
    #[must_use]
    pub fn away(&self) -> Option<Duration> {
        self.since().map(|since| since.elapsed())
    }

    /// Whether it is away for longer than a blink.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away().is_some_and(|away| away >= AWAY)
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, answers: bool) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = match (answers, *since) {
            (true, _) => None,
            (false, since) => since.or_else(|| Some(Instant::now())),
        };
    }
}

/// One watch.
struct Watch<K> {
    events: stream::BoxStream<'static, watcher::Result<Event<K>>>,
    api: Api<K>,
    config: Config,
    what: String,
    reach: Reach,
    backoff: Backoff,
    /// It was said that the server is away.
    is_told: bool,
}

/// What there is and each change of it, for ever: errors end in another attempt and in [`Reach`], never in the stream.
/// After a break that the server cannot bridge, everything comes again between [`Event::Init`] and
/// [`Event::InitDone`].
///
/// The first list is streamed where the server can (`WatchList`, on since 1.34), else it is asked for.
pub fn watch<K>(api: Api<K>, config: Config, reach: Reach) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let config = config.streaming_lists();
    let watch = Watch {
        events: watcher(api.clone(), config.clone()).boxed(),
        what: K::plural(&K::DynamicType::default()).into_owned(),
        api,
        config,
        reach,
        backoff: Backoff::default(),
        is_told: false,
    };
    stream::unfold(watch, |mut watch| async {
        let event = watch.next().await;
        Some((event, watch))
    })
}

// === impl Watch ===

impl<K> Watch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    async fn next(&mut self) -> Event<K> {
        loop {
            // The library opens a watch again without saying so. Its events are not lost when a wait for one is given
            // up: `Next` only borrows the stream.
            let next = match timeout(OPEN, self.events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    self.answered();
                    self.events.next().await
                }
            };
            match next {
                Some(Ok(event)) => {
                    // Said before a list is asked for, not after.
                    if !matches!(event, Event::Init) {
                        self.answered();
                    }
                    return event;
                }
                Some(Err(error)) => self.failed(&error).await,
                // It never ends; if it did, this begins it again.
                None => self.open(),
            }
        }
    }

    fn answered(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.is_told) {
            tracing::info!(what = self.what, "the API server is back");
        }
        self.reach.note(true);
    }

    async fn failed(&mut self, error: &Error) {
        if self.config.initial_list_strategy == InitialListStrategy::StreamingList
            && is_streaming_refused(error)
        {
            tracing::info!(
                what = self.what,
                "the API server does not stream lists: asking for them"
            );
            self.config.initial_list_strategy = InitialListStrategy::ListWatch;
            self.open();
            return;
        }
        let failure = failure(error);
        if failure != Failure::Cut {
            self.reach.note(false);
        }
        let wait = self.backoff.wait(failure, Instant::now(), fastrand::f64());
        let what = &self.what;
        if failure == Failure::Refused {
            tracing::warn!(what, %error, ?wait, "the API server refuses a watch");
        } else if self.reach.is_away() && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(what, %error, "the API server is away: what is known of it stays");
        } else {
            tracing::debug!(what, %error, ?wait, "a watch failed");
        }
        sleep(wait).await;
    }

    fn open(&mut self) {
        self.events = watcher(self.api.clone(), self.config.clone()).boxed();
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::WatchFailed(_) | Error::WatchError(_) => Failure::Cut,
        // Not yet, or not now: as for a definition that is new, whose storage is being made.
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 429 || status.code >= 500 =>
        {
            Failure::Away
        }
        Error::InitialListFailed(kube::Error::Api(_))
        | Error::WatchStartFailed(kube::Error::Api(_))
        | Error::NoResourceVersion => Failure::Refused,
        Error::InitialListFailed(_) | Error::WatchStartFailed(_) => Failure::Away,
    }
}

/// Servers that know `sendInitialEvents` and do not have it on call it invalid, 422; some call it a bad request.
fn is_streaming_refused(error: &Error) -> bool {
    matches!(error, Error::WatchStartFailed(kube::Error::Api(status)) if [400, 422].contains(&status.code))
}
