//! One stream's task: reads the log at its own pace, selects, and fills its connection's queue.
//!
//! While it replays, it waits for the connection: what is in the log is not lost. From the first time it
//! reaches the end, it is live and waits for nobody: what the queue has no room for is dropped and told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ebpf_hello_proto::{
    v1,
    wire::{self, observe_response::Message},
};
use prost::Message as _;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::{
    Collector,
    outlet::Outlet,
    plan::{self, Plan, store_failed},
    queue::{Gone, Sender},
    slice::judge,
    withheld::withhold,
};
use crate::{
    caller::Right,
    ingest::stopped,
    log::{Entry, Next, Place, Reader},
    refusal,
    selection::Verdict,
    token,
};

/// Most bytes of a message's events; an event larger than that goes alone.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Bytes at which a message goes out though more is waiting.
const ENOUGH_BYTES: usize = 64 << 10;
/// Time between attempts to read a store that fails.
const RETRY: Duration = Duration::from_millis(500);
/// Attempts, after which the stream ends.
const RETRIES: u32 = 60;
/// How long a stream goes on after the collector was told to stop: agents' last batches are on their way, and
/// the next collector may not have this one's store.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time between looks whether agents' streams have ended.
const FAREWELL_LOOK: Duration = Duration::from_millis(10);

pub(super) struct Subscriber {
    collector: Arc<Collector>,
    plan: Plan,
    outlet: Outlet,
    /// Where the stream is: what is before it and not in `chunk` was told, or dropped.
    place: Place,
    /// Selected events, encoded as an `EventList`, and how many.
    chunk: Vec<u8>,
    events: u64,
    live: bool,
    /// It ends because the collector stops: there is more than it brought.
    stopping: bool,
    cel_errors: u64,
}

/// Why a stream ends.
enum End {
    /// All that was asked for is out.
    Done,
    /// The connection is gone.
    Gone,
    Failed(Status),
    /// Its reader may no longer read it.
    Revoked(Status),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        End::Gone
    }
}

fn damaged(error: impl std::fmt::Display) -> End {
    End::Failed(Status::data_loss(error.to_string()))
}

fn at(position: u64, index: usize) -> Place {
    Place {
        position,
        // Bounded by what a batch may hold.
        event: u32::try_from(index).unwrap_or(u32::MAX),
    }
}

fn shuts_down() -> End {
    End::Failed(Status::unavailable("the server shuts down"))
}

/// Returns when the collector stops and the last agent's stream has ended.
async fn no_more_comes(collector: &Collector) {
    stopped(&mut collector.stop.clone()).await;
    while collector.fleet.connected() > 0 {
        sleep(FAREWELL_LOOK).await;
    }
}

// === impl Subscriber ===

impl Subscriber {
    pub(super) fn new(collector: Arc<Collector>, plan: Plan, queue: Sender) -> Self {
        let start = || token::encode(collector.log.as_ref(), plan.start);
        let start = plan.foreign.clone().unwrap_or_else(start);
        Subscriber {
            place: plan.start,
            outlet: Outlet::new(collector.clone(), queue, start),
            collector,
            plan,
            chunk: Vec::new(),
            events: 0,
            live: false,
            stopping: false,
            cel_errors: 0,
        }
    }

    pub(super) async fn run(mut self, hello: v1::ObserverHello, mut right: Right) {
        let mut stop = self.collector.stop.clone();
        let collector = self.collector.clone();
        let overdue = async {
            stopped(&mut stop).await;
            sleep(FAREWELL).await;
        };
        let end = tokio::select! {
            end = self.stream(hello) => end,
            () = overdue => shuts_down(),
            status = right.ended() => End::Revoked(status),
        };
        match end {
            End::Done | End::Gone => {}
            End::Failed(status) => self.outlet.queue.fail(status),
            End::Revoked(status) => {
                tracing::info!(code = ?status.code(), message = status.message(), "a stream's right has ended");
                self.outlet.queue.cut(status);
            }
        }
        drop(collector);
    }

    async fn stream(&mut self, hello: v1::ObserverHello) -> End {
        if self.outlet.open(hello).await.is_err() {
            return End::Gone;
        }
        let mut reader = match self.collector.log.reader(self.place.position).await {
            Ok(reader) => reader,
            Err(error) => return End::Failed(store_failed(error)),
        };
        if self.plan.foreign.is_some() {
            let start = self.place.position;
            if let Err(end) = self.tell_gone(start, start, None).await {
                return end;
            }
        }
        match self.read(reader.as_mut()).await {
            Ok(()) if self.stopping => shuts_down(),
            Ok(()) => End::Done,
            Err(end) => end,
        }
    }

