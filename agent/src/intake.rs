//! The reader's sink: turns records into events and hands them on in batches.

use std::{num::NonZeroU64, sync::Arc};

use ebpf_hello_loader::{CgroupView, Record, RecordError, Sink, abi::Handler};
use ebpf_hello_proto::v1::Event;

use crate::{
    Accounts, Outcome, canary,
    event::{Origin, event},
    events::{Out, Parcel},
    follower::Changes,
    identity::Paths,
    processes::Processes,
    wall::Wall,
};

/// Events handed on at once, at most.
pub(crate) const BATCH: usize = 512;

/// An event, and the row of the ledger it belongs to.
#[derive(Clone, Debug)]
pub struct Item {
    /// Who made it; `None` for what user space tells beside the ledger.
    pub handler: Option<Handler>,
    /// What to print or publish.
    pub event: Event,
}

/// Events in the order they were read.
pub type Batch = Vec<Item>;

pub(crate) struct Intake {
    origin: Arc<Origin>,
    processes: Processes,
    wall: Wall,
    parcel: Parcel,
    accounts: Arc<Accounts>,
    out: Out,
    changes: Changes,
    /// Where events get their pods from, where there are any.
    paths: Option<Arc<Paths>>,
}

impl Intake {
    pub(crate) fn new(
        origin: Arc<Origin>,
        processes: Processes,
        accounts: Arc<Accounts>,
        out: Out,
        changes: Changes,
        paths: Option<Arc<Paths>>,
    ) -> Self {
        Intake {
            origin,
            processes,
            accounts,
            wall: Wall::now(),
            parcel: Batch::with_capacity(BATCH).into(),
            out,
            changes,
            paths,
        }
    }
}

impl Sink for Intake {
    fn record(&mut self, record: Record<'_>) {
        if self.parcel.batch.is_empty() {
            self.wall = Wall::now();
        }
        let row = usize::from(record.header().handler);
        // The programs write nothing else; a row out of range is put where process records are.
        let handler = *Handler::ALL.get(row).unwrap_or(&Handler::Dispatch);
        if let Some(nonce) = canary::nonce(&record) {
            self.accounts.settle(Some(handler), Outcome::Canary);
            self.parcel.canaries.extend(NonZeroU64::new(nonce));
            return;
        }
        let event = event(record, &self.origin, &mut self.processes, self.wall);
        self.parcel.batch.push(Item {
            handler: Some(handler),
            event,
        });
        if self.parcel.batch.len() == BATCH {
            self.flush();
        }
    }

    fn cgroup(&mut self, change: CgroupView<'_>) {
        let change = change.into();
        // Here already, not by who places cgroups: its first events may be the next records.
        if let Some(paths) = &self.paths {
            paths.follow(&change);
        }
        self.changes.send(change);
    }

    fn malformed(&mut self, error: RecordError) {
        tracing::error!(%error, "a ring buffer held what is no record");
    }

    fn flush(&mut self) {
        if self.parcel.is_empty() {
            return;
        }
        let next = Batch::with_capacity(BATCH).into();
        // The consumer is gone only when the whole pipeline ends, or where it panicked; what it did not take stays in
        // flight in the ledger.
        let _ = self.out.send(std::mem::replace(&mut self.parcel, next));
    }
}
