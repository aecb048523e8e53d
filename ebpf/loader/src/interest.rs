//! Which system calls, and which of io_uring's operations, any live policy wants: how many policies want
//! each, so that one that comes or goes costs the same however many there are.

use ebpf_hello_abi::{Abi, Bitmap, SYSCALL_LIMIT};

use crate::{TableSpec, canary};

/// Numbers in a bitmap.
const NUMBERS: usize = SYSCALL_LIMIT as usize + 1;
/// Bitmaps that are kept: native, 32-bit, at sys_exit, io_uring's.
const KINDS: usize = 4;
/// The one of calls that sys_exit looks at.
const EXIT: usize = 2;
/// The one of io_uring's opcodes.
const IO_URING: usize = 3;

/// What one policy wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants([Bitmap; KINDS]);

/// What all of them want.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    policies: Box<[[u32; NUMBERS]; KINDS]>,
    wanted: Wants,
}

/// Which of the programs that are attached on demand are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) enter: bool,
    pub(crate) exit: bool,
    /// The one that counts io_uring's operations.
    pub(crate) io_uring: bool,
}

// === impl Wants ===

impl Wants {
    pub(crate) fn of(spec: &TableSpec) -> Self {
        let mut exit = spec.native.wanted_at_exit();
        merge(&mut exit, spec.compat.wanted_at_exit());
        let mut opcodes = [0; 8];
        merge(&mut opcodes, spec.io_uring);
        Wants([spec.native.wanted(), spec.compat.wanted(), exit, opcodes])
    }

    /// The bitmap of one ABI.
    pub(crate) fn abi(&self, abi: Abi) -> Bitmap {
        self.0[abi as usize]
    }

    /// The calls of either ABI.
    pub(crate) fn union(&self) -> Bitmap {
        let mut union = self.abi(Abi::Native);
        merge(&mut union, self.abi(Abi::Compat));
        union
    }

    /// The calls that sys_exit looks at.
    pub(crate) fn exit(&self) -> Bitmap {
        self.0[EXIT]
    }

    /// The same, and the canary's call where there are any.
    pub(crate) fn with_canary(mut self) -> Self {
        if self.programs().enter {
            // A system call number of this architecture is not negative, and below the limit.
            let number = canary::NUMBER as usize;
            self.0[Abi::Native as usize][number / 64] |= 1 << (number % 64);
        }
        self
    }

    /// Split into what is wanted at the calls' start and at their end.
    pub(crate) fn split(self) -> (Self, Self) {
        let [native, compat, exit, opcodes] = self.0;
        (
            Wants([native, compat, [0; 8], opcodes]),
            Wants([[0; 8], [0; 8], exit, [0; 8]]),
        )
    }

    /// Whether sys_exit looks at a call.
    pub(crate) fn has_exit(&self, number: u32) -> bool {
        let number = number as usize;
        number < NUMBERS && self.exit()[number / 64] & 1 << (number % 64) != 0
    }

    pub(crate) fn programs(&self) -> Wanted {
        Wanted {
            enter: self.union() != [0; 8],
            exit: self.exit() != [0; 8],
            io_uring: self.0[IO_URING] != [0; 8],
        }
    }
}

// === impl Interest ===

impl Interest {
    pub(crate) fn add(&mut self, wants: &Wants) {
        self.change(wants, |policies| policies + 1);
    }

    /// Takes out what was added.
    pub(crate) fn remove(&mut self, wants: &Wants) {
        self.change(wants, |policies| policies.saturating_sub(1));
    }

    /// What anybody wants.
    pub(crate) fn wanted(&self) -> Wants {
        self.wanted
    }

    fn change(&mut self, wants: &Wants, change: impl Fn(u32) -> u32) {
        for (kind, bits) in wants.0.iter().enumerate() {
            for number in numbers(bits) {
                let policies = &mut self.policies[kind][number];
                *policies = change(*policies);
                let bit = 1 << (number % 64);
                let word = &mut self.wanted.0[kind][number / 64];
                *word = if *policies > 0 {
                    *word | bit
                } else {
                    *word & !bit
                };
            }
        }
    }
}

impl Default for Interest {
    fn default() -> Self {
        Interest {
            policies: Box::new([[0; NUMBERS]; KINDS]),
            wanted: Wants::default(),
        }
    }
}

/// Bits beyond those of `bits` stay as they are.
fn merge<const WORDS: usize>(all: &mut Bitmap, bits: [u64; WORDS]) {
    for (all, bits) in all.iter_mut().zip(bits) {
        *all |= bits;
    }
}

fn numbers(bits: &Bitmap) -> impl Iterator<Item = usize> + '_ {
    (0..NUMBERS).filter(|number| bits[number / 64] & 1 << (number % 64) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HalfSpec, Handler, SlotSpec};

    fn wants(numbers: &[u16]) -> Wants {
        let slots = numbers
            .iter()
            .map(|number| (*number, SlotSpec::new(Handler::Path, 1)))
            .collect();
        Wants::of(&TableSpec {
            native: HalfSpec {
                default: None,
                slots,
            },
            ..TableSpec::default()
        })
    }

    #[test]
    fn a_call_is_wanted_until_the_last_policy_that_wants_it_is_gone() {
        let mut interest = Interest::default();
        let (one, two) = (wants(&[0, 64]), wants(&[64, 510]));
        interest.add(&one);
        interest.add(&two);
        assert_eq!(interest.wanted(), wants(&[0, 64, 510]));
        interest.remove(&one);
        assert_eq!(interest.wanted(), two);
        interest.remove(&two);
        assert_eq!(interest.wanted(), Wants::default());
        assert_eq!(interest.wanted().programs(), Wanted::default());
    }

    #[test]
    fn start_and_end_are_taken_out_apart() {
        let mut interest = Interest::default();
        let wants = wants(&[3, 257]);
        interest.add(&wants);
        let (start, end) = wants.split();
        interest.remove(&start);
        let programs = interest.wanted().programs();
        assert_eq!((programs.enter, programs.exit), (false, true));
        assert!(end.has_exit(257) && !end.has_exit(258) && !end.has_exit(u32::MAX));
        interest.remove(&end);
        assert_eq!(interest.wanted(), Wants::default());
    }

    #[test]
    fn a_default_wants_every_number_of_its_abi() {
        let mut interest = Interest::default();
        interest.add(&Wants::of(&TableSpec {
            compat: HalfSpec {
                default: Some(SlotSpec::new(Handler::Trace, 0)),
                slots: Vec::new(),
            },
            ..TableSpec::default()
        }));
        let wanted = interest.wanted();
        assert_eq!(wanted.abi(Abi::Native), [0; 8]);
        assert_eq!(wanted.union(), [u64::MAX; 8]);
        assert_eq!(
            wanted.programs(),
            Wanted {
                enter: true,
                exit: false,
                io_uring: false
            }
        );
    }

    #[test]
    fn an_operation_is_wanted_as_long_as_its_policy_is_there() {
        let mut interest = Interest::default();
        let wants = Wants::of(&TableSpec {
            io_uring: [1 << 18, 0, 0, 1],
            ..TableSpec::default()
        });
        interest.add(&wants);
        let wanted = interest.wanted();
        assert!(wanted.programs().io_uring && !wanted.programs().enter);
        assert_eq!(wanted.with_canary(), wanted);
        let (start, end) = wants.split();
        interest.remove(&start);
        assert_eq!(interest.wanted().programs(), Wanted::default());
        assert_eq!(end, Wants::default());
    }
}
