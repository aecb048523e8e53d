//! The queue between a stream's reading task and its connection: bounded in bytes.
//!
//! A message holds its bytes' share of the queue until the connection takes it. Nothing here waits for a
//! reader that should not be waited for: the task asks for room, or learns that there is none.
//!
//! All queues together are bounded too, by a budget that they borrow from. So that connections that are stuck with
//! all of it starve nobody, a queue borrows only for what makes it larger than its own share, which holds one message
//! of the usual largest; and an empty queue takes a message of any size.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ebpf_hello_proto::wire;
use futures::Stream;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;

use super::{places::Place, subscriber::MAX_MESSAGE_BYTES};
use crate::{
    accounts::{InQueue, Subscription},
    refusal,
};

/// What a message takes of the queue besides its bytes, so that small ones are bounded in number.
const OVERHEAD_BYTES: usize = 256;
/// What a queue may hold without borrowing.
const OWN_BYTES: usize = MAX_MESSAGE_BYTES;
/// More than what was dropped takes when it is told: its rows are bounded.
const TOLD_BYTES: usize = 64 << 10;

/// The task's end.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::UnboundedSender<Result<Queued, Status>>,
    room: Arc<Semaphore>,
    bytes: usize,
    /// What all queues may still borrow.
    budget: Arc<Semaphore>,
    cut: Option<oneshot::Sender<Status>>,
}

/// The connection's end: the response stream.
#[derive(Debug)]
pub struct Receiver {
    messages: mpsc::UnboundedReceiver<Result<Queued, Status>>,
    /// Why the stream ends before what is in the queue; `None` once that can no longer come.
    cut: Option<oneshot::Receiver<Status>>,
    /// The resume token of the last message that the connection took.
    token: String,
    _subscription: Subscription,
    _place: Place,
}

/// A message in the queue.
#[derive(Debug)]
struct Queued {
    message: wire::ObserveResponse,
    events: InQueue,
    _room: Room,
}

/// Room in the queue for one message, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _own: OwnedSemaphorePermit,
    _borrowed: Option<OwnedSemaphorePermit>,
}

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// A queue of so many bytes, most of them borrowed of `budget`.
pub(super) fn queue(
    bytes: usize,
    budget: Arc<Semaphore>,
    subscription: Subscription,
    place: Place,
) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (cut, is_cut) = oneshot::channel();
    (
        Sender {
            messages: sender,
            room: Arc::new(Semaphore::new(bytes)),
            bytes,
            budget,
            cut: Some(cut),
        },
        Receiver {
            messages: receiver,
            cut: Some(is_cut),
            token: String::new(),
            _subscription: subscription,
            _place: place,
        },
    )
}

// === impl Sender ===

impl Sender {
    fn cost(&self, message: &wire::ObserveResponse) -> u32 {
        // A message larger than the queue takes all of it.
        u32::try_from((message.encoded_len() + OVERHEAD_BYTES).min(self.bytes)).unwrap_or(u32::MAX)
    }

    /// What is free besides a message of this cost, if the queue need not borrow for it.
    fn free_besides(&self, cost: u32) -> u32 {
        let own = u32::try_from(OWN_BYTES).unwrap_or(u32::MAX);
        u32::try_from(self.bytes)
            .unwrap_or(u32::MAX)
            .saturating_sub(own.max(cost))
    }

    /// Room for a message, if there is some now.
    pub(super) fn try_room(&self, message: &wire::ObserveResponse) -> Option<Room> {
        let cost = self.cost(message);
        let own = self.room.clone().try_acquire_many_owned(cost).ok()?;
        let borrowed = if self.room.available_permits() >= self.free_besides(cost) as usize {
            None
        } else {
            Some(self.budget.clone().try_acquire_many_owned(cost).ok()?)
        };
        Some(Room {
            _own: own,
            _borrowed: borrowed,
        })
    }

    /// Waits until there is room for a message.
    pub(super) async fn room(&self, message: &wire::ObserveResponse) -> Result<Room, Gone> {
        let cost = self.cost(message);
        let room = async {
            let own = self.room.clone().acquire_many_owned(cost).await?;
            // Where nothing can be borrowed, the connection takes what is before it some time.
            let borrowed = tokio::select! {
                biased;
                free = self.room.acquire_many(self.free_besides(cost)) => free.map(|_| None),
                borrowed = self.budget.clone().acquire_many_owned(cost) => borrowed.map(Some),
            };
            borrowed.map(|borrowed| Room {
                _own: own,
                _borrowed: borrowed,
            })
        };
        tokio::select! {
            room = room => room.map_err(|_| Gone),
            () = self.messages.closed() => Err(Gone),
        }
    }

    /// What has to be free before what was dropped is told: half of the queue; where nothing can be borrowed, so much
    /// that it need not be.
    fn half(&self) -> u32 {
        let half = if self.budget.available_permits() >= TOLD_BYTES {
            self.bytes / 2
        } else {
            self.bytes - self.bytes.min(OWN_BYTES) / 2
        };
        u32::try_from(half).unwrap_or(u32::MAX)
    }

    /// Whether half of the queue is free, and what was dropped can be told.
    pub(super) fn is_half_free(&self) -> bool {
        self.room.available_permits() >= self.half() as usize
    }

    /// Returns when half of the queue is free. Cancel safe.
    pub(super) async fn half_free(&self) {
        // Never closed.
        let _ = self.room.acquire_many(self.half()).await;
    }

