//! Tail-call tables: filled while nobody looks, flipped by one store, emptied after everybody left.
//!
//! An outcome is what a set of cgroups has in common; its number never changes while its table
//! does. `OUTCOMES[outcome]` holds (table, generation), so one 8-byte store moves all of them.

use std::collections::{BTreeMap, HashSet};

use aya::{
    Ebpf,
    maps::{
        Array, MapData, ProgramArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::ProgramFd,
};
use ebpf_hello_abi::{
    Abi, BITMAP_EXIT, BITMAP_UNION, BinaryKey, Bitmap, Condition, MATCHED_PATH, Opcodes, Outcome,
    SlotParameters, bitmap_of, map, slot,
};

use crate::{
    ConditionSpec, LoadError, TableSpec,
    interest::{Interest, Wanted, Wants},
    machine,
    object::{HANDLER_PROGRAMS, Shared, raw_tracepoint, take},
};

/// The outcome of every cgroup that has none of its own.
pub const DEFAULT_OUTCOME: u32 = 0;
/// Tables that stay free, so that those who have one can always change it.
const SPARE: usize = 1;
/// Bits of a binary key before its path.
const CONDITION_BITS: u32 = 32;
/// Conditions there is room for; number 0 means none.
const CONDITIONS: u16 = 4_096;

/// What became of a policy that was to be programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// It has a table.
    Table(u16),
    /// There was no free table: its cgroups have the default's, and what that ignores is counted
    /// as a table miss.
    Exhausted,
}

/// An outcome as it is in the kernel.
struct Live {
    /// `None` when there was no free table.
    table: Option<Filled>,
    wants: Wants,
    generation: u64,
}

/// A table that holds something.
#[derive(Default)]
struct Filled {
    table: u16,
    slots: Vec<u32>,
    conditions: Vec<u16>,
}

pub(crate) struct Tables {
    programs: ProgramArray<MapData>,
    parameters: Array<MapData, Shared<SlotParameters>>,
    opcodes: Array<MapData, Opcodes>,
    bitmaps: Array<MapData, Bitmap>,
    outcomes: Array<MapData, u64>,
    conditions: Array<MapData, Shared<Condition>>,
    binaries: LpmTrie<MapData, Shared<BinaryKey>, u8>,
    handlers: BTreeMap<&'static str, ProgramFd>,
    live: BTreeMap<u32, Live>,
    /// Of all that is live, those without a table too: their calls must reach the dispatcher to be
    /// counted.
    interest: Interest,
    /// Of those whose table was looked into until the last flip.
    leaving: Vec<Wants>,
    /// What they wanted of sys_exit: calls that began under them may still wait for theirs. First
    /// those that were there at the last sweep.
    lingering: [Vec<Wants>; 2],
    /// What the bitmaps hold.
    written: Wants,
    free: Vec<u16>,
    /// Nothing refers to these any more, but a program may still be running through one.
    retired: Vec<Filled>,
    free_conditions: Vec<u16>,
    patterns: BTreeMap<u16, Vec<Key<Shared<BinaryKey>>>>,
}

// === impl Filled ===

impl Filled {
    fn new(table: u16) -> Self {
        Filled {
            table,
            ..Filled::default()
        }
    }
}

// === impl Tables ===

impl Tables {
    pub(crate) fn new(ebpf: &mut Ebpf, capacity: u32) -> Result<Self, LoadError> {
        let mut handlers = BTreeMap::new();
        for name in HANDLER_PROGRAMS {
            let fd = raw_tracepoint(ebpf, name)?
                .fd()
                .map_err(|error| LoadError::Program {
                    program: name,
                    error,
                })?
                .try_clone()
                .map_err(LoadError::system(format!(
                    "duplicate the descriptor of program {name}"
                )))?;
            handlers.insert(name, fd);
        }
        Ok(Tables {
            programs: take(ebpf, map::TABLES)?,
            parameters: take(ebpf, map::PARAMETERS)?,
            opcodes: take(ebpf, map::IO_URING)?,
            bitmaps: take(ebpf, map::BITMAPS)?,
            outcomes: take(ebpf, map::OUTCOMES)?,
            conditions: take(ebpf, map::CONDITIONS)?,
            binaries: take(ebpf, map::BINARIES)?,
            handlers,
            live: BTreeMap::new(),
            interest: Interest::default(),
            leaving: Vec::new(),
            lingering: Default::default(),
            written: Wants::default(),
            // The first to be popped is table 0.
            free: (0..capacity as u16).rev().collect(),
            retired: Vec::new(),
            free_conditions: (1..CONDITIONS).rev().collect(),
            patterns: BTreeMap::new(),
        })
    }

    /// What must be attached once `spec` is live beside what is live now.
    pub(crate) fn wanted_with(&self, spec: &TableSpec) -> Wanted {
        let (now, more) = (self.wanted(), Wants::of(spec).programs());
        Wanted {
            enter: now.enter | more.enter,
            exit: now.exit | more.exit,
            io_uring: now.io_uring | more.io_uring,
        }
    }

