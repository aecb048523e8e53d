//! A table as its caller describes it, and the maps it becomes.

use ebpf_hello_abi::{Abi, Bitmap, Decode, SYSCALL_LIMIT, SlotParameters, program};

/// What a slot does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// Counts the attempt per user; the event is the successful exec's own.
    Exec,
    /// Decodes a timer call.
    Timer,
    /// Number and raw arguments.
    Trace,
    /// Counts, no event.
    Count,
    /// Nothing: for a call that a default would otherwise take.
    Ignore,
}

impl Handler {
    /// The program in the slot.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Handler::Exec => program::HANDLE_EXEC,
            Handler::Timer => program::HANDLE_TIMER,
            Handler::Trace => program::HANDLE_TRACE,
            Handler::Count => program::HANDLE_COUNT,
            Handler::Ignore => program::HANDLE_IGNORE,
        }
    }
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotSpec {
    /// What it does.
    pub handler: Handler,
    /// The rule that chose it, from 1; 0 for the default.
    pub rule: u16,
    /// How the handler reads the call's arguments.
    pub decode: Decode,
}

impl SlotSpec {
    pub(crate) fn parameters(&self) -> SlotParameters {
        SlotParameters {
            rule: self.rule,
            decode: self.decode as u8,
            padding: [0; 5],
        }
    }
}

/// The slots of one ABI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfSpec {
    /// Calls without a slot of their own; `None` ignores them.
    pub default: Option<SlotSpec>,
    /// By system call number, each below 511.
    pub slots: Vec<(u16, SlotSpec)>,
}

impl HalfSpec {
    /// Every filled slot: number (or the default's) and content.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u32, SlotSpec)> {
        self.slots
            .iter()
            .map(|(number, slot)| (u32::from(*number), *slot))
            .chain(self.default.map(|slot| (SYSCALL_LIMIT, slot)))
    }

    /// The calls that must reach the table: all of them while there is a default.
    pub(crate) fn wanted(&self) -> Bitmap {
        if self
            .default
            .is_some_and(|slot| slot.handler != Handler::Ignore)
        {
            return [u64::MAX; 8];
        }
        let mut bits = [0; 8];
        for (number, slot) in &self.slots {
            if slot.handler != Handler::Ignore {
                bits[usize::from(*number / 64)] |= 1 << (number % 64);
            }
        }
        bits
    }
}

/// One policy outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSpec {
    /// The kernel's own ABI.
    pub native: HalfSpec,
    /// The 32-bit ABI.
    pub compat: HalfSpec,
}

impl TableSpec {
    pub(crate) fn half(&self, abi: Abi) -> &HalfSpec {
        match abi {
            Abi::Native => &self.native,
            Abi::Compat => &self.compat,
        }
    }

    /// The first system call number that no table can hold.
    pub(crate) fn number_out_of_range(&self) -> Option<u16> {
        [&self.native, &self.compat]
            .into_iter()
            .flat_map(|half| &half.slots)
            .map(|(number, _)| *number)
            .find(|number| u32::from(*number) >= SYSCALL_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(handler: Handler) -> SlotSpec {
        SlotSpec {
            handler,
            rule: 1,
            decode: Decode::Raw,
        }
    }

    #[test]
    fn an_ignored_call_wants_nothing() {
        let half = HalfSpec {
            default: None,
            slots: vec![
                (59, slot(Handler::Exec)),
                (64, slot(Handler::Ignore)),
                (510, slot(Handler::Trace)),
            ],
        };
        let mut bits = [0; 8];
        bits[0] = 1 << 59;
        bits[7] = 1 << 62;
        assert_eq!(half.wanted(), bits);
    }

    #[test]
    fn a_default_wants_everything() {
        let half = HalfSpec {
            default: Some(slot(Handler::Count)),
            slots: Vec::new(),
        };
        assert_eq!(half.wanted(), [u64::MAX; 8]);
        let ignoring = HalfSpec {
            default: Some(slot(Handler::Ignore)),
            slots: Vec::new(),
        };
        assert_eq!(ignoring.wanted(), [0; 8]);
    }

    #[test]
    fn a_number_out_of_range_is_found() {
        let mut table = TableSpec::default();
        assert_eq!(table.number_out_of_range(), None);
        table.compat.slots.push((511, slot(Handler::Trace)));
        assert_eq!(table.number_out_of_range(), Some(511));
    }
}
