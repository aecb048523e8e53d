//! A file of the spool: batches one after another, a frame each, and what is still known of one that is damaged.
//!
//! | frame | |
//! |---|---|
//! | head | magic, length of the row and of the batch, epoch, number, checksums of row, batch and head |
//! | row | what the batch holds in numbers, and what the batch before it held |
//! | batch | an encoded `v1::Batch` |
//!
//! Numbers are little-endian. Damage costs the frame it is in and no other: the next one is found by its head. How
//! many events were lost is known from the frame's own row, else from that of the frame behind it.

use bytes::Bytes;
use ebpf_hello_loader::abi::HANDLERS;
use prost::Message as _;

use super::{
    backlog::Key,
    tally::{Span, Tally},
};

/// Begins each frame.
const MAGIC: [u8; 4] = *b"ebHf";
/// Bytes of a head.
const HEAD: usize = 40;
/// Bytes of a head that its checksum is of.
const CHECKED: usize = HEAD - 4;

/// Where a frame lies in its segment, and what of it can be said without its batch.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) key: Key,
    pub(super) offset: usize,
    /// Bytes of all of it.
    pub(super) length: usize,
    pub(super) tally: Tally,
    /// The batch before it.
    pub(super) before: Option<(Key, Tally)>,
}

/// A stretch of a segment.
#[derive(Debug)]
pub(super) enum Part {
    Frame(Box<Frame>),
    /// No frame, and no telling how many there were.
    Damage,
}

#[derive(Clone, Copy)]
struct Head {
    key: Key,
    row_length: usize,
    batch_length: usize,
    row_checksum: u32,
    batch_checksum: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(message, required, tag = "1")]
    own: Contents,
    #[prost(message, optional, tag = "2")]
    before: Option<Contents>,
}

/// A key and its tally.
#[derive(Clone, PartialEq, prost::Message)]
struct Contents {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, repeated, tag = "3")]
    counts: Vec<u64>,
    #[prost(message, repeated, tag = "4")]
    spans: Vec<Span>,
}

/// Head and row of a frame; the batch goes behind them.
pub(super) fn encode(
    key: Key,
    tally: &Tally,
    before: Option<&(Key, Tally)>,
    batch: &[u8],
) -> Vec<u8> {
    let row = Row {
        own: Contents::new(key, tally),
        before: before.map(|(key, tally)| Contents::new(*key, tally)),
    };
    let row = row.encode_to_vec();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = Vec::with_capacity(HEAD + row.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length(&row));
    out.extend_from_slice(&length(batch));
    out.extend_from_slice(&key.epoch.to_le_bytes());
    out.extend_from_slice(&key.number.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&row).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(batch).to_le_bytes());
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&row);
    out
}

/// The frame that begins at `offset`, if one does. Its batch may be cut short or damaged all the same.
pub(super) fn frame(segment: &[u8], offset: usize) -> Option<Frame> {
    let bytes = segment.get(offset..)?;
    let head = Head::read(bytes)?;
    let row = Row::read(&head, bytes)?;
    let before = row
        .before
        .map(|before| (before.key(), before.into_tally()))
        .filter(|(key, _)| *key != head.key);
    Some(Frame {
        key: head.key,
        offset,
        length: HEAD + head.row_length + head.batch_length,
        tally: row.own.into_tally(),
        before,
    })
}

/// The batch of a frame whose bytes these are, if it is what was written.
pub(super) fn batch(frame: &[u8]) -> Option<Bytes> {
    let head = Head::read(frame)?;
    let start = HEAD + head.row_length;
    let batch = frame.get(start..start.checked_add(head.batch_length)?)?;
    (crc32fast::hash(batch) == head.batch_checksum).then(|| Bytes::copy_from_slice(batch))
}

/// Everything in a segment, in its order.
pub(super) fn scan(segment: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut offset = 0;
    while offset < segment.len() {
        if let Some(frame) = frame(segment, offset) {
            offset += frame.length;
            parts.push(Part::Frame(Box::new(frame)));
            continue;
        }
        parts.push(Part::Damage);
        let next = segment[offset + 1..]
            .windows(MAGIC.len())
            .enumerate()
            .filter(|(_, bytes)| *bytes == MAGIC)
            .map(|(skipped, _)| offset + 1 + skipped)
            .find(|offset| frame(segment, *offset).is_some());
        offset = next.unwrap_or(segment.len());
    }
    parts
}

