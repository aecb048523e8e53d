//! The ledger as `run` prints it at its end.

use std::collections::BTreeMap;

/// One printed ledger, with `-v` its rows by handler and the last sequence numbers.
#[derive(Debug)]
pub(crate) struct Ledger {
    line: String,
    fields: BTreeMap<String, u64>,
    rows: BTreeMap<String, Row>,
    /// By CPU.
    pub(crate) sequences: Vec<u64>,
}

/// One handler's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) seen: u64,
    pub(crate) delivered: u64,
    pub(crate) counted: u64,
    pub(crate) self_excluded: u64,
    pub(crate) lost: u64,
}

// === impl Ledger ===

impl Ledger {
    /// The last one in what an instance wrote to stderr.
    pub(crate) fn parse(stderr: &[String]) -> Ledger {
        let at = stderr
            .iter()
            .rposition(|line| line.starts_with("ledger: "))
            .unwrap_or_else(|| panic!("no ledger at the end of:\n{}", stderr.join("\n")));
        let line = stderr[at].clone();
        let fields = line
            .split([' ', '(', ')'])
            .filter_map(|field| {
                let (name, value) = field.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        let rows = stderr[at + 1..]
            .iter()
            .filter_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let (name, numbers) = words.split_first()?;
                let numbers: Vec<u64> = numbers
                    .iter()
                    .map_while(|number| number.parse().ok())
                    .collect();
                let [seen, delivered, counted, self_excluded, lost, ..] = numbers[..] else {
                    return None;
                };
                let row = Row {
                    seen,
                    delivered,
                    counted,
                    self_excluded,
                    lost,
                };
                Some(((*name).to_owned(), row))
            })
            .collect();
        let sequences = stderr[at + 1..]
            .iter()
            .find_map(|line| line.strip_prefix("sequences:"))
            .map(|line| {
                line.split_whitespace()
                    .map(|field| {
                        let (_, number) = field.split_once('=').unwrap();
                        number.parse().unwrap()
                    })
                    .collect()
            })
            .unwrap_or_default();
        Ledger {
            line,
            fields,
            rows,
            sequences,
        }
    }

    /// A field of the line; a reason of loss that is not printed is zero.
    pub(crate) fn get(&self, field: &str) -> u64 {
        self.fields.get(field).copied().unwrap_or(0)
    }

    /// A handler's row; one that is not printed saw nothing.
    pub(crate) fn row(&self, handler: &str) -> Row {
        self.rows.get(handler).copied().unwrap_or_default()
    }

    /// What would have been events: all but what was counted or excluded by design.
    pub(crate) fn reportable(&self) -> u64 {
        self.get("delivered") + self.get("lost")
    }

    /// Fails unless every call and record is accounted for.
    pub(crate) fn assert_balanced(&self) {
        assert!(!self.line.contains("imbalance"), "{}", self.line);
        let fates = [
            "delivered",
            "counted",
            "suppressed",
            "self",
            "canary",
            "table_miss",
            "lost",
        ];
        let sum: u64 = fates.iter().map(|fate| self.get(fate)).sum();
        assert_eq!(self.get("seen"), sum, "{}", self.line);
        assert_eq!(self.get("in_flight"), 0, "{}", self.line);
    }

    /// Fails unless the ledger balances and nothing was lost: then what is missing is a bug.
    pub(crate) fn assert_complete(&self) {
        self.assert_balanced();
        assert_eq!(self.get("lost"), 0, "{}", self.line);
    }
}