    async fn read(&mut self, reader: &mut dyn Reader) -> Result<(), End> {
        let mut failures = 0;
        loop {
            let next = match reader.next().await {
                Ok(next) => next,
                Err(error) if failures < RETRIES => {
                    tracing::warn!(%error, "a stream cannot read the log");
                    failures += 1;
                    tokio::select! {
                        () = sleep(RETRY) => continue,
                        () = self.outlet.queue.gone() => return Err(End::Gone),
                    }
                }
                Err(error) => return Err(End::Failed(store_failed(error))),
            };
            failures = 0;
            match next {
                Next::Entry(entry) if self.plan.end.is_some_and(|end| entry.position >= end) => {
                    return self.finish().await;
                }
                Next::Entry(entry) => {
                    self.take(&entry).await?;
                    // A log in memory never makes its readers wait; others have streams too.
                    tokio::task::yield_now().await;
                }
                Next::Gone { from, to, events } => {
                    self.flush().await?;
                    self.tell_gone(from, to, events).await?;
                }
                Next::End => {
                    self.flush().await?;
                    match self.plan.end {
                        Some(end) if reader.position() < end => self.catch_up(reader).await?,
                        Some(_) => return self.finish().await,
                        None => {
                            self.live = true;
                            self.wait(reader).await?;
                        }
                    }
                }
            }
        }
    }

    /// Selects from an entry, and says now and then that it is at it.
    async fn take(&mut self, entry: &Entry) -> Result<(), End> {
        let mut index = if entry.position == self.place.position {
            self.place.event as usize
        } else {
            0
        };
        let attributed = self.collector.attribution.attribute(&entry.batch);
        let batch = attributed.as_ref().unwrap_or(&entry.batch);
        let everything = self.plan.selector.is_everything();
        let looked = (!everything).then(|| self.plan.selector.look_at(batch));
        let mut masked = None;
        while index < batch.events.len() {
            let verdicts = judge(&self.plan.selector, looked.as_ref(), batch, index).await;
            for verdict in verdicts {
                match verdict {
                    Verdict::Selected if self.plan.skip > 0 => self.plan.skip -= 1,
                    Verdict::Selected => {
                        let source = match &self.plan.mask {
                            None => batch,
                            Some(mask) => match masked {
                                Some(ref masked) => masked,
                                None => masked.insert(mask.apply(batch).map_err(damaged)?),
                            },
                        };
                        self.push(source, index, entry.position).await?;
                    }
                    Verdict::Withheld => {
                        self.tell_withheld(batch, index, entry.position).await?;
                    }
                    Verdict::Left => {}
                    Verdict::Failed => self.cel_errors += 1,
                }
                index += 1;
            }
            // After the last: where the next entry will be, only the log knows.
            self.place = at(entry.position, index);
            if self.chunk.len() >= ENOUGH_BYTES {
                self.flush().await?;
            }
            self.beat().await?;
        }
        Ok(())
    }

    /// Appends an event to the message at hand; one that is full goes out first.
    async fn push(&mut self, batch: &wire::Batch, index: usize, position: u64) -> Result<(), End> {
        let length = batch.event_len(index).map_err(damaged)?;
        self.make_room(length, index, position).await?;
        batch
            .append_entry(index, &mut self.chunk)
            .map_err(damaged)?;
        self.events += 1;
        Ok(())
    }

    /// Appends what a reader of namespaces hears of a loss that may be others'.
    async fn tell_withheld(
        &mut self,
        batch: &wire::Batch,
        index: usize,
        position: u64,
    ) -> Result<(), End> {
        if self.plan.skip > 0 {
            self.plan.skip -= 1;
            return Ok(());
        }
        let Some(loss) = withhold(batch, index) else {
            return Ok(());
        };
        let list = v1::EventList { events: vec![loss] }.encode_to_vec();
        self.make_room(list.len(), index, position).await?;
        self.chunk.extend(list);
        self.events += 1;
        Ok(())
    }

