//! What a stream tells: its messages into the connection's queue, each with the resume token of the place after it.
//!
//! What a live stream's queue has no room for is dropped, and told as `loss` as soon as half of the queue is free.
//! Half, so that a connection that is always a little too slow gets stretches of events with a loss between them, not
//! a loss after each. Until it is told, no token stands after it: who goes on from one reads it again from the log.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use ebpf_hello_proto::{
    v1,
    wire::{self, observe_response::Message},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    Collector,
    missed::Missed,
    queue::{Gone, Room, Sender},
};
use crate::{log::Place, token};

/// The telling end of a stream.
pub(super) struct Outlet {
    collector: Arc<Collector>,
    pub(super) queue: Sender,
    /// The last message's token: the place after everything that was told.
    told: String,
    missed: Missed,
    /// Events that were dropped and told.
    dropped: u64,
    /// When the last message went out.
    spoke: Instant,
}

// === impl Outlet ===

impl Outlet {
    /// Of a stream that begins at the place of a token.
    pub(super) fn new(collector: Arc<Collector>, queue: Sender, start: String) -> Self {
        Outlet {
            collector,
            queue,
            told: start,
            missed: Missed::default(),
            dropped: 0,
            spoke: Instant::now(),
        }
    }

    /// Says the first message: nothing has been told yet.
    pub(super) async fn open(&mut self, hello: v1::ObserverHello) -> Result<(), Gone> {
        let message = wire::ObserveResponse {
            message: Some(Message::Hello(hello)),
            resume_token: self.told.clone(),
        };
        let room = self.queue.room(&message).await?;
        self.put(room, message, 0);
        Ok(())
    }

    /// Says a message with so many events that ends at a place; waits for room, and tells first what was dropped.
    pub(super) async fn say(
        &mut self,
        message: Message,
        events: u64,
        place: Place,
    ) -> Result<(), Gone> {
        while !self.missed.is_empty() {
            tokio::select! {
                () = self.queue.half_free() => self.tell_missed(),
                () = self.queue.gone() => return Err(Gone),
            }
        }
        let message = self.message(message, place);
        let room = self.queue.room(&message).await?;
        self.put(room, message, events);
        Ok(())
    }

    /// Tells an encoded `EventList` with so many events that ends at a place; drops it where there is no room.
    pub(super) fn offer(&mut self, list: Bytes, events: u64, place: Place) -> Result<(), Gone> {
        self.tell_missed();
        let message = self.message(Message::Events(list.clone()), place);
        let room = match self.missed.is_empty() {
            true => self.queue.try_room(&message),
            false => None,
        };
        match room {
            Some(room) => self.put(room, message, events),
            None => {
                self.collector.accounts.dropped(events);
                self.missed.add(list, place);
            }
        }
        self.still_there()
    }

    /// Says that the stream is alive and at a place. Where there is no room, there is something to read.
    pub(super) fn beat(&mut self, cel_errors: u64, place: Place) -> Result<(), Gone> {
        let message = wire::ObserveResponse {
            message: Some(self.heartbeat(cel_errors)),
            resume_token: self.token(place),
        };
        if let Some(room) = self.queue.try_room(&message) {
            self.put(room, message, 0);
        }
        self.spoke = Instant::now();
        self.still_there()
    }

    /// When the next heartbeat is due.
    pub(super) fn beats_at(&self) -> Instant {
        self.spoke + self.collector.options.heartbeat
    }

    pub(super) fn heartbeat(&self, cel_errors: u64) -> Message {
        Message::Heartbeat(v1::Heartbeat {
            time: Some(SystemTime::now().into()),
            cel_errors,
            dropped: self.dropped,
        })
    }

    /// Whether something was dropped and is not told yet.
    pub(super) fn owes(&self) -> bool {
        !self.missed.is_empty()
    }

    /// Tells what was dropped, if half of the queue is free again.
    pub(super) fn tell_missed(&mut self) {
        if self.missed.is_empty() || !self.queue.is_half_free() {
            return;
        }
        let list = v1::EventList {
            events: self.missed.losses(),
        };
        // Not the stream's place: what comes after the drops may still be on its way here.
        let message = self.message(
            Message::Events(list.encode_to_vec().into()),
            self.missed.end,
        );
        // Half of the queue is far more than this needs.
        if let Some(room) = self.queue.try_room(&message) {
            self.put(room, message, 0);
            self.dropped += self.missed.events;
            self.missed = Missed::default();
        }
    }

    /// The token of who has everything that was told, and needs nothing else before this place.
    pub(super) fn token(&self, place: Place) -> String {
        match self.missed.is_empty() {
            true => token::encode(self.collector.log.as_ref(), place),
            false => self.told.clone(),
        }
    }

    fn message(&self, message: Message, place: Place) -> wire::ObserveResponse {
        wire::ObserveResponse {
            message: Some(message),
            resume_token: token::encode(self.collector.log.as_ref(), place),
        }
    }