    /// What must be attached for what is live.
    pub(crate) fn wanted(&self) -> Wanted {
        self.interest.wanted().programs()
    }

    /// Fills a free table and makes it `outcome`'s, under `generation`. Bits are set before the
    /// flip; [`Tables::settle`] clears those that nobody wants any more.
    pub(crate) fn set(
        &mut self,
        outcome: u32,
        spec: &TableSpec,
        generation: u64,
    ) -> Result<Programmed, LoadError> {
        let has_table = self
            .live
            .get(&outcome)
            .is_some_and(|live| live.table.is_some());
        let mut filled = self.claim(has_table)?.map(Filled::new);
        if let Some(filled) = &mut filled
            && let Err(error) = self.fill(filled, spec)
        {
            // As far as it came it must be emptied.
            self.retired.push(std::mem::take(filled));
            return Err(error);
        }
        let programmed = filled.as_ref().map_or(Programmed::Exhausted, |filled| {
            Programmed::Table(filled.table)
        });
        let wants = Wants::of(spec);
        let live = Live {
            table: filled,
            wants,
            generation,
        };
        let older = self.live.insert(outcome, live);
        self.interest.add(&wants);
        self.leaving.extend(older.as_ref().map(|live| live.wants));
        self.write_bitmaps()?;
        self.flip(outcome)?;
        if outcome == DEFAULT_OUTCOME {
            // Those without a table have the default's.
            let without: Vec<_> = self
                .live
                .iter()
                .filter(|(_, live)| live.table.is_none())
                .map(|(id, _)| *id)
                .collect();
            for outcome in without {
                self.flip(outcome)?;
            }
        }
        self.retired.extend(older.and_then(|live| live.table));
        Ok(programmed)
    }

    /// Takes an outcome out that no cgroup has any more.
    pub(crate) fn remove(&mut self, outcome: u32) -> Result<(), LoadError> {
        if let Some(live) = self.live.remove(&outcome) {
            self.leaving.push(live.wants);
            self.retired.extend(live.table);
            self.store(outcome, Outcome(0))?;
        }
        Ok(())
    }

    /// Clears the bits that nobody wants any more, but those of sys_exit.
    pub(crate) fn settle(&mut self) -> Result<(), LoadError> {
        for wants in std::mem::take(&mut self.leaving) {
            let (start, end) = wants.split();
            self.interest.remove(&start);
            if end.programs().exit {
                self.lingering[1].push(end);
            }
        }
        self.write_bitmaps()
    }

    /// Whether sys_exit looks at calls for policies that are gone.
    pub(crate) fn has_lingering(&self) -> bool {
        self.lingering.iter().any(|wants| !wants.is_empty())
    }

    /// Clears bits of sys_exit that nobody wants any more and none of the `waiting` calls needs. A
    /// policy keeps them until the second sweep: a program may have been in it at the first.
    pub(crate) fn sweep_exits(&mut self, waiting: &[u32]) -> Result<(), LoadError> {
        let [old, new] = std::mem::take(&mut self.lingering);
        let is_awaited = |wants: &Wants| waiting.iter().any(|number| wants.has_exit(*number));
        let (mut kept, gone): (Vec<_>, Vec<_>) = old.into_iter().partition(is_awaited);
        for wants in gone {
            self.interest.remove(&wants);
        }
        kept.extend(new);
        self.lingering[0] = kept;
        self.write_bitmaps()
    }

    /// Whether an outcome without a table would get one now.
    pub(crate) fn has_free(&self) -> bool {
        self.free.len() + self.retired.len() > SPARE
    }

    /// Tables in use.
    pub(crate) fn in_use(&self) -> usize {
        self.live
            .values()
            .filter(|live| live.table.is_some())
            .count()
    }

    /// A table to fill.
    fn claim(&mut self, is_change: bool) -> Result<Option<u16>, LoadError> {
        let spare = if is_change { 0 } else { SPARE };
        if self.free.len() <= spare {
            self.reclaim()?;
        }
        Ok(
            if self.free.len() > spare || (self.live.is_empty() && !self.free.is_empty()) {
                self.free.pop()
            } else {
                None
            },
        )
    }

    /// Empties the retired tables, once no program can be in one.
    fn reclaim(&mut self) -> Result<(), LoadError> {
        if self.retired.is_empty() {
            return Ok(());
        }
        machine::wait_for_programs()?;
        for filled in std::mem::take(&mut self.retired) {
            for index in filled.slots {
                // An empty slot is as good.
                let _ = self.programs.clear_index(&index);
                self.parameters
                    .set(index, Shared(SlotParameters::default()), 0)
                    .map_err(LoadError::map(map::PARAMETERS))?;
            }
            for condition in filled.conditions {
                for key in self.patterns.remove(&condition).unwrap_or_default() {
                    self.binaries
                        .remove(&key)
                        .map_err(LoadError::map(map::BINARIES))?;
                }
                self.free_conditions.push(condition);
            }
            self.free.push(filled.table);
        }
        Ok(())
    }

