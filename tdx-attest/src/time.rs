//! Points in time, as users and collateral write them.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, SecondsFormat};

/// The end of the year 9999, after which RFC 3339 has no dates. Unit: seconds since 1970-01-01T00:00:00Z.
const LAST: u64 = 253_402_300_799;

/// A point in time. Unit: seconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The current time of this machine's clock; 1970 for a clock that shows an earlier time.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    /// The time that a text of RFC 3339 means; none for other text and for times before 1970.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        u64::try_from(time.timestamp()).ok().map(Self)
    }

    /// The beginning of a day `YYYY-MM-DD` in UTC; none for other text and for days before 1970.
    pub fn from_date(text: &str) -> Option<Self> {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        u64::try_from(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp()).ok().map(Self)
    }
}

impl FromStr for Time {
    type Err = &'static str;

    /// Reads a time of RFC 3339, or a number of seconds since 1970-01-01T00:00:00Z.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = || text.parse().ok().filter(|seconds| *seconds <= LAST).map(Self);
        Self::from_rfc3339(text).or_else(seconds).ok_or(
            "expected a time such as 2026-01-31T12:00:00Z, or seconds since 1970-01-01T00:00:00Z",
        )
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let time =
            i64::try_from(self.0).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        match time.filter(|_| self.0 <= LAST) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true)),
            None => write!(f, "{} s", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_rfc_3339_and_seconds_are_read() {
        for text in ["2025-07-01T00:00:00Z", "2025-07-01T02:00:00+02:00", "1751328000"] {
            assert_eq!(text.parse(), Ok(Time(1_751_328_000)), "{text}");
        }
        assert_eq!(Time::from_date("2025-07-01"), Some(Time(1_751_328_000)));
    }

    #[test]
    fn other_times_are_refused() {
        let other =
            ["", "now", "2025-07-01", "-1", "1.5", "1969-12-31T23:59:59Z", "253402300800", "0x10"];
        for text in other {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["", "2025-13-01", "2025-02-30", "1969-12-31", "tomorrow"] {
            assert_eq!(Time::from_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_times_are_read_back_unchanged(seconds in 0..=LAST) {
            prop_assert_eq!(Time(seconds).to_string().parse(), Ok(Time(seconds)));
        }

        #[test]
        fn no_text_makes_the_reader_of_times_panic(text in "\\PC{0,40}|[0-9TZ:+.-]{0,30}", any: u64) {
            let _ = text.parse::<Time>();
            let _ = Time::from_date(&text);
            let _ = Time(any).to_string();
        }
    }
}
