//! The queue between a stream's reading task and its connection: bounded in bytes.
//!
//! A message holds its bytes' share of the queue until the connection takes it. Nothing here waits for a
//! reader that should not be waited for: the task asks for room, or learns that there is none.

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

use crate::{
    accounts::{InQueue, Subscription},
    refusal,
};

/// What a message takes of the queue besides its bytes, so that small ones are bounded in number.
const OVERHEAD_BYTES: usize = 256;

/// The task's end.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::UnboundedSender<Result<Queued, Status>>,
    room: Arc<Semaphore>,
    bytes: usize,
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
    /// One of the places for streams.
    _place: OwnedSemaphorePermit,
}

/// A message in the queue.
#[derive(Debug)]
struct Queued {
    message: wire::ObserveResponse,
    events: InQueue,
    _room: OwnedSemaphorePermit,
}

/// Room in the queue for one message.
#[derive(Debug)]
pub(super) struct Room(OwnedSemaphorePermit);

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// A queue of so many bytes.
pub(super) fn queue(
    bytes: usize,
    subscription: Subscription,
    place: OwnedSemaphorePermit,
) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (cut, is_cut) = oneshot::channel();
    (
        Sender {
            messages: sender,
            room: Arc::new(Semaphore::new(bytes)),
            bytes,
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

    /// Room for a message, if there is some now.
    pub(super) fn try_room(&self, message: &wire::ObserveResponse) -> Option<Room> {
        let cost = self.cost(message);
        self.room
            .clone()
            .try_acquire_many_owned(cost)
            .ok()
            .map(Room)
    }

    /// Waits until there is room for a message.
    pub(super) async fn room(&self, message: &wire::ObserveResponse) -> Result<Room, Gone> {
        let room = self.room.clone().acquire_many_owned(self.cost(message));
        tokio::select! {
            room = room => room.map(Room).map_err(|_| Gone),
            () = self.messages.closed() => Err(Gone),
        }
    }

    /// Whether half of the queue is free.
    pub(super) fn is_half_free(&self) -> bool {
        self.room.available_permits() >= self.bytes / 2
    }

    /// Returns when half of the queue is free. Cancel safe.
    pub(super) async fn half_free(&self) {
        let half = u32::try_from(self.bytes / 2).unwrap_or(u32::MAX);
        // Never closed.
        let _ = self.room.acquire_many(half).await;
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
            _room: room.0,
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