    fn put(&mut self, room: Room, message: wire::ObserveResponse, events: u64) {
        let events = self.collector.accounts.queue(events);
        self.told.clone_from(&message.resume_token);
        self.queue.put(room, message, events);
        self.spoke = Instant::now();
    }

    fn still_there(&self) -> Result<(), Gone> {
        match self.queue.is_gone() {
            true => Err(Gone),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        caller::Caller,
        log::Memory,
        serve::{
            Options,
            places::Places,
            queue::{self, Receiver},
        },
    };

    const AT_START: Place = Place {
        position: 1,
        event: 0,
    };

    fn at(event: u32) -> Place {
        Place { event, ..AT_START }
    }

    /// An encoded list of one event, of at least so many bytes.
    fn list(sequence: u64, bytes: usize) -> Bytes {
        let event = v1::Event {
            sequence,
            kind: Some(v1::event::Kind::Exec(v1::Exec {
                filename: "x".repeat(bytes),
                ..v1::Exec::default()
            })),
            ..v1::Event::default()
        };
        let list = v1::EventList {
            events: vec![event],
        };
        list.encode_to_vec().into()
    }

    /// An outlet with a queue of 4,096 bytes, and its other end.
    fn outlet() -> (Outlet, Receiver) {
        let collector = Collector::new(Arc::new(Memory::default()), None, Options::default());
        let place = Places::new(1, 1).take(&Caller::trusted()).unwrap();
        let budget = Arc::new(Semaphore::new(1 << 20));
        let subscription = collector.accounts.subscribe();
        let (sender, receiver) = queue::queue(4096, budget, subscription, place);
        let start = token::encode(collector.log.as_ref(), AT_START);
        (Outlet::new(collector, sender, start), receiver)
    }

    /// The next message's events, if it has any, and its place.
    async fn next(outlet: &Outlet, receiver: &mut Receiver) -> (Vec<v1::Event>, Place) {
        let response = receiver.next().await.unwrap().unwrap();
        let log = outlet.collector.log.as_ref();
        let place = token::decode(log, &response.resume_token).unwrap();
        let events = match response.message {
            Some(Message::Events(list)) => v1::EventList::decode(list).unwrap().events,
            _ => Vec::new(),
        };
        (events, place)
    }

    fn sequence(events: &[v1::Event]) -> u64 {
        assert_eq!(events.len(), 1, "{events:?}");
        events[0].sequence
    }

    #[tokio::test]
    async fn no_token_stands_after_what_was_dropped_and_not_told() {
        let (mut outlet, mut receiver) = outlet();
        outlet.offer(list(1, 2000), 1, at(10)).unwrap();
        outlet.offer(list(2, 2000), 1, at(20)).unwrap(); // dropped
        outlet.beat(0, at(25)).unwrap();
        outlet.offer(list(3, 2000), 1, at(30)).unwrap(); // dropped
        outlet.beat(0, at(35)).unwrap();
        assert!(outlet.owes());

        let (events, place) = next(&outlet, &mut receiver).await;
        assert_eq!((sequence(&events), place), (1, at(10)));
        for _ in 0..2 {
            let (_, place) = next(&outlet, &mut receiver).await;
            assert_eq!(
                place,
                at(10),
                "who goes on from here reads what was dropped"
            );
        }
        // There is room again: the loss comes first, and stands for what it tells and nothing after it.
        outlet.offer(list(4, 1000), 1, at(40)).unwrap();
        let (events, place) = next(&outlet, &mut receiver).await;
        let Some(v1::event::Kind::Loss(loss)) = &events[0].kind else {
            panic!("{events:?}");
        };
        assert_eq!((events.len(), loss.count), (1, 2), "{events:?}");
        assert_eq!(place, at(30));
        let (events, place) = next(&outlet, &mut receiver).await;
        assert_eq!((sequence(&events), place), (4, at(40)));
        outlet.beat(0, at(45)).unwrap();
        let (_, place) = next(&outlet, &mut receiver).await;
        assert_eq!(place, at(45));
    }

    #[tokio::test]
    async fn who_waits_for_room_tells_first_what_was_dropped() {
        let (mut outlet, mut receiver) = outlet();
        outlet.offer(list(1, 3000), 1, at(10)).unwrap();
        outlet.offer(list(2, 3000), 1, at(20)).unwrap(); // dropped
        let said = tokio::spawn(async move {
            let message = Message::Events(list(3, 1000));
            outlet.say(message, 1, at(30)).await.unwrap();
            outlet
        });
        let mut messages = Vec::new();
        for _ in 0..3 {
            messages.push(receiver.next().await.unwrap().unwrap());
        }
        let outlet = said.await.unwrap();
        let log = outlet.collector.log.as_ref();
        let places: Vec<Place> = messages
            .iter()
            .map(|message| token::decode(log, &message.resume_token).unwrap())
            .collect();
        assert_eq!(places, [at(10), at(20), at(30)]);
        let heartbeat = outlet.heartbeat(0);
        assert!(
            matches!(&heartbeat, Message::Heartbeat(one) if one.dropped == 1),
            "{heartbeat:?}"
        );
    }
}
