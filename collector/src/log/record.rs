//! How an entry lies in the store, and in a message of NATS: a header, then the batch, compressed with zstd.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ebpf_hello_proto::wire;
use prost::Message as _;
use zstd::bulk::Compressor;

use super::{BatchKey, Entry};

/// First byte of a record.
const VERSION: u8 = 1;
/// Version, time, length of the batch.
const HEADER: usize = 1 + 8 + 4;
/// zstd's fastest ordinary level: at a fifth of the cost of its default it is within a tenth of its size.
const LEVEL: i32 = 1;
/// Bytes of a batch in a record at most: what is longer was not written by us.
const MAX_BATCH: usize = 64 << 20;

thread_local! {
    /// Its tables are as large as a batch: made once for each thread.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// A batch, compressed; without its time.
pub(super) fn compress(batch: &[u8]) -> std::io::Result<Vec<u8>> {
    let len = u32::try_from(batch.len())
        .ok()
        .filter(|len| *len as usize <= MAX_BATCH)
        .ok_or_else(|| std::io::Error::other(format!("a batch of {} bytes", batch.len())))?;
    COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = match compressor {
            Some(compressor) => compressor,
            None => compressor.insert(Compressor::new(LEVEL)?),
        };
        let mut record = vec![0; HEADER + zstd::zstd_safe::compress_bound(batch.len())];
        record[0] = VERSION;
        record[9..HEADER].copy_from_slice(&len.to_le_bytes());
        let compressed = compressor.compress_to_buffer(batch, &mut record[HEADER..])?;
        record.truncate(HEADER + compressed);
        record.shrink_to_fit();
        Ok(record)
    })
}

/// Writes the time into a record.
pub(super) fn set_stored(record: &mut [u8], stored: u64) {
    record[1..9].copy_from_slice(&stored.to_le_bytes());
}

/// The time of a record, in nanoseconds since the epoch.
pub(super) fn stored(record: &[u8]) -> Result<u64, String> {
    Ok(header(record)?.0)
}

/// The entry of a record.
pub(super) fn entry(position: u64, record: &[u8]) -> Result<Entry, String> {
    let stored = stored(record)?;
    Ok(Entry {
        position,
        stored: SystemTime::UNIX_EPOCH + Duration::from_nanos(stored),
        batch: batch(record).map_err(|error| format!("entry {position}: {error}"))?,
    })
}

/// The batch of a record.
pub(super) fn batch(record: &[u8]) -> Result<wire::Batch, String> {
    let (_, len) = header(record)?;
    let batch =
        zstd::bulk::decompress(&record[HEADER..], len).map_err(|error| error.to_string())?;
    wire::Batch::decode(Bytes::from(batch)).map_err(|error| error.to_string())
}

fn header(record: &[u8]) -> Result<(u64, usize), String> {
    let unknown = || format!("a record of {} bytes that is none of ours", record.len());
    let (&[VERSION, t0, t1, t2, t3, t4, t5, t6, t7, l0, l1, l2, l3], _) =
        record.split_first_chunk::<HEADER>().ok_or_else(unknown)?
    else {
        return Err(unknown());
    };
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_BATCH {
        return Err(unknown());
    }
    Ok((u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), len))
}

/// Numbers, as they are kept: big-endian, so that the order of the bytes is theirs.
pub(super) fn pack<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// The numbers of [`pack`].
pub(super) fn unpack<const N: usize>(bytes: &[u8]) -> Result<[u64; N], String> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers = <&[[u8; 8]; N]>::try_from(numbers).ok();
    match numbers {
        Some(numbers) if rest.is_empty() => Ok(numbers.map(u64::from_be_bytes)),
        _ => Err(format!("{} bytes where {} are kept", bytes.len(), N * 8)),
    }
}

/// A node's last batch, and its position.
pub(super) fn unpack_last(bytes: &[u8]) -> Result<(BatchKey, u64), String> {
    let [epoch, number, position] = unpack(bytes)?;
    Ok((BatchKey { epoch, number }, position))
}

/// Nanoseconds since the epoch; until the year 2554.
pub(super) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}
