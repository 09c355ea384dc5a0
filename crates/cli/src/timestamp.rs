//! Protocol timestamps as text.

use jiff::Timestamp;
use jiff::tz::TimeZone;

fn instant(time: prost_types::Timestamp) -> Timestamp {
    Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in UTC, with as many digits of the second as there are.
pub fn rfc3339(time: prost_types::Timestamp) -> String {
    instant(time).to_string()
}

/// RFC 3339 to the second, in the local time zone.
pub fn local(time: prost_types::Timestamp) -> String {
    instant(time).to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
}

/// As Go prints a time value: `2026-01-02 03:04:05.6789 +0000 UTC`.
pub fn go_string(time: prost_types::Timestamp) -> String {
    instant(time).to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}
