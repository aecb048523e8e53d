//! A table as its caller describes it, and the maps it becomes.

use ebpf_hello_abi::{
    self as abi, Abi, Bitmap, Decode, NO_ARGUMENT, Opcodes, SYSCALL_LIMIT, SlotFlags,
    SlotParameters, program,
};

/// What a slot does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// Counts the attempt per user; the event is the successful exec's own.
    Exec,
    /// Decodes a timer call.
    Timer,
    /// Number and raw arguments.
    Trace,
    /// Decodes a call that takes a path.
    Path,
    /// Decodes a call that takes a socket address.
    Sock,
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
            Handler::Path => program::HANDLE_PATH,
            Handler::Sock => program::HANDLE_SOCK,
            Handler::Count => program::HANDLE_COUNT,
            Handler::Ignore => program::HANDLE_IGNORE,
        }
    }

    /// Its row in the ledger; `ignore` has none.
    fn row(self) -> abi::Handler {
        match self {
            Handler::Exec => abi::Handler::Exec,
            Handler::Timer => abi::Handler::Timer,
            Handler::Trace => abi::Handler::Trace,
            Handler::Path => abi::Handler::Path,
            Handler::Sock => abi::Handler::Sock,
            Handler::Count => abi::Handler::Count,
            Handler::Ignore => abi::Handler::Dispatch,
        }
    }
}

/// Who a slot is for. Every list that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConditionSpec {
    /// First and last user id of up to 16 ranges.
    pub uids: Vec<[u32; 2]>,
    /// Executables: a path from the root of their mount namespace, below 248 bytes, and whether
    /// anything may follow it.
    pub binaries: Vec<(Vec<u8>, bool)>,
}

impl ConditionSpec {
    /// Whether it is for everybody.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.binaries.is_empty()
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotSpec {
    /// What it does.
    pub handler: Handler,
    /// The rule that chose it, from 1; 0 for the default.
    pub rule: u16,
    /// How the handler reads the call's arguments.
    pub decode: Decode,
    /// Rate and sampling are counted together by all slots of the same bucket.
    pub bucket: u16,
    /// Nanoseconds between events of the sustained rate; 0 for no limit.
    pub interval: u32,
    /// Events that may come at once after a pause, from 1.
    pub burst: u32,
    /// One event in so many; 0 and 1 for all.
    pub sampling: u32,
    /// Who it is for.
    pub condition: ConditionSpec,
    /// [`SlotFlags`](abi::SlotFlags).
    pub flags: u8,
    /// Which argument is the path or the address, or [`NO_ARGUMENT`].
    pub pointer: u8,
    /// Which argument is the directory descriptor or the address's length.
    pub second: u8,
    /// Which argument is the flags.
    pub third: u8,
    /// Which argument is the second path.
    pub fourth: u8,
    /// Which argument is the second path's directory descriptor.
    pub fifth: u8,
    /// Whose share of the node's events an event is taken from ([`Options::namespace_rate`](crate::Options)): a
    /// namespace's number; 0 for nobody's.
    pub namespace: u32,
}

impl SlotSpec {
    /// A slot without limits, conditions or arguments to decode.
    pub fn new(handler: Handler, rule: u16) -> Self {
        SlotSpec {
            handler,
            rule,
            decode: Decode::Raw,
            bucket: 0,
            interval: 0,
            burst: 1,
            sampling: 0,
            condition: ConditionSpec::default(),
            flags: 0,
            pointer: NO_ARGUMENT,
            second: NO_ARGUMENT,
            third: NO_ARGUMENT,
            fourth: NO_ARGUMENT,
            fifth: NO_ARGUMENT,
            namespace: 0,
        }
    }

    pub(crate) fn parameters(&self, condition: u16) -> SlotParameters {
        SlotParameters {
            rule: self.rule,
            bucket: self.bucket,
            condition,
            decode: self.decode as u8,
            flags: self.flags,
            interval: self.interval,
            sampling: self.sampling,
            tolerance: u64::from(self.burst.saturating_sub(1)) * u64::from(self.interval),
            handler: self.handler.row() as u8,
            pointer: self.pointer,
            second: self.second,
            third: self.third,
            fourth: self.fourth,
            fifth: self.fifth,
            call: 0,
            namespace: self.namespace,
            padding: 0,
        }
    }

    /// Whether sys_exit has something to do for it. A path's page may be missing on entry.
    fn wants_exit(&self) -> bool {
        const EXIT: u8 =
            SlotFlags::JOIN | SlotFlags::DENIED | SlotFlags::FAILED_EXEC | SlotFlags::ADDRESS_OUT;
        self.flags & EXIT != 0 || matches!(self.handler, Handler::Path | Handler::Sock)
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
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u32, &SlotSpec)> {
        self.slots
            .iter()
            .map(|(number, slot)| (u32::from(*number), slot))
            .chain(self.default.as_ref().map(|slot| (SYSCALL_LIMIT, slot)))
    }

    /// The calls that must reach the table: all of them while there is a default.
    pub(crate) fn wanted(&self) -> Bitmap {
        if self
            .default
            .as_ref()
            .is_some_and(|slot| slot.handler != Handler::Ignore)
        {
            return [u64::MAX; 8];
        }
        self.bits(|slot| slot.handler != Handler::Ignore)
    }

    /// The calls that sys_exit must look at.
    pub(crate) fn wanted_at_exit(&self) -> Bitmap {
        self.bits(SlotSpec::wants_exit)
    }

    fn bits(&self, of: impl Fn(&SlotSpec) -> bool) -> Bitmap {
        let mut bits = [0; 8];
        for (number, _) in self.slots.iter().filter(|(_, slot)| of(slot)) {
            bits[usize::from(*number / 64)] |= 1 << (number % 64);
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
    /// io_uring operations to count: those that do what a call in the table does.
    pub io_uring: Opcodes,
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
        SlotSpec::new(handler, 1)
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
