//! The reader's sink: turns records into events and hands them on in batches.

use std::sync::{Arc, mpsc::SyncSender};

use ebpf_hello_loader::{CgroupView, Record, RecordError, Sink, abi::Handler};
use ebpf_hello_proto::v1::Event;

use crate::{
    event::{Memory, Origin, event},
    follower::Changes,
    processes::Processes,
    wall::Wall,
};

/// Events handed on at once, at most.
const BATCH: usize = 512;

/// An event, and the row of the ledger it belongs to.
#[derive(Debug)]
pub struct Item {
    /// Who made it.
    pub handler: Handler,
    /// What to print or publish.
    pub event: Event,
}

/// Events in the order they were read.
pub type Batch = Vec<Item>;

pub(crate) struct Intake {
    origin: Arc<Origin>,
    memory: Memory,
    wall: Wall,
    batch: Batch,
    out: SyncSender<Batch>,
    changes: Changes,
}

impl Intake {
    pub(crate) fn new(
        origin: Arc<Origin>,
        processes: Processes,
        out: SyncSender<Batch>,
        changes: Changes,
    ) -> Self {
        Intake {
            origin,
            memory: Memory::new(processes),
            wall: Wall::now(),
            batch: Vec::with_capacity(BATCH),
            out,
            changes,
        }
    }
}

impl Sink for Intake {
    fn record(&mut self, record: Record<'_>) {
        if self.batch.is_empty() {
            self.wall = Wall::now();
        }
        let row = usize::from(record.header().handler);
        // The programs write nothing else; a row out of range is put where process records are.
        let handler = *Handler::ALL.get(row).unwrap_or(&Handler::Dispatch);
        let event = event(record, &self.origin, &mut self.memory, self.wall);
        self.batch.push(Item { handler, event });
        if self.batch.len() == BATCH {
            self.flush();
        }
    }

    fn cgroup(&mut self, change: CgroupView<'_>) {
        self.changes.send(change.into());
    }

    fn malformed(&mut self, error: RecordError) {
        tracing::error!(%error, "a ring buffer held what is no record");
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        // The consumer is gone only when the whole pipeline ends; what it did not take stays in
        // flight in the ledger.
        let _ = self.out.send(batch);
    }
}
