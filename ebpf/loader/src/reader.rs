//! The ring buffers' reader: one thread of its own, asleep while nothing happens.
//!
//! A record wakes a sleeping reader at once. From then on the reader drains on a timer and the
//! programs leave it alone, unless a ring fills past its mark; after a few empty rounds it sleeps
//! again. So the first record shows at once, the last of a burst within a round, and a stream of
//! records costs no wake-up each.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::maps::{Array, MapData, RingBuf};
use ebpf_hello_abi::{HANDLERS, map};
use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::{read, write},
};

use crate::{CgroupView, Entry, LoadError, Record, RecordError, positions::Positions};

/// How long a draining reader lets records gather.
const ROUND: Duration = Duration::from_millis(5);
/// Empty rounds before the reader sleeps.
const EMPTY_ROUNDS: u32 = 4;
/// How long a sleeping reader trusts its wake-up: a program that was stalled (by a hypervisor, say)
/// between reading the reader's state and committing its record could have missed the change.
const SLEEP: Duration = Duration::from_secs(1);
/// Records taken from one ring before the others get their turn.
const TURN: usize = 4096;
/// epoll's mark of the stop handle; rings have their shard's number.
const STOP: u64 = u64::MAX;

/// Where records go.
pub trait Sink {
    /// One record, in the order of its CPU.
    fn record(&mut self, record: Record<'_>);
    /// A cgroup came or went. To be noted and left at that: the rings fill meanwhile.
    fn cgroup(&mut self, change: CgroupView<'_>);
    /// Bytes that are no record: counted as lost.
    fn malformed(&mut self, error: RecordError);
    /// The reader is about to pause: hand on what was gathered. May block, which holds up the
    /// reader, lets the rings fill and so counts what is lost where it is lost.
    fn flush(&mut self);
}

/// What the reader took from the rings.
#[derive(Debug, Default)]
pub struct ReaderCounters {
    received: [AtomicU64; HANDLERS],
    malformed: AtomicU64,
    positions: Vec<Positions>,
}

impl ReaderCounters {
    /// Records of a handler's row.
    pub fn received(&self, handler: crate::abi::Handler) -> u64 {
        self.received[handler as usize].load(Ordering::Acquire)
    }

    /// Records in all, malformed ones included.
    pub fn total(&self) -> u64 {
        self.received
            .iter()
            .map(|cell| cell.load(Ordering::Acquire))
            .sum::<u64>()
            + self.malformed()
    }

    /// Bytes that wait in each ring, in the order of the shards.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.positions.iter().map(Positions::waiting)
    }

    /// Bytes that were no record.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Acquire)
    }
}

/// Ends a reader from another thread.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// Asks the reader to take what is left and return.
    ///
    /// # Errors
    /// None in practice: the counter of an eventfd takes 2^64 - 2 stops.
    pub fn stop(&self) -> io::Result<()> {
        write(&*self.0, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Reads the ring buffers.
pub struct Reader {
    rings: Vec<RingBuf<MapData>>,
    draining: Array<MapData, u32>,
    epoll: OwnedFd,
    stop: Arc<OwnedFd>,
    counters: Arc<ReaderCounters>,
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(
        rings: Vec<RingBuf<MapData>>,
        draining: Array<MapData, u32>,
    ) -> Result<Self, LoadError> {
        let failed =
            |what: &'static str| move |error| LoadError::system(what)(io::Error::from(error));
        let epoll_fd =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(failed("eventfd"))?;
        // Edge-triggered: a ring that still holds records must not end a round early.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        for (shard, ring) in rings.iter().enumerate() {
            epoll::add(
                &epoll_fd,
                ring,
                epoll::EventData::new_u64(shard as u64),
                edge,
            )
            .map_err(failed("epoll_ctl on a ring buffer"))?;
        }
        epoll::add(
            &epoll_fd,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )
        .map_err(failed("epoll_ctl on an eventfd"))?;
        let positions = rings
            .iter()
            .map(|ring| Positions::map(ring.as_fd()))
            .collect::<io::Result<_>>()
            .map_err(LoadError::system("mmap of a ring buffer's positions"))?;
        Ok(Reader {
            rings,
            draining,
            epoll: epoll_fd,
            stop: Arc::new(stop),
            counters: Arc::new(ReaderCounters {
                positions,
                ..ReaderCounters::default()
            }),
        })
    }

    /// Ends [`Reader::run`] from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// What was taken so far; shared with the running reader.
    pub fn counters(&self) -> Arc<ReaderCounters> {
        Arc::clone(&self.counters)
    }

    /// Reads until stopped, then takes what is left. Call it on a thread of its own.
    ///
    /// # Errors
    /// A failed epoll or map operation: nothing can be read any more.
    pub fn run(mut self, sink: &mut impl Sink) -> Result<(), LoadError> {
        // From the start: under a load that never pauses, each record would wake us until one did.
        self.announce(true)?;
        let mut empty_rounds = 0;
        loop {
            let taken = self.drain(sink);
            empty_rounds = if taken == 0 { empty_rounds + 1 } else { 0 };
            let stopped = if empty_rounds < EMPTY_ROUNDS {
                self.wait(ROUND)?
            } else {
                self.sleep(sink)?
            };
            if stopped {
                while self.drain(sink) > 0 {}
                return Ok(());
            }
        }
    }

    /// Tells the programs to wake us, looks once more, and sleeps.
    fn sleep(&mut self, sink: &mut impl Sink) -> Result<bool, LoadError> {
        self.announce(false)?;
        let stopped = if self.drain(sink) == 0 {
            self.wait(SLEEP)?
        } else {
            false
        };
        self.announce(true)?;
        Ok(stopped)
    }

    fn announce(&mut self, draining: bool) -> Result<(), LoadError> {
        for shard in 0..self.rings.len() {
            self.draining
                .set(shard as u32, u32::from(draining), 0)
                .map_err(LoadError::map(map::DRAINING))?;
        }
        Ok(())
    }

    /// Takes everything that is there; returns how many records.
    fn drain(&mut self, sink: &mut impl Sink) -> usize {
        let mut taken = 0;
        loop {
            let before = taken;
            for ring in &mut self.rings {
                for _ in 0..TURN {
                    let Some(bytes) = ring.next() else { break };
                    taken += 1;
                    match Entry::parse(&bytes) {
                        Ok(Entry::Cgroup(change)) => sink.cgroup(change),
                        Ok(Entry::Record(record)) => {
                            let row = usize::from(record.header().handler) % HANDLERS;
                            sink.record(record);
                            self.counters.received[row].fetch_add(1, Ordering::Release);
                        }
                        Err(error) => {
                            sink.malformed(error);
                            self.counters.malformed.fetch_add(1, Ordering::Release);
                        }
                    }
                }
            }
            sink.flush();
            if taken == before {
                return taken;
            }
        }
    }

    /// Waits for a wake-up; true when it was the stop handle's.
    fn wait(&self, timeout: Duration) -> Result<bool, LoadError> {
        let mut events = Vec::with_capacity(self.rings.len() + 1);
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(LoadError::system("epoll_wait on the ring buffers")(
                    error.into(),
                ));
            }
        }
        let stopped = events.iter().any(|event| event.data.u64() == STOP);
        if stopped {
            // Empty it, so that the last drain is not woken again.
            let _ = read(&*self.stop, &mut [0u8; 8]);
        }
        Ok(stopped)
    }
}