    /// Sends the message at hand if this event, of so many bytes, no longer fits into it.
    async fn make_room(&mut self, length: usize, index: usize, position: u64) -> Result<(), End> {
        if !self.chunk.is_empty() && self.chunk.len() + length + 8 > MAX_MESSAGE_BYTES {
            self.place = at(position, index);
            self.flush().await?;
        }
        Ok(())
    }

    /// Tells the events at hand.
    async fn flush(&mut self) -> Result<(), End> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.events);
        let list = std::mem::take(&mut self.chunk).into();
        self.tell(list, events).await
    }

    /// Tells an encoded `EventList`, after which the stream is at its place; live, drops it where there is no room.
    async fn tell(&mut self, list: Bytes, events: u64) -> Result<(), End> {
        if self.live {
            self.outlet.offer(list, events, self.place)?;
        } else {
            let message = Message::Events(list);
            self.outlet.say(message, events, self.place).await?;
        }
        Ok(())
    }

    /// Tells that entries were trimmed before they were read.
    async fn tell_gone(&mut self, from: u64, to: u64, events: Option<u64>) -> Result<(), End> {
        let read = if from == self.place.position {
            u64::from(self.place.event)
        } else {
            0
        };
        // How many of them were selected, nobody knows any more, unless all were.
        let count = match events {
            Some(events) if self.plan.selector.is_everything_in_its_time() => {
                events.saturating_sub(read)
            }
            _ => 0,
        };
        self.place = Place {
            position: to,
            event: 0,
        };
        let loss = v1::Event {
            time: Some(std::time::SystemTime::now().into()),
            kind: Some(v1::event::Kind::Loss(v1::Loss {
                stage: v1::LossStage::Hub.into(),
                reason: v1::LossReason::HistoryGone.into(),
                count,
                count_withheld: self.plan.selector.withholds(),
                ..v1::Loss::default()
            })),
            ..v1::Event::default()
        };
        let list = v1::EventList { events: vec![loss] };
        self.tell(list.encode_to_vec().into(), 0).await
    }

    /// Waits for what is missing before the end, of which others have more than this collector.
    async fn catch_up(&mut self, reader: &mut dyn Reader) -> Result<(), End> {
        tokio::select! {
            more = plan::more(reader) => more.map_err(|status| {
                let token = self.outlet.token(self.place);
                End::Failed(refusal::resumable(&status, &token))
            }),
            () = self.outlet.queue.gone() => Err(End::Gone),
        }
    }

    /// Waits at the end of the log.
    async fn wait(&mut self, reader: &mut dyn Reader) -> Result<(), End> {
        let beat = self.outlet.beats_at();
        let deadline = self.plan.deadline.map(|deadline| {
            let left = deadline
                .duration_since(std::time::SystemTime::now())
                .unwrap_or_default();
            // Looked at again at each beat, should the clock be set.
            Instant::now() + left.min(Duration::from_secs(3600))
        });
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = reader.wait() => {}
            () = self.outlet.queue.gone() => return Err(End::Gone),
            () = no_more_comes(&self.collector) => {
                self.stopping = true;
                self.end_here().await;
            }
            () = sleep_until(beat) => self.beat().await?,
            () = self.outlet.queue.half_free(), if self.outlet.owes() => {}
            () = over => {
                let passed = self
                    .plan
                    .deadline
                    .is_some_and(|deadline| deadline <= std::time::SystemTime::now());
                if passed {
                    self.end_here().await;
                }
            }
        }
        self.outlet.tell_missed();
        Ok(())
    }

    /// Ends the stream after what is in the log now.
    async fn end_here(&mut self) {
        match self.collector.log.range().await {
            Ok(range) => {
                self.plan.end = Some(range.end);
                self.live = false;
            }
            // What called for the end does so again.
            Err(error) => {
                tracing::warn!(%error, "a stream cannot ask the log for its end");
                sleep(RETRY).await;
            }
        }
    }

    /// Says that the stream is alive, if nothing else did for a while.
    async fn beat(&mut self) -> Result<(), End> {
        if self.outlet.beats_at() <= Instant::now() {
            self.flush().await?;
            self.outlet.beat(self.cel_errors, self.place)?;
        }
        Ok(())
    }

    /// The last message: its token stands for the end, whatever was selected.
    async fn finish(&mut self) -> Result<(), End> {
        self.live = false;
        self.flush().await?;
        let heartbeat = self.outlet.heartbeat(self.cel_errors);
        self.outlet.say(heartbeat, 0, self.place).await?;
        Ok(())
    }
}
