//! The kernel's side of the ledger, summed over CPUs.

use ebpf_hello_abi::{CpuLedger, Fate, HANDLERS, Handler};

/// What the programs counted, at one moment.
///
/// CPUs are read one after the other while they count, so a running ledger can be off by what
/// happened meanwhile; it is exact once the programs are detached.
#[derive(Clone, Debug)]
pub struct KernelLedger {
    per_cpu: Vec<CpuLedger>,
}

impl KernelLedger {
    pub(crate) fn new(per_cpu: Vec<CpuLedger>) -> Self {
        KernelLedger { per_cpu }
    }

    /// How many calls and records of `handler` met `fate`.
    pub fn get(&self, handler: Handler, fate: Fate) -> u64 {
        self.per_cpu
            .iter()
            .map(|cpu| cpu.cells[handler as usize][fate as usize])
            .sum()
    }

    /// The same over all handlers.
    pub fn total(&self, fate: Fate) -> u64 {
        Handler::ALL
            .iter()
            .map(|handler| self.get(*handler, fate))
            .sum()
    }

    /// Records that were put into a ring buffer: numbers taken less those that found no room.
    pub fn sent(&self) -> u64 {
        self.sequences().iter().sum::<u64>() - self.total(Fate::LostRingFull)
    }

    /// The last sequence number taken on each CPU.
    pub fn sequences(&self) -> Vec<u64> {
        self.per_cpu.iter().map(|cpu| cpu.sequence).collect()
    }
}

const _: () = assert!(HANDLERS == Handler::ALL.len());
