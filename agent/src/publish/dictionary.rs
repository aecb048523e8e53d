//! What events of a batch share, each once.

use std::hash::{BuildHasher as _, Hash as _, Hasher};

use ebpf_hello_proto::v1::{Pod, Policy, Process};
use hashbrown::{DefaultHashBuilder, HashTable};

/// A message that events name by its place in the batch.
pub(super) trait Part: prost::Message {
    /// Its field in `v1::Batch`.
    const FIELD: u32;

    /// Feeds a hasher with enough to tell most parts apart, never all of a large message.
    fn identify(&self, hasher: &mut impl Hasher);

    /// Whether an event with `part` may name this one instead.
    fn stands_for(&self, part: &Self) -> bool;
}

/// The parts of one kind that a batch has so far.
#[derive(Debug)]
pub(super) struct Dictionary<T> {
    parts: Vec<T>,
    places: HashTable<usize>,
    hashing: DefaultHashBuilder,
    /// Most events have the part of the event before them.
    last: usize,
}

// === impl Dictionary ===

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Dictionary {
            parts: Vec::new(),
            places: HashTable::new(),
            hashing: DefaultHashBuilder::default(),
            last: 0,
        }
    }
}

impl<T: Part> Dictionary<T> {
    /// Place of the part, from 1, and what stands there. A new one is appended to the batch.
    pub(super) fn place(&mut self, part: T, batch: &mut Vec<u8>) -> (u32, &T) {
        let known = self
            .parts
            .get(self.last)
            .is_some_and(|last| last.stands_for(&part));
        if !known {
            self.last = self.find_or_insert(part, batch);
        }
        // A batch has at most as many parts as events, whose number is a u32.
        let place = u32::try_from(self.last + 1).unwrap_or(u32::MAX);
        (place, &self.parts[self.last])
    }

    fn find_or_insert(&mut self, part: T, batch: &mut Vec<u8>) -> usize {
        let Dictionary {
            parts,
            places,
            hashing,
            ..
        } = self;
        let hash = |part: &T| {
            let mut hasher = hashing.build_hasher();
            part.identify(&mut hasher);
            hasher.finish()
        };
        let own = hash(&part);
        if let Some(place) = places.find(own, |place| parts[*place].stands_for(&part)) {
            return *place;
        }
        prost::encoding::message::encode(T::FIELD, &part, batch);
        let place = parts.len();
        parts.push(part);
        places.insert_unique(own, place, |place| hash(&parts[*place]));
        place
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.places.clear();
    }
}

// === impl Part ===

impl Part for Process {
    const FIELD: u32 = 4;

    fn identify(&self, hasher: &mut impl Hasher) {
        self.pid.hash(hasher);
        self.exec_id.hash(hasher);
        self.comm.hash(hasher);
    }

    /// Threads share an entry: an event says its own `tid`, which cannot be 0.
    fn stands_for(&self, part: &Self) -> bool {
        self.pid == part.pid
            && (self.tid == part.tid || part.tid != 0)
            && self.exec_id == part.exec_id
            && self.comm == part.comm
            && self.parent_pid == part.parent_pid
            && self.uid == part.uid
            && self.gid == part.gid
            && self.binary == part.binary
            && self.binary_truncated == part.binary_truncated
            && self.parent_exec_id == part.parent_exec_id
            && self.start_time == part.start_time
            && self.login_uid == part.login_uid
            && self.namespace_pid == part.namespace_pid
    }
}

impl Part for Pod {
    const FIELD: u32 = 5;

    fn identify(&self, hasher: &mut impl Hasher) {
        self.uid.hash(hasher);
        let container = self.container.as_ref();
        container.map(|container| &container.id).hash(hasher);
    }

    fn stands_for(&self, part: &Self) -> bool {
        self == part
    }
}

impl Part for Policy {
    const FIELD: u32 = 6;

    fn identify(&self, hasher: &mut impl Hasher) {
        self.generation.hash(hasher);
        self.rule.hash(hasher);
        self.filter.hash(hasher);
    }

    fn stands_for(&self, part: &Self) -> bool {
        self == part
    }
}
