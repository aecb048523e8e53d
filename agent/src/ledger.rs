//! The ledger as people and programs see it: the kernel's side and ours in one equation.

use std::collections::BTreeSet;

use ebpf_hello_loader::{
    Counts, KernelLedger, ReaderCounters,
    abi::{Fate, Handler},
};
use ebpf_hello_proto::v1::{
    self, HandlerLedger, Ledger, LossReason, LossStage, LostCount, SuppressedCount,
    SuppressedReason,
};

use crate::{Accounts, Outcome};

/// What the programs lose, and why.
const KERNEL_LOSSES: [(Fate, LossReason); 4] = [
    (Fate::LostRingFull, LossReason::RingbufFull),
    (Fate::LostNested, LossReason::Nested),
    (Fate::LostProcessTableFull, LossReason::MapFull),
    (Fate::LostJoinReplaced, LossReason::Nested),
];

/// Bytes that were no record: they have no handler to blame.
pub(crate) const MALFORMED: (LossStage, LossReason) = (LossStage::Reader, LossReason::Malformed);

/// Every way in which an event of a handler can be lost.
pub(crate) fn losses() -> BTreeSet<(LossStage, LossReason)> {
    let in_kernel = KERNEL_LOSSES.map(|(_, reason)| (LossStage::Kernel, reason));
    let later = Outcome::ALL.into_iter().filter_map(Outcome::loss);
    in_kernel.into_iter().chain(later).collect()
}

/// Sets the two sides against each other.
///
/// `in_flight` is what the programs sent and nobody has settled yet. It is taken from the sequence
/// numbers and the settled events, never from `seen`: the equation can therefore fail, and then
/// something is wrong.
pub(crate) fn ledger(
    kernel: &KernelLedger,
    counts: &Counts,
    reader: &ReaderCounters,
    accounts: &Accounts,
) -> Ledger {
    let handlers: Vec<_> = Handler::ALL
        .iter()
        .map(|handler| row(*handler, kernel, reader, accounts))
        .collect();
    let sum = |field: fn(&HandlerLedger) -> u64| handlers.iter().map(field).sum::<u64>();
    let mut lost = Vec::new();
    for row in handlers.iter().flat_map(|handler| &handler.lost) {
        add_lost(&mut lost, row.stage(), row.reason(), row.count);
    }
    let (stage, reason) = MALFORMED;
    add_lost(&mut lost, stage, reason, reader.malformed());
    // Canaries take no sequence number.
    let settled: u64 = Handler::ALL
        .iter()
        .map(|handler| accounts.settled_numbered(*handler))
        .sum();
    let waiting: u64 = Handler::ALL
        .iter()
        .map(|handler| accounts.waiting(*handler))
        .sum();
    Ledger {
        seen: sum(|row| row.seen),
        delivered: sum(|row| row.delivered),
        counted: sum(|row| row.counted),
        suppressed: total_suppressed(&handlers),
        self_: sum(|row| row.self_),
        canary: sum(|row| row.canary),
        table_miss: sum(|row| row.table_miss),
        lost,
        in_flight: (kernel.sent() + accounts.synthetic() + waiting)
            .saturating_sub(settled + reader.malformed()),
        foreign: kernel.total(Fate::Foreign),
        out_of_range: counts.out_of_range_total(),
        handlers,
        ..Ledger::default()
    }
}

fn row(
    handler: Handler,
    kernel: &KernelLedger,
    reader: &ReaderCounters,
    accounts: &Accounts,
) -> HandlerLedger {
    let synthetic = if handler == Handler::ProcessExec {
        accounts.synthetic()
    } else {
        0
    };
    let mut lost = Vec::new();
    for (fate, reason) in KERNEL_LOSSES {
        add_lost(
            &mut lost,
            LossStage::Kernel,
            reason,
            kernel.get(handler, fate),
        );
    }
    for outcome in Outcome::ALL {
        if let Some((stage, reason)) = outcome.loss() {
            let count = accounts.settled(handler, outcome);
            add_lost(&mut lost, stage, reason, count);
        }
    }
    HandlerLedger {
        handler: proto_handler(handler).into(),
        seen: kernel.get(handler, Fate::Seen) + synthetic,
        delivered: accounts.delivered(handler),
        counted: kernel.get(handler, Fate::Counted),
        suppressed: suppressed(handler, kernel, accounts),
        table_miss: kernel.get(handler, Fate::TableMiss),
        self_: kernel.get(handler, Fate::SelfExcluded),
        canary: accounts.settled(handler, Outcome::Canary),
        lost,
        // Of a single handler only what the reader took is known: sequence numbers are a CPU's.
        in_flight: (reader.received(handler) + synthetic + accounts.waiting(handler))
            .saturating_sub(accounts.settled_total(handler)),
    }
}

fn suppressed(
    handler: Handler,
    kernel: &KernelLedger,
    accounts: &Accounts,
) -> Vec<SuppressedCount> {
    let in_kernel = [
        (Fate::SuppressedRate, SuppressedReason::Rate),
        (Fate::SuppressedSampling, SuppressedReason::Sampling),
        (Fate::SuppressedMatch, SuppressedReason::Match),
    ]
    .map(|(fate, reason)| (reason, kernel.get(handler, fate)));
    // The kernel sent it, before its container was known.
    let out_of_scope = (
        SuppressedReason::ContainerScope,
        accounts.settled(handler, Outcome::OutOfScope),
    );
    in_kernel
        .into_iter()
        .chain([out_of_scope])
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| SuppressedCount {
            reason: reason.into(),
            count,
        })
        .collect()
}

fn total_suppressed(handlers: &[HandlerLedger]) -> Vec<SuppressedCount> {
    let mut total: Vec<SuppressedCount> = Vec::new();
    for row in handlers.iter().flat_map(|handler| &handler.suppressed) {
        match total.iter_mut().find(|sum| sum.reason == row.reason) {
            Some(sum) => sum.count += row.count,
            None => total.push(*row),
        }
    }
    total
}

fn add_lost(lost: &mut Vec<LostCount>, stage: LossStage, reason: LossReason, count: u64) {
    if count == 0 {
        return;
    }
    match lost
        .iter_mut()
        .find(|row| row.stage() == stage && row.reason() == reason)
    {
        Some(row) => row.count += count,
        None => lost.push(LostCount {
            stage: stage.into(),
            reason: reason.into(),
            count,
        }),
    }
}

fn proto_handler(handler: Handler) -> v1::Handler {
    match handler {
        Handler::Dispatch => v1::Handler::Dispatch,
        Handler::ProcessExec => v1::Handler::ProcessExec,
        Handler::ProcessFork => v1::Handler::ProcessFork,
        Handler::ProcessExit => v1::Handler::ProcessExit,
        Handler::Exec => v1::Handler::Exec,
        Handler::Timer => v1::Handler::Timer,
        Handler::Trace => v1::Handler::Trace,
        Handler::Count => v1::Handler::Count,
        Handler::Path => v1::Handler::Path,
        Handler::Sock => v1::Handler::Sock,
    }
}
