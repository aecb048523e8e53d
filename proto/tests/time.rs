//! Times and spans: exact from the kernel's numbers, canonical in JSON, refused out of range.

use std::time::{Duration as StdDuration, SystemTime};

use ebpf_hello_proto::time::{MAX_DURATION_SECONDS, OutOfRange};
use ebpf_hello_proto::{Duration, Timestamp};

fn printed<T: serde::Serialize>(value: T) -> Result<String, String> {
    serde_json::to_value(value)
        .map(|json| json.as_str().expect("a string").to_owned())
        .map_err(|error| error.to_string())
}

#[test]
fn every_u64_of_nanoseconds_splits_without_loss() {
    for nanos in [
        0,
        1,
        999_999_999,
        1_000_000_000,
        1_795_341_600_123_456_789,
        u64::MAX,
    ] {
        let stamp = Timestamp::from_unix_nanos(nanos);
        let back = i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanos);
        assert_eq!(back, i128::from(nanos));
        let span = Duration::from_nanos(nanos);
        assert_eq!((span.seconds, span.nanos), (stamp.seconds, stamp.nanos));
        printed(stamp).expect("in range");
        printed(span).expect("in range");
    }
}

#[test]
fn system_time_before_and_after_1970_keeps_its_nanoseconds() {
    let half = StdDuration::new(1, 500_000_000);
    let after = Timestamp::from(SystemTime::UNIX_EPOCH + half);
    assert_eq!(
        after,
        Timestamp {
            seconds: 1,
            nanos: 500_000_000
        }
    );
    let before = Timestamp::from(SystemTime::UNIX_EPOCH - half);
    assert_eq!(
        before,
        Timestamp {
            seconds: -2,
            nanos: 500_000_000
        }
    );
    assert_eq!(printed(before).as_deref(), Ok("1969-12-31T23:59:58.500Z"));
}

#[test]
fn timestamps_are_rfc_3339_in_utc_with_0_3_6_or_9_digits() {
    for (nanos, expected) in [
        (0, "2026-11-22T10:00:00Z"),
        (120_000_000, "2026-11-22T10:00:00.120Z"),
        (120_000, "2026-11-22T10:00:00.000120Z"),
        (120, "2026-11-22T10:00:00.000000120Z"),
        (123_456_789, "2026-11-22T10:00:00.123456789Z"),
    ] {
        let time = Timestamp {
            seconds: 1_795_341_600,
            nanos,
        };
        assert_eq!(printed(time).as_deref(), Ok(expected));
        let back: Timestamp = serde_json::from_value(expected.into()).expect("parses");
        assert_eq!(back, time);
    }
    let offset: Timestamp = serde_json::from_value("2026-11-22T12:00:00.5+02:00".into())
        .expect("an offset and any number of digits are accepted");
    assert_eq!(
        offset,
        Timestamp {
            seconds: 1_795_341_600,
            nanos: 500_000_000
        }
    );
}

#[test]
fn timestamps_out_of_range_are_refused_and_told() {
    for (seconds, nanos) in [
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (i64::MIN, 0),
        (i64::MAX, 0),
        (0, -1),
        (0, 1_000_000_000),
    ] {
        let error = printed(Timestamp { seconds, nanos }).expect_err("out of range");
        assert!(
            error.contains(&format!("{seconds} s and {nanos} ns: expected")),
            "{error}"
        );
    }
    assert_eq!(
        printed(Timestamp {
            seconds: -62_135_596_800,
            nanos: 0
        })
        .as_deref(),
        Ok("0001-01-01T00:00:00Z")
    );
    assert_eq!(
        printed(Timestamp {
            seconds: 253_402_300_799,
            nanos: 999_999_999
        })
        .as_deref(),
        Ok("9999-12-31T23:59:59.999999999Z")
    );
    for text in [
        "yesterday",
        "2026-11-22",
        "2026-13-01T00:00:00Z",
        "2016-12-31T23:59:60.5Z",
    ] {
        let parsed = serde_json::from_value::<Timestamp>(text.into());
        assert!(parsed.is_err(), "{text} gave {parsed:?}");
    }
}

#[test]
fn durations_are_decimal_seconds_with_0_3_6_or_9_digits() {
    for (seconds, nanos, expected) in [
        (0, 0, "0s"),
        (0, 12_000_000, "0.012s"),
        (3, 1, "3.000000001s"),
        (86_400, 250_000, "86400.000250s"),
        (0, -500_000_000, "-0.500s"),
        (-1, -500_000_000, "-1.500s"),
        (MAX_DURATION_SECONDS, 0, "315576000000s"),
    ] {
        let span = Duration { seconds, nanos };
        assert_eq!(printed(span).as_deref(), Ok(expected));
        assert_eq!(
            serde_json::from_value::<Duration>(expected.into()).expect("parses"),
            span
        );
    }
}

#[test]
fn durations_out_of_range_are_refused_and_told() {
    for (seconds, nanos) in [
        (MAX_DURATION_SECONDS + 1, 0),
        (-MAX_DURATION_SECONDS - 1, 0),
        (i64::MIN, 0),
        (0, 1_000_000_000),
        (0, i32::MIN),
        (1, -1),
        (-1, 1),
    ] {
        let error = printed(Duration { seconds, nanos }).expect_err("out of range");
        assert!(
            error.contains(&format!("{seconds} s and {nanos} ns: expected")),
            "{error}"
        );
    }
    for text in [
        "12",
        "s",
        "1.0000000001s",
        "315576000001s",
        "1e3s",
        "9223372036854775808s",
    ] {
        let parsed = serde_json::from_value::<Duration>(text.into());
        assert!(parsed.is_err(), "{text} gave {parsed:?}");
    }
}

#[test]
fn timespec_keeps_its_value_and_agrees_in_sign() {
    let parts = |s, n| Duration::from_timespec(s, n).map(|span| (span.seconds, span.nanos));
    assert_eq!(parts(0, 0), Ok((0, 0)));
    assert_eq!(parts(1, 500_000_000), Ok((1, 500_000_000)));
    assert_eq!(parts(-1, 500_000_000), Ok((0, -500_000_000)));
    assert_eq!(parts(-2, 250_000_000), Ok((-1, -750_000_000)));
    assert_eq!(parts(-3, 0), Ok((-3, 0)));
}

#[test]
fn timespec_out_of_range_is_refused_on_both_sides() {
    for nanos in [-1, 1_000_000_000, i64::MIN, i64::MAX] {
        assert_eq!(
            Duration::from_timespec(0, nanos),
            Err(OutOfRange::Nanoseconds(nanos))
        );
    }
    let far = MAX_DURATION_SECONDS + 2;
    for seconds in [far, -far, i64::MIN, i64::MAX] {
        for nanos in [0, 1] {
            assert_eq!(
                Duration::from_timespec(seconds, nanos),
                Err(OutOfRange::Seconds(seconds))
            );
        }
    }
}

#[test]
fn every_timespec_that_passes_prints() {
    for seconds in [
        MAX_DURATION_SECONDS,
        -MAX_DURATION_SECONDS - 1,
        -MAX_DURATION_SECONDS,
        -1,
        0,
    ] {
        for nanos in [0, 1, 999_999_999] {
            if let Ok(span) = Duration::from_timespec(seconds, nanos) {
                printed(span).unwrap_or_else(|error| panic!("{seconds} {nanos}: {error}"));
            }
        }
    }
}
