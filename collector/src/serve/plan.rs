//! From an [`v1::ObserveRequest`] to what a stream does: which events, from where, until when.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use ebpf_hello_proto::{Timestamp, v1};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Collector, slice::judge};
use crate::{
    caller::Reader,
    log::{self, LogError, Next, Place},
    mask::Mask,
    refusal::{self, Invalid},
    selection::{Selector, Verdict, nanos},
    token::{self, TokenError},
};

/// Most events of `last`.
pub const MAX_LAST: u32 = 100_000;
/// How far a node's clock may be ahead of the collector's: `since` finds entries by when they were stored.
const CLOCK_SKEW: Duration = Duration::from_secs(10);
/// How long after `until` a live stream waits for events that are on their way: the longest linger twice.
const LATE: Duration = Duration::from_secs(2);
/// Positions that `last` looks back over first, or `last` itself if that is more; it doubles from there.
const FIRST_LOOK: u64 = 1024;
/// How long to wait for what other collectors have stored and this one has not received, from one batch to the next.
const BEHIND: Duration = Duration::from_secs(5);

/// What a stream does.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) selector: Selector,
    pub(super) mask: Option<Mask>,
    pub(super) start: Place,
    /// The token it goes on from, where that is of another log: what is between that place and the start, nobody can
    /// tell.
    pub(super) foreign: Option<String>,
    /// Selected events to leave out at first: those of the first entry before the last N.
    pub(super) skip: u64,
    /// Position at which the stream ends; `None` while it follows.
    pub(super) end: Option<u64>,
    /// When following ends.
    pub(super) deadline: Option<SystemTime>,
}

impl Plan {
    pub(super) async fn new(
        collector: &Collector,
        reader: Reader,
        request: v1::ObserveRequest,
    ) -> Result<Plan, Status> {
        let mut problems = exclusive(&request);
        let selection = request.selection.clone().unwrap_or_default();
        let (since, until) = (request.since, request.until);
        // Compiling an expression is not for a thread that serves others.
        let selector = tokio::task::spawn_blocking(move || {
            Selector::compile(&selection, since, until, reader)
        })
        .await
        .map_err(|error| Status::internal(format!("compiling the selection: {error}")))?;
        let mask = Mask::compile(request.mask.as_ref());
        let (selector, mask) = match (selector, mask) {
            (Ok(selector), Ok(mask)) if problems.is_empty() => (selector, mask),
            (selector, mask) => {
                problems.extend(selector.err().into_iter().flatten());
                problems.extend(mask.err().into_iter().flatten());
                return Err(refusal::invalid(&problems));
            }
        };
        let range = collector.log.range().await.map_err(store_failed)?;
        let mut plan = Plan {
            selector,
            mask,
            start: Place {
                position: range.oldest,
                event: 0,
            },
            foreign: None,
            skip: 0,
            end: (!request.follow).then_some(range.end),
            deadline: request
                .until
                .filter(|_| request.follow)
                .map(|until| after(until, LATE)),
        };
        if !request.resume_token.is_empty() {
            match token::decode(collector.log.as_ref(), &request.resume_token) {
                Ok(place) => plan.start = place,
                Err(TokenError::Foreign) => plan.foreign = Some(request.resume_token),
                Err(error) => return Err(Invalid::new("resume_token", error.to_string()).into()),
            }
            if plan.start.position > range.end {
                return Err(refusal::because(
                    Code::OutOfRange,
                    "TOKEN_AHEAD",
                    "the resume token is from after the end of the store, which must have been set back",
                ));
            }
        } else if request.last > 0 {
            plan.back(collector, u64::from(request.last), range.oldest, range.end)
                .await?;
        } else if let Some(since) = request.since {
            let time = before(since, CLOCK_SKEW);
            plan.start.position = collector
                .log
                .position_at(time)
                .await
                .map_err(store_failed)?;
        } else if request.follow {
            plan.start.position = range.end;
        }
        Ok(plan)
    }

