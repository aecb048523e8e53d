//! `google.protobuf.Timestamp` and `Duration` as the protocol carries them, from what the kernel
//! gives.
//!
//! They are types of this crate because the ones at hand fall short of canonical JSON: `prost-types`
//! has none, pbjson prints `+00:00` for `Z`, and `prost-canonical-serde` trims `.120` to `.12`, where
//! protobuf wants 0, 3, 6 or 9 digits and Go's protojson (hence grpcurl) prints them. Printing and
//! parsing are those libraries' own; only the choice between them is made here.
//!
//! JSON refuses a time out of protobuf's range, and a caller of `timer_settime` can name any 64-bit
//! number of seconds: whoever fills an event goes through the constructors, so that no process can
//! make its own event unprintable.

use std::fmt;
use std::time::SystemTime;

use prost_canonical_serde::{CanonicalDeserialize, CanonicalSerialize};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the bounds in `google/protobuf/timestamp.proto`.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Greatest magnitude of a [`Duration`] in seconds: about 10,000 years
/// (`google/protobuf/duration.proto`).
pub const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// A point in time, UTC, in nanoseconds: `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds after `seconds`, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A signed span of time in nanoseconds: `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Duration {
    /// Whole seconds, at most [`MAX_DURATION_SECONDS`] on either side of zero.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds on the same side of zero as `seconds`, up to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A time that protobuf cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// The part below a second of a span is no such part.
    #[error("{0} nanoseconds: expected 0 to 999999999")]
    Nanoseconds(i64),
    /// A span is too long.
    #[error("{0} seconds: expected -{MAX_DURATION_SECONDS} to {MAX_DURATION_SECONDS}")]
    Seconds(i64),
}

// === impl Timestamp ===

impl Timestamp {
    /// The time `nanos` nanoseconds after 1970-01-01T00:00:00Z. Every `u64` is in range (the last
    /// is in the year 2554).
    #[must_use]
    pub fn from_unix_nanos(nanos: u64) -> Self {
        let (seconds, nanos) = split(nanos);
        Self { seconds, nanos }
    }

    /// Whether protobuf can carry it: the years 1 to 9999, and nanoseconds of a second
    /// (`google/protobuf/timestamp.proto`).
    #[must_use]
    pub fn in_range(self) -> bool {
        TIMESTAMP_SECONDS.contains(&self.seconds) && (0..NANOS_PER_SECOND).contains(&self.nanos)
    }

    fn library(self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: self.seconds,
            nanos: self.nanos,
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let prost_types::Timestamp { seconds, nanos } = time.into();
        Self { seconds, nanos }
    }
}

/// RFC 3339 in UTC, with 0, 3, 6 or 9 digits below the second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.library().fmt(f)
    }
}

impl CanonicalSerialize for Timestamp {
    fn serialize_canonical<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.in_range() {
            return Err(ser::Error::custom(format_args!(
                "timestamp of {} s and {} ns: expected the years 1 to 9999 and 0 to 999999999 ns",
                self.seconds, self.nanos
            )));
        }
        serializer.collect_str(self)
    }
}

impl CanonicalDeserialize for Timestamp {
    fn deserialize_canonical<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let prost_types::Timestamp { seconds, nanos } =
            CanonicalDeserialize::deserialize_canonical(deserializer)?;
        let time = Self { seconds, nanos };
        // A leap second can leave the parser with a billion nanoseconds.
        if time.in_range() {
            Ok(time)
        } else {
            Err(de::Error::custom("timestamp out of range"))
        }
    }
}

// === impl Duration ===

impl Duration {
    /// A span of `nanos` nanoseconds. Every `u64` is in range (the longest is 584 years).
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        let (seconds, nanos) = split(nanos);
        Self { seconds, nanos }
    }

    /// The span of a `struct timespec` (`include/uapi/linux/time.h`), as a process wrote it.
    ///
    /// A negative `tv_sec` counts down from zero and `tv_nsec` counts up from there, as in the
    /// kernel: (-1, 500,000,000) is half a second before zero.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] if `tv_nsec` is not 0 to 999,999,999 (the kernel refuses such a call with
    /// EINVAL) or the span exceeds [`MAX_DURATION_SECONDS`].
    pub fn from_timespec(tv_sec: i64, tv_nsec: i64) -> Result<Self, OutOfRange> {
        let nanos = i32::try_from(tv_nsec)
            .ok()
            .filter(|nanos| (0..NANOS_PER_SECOND).contains(nanos))
            .ok_or(OutOfRange::Nanoseconds(tv_nsec))?;
        // Protobuf wants both parts on the same side of zero.
        let span = if tv_sec < 0 && nanos > 0 {
            Self {
                seconds: tv_sec + 1,
                nanos: nanos - NANOS_PER_SECOND,
            }
        } else {
            Self {
                seconds: tv_sec,
                nanos,
            }
        };
        if span.in_range() {
            Ok(span)
        } else {
            Err(OutOfRange::Seconds(tv_sec))
        }
    }

    fn in_range(self) -> bool {
        (-MAX_DURATION_SECONDS..=MAX_DURATION_SECONDS).contains(&self.seconds)
            && (-NANOS_PER_SECOND + 1..NANOS_PER_SECOND).contains(&self.nanos)
            && self.seconds.signum() * i64::from(self.nanos.signum()) >= 0
    }

    fn library(self) -> prost_types::Duration {
        prost_types::Duration {
            seconds: self.seconds,
            nanos: self.nanos,
        }
    }
}

/// Decimal seconds with 0, 3, 6 or 9 digits and an `s`: `0.012s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.library().fmt(f)
    }
}

impl CanonicalSerialize for Duration {
    fn serialize_canonical<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.in_range() {
            return Err(ser::Error::custom(format_args!(
                "duration of {} s and {} ns: expected at most {MAX_DURATION_SECONDS} s and \
                 999999999 ns, both on the same side of zero",
                self.seconds, self.nanos
            )));
        }
        serializer.collect_str(self)
    }
}

impl CanonicalDeserialize for Duration {
    fn deserialize_canonical<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let prost_types::Duration { seconds, nanos } =
            CanonicalDeserialize::deserialize_canonical(deserializer)?;
        let span = Self { seconds, nanos };
        if span.in_range() {
            Ok(span)
        } else {
            Err(de::Error::custom("duration out of range"))
        }
    }
}

// === both ===

macro_rules! serde_by_canonical_json {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.serialize_canonical(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize_canonical(deserializer)
            }
        }
    };
}

serde_by_canonical_json!(Timestamp);
serde_by_canonical_json!(Duration);

fn split(nanos: u64) -> (i64, i32) {
    // Neither cast can change the value: u64::MAX / 10^9 < 2^35, and the remainder is below 10^9.
    const PER_SECOND: u64 = NANOS_PER_SECOND as u64;
    ((nanos / PER_SECOND) as i64, (nanos % PER_SECOND) as i32)
}
