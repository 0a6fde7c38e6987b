//! A moment in UTC, to the microsecond.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::{Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Text that is no moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a timestamp: write 2026-01-31T23:59:59.250Z, or milliseconds since 1970 as a number")]
pub struct NotATimestamp(pub String);

impl Timestamp {
    /// Reads RFC 3339, and ISO 8601 without a zone, which is taken as UTC; the flag says that it had none.
    pub fn read(text: &str) -> Result<(Self, bool), NotATimestamp> {
        if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
            return Ok((Self(moment.timestamp_micros()), false));
        }
        let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        naive
            .map(|moment| (Self(moment.and_utc().timestamp_micros()), true))
            .ok_or_else(|| NotATimestamp(text.to_owned()))
    }

    /// The day it falls on, in UTC.
    pub fn date(self) -> NaiveDate {
        self.moment().date_naive()
    }

    fn moment(self) -> DateTime<chrono::Utc> {
        // Whatever was read lies within; a number beyond is brought to the edge, 262,000 years away.
        DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<chrono::Utc>::MIN_UTC
        } else {
            DateTime::<chrono::Utc>::MAX_UTC
        })
    }
}

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        Self::read(text).map(|(moment, _)| moment)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.moment().format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_honoured_and_its_absence_is_told() {
        let noon = Timestamp(1_769_860_800_000_000);
        assert_eq!(Timestamp::read("2026-01-31T12:00:00Z"), Ok((noon, false)));
        assert_eq!(Timestamp::read("2026-01-31T14:00:00+02:00"), Ok((noon, false)));
        assert_eq!(Timestamp::read("2026-01-31T12:00:00"), Ok((noon, true)));
        assert_eq!(Timestamp::read("2026-01-31 12:00:00.5"), Ok((Timestamp(noon.0 + 500_000), true)));
        assert!(Timestamp::read("yesterday").is_err());
    }

    #[test]
    fn it_is_written_so_that_it_is_read_back() {
        let moment = Timestamp(-1_234_567);
        assert_eq!(moment.to_string(), "1969-12-31T23:59:58.765433Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }

    #[test]
    fn the_date_is_that_of_utc() {
        let (late, _) = Timestamp::read("2026-01-31T23:30:00-02:00").unwrap();
        assert_eq!(late.date().to_string(), "2026-02-01");
    }
}