    /// Finds the place from which `last` events are selected up to `end`: looks over the last positions, then over
    /// twice as many before them, until there are enough.
    async fn back(
        &mut self,
        collector: &Collector,
        last: u64,
        oldest: u64,
        end: u64,
    ) -> Result<(), Status> {
        // (position, selected) of the entries seen, in order.
        let mut seen: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut found, mut to, mut look) = (0, end, FIRST_LOOK.max(last));
        while found < last && to > oldest {
            // Looks that double until they are past a hole would then be at everything before it.
            to = collector.log.end_before(to).await.map_err(store_failed)?;
            let from = to.saturating_sub(look).max(oldest);
            let part = self.count(collector, from, to).await?;
            found += part.iter().map(|(_, selected)| selected).sum::<u64>();
            for entry in part.into_iter().rev() {
                seen.push_front(entry);
            }
            (to, look) = (from, look.saturating_mul(2));
            while let Some((_, first)) = seen.front()
                && found - first >= last
            {
                found -= first;
                seen.pop_front();
            }
        }
        self.start.position = seen.front().map_or(end, |(position, _)| *position);
        self.skip = found.saturating_sub(last);
        Ok(())
    }

    /// Selected events of each entry in [`from`, `to`) that has any.
    async fn count(
        &self,
        collector: &Collector,
        from: u64,
        to: u64,
    ) -> Result<Vec<(u64, u64)>, Status> {
        let mut reader = collector.log.reader(from).await.map_err(store_failed)?;
        let mut counts = Vec::new();
        loop {
            let entry = match reader.next().await.map_err(store_failed)? {
                Next::Entry(entry) if entry.position < to => entry,
                // Trimmed meanwhile: there are that many less.
                Next::Gone { .. } => continue,
                Next::End if reader.position() < to => {
                    more(reader.as_mut()).await?;
                    continue;
                }
                Next::Entry(_) | Next::End => break,
            };
            let attributed = collector.attribution.attribute(&entry.batch);
            let batch = attributed.as_ref().unwrap_or(&entry.batch);
            let everything = self.selector.is_everything();
            let looked = (!everything).then(|| self.selector.look_at(batch));
            let (mut index, mut selected) = (0, 0);
            while index < batch.events.len() {
                let verdicts = judge(&self.selector, looked.as_ref(), batch, index).await;
                index += verdicts.len();
                let is_told =
                    |verdict: &&Verdict| matches!(verdict, Verdict::Selected | Verdict::Withheld);
                selected += verdicts.iter().filter(is_told).count() as u64;
            }
            if selected > 0 {
                counts.push((entry.position, selected));
            }
            tokio::task::yield_now().await;
        }
        Ok(counts)
    }
}

fn exclusive(request: &v1::ObserveRequest) -> Vec<Invalid> {
    let mut problems = Vec::new();
    if request.last > MAX_LAST {
        let what = format!("{}: expected at most {MAX_LAST}", request.last);
        problems.push(Invalid::new("last", what));
    }
    if request.last > 0 && request.since.is_some() {
        problems.push(Invalid::new(
            "last",
            "given together with since: expected one of them",
        ));
    }
    if request.last > 0 && !request.resume_token.is_empty() {
        let what = "given together with resume_token: expected one of them";
        problems.push(Invalid::new("last", what));
    }
    if let (Some(since), Some(until)) = (request.since, request.until)
        && nanos(until) <= nanos(since)
    {
        problems.push(Invalid::new("until", "not after since"));
    }
    problems
}

/// Waits for entries that are in the log and that this collector, one of several, has not received yet.
///
/// # Errors
/// UNAVAILABLE: none came.
pub(super) async fn more(reader: &mut dyn log::Reader) -> Result<(), Status> {
    timeout(BEHIND, reader.wait()).await.map_err(|_| {
        refusal::because(
            Code::Unavailable,
            "BEHIND",
            "this collector has not received all that others have stored",
        )
    })
}

pub(super) fn store_failed(error: LogError) -> Status {
    refusal::because(Code::Unavailable, "STORE_FAILED", error.to_string())
}

fn unix(time: Timestamp) -> Duration {
    // Before 1970 is as good as 1970, and nothing ends after 292 years.
    let nanos = u64::try_from(nanos(time).clamp(0, i128::from(i64::MAX))).unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn after(time: Timestamp, late: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + unix(time) + late
}

fn before(time: Timestamp, early: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + unix(time).saturating_sub(early)
}