    /// Returns when the connection is gone. Cancel safe.
    pub(super) async fn gone(&self) {
        self.messages.closed().await;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.messages.is_closed()
    }

    /// Puts a message where there is room.
    pub(super) fn put(&self, room: Room, message: wire::ObserveResponse, events: InQueue) {
        // If the connection is gone, dropping it counts its events.
        let _ = self.messages.send(Ok(Queued {
            message,
            events,
            _room: room,
        }));
    }

    /// Ends the stream with an error, after what is in the queue.
    pub(super) fn fail(&self, status: Status) {
        let _ = self.messages.send(Err(status));
    }

    /// Ends the stream with an error that says after which message to go on: what is in the queue is no longer its
    /// reader's.
    pub(super) fn cut(&mut self, status: Status) {
        if let Some(cut) = self.cut.take() {
            // If the connection is gone, so is its reader.
            let _ = cut.send(status);
        }
    }
}

impl Stream for Receiver {
    type Item = Result<wire::ObserveResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(cut) = &mut this.cut
            && let Poll::Ready(status) = Pin::new(cut).poll(cx)
        {
            this.cut = None;
            if let Ok(status) = status {
                this.messages.close();
                while this.messages.try_recv().is_ok() {}
                return Poll::Ready(Some(Err(refusal::resumable(&status, &this.token))));
            }
        }
        this.messages.poll_recv(cx).map(|next| {
            next.map(|queued| {
                queued.map(|queued| {
                    queued.events.sent();
                    this.token.clone_from(&queued.message.resume_token);
                    queued.message
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ebpf_hello_proto::wire::observe_response::Message;
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;
    use crate::{accounts::Accounts, caller::Caller, serve::places::Places};

    /// What a queue may hold at most.
    const QUEUE: usize = 1 << 20;

    struct Ends {
        sender: Sender,
        receiver: Receiver,
        accounts: Arc<Accounts>,
    }

    fn ends(budget: &Arc<Semaphore>) -> Ends {
        let accounts = Arc::new(Accounts::default());
        let place = Places::new(1, 1).take(&Caller::trusted()).unwrap();
        let (sender, receiver) = queue(QUEUE, budget.clone(), accounts.subscribe(), place);
        Ends {
            sender,
            receiver,
            accounts,
        }
    }

    fn message(bytes: usize) -> wire::ObserveResponse {
        wire::ObserveResponse {
            message: Some(Message::Events(vec![0; bytes].into())),
            ..wire::ObserveResponse::default()
        }
    }

    impl Ends {
        /// Puts a message if there is room.
        fn put(&self, bytes: usize) -> bool {
            let message = message(bytes);
            let room = self.sender.try_room(&message);
            room.map(|room| self.sender.put(room, message, self.accounts.queue(1)))
                .is_some()
        }

        /// Puts as many as there is room for.
        fn fill(&self, bytes: usize) -> usize {
            (0..).take_while(|_| self.put(bytes)).count()
        }

        async fn take(&mut self) {
            self.receiver.next().await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_stuck_queue_takes_the_budget_and_leaves_the_others_their_share() {
        const BYTES: usize = 60 << 10;
        let budget = Arc::new(Semaphore::new(640 << 10));
        let (stuck, mut other) = (ends(&budget), ends(&budget));
        // Four of its own, ten that are borrowed; alone it could have 17.
        assert_eq!(stuck.fill(BYTES), 14);
        assert_eq!(other.fill(BYTES), 4);
        other.take().await;
        assert_eq!(other.fill(BYTES), 1);
        // What a connection takes, or leaves behind, is there again.
        drop(stuck);
        assert_eq!(budget.available_permits(), 640 << 10);
        assert_eq!(other.fill(BYTES), 10);
    }

    #[tokio::test]
    async fn an_empty_queue_takes_a_message_of_any_size() {
        let mut ends = ends(&Arc::new(Semaphore::new(0)));
        for bytes in [QUEUE / 2, 2 * QUEUE] {
            assert!(ends.put(bytes));
            assert!(!ends.put(1));
            ends.take().await;
        }
        // And who waits for room has it as soon as the queue is empty.
        assert!(ends.put(1));
        let large = message(QUEUE / 2);
        let mut room = Box::pin(ends.sender.room(&large));
        assert!(room.as_mut().now_or_never().is_none());
        ends.receiver.next().await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(60), room)
            .await
            .expect("room")
            .unwrap();
    }

    #[tokio::test]
    async fn what_was_dropped_is_told_when_there_is_room_to_tell_it() {
        let budget = Arc::new(Semaphore::new(QUEUE));
        let mut ends = ends(&budget);
        let mut filled = ends.fill(30 << 10);
        assert!(!ends.sender.is_half_free());
        while !ends.sender.is_half_free() {
            ends.take().await;
            filled -= 1;
        }
        assert_eq!(filled, (QUEUE / 2) / (31 << 10), "half of the queue");
        // Others borrow what is left: then it waits until it needs not borrow.
        let rest = budget.available_permits();
        let _rest = budget.try_acquire_many(rest as u32).unwrap();
        ends.fill(30 << 10);
        while !ends.sender.is_half_free() {
            ends.take().await;
        }
        ends.sender.half_free().now_or_never().expect("at once");
        assert!(ends.put(TOLD_BYTES - OVERHEAD_BYTES - 16));
    }
}
