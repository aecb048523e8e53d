//! One stream's task: reads the log at its own pace, selects, and fills its connection's queue.
//!
//! While it replays, it waits for the connection: what is in the log is not lost. From the first time it
//! reaches the end, it is live and waits for nobody: what the queue has no room for is dropped, and told as
//! `loss` as soon as half of the queue is free. Half, so that a connection that is always a little too slow
//! gets stretches of events with a loss between them, not a loss after each.

use std::{sync::Arc, time::Duration};

use ebpf_hello_proto::{
    v1,
    wire::{self, observe_response::Message},
};
use prost::Message as _;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::{
    Collector,
    missed::Missed,
    plan::{Plan, store_failed},
    queue::{Gone, Sender},
    withheld::withhold,
};
use crate::{
    caller::Right,
    ingest::stopped,
    log::{Entry, Next, Place, Reader},
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
    pub(super) collector: Arc<Collector>,
    pub(super) plan: Plan,
    pub(super) queue: Sender,
    /// Where the stream is: what is not yet in the queue is before it.
    place: Place,
    /// Selected events, encoded as an `EventList`, and how many.
    chunk: Vec<u8>,
    events: u64,
    live: bool,
    /// It ends because the collector stops: there is more than it brought.
    stopping: bool,
    missed: Missed,
    dropped: u64,
    cel_errors: u64,
    /// When the last message went out.
    spoke: Instant,
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
        Subscriber {
            place: plan.start,
            collector,
            plan,
            queue,
            chunk: Vec::new(),
            events: 0,
            live: false,
            stopping: false,
            missed: Missed::default(),
            dropped: 0,
            cel_errors: 0,
            spoke: Instant::now(),
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
            End::Failed(status) => self.queue.fail(status),
            End::Revoked(status) => {
                tracing::info!(code = ?status.code(), message = status.message(), "a stream's right has ended");
                self.queue.cut(status);
            }
        }
        drop(collector);
    }

    async fn stream(&mut self, hello: v1::ObserverHello) -> End {
        if self.say(Message::Hello(hello)).await.is_err() {
            return End::Gone;
        }
        let mut reader = match self.collector.log.reader(self.place.position).await {
            Ok(reader) => reader,
            Err(error) => return End::Failed(store_failed(error)),
        };
        if self.plan.log_replaced {
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
                        () = self.queue.gone() => return Err(End::Gone),
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
                    if self.chunk.len() >= ENOUGH_BYTES {
                        self.flush().await?;
                    }
                    self.beat().await?;
                    // A log in memory never makes its readers wait; others have streams too.
                    tokio::task::yield_now().await;
                }
                Next::Gone { from, to, events } => {
                    self.flush().await?;
                    self.tell_gone(from, to, events).await?;
                }
                Next::End => {
                    self.flush().await?;
                    if self.plan.end.is_some() {
                        return self.finish().await;
                    }
                    self.live = true;
                    self.wait(reader).await?;
                }
            }
        }
    }

    /// Selects from an entry.
    async fn take(&mut self, entry: &Entry) -> Result<(), End> {
        let first = if entry.position == self.place.position {
            self.place.event as usize
        } else {
            0
        };
        let attributed = self.collector.attribution.attribute(&entry.batch);
        let batch = attributed.as_ref().unwrap_or(&entry.batch);
        let everything = self.plan.selector.is_everything();
        let verdict = (!everything).then(|| self.plan.selector.look_at(batch));
        let mut scratch = Vec::new();
        let mut masked = None;
        for index in first..batch.events.len() {
            if let Some(verdict) = &verdict {
                match self
                    .plan
                    .selector
                    .judge(verdict, batch, index, &mut scratch)
                {
                    Verdict::Selected => {}
                    Verdict::Withheld => {
                        self.tell_withheld(batch, index, entry.position).await?;
                        continue;
                    }
                    Verdict::Left => continue,
                    Verdict::Failed => {
                        self.cel_errors += 1;
                        continue;
                    }
                }
            }
            if self.plan.skip > 0 {
                self.plan.skip -= 1;
                continue;
            }
            let source = match &self.plan.mask {
                None => batch,
                Some(mask) => match masked {
                    Some(ref masked) => masked,
                    None => {
                        let applied = mask
                            .apply(batch)
                            .map_err(|error| End::Failed(Status::data_loss(error.to_string())))?;
                        masked.insert(applied)
                    }
                },
            };
            self.push(source, index, entry.position).await?;
        }
        // Where the next entry will be, only the log knows.
        self.place = Place {
            position: entry.position,
            event: u32::try_from(batch.events.len()).unwrap_or(u32::MAX),
        };
        Ok(())
    }

    /// Appends an event to the message at hand; one that is full goes out first.
    async fn push(&mut self, batch: &wire::Batch, index: usize, position: u64) -> Result<(), End> {
        let failed = |error: wire::NoSuchPart| End::Failed(Status::data_loss(error.to_string()));
        let length = batch.event_len(index).map_err(failed)?;
        self.make_room(length, index, position).await?;
        batch.append_entry(index, &mut self.chunk).map_err(failed)?;
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
            self.place = Place {
                position,
                // Bounded by what a batch may hold.
                event: u32::try_from(index).unwrap_or(u32::MAX),
            };
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the message at hand; live, drops it where there is no room.
    async fn flush(&mut self) -> Result<(), End> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.events);
        let list = std::mem::take(&mut self.chunk).into();
        let message = self.message(Message::Events(list));
        if !self.live {
            self.tell_missed_first().await?;
            let room = self.queue.room(&message).await?;
            self.put(room, message, events);
            return Ok(());
        }
        self.tell_missed();
        let room = match self.missed.is_empty() {
            true => self.queue.try_room(&message),
            false => None,
        };
        match room {
            Some(room) => self.put(room, message, events),
            None => {
                self.collector.accounts.dropped(events);
                if let Some(Message::Events(list)) = message.message {
                    self.dropped += self.missed.add(list);
                }
            }
        }
        if self.queue.is_gone() {
            return Err(End::Gone);
        }
        Ok(())
    }

    /// Tells what was dropped, if half of the queue is free again.
    fn tell_missed(&mut self) {
        if self.missed.is_empty() || !self.queue.is_half_free() {
            return;
        }
        let events = self.missed.take();
        let list = v1::EventList { events };
        let message = self.message(Message::Events(list.encode_to_vec().into()));
        match self.queue.try_room(&message) {
            Some(room) => self.put(room, message, 0),
            // Half of the queue is far more than this needs.
            None => drop(self.missed.add(list.encode_to_vec().into())),
        }
    }

    /// Waits until what was dropped can be told: a stream that followed and now ends waits for its connection.
    async fn tell_missed_first(&mut self) -> Result<(), End> {
        while !self.missed.is_empty() {
            tokio::select! {
                () = self.queue.half_free() => self.tell_missed(),
                () = self.queue.gone() => return Err(End::Gone),
            }
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
        let list: bytes::Bytes = list.encode_to_vec().into();
        let message = self.message(Message::Events(list.clone()));
        if !self.live {
            let room = self.queue.room(&message).await?;
            self.put(room, message, 0);
        } else if let Some(room) = self
            .queue
            .try_room(&message)
            .filter(|_| self.missed.is_empty())
        {
            self.put(room, message, 0);
        } else {
            self.missed.add(list);
        }
        Ok(())
    }

    /// Waits at the end of the log.
    async fn wait(&mut self, reader: &mut dyn Reader) -> Result<(), End> {
        let beat = self.spoke + self.collector.options.heartbeat;
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
            () = self.queue.gone() => return Err(End::Gone),
            () = no_more_comes(&self.collector) => {
                self.stopping = true;
                self.end_here().await;
            }
            () = sleep_until(beat) => self.beat().await?,
            () = self.queue.half_free(), if !self.missed.is_empty() => {}
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
        self.tell_missed();
        Ok(())
    }

    /// Ends the stream after what is in the log now.
    async fn end_here(&mut self) {
        let range = self.collector.log.range().await;
        self.plan.end = Some(range.map_or(self.place.position, |range| range.end));
        self.live = false;
    }

    /// Says that the stream is alive, if nothing else did for a while.
    async fn beat(&mut self) -> Result<(), End> {
        if self.spoke.elapsed() < self.collector.options.heartbeat {
            return Ok(());
        }
        self.flush().await?;
        let message = self.message(self.heartbeat());
        // Where there is no room, there is something to read.
        if let Some(room) = self.queue.try_room(&message) {
            self.put(room, message, 0);
        }
        self.spoke = Instant::now();
        if self.queue.is_gone() {
            return Err(End::Gone);
        }
        Ok(())
    }

    /// The last message: its token stands for the end, whatever was selected.
    async fn finish(&mut self) -> Result<(), End> {
        self.live = false;
        self.flush().await?;
        self.tell_missed_first().await?;
        let heartbeat = self.heartbeat();
        self.say(heartbeat).await?;
        Ok(())
    }

    fn heartbeat(&self) -> Message {
        Message::Heartbeat(v1::Heartbeat {
            time: Some(std::time::SystemTime::now().into()),
            cel_errors: self.cel_errors,
            dropped: self.dropped,
        })
    }

    async fn say(&mut self, message: Message) -> Result<(), Gone> {
        let message = self.message(message);
        let room = self.queue.room(&message).await?;
        self.put(room, message, 0);
        Ok(())
    }

    fn put(&mut self, room: super::queue::Room, message: wire::ObserveResponse, events: u64) {
        let events = self.collector.accounts.queue(events);
        self.queue.put(room, message, events);
        self.spoke = Instant::now();
    }

    fn token(&self) -> String {
        token::encode(self.collector.log.as_ref(), self.place)
    }

    fn message(&self, message: Message) -> wire::ObserveResponse {
        wire::ObserveResponse {
            message: Some(message),
            resume_token: self.token(),
        }
    }
}
