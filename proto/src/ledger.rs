//! The ledger's equation: what was seen is what became of it.
//!
//! The agent fills a [`Ledger`] from the kernel's counters and its own; whoever shows one asks here
//! whether it balances.

use crate::v1::{HandlerLedger, Ledger, LostCount, SuppressedCount};

/// The whole and each of its rows have the same fields, and the same equation.
macro_rules! equation {
    ($($ledger:ty)+) => {
        $(impl $ledger {
            /// Events left out on request, over all reasons.
            #[must_use]
            pub fn suppressed_total(&self) -> u64 {
                suppressed_total(&self.suppressed)
            }

            /// Events lost, over all stages and reasons.
            #[must_use]
            pub fn lost_total(&self) -> u64 {
                lost_total(&self.lost)
            }

            /// `seen` less everything that became of it: 0 when the ledger balances, positive when
            /// events are unaccounted for, negative when some were counted twice.
            ///
            /// Exact once the pipeline is drained; while it runs the counters are read one after
            /// another and may be apart by what moved between two reads.
            #[must_use]
            pub fn imbalance(&self) -> i128 {
                let fates = [
                    self.delivered,
                    self.counted,
                    self.suppressed_total(),
                    self.self_,
                    self.canary,
                    self.table_miss,
                    self.lost_total(),
                    self.in_flight,
                ];
                i128::from(self.seen) - fates.into_iter().map(i128::from).sum::<i128>()
            }
        })+
    };
}
equation!(Ledger HandlerLedger);

// The totals saturate: a ledger that came over the wire may hold any numbers.
fn suppressed_total(rows: &[SuppressedCount]) -> u64 {
    rows.iter()
        .fold(0, |sum, row| sum.saturating_add(row.count))
}

fn lost_total(rows: &[LostCount]) -> u64 {
    rows.iter()
        .fold(0, |sum, row| sum.saturating_add(row.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Handler, LossReason, LossStage, SuppressedReason};

    fn balanced() -> Ledger {
        // Powers of two: any field left out or taken twice shows as itself.
        Ledger {
            seen: 1023,
            delivered: 1,
            counted: 2,
            suppressed: vec![
                SuppressedCount {
                    reason: SuppressedReason::Rate.into(),
                    count: 4,
                },
                SuppressedCount {
                    reason: SuppressedReason::Sampling.into(),
                    count: 8,
                },
            ],
            self_: 16,
            canary: 32,
            table_miss: 64,
            lost: vec![
                LostCount {
                    stage: LossStage::Kernel.into(),
                    reason: LossReason::RingbufFull.into(),
                    count: 128,
                },
                LostCount {
                    stage: LossStage::Spool.into(),
                    reason: LossReason::SpoolFull.into(),
                    count: 256,
                },
            ],
            in_flight: 512,
            foreign: 1 << 20,
            out_of_range: 1 << 21,
            kernel_skipped: 1 << 22,
            handlers: vec![],
        }
    }

    #[test]
    fn every_fate_counts_once_and_what_stands_beside_not_at_all() {
        let ledger = balanced();
        assert_eq!(ledger.imbalance(), 0);
        assert_eq!((ledger.suppressed_total(), ledger.lost_total()), (12, 384));
    }

    #[test]
    fn the_sign_tells_missing_from_counted_twice() {
        let missing = Ledger {
            delivered: 0,
            ..balanced()
        };
        assert_eq!(missing.imbalance(), 1);
        let twice = Ledger {
            in_flight: 513,
            ..balanced()
        };
        assert_eq!(twice.imbalance(), -1);
    }

    #[test]
    fn a_handlers_row_has_the_same_equation() {
        let total = balanced();
        let row = HandlerLedger {
            handler: Handler::Dispatch.into(),
            seen: total.seen,
            delivered: total.delivered,
            counted: total.counted,
            suppressed: total.suppressed,
            self_: total.self_,
            canary: total.canary,
            table_miss: total.table_miss,
            lost: total.lost,
            in_flight: total.in_flight,
        };
        assert_eq!(row.imbalance(), 0);
        assert_eq!((row.suppressed_total(), row.lost_total()), (12, 384));
        assert_eq!(HandlerLedger { canary: 0, ..row }.imbalance(), 32);
    }

    #[test]
    fn absurd_numbers_from_the_wire_do_not_overflow() {
        let max = || SuppressedCount {
            reason: 0,
            count: u64::MAX,
        };
        let ledger = Ledger {
            suppressed: vec![max(), max()],
            seen: u64::MAX,
            ..Ledger::default()
        };
        assert_eq!(ledger.imbalance(), 0);
        let full = Ledger {
            delivered: u64::MAX,
            counted: u64::MAX,
            ..Ledger::default()
        };
        assert_eq!(full.imbalance(), -2 * i128::from(u64::MAX));
    }
}
