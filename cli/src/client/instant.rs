//! Points in time on the command line: a span ago, or RFC 3339.

use std::time::SystemTime;

use ebpf_hello_proto::Timestamp;

/// `10m` (that long ago) or `2026-11-22T10:00:00Z`.
///
/// # Errors
///
/// It is neither, or out of protobuf's range; the text says what was expected.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, SystemTime::now())
}

fn parse_at(text: &str, now: SystemTime) -> Result<Timestamp, String> {
    let expected = "expected a span ago such as 10m, or a time such as 2026-11-22T10:00:00Z";
    if let Ok(ago) = humantime::parse_duration(text) {
        let then = now
            .checked_sub(ago)
            .and_then(|then| then.duration_since(SystemTime::UNIX_EPOCH).ok())
            .ok_or_else(|| format!("is before 1970; {expected}"))?;
        return Ok(Timestamp {
            // A clock that shows past the year 292 billion is not at hand.
            seconds: i64::try_from(then.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(then.subsec_nanos()).unwrap_or(0),
        });
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| expected.to_owned())?;
    // jiff gives seconds and nanoseconds one sign, protobuf counts nanoseconds upwards.
    let (seconds, nanos) = match time.subsec_nanosecond() {
        nanos if nanos < 0 => (time.as_second() - 1, nanos + 1_000_000_000),
        nanos => (time.as_second(), nanos),
    };
    Ok(Timestamp { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_span_is_that_long_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::new(1_000, 5);
        let time = parse_at("10m", now).unwrap();
        assert_eq!((time.seconds, time.nanos), (400, 5));
        assert!(parse_at("1h", now).unwrap_err().contains("before 1970"));
    }

    #[test]
    fn a_time_is_rfc_3339_with_any_offset() {
        let time = parse("2026-11-22T11:00:00.25+01:00").unwrap();
        assert_eq!((time.seconds, time.nanos), (1_795_341_600, 250_000_000));
        let time = parse("1969-12-31T23:59:59.75Z").unwrap();
        assert_eq!((time.seconds, time.nanos), (-1, 750_000_000));
        for wrong in ["yesterday", "10", "2026-11-22", ""] {
            assert!(parse(wrong).unwrap_err().contains("expected"), "{wrong}");
        }
    }
}