    fn fill(&mut self, filled: &mut Filled, spec: &TableSpec) -> Result<(), LoadError> {
        self.opcodes
            .set(u32::from(filled.table), spec.io_uring, 0)
            .map_err(LoadError::map(map::IO_URING))?;
        let mut numbers: BTreeMap<&ConditionSpec, u16> = BTreeMap::new();
        for abi in [Abi::Native, Abi::Compat] {
            for (number, content) in spec.half(abi).filled() {
                let condition = match &content.condition {
                    condition if condition.is_empty() => 0,
                    condition => match numbers.get(condition) {
                        Some(number) => *number,
                        None => {
                            let number = self.write_condition(condition)?;
                            filled.conditions.push(number);
                            numbers.insert(condition, number);
                            number
                        }
                    },
                };
                let index = slot(u32::from(filled.table), abi as u32, number);
                filled.slots.push(index);
                self.parameters
                    .set(index, Shared(content.parameters(condition)), 0)
                    .map_err(LoadError::map(map::PARAMETERS))?;
                let name = content.handler.program();
                let program = self.handlers.get(name).ok_or(LoadError::Missing {
                    kind: "program",
                    name,
                })?;
                self.programs
                    .set(index, program, 0)
                    .map_err(LoadError::map(map::TABLES))?;
            }
        }
        Ok(())
    }

    fn write_condition(&mut self, spec: &ConditionSpec) -> Result<u16, LoadError> {
        let number = self
            .free_conditions
            .pop()
            .ok_or_else(|| LoadError::Option {
                option: "conditions (matchUids, matchBinaries) of all live tables",
                expected: "at most 4095 different ones",
                value: "more".into(),
            })?;
        let mut condition = Condition {
            uid_count: spec.uids.len() as u32,
            binaries: u32::from(!spec.binaries.is_empty()),
            ..Condition::default()
        };
        for (room, range) in condition.uids.iter_mut().zip(&spec.uids) {
            *room = *range;
        }
        let mut keys = Vec::new();
        for (path, is_prefix) in &spec.binaries {
            let mut key = BinaryKey {
                condition: u32::from(number).to_be_bytes(),
                path: [0; MATCHED_PATH],
            };
            // A pattern that is longer than what is remembered of a path matches nothing.
            let Some(room) = key.path.get_mut(..path.len()) else {
                continue;
            };
            room.copy_from_slice(path);
            let bytes = path.len() + usize::from(!is_prefix);
            let key = Key::new(CONDITION_BITS + 8 * bytes as u32, Shared(key));
            self.binaries
                .insert(&key, 1, 0)
                .map_err(LoadError::map(map::BINARIES))?;
            keys.push(key);
        }
        self.patterns.insert(number, keys);
        self.conditions
            .set(u32::from(number), Shared(condition), 0)
            .map_err(LoadError::map(map::CONDITIONS))?;
        Ok(number)
    }

    /// The one store that makes a policy everybody's who has the outcome.
    fn flip(&mut self, outcome: u32) -> Result<(), LoadError> {
        let packed = match self.live.get(&outcome) {
            None => return Ok(()),
            Some(Live {
                table: Some(filled),
                generation,
                ..
            }) => Outcome::new(filled.table, *generation),
            Some(Live { table: None, .. }) => match self.live.get(&DEFAULT_OUTCOME) {
                Some(Live {
                    table: Some(filled),
                    generation,
                    ..
                }) => Outcome::new(filled.table, *generation).missed(),
                _ => Outcome(0).missed(),
            },
        };
        self.store(outcome, packed)
    }

    fn store(&mut self, outcome: u32, packed: Outcome) -> Result<(), LoadError> {
        self.outcomes
            .set(outcome, packed.0, 0)
            .map_err(LoadError::map(map::OUTCOMES))
    }

    /// Writes the bitmaps that changed.
    fn write_bitmaps(&mut self) -> Result<(), LoadError> {
        let wanted = self.interest.wanted().with_canary();
        let bitmaps = |wants: &Wants| {
            [
                (bitmap_of(Abi::Native as u32), wants.abi(Abi::Native)),
                (bitmap_of(Abi::Compat as u32), wants.abi(Abi::Compat)),
                (BITMAP_EXIT, wants.exit()),
                (BITMAP_UNION, wants.union()),
            ]
        };
        for ((index, bitmap), (_, written)) in
            bitmaps(&wanted).into_iter().zip(bitmaps(&self.written))
        {
            if bitmap != written {
                self.bitmaps
                    .set(index, bitmap, 0)
                    .map_err(LoadError::map(map::BITMAPS))?;
            }
        }
        self.written = wanted;
        Ok(())
    }

    /// Generations that events can still carry.
    pub(crate) fn generations(&self) -> HashSet<u64> {
        self.live.values().map(|live| live.generation).collect()
    }
}
