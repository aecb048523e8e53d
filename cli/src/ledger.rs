//! The ledger in one line, and by handler.

use std::fmt::Write as _;

use ebpf_hello_proto::v1::{Ledger, LostCount};

use crate::table::table;

/// `ledger: seen=… …`, as INTERFACES fixes it.
pub(crate) fn line(ledger: &Ledger) -> String {
    let mut line = format!(
        "ledger: seen={} delivered={} counted={} suppressed={} self={} canary={} table_miss={} lost={} in_flight={}",
        ledger.seen,
        ledger.delivered,
        ledger.counted,
        ledger.suppressed_total(),
        ledger.self_,
        ledger.canary,
        ledger.table_miss,
        ledger.lost_total(),
        ledger.in_flight,
    );
    if !ledger.lost.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(line, " ({})", lost(&ledger.lost));
    }
    let _ = write!(
        line,
        " foreign={} out_of_range={}",
        ledger.foreign, ledger.out_of_range
    );
    match ledger.imbalance() {
        0 => {}
        missing => drop(write!(line, " imbalance={missing}")),
    }
    line
}

fn lost(lost: &[LostCount]) -> String {
    let parts: Vec<_> = lost
        .iter()
        .map(|row| format!("{}={}", row.reason().label(), row.count))
        .collect();
    parts.join(" ")
}

/// A row for each handler.
pub(crate) fn handlers(ledger: &Ledger) -> String {
    let rows: Vec<_> = ledger
        .handlers
        .iter()
        .filter(|row| row.seen > 0)
        .map(|row| {
            [
                row.handler().label().to_owned(),
                row.seen.to_string(),
                row.delivered.to_string(),
                row.counted.to_string(),
                row.self_.to_string(),
                row.lost_total().to_string(),
                lost(&row.lost),
            ]
        })
        .collect();
    table(
        [
            "HANDLER",
            "SEEN",
            "DELIVERED",
            "COUNTED",
            "SELF",
            "LOST",
            "",
        ],
        &rows,
    )
}

/// The last sequence number of each CPU.
pub(crate) fn sequences(sequences: &[u64]) -> String {
    let mut line = "sequences:".to_owned();
    for (cpu, sequence) in sequences.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(line, " cpu{cpu}={sequence}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{LossReason, LossStage};

    #[test]
    fn a_ledger_is_one_line_and_says_when_it_does_not_balance() {
        let mut ledger = Ledger {
            seen: 10,
            delivered: 5,
            counted: 2,
            lost: vec![LostCount {
                stage: LossStage::Kernel.into(),
                reason: LossReason::RingbufFull.into(),
                count: 3,
            }],
            ..Ledger::default()
        };
        assert_eq!(
            line(&ledger),
            "ledger: seen=10 delivered=5 counted=2 suppressed=0 self=0 canary=0 table_miss=0 lost=3 \
             in_flight=0 (ringbuf_full=3) foreign=0 out_of_range=0"
        );
        ledger.seen = 11;
        assert!(line(&ledger).ends_with(" imbalance=1"));
    }
}