// === impl Head ===

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEAD>()?;
        let u32_at = |at: usize| {
            let (bytes, _) = head[at..].split_first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let u64_at = |at: usize| {
            let (bytes, _) = head[at..].split_first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        if head[..4] != MAGIC || u32_at(CHECKED)? != crc32fast::hash(&head[..CHECKED]) {
            return None;
        }
        Some(Head {
            key: Key {
                epoch: u64_at(12)?,
                number: u64_at(20)?,
            },
            row_length: u32_at(4)? as usize,
            batch_length: u32_at(8)? as usize,
            row_checksum: u32_at(28)?,
            batch_checksum: u32_at(32)?,
        })
    }
}

// === impl Row ===

impl Row {
    fn read(head: &Head, frame: &[u8]) -> Option<Self> {
        let row = frame.get(HEAD..HEAD + head.row_length)?;
        if crc32fast::hash(row) != head.row_checksum {
            return None;
        }
        Row::decode(row).ok()
    }
}

// === impl Contents ===

impl Contents {
    fn new(key: Key, tally: &Tally) -> Self {
        Contents {
            epoch: key.epoch,
            number: key.number,
            counts: tally.counts.to_vec(),
            spans: tally.spans.clone(),
        }
    }

    fn key(&self) -> Key {
        Key {
            epoch: self.epoch,
            number: self.number,
        }
    }

    fn into_tally(self) -> Tally {
        let mut counts = [0; HANDLERS];
        for (count, written) in counts.iter_mut().zip(self.counts) {
            *count = written;
        }
        Tally {
            counts,
            spans: self.spans,
        }
    }
}

#[cfg(test)]
mod tests {
    use ebpf_hello_loader::abi::Handler;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> Key {
        Key { epoch: 7, number }
    }

    fn tally(number: u64) -> Tally {
        let mut tally = Tally::default();
        for event in 0..number {
            tally.add(Some(Handler::Trace), Some(1), number * 100 + event);
        }
        tally
    }

    /// Five frames, and where each begins.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        let mut before = None;
        for number in 1..=5 {
            let batch = vec![number as u8; 50];
            offsets.push(bytes.len());
            bytes.extend(encode(key(number), &tally(number), before.as_ref(), &batch));
            bytes.extend(batch);
            before = Some((key(number), tally(number)));
        }
        (bytes, offsets)
    }

    #[test]
    fn what_is_scanned_is_what_was_written() {
        let (bytes, offsets) = segment();
        let parts = scan(&bytes);
        assert_eq!(parts.len(), 5);
        for (number, part) in (1..).zip(&parts) {
            let Part::Frame(frame) = part else {
                panic!("{part:?}");
            };
            assert_eq!((frame.key, &frame.tally), (key(number), &tally(number)));
            assert_eq!(frame.offset, offsets[number as usize - 1]);
            let own = &bytes[frame.offset..frame.offset + frame.length];
            assert_eq!(batch(own).unwrap(), vec![number as u8; 50]);
            let before = (number > 1).then(|| (key(number - 1), tally(number - 1)));
            assert_eq!(frame.before, before);
        }
    }

    #[test]
    fn a_segment_cut_anywhere_keeps_what_is_whole() {
        let (bytes, offsets) = segment();
        for length in 0..bytes.len() {
            let whole = offsets[1..]
                .iter()
                .filter(|offset| **offset <= length)
                .count();
            let cut = &bytes[..length];
            let read = scan(cut)
                .iter()
                .filter(|part| {
                    matches!(part, Part::Frame(frame)
                        if batch(cut.get(frame.offset..).unwrap_or_default()).is_some())
                })
                .count();
            assert_eq!(read, whole, "cut at {length}");
        }
    }

    proptest! {
        /// Whatever one byte becomes, one frame is lost and the others are whole.
        #[test]
        fn a_changed_byte_costs_its_frame(place in 0_usize..1_000_000, change in 1_u8..) {
            let (mut bytes, offsets) = segment();
            let place = place % bytes.len();
            bytes[place] ^= change;
            let hit = offsets.iter().rposition(|offset| *offset <= place).unwrap() as u64 + 1;
            let mut whole = Vec::new();
            for part in scan(&bytes) {
                if let Part::Frame(frame) = part {
                    let own = &bytes[frame.offset..];
                    if batch(own).is_some() {
                        whole.push(frame.key.number);
                    } else {
                        prop_assert_eq!((frame.key, frame.tally), (key(hit), tally(hit)));
                    }
                }
            }
            let expected: Vec<u64> = (1..=5).filter(|number| *number != hit).collect();
            prop_assert_eq!(whole, expected);
        }

        #[test]
        fn garbage_is_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert!(scan(&bytes).iter().all(|part| matches!(part, Part::Damage)));
        }
    }
}
