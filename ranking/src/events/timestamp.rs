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

/// A number that is no moment in milliseconds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMilliseconds {
    #[error("{0} looks like seconds: write milliseconds since 1970, or RFC 3339")]
    Seconds(i64),
    #[error("{0} ms lies beyond all dates")]
    Beyond(i64),
}

/// In milliseconds these are moments until March 1973, in seconds until the year 5138.
const SECONDS: u64 = 100_000_000_000;

impl Timestamp {
    /// Of milliseconds since 1970. No log is as old as a number of seconds would make it.
    pub fn from_millis(millis: i64) -> Result<Self, NotMilliseconds> {
        if millis.unsigned_abs() < SECONDS {
            return Err(NotMilliseconds::Seconds(millis));
        }
        millis.checked_mul(1000).map(Self).ok_or(NotMilliseconds::Beyond(millis))
    }

    /// Reads RFC 3339, and ISO 8601 without a zone, which is taken as UTC; the flag says that it had none.
    pub fn read(text: &str) -> Result<(Self, bool), NotATimestamp> {
        if let Some(found) = read_common(text.as_bytes()) {
            return Ok(found);
        }
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

/// `2026-01-31T23:59:59`, with up to nine digits of a fraction and with a `Z`, `+00:00` or nothing: how nearly every log writes it, read in a
/// fraction of the time. Anything else, and anything odd, is left to who knows all about it.
fn read_common(text: &[u8]) -> Option<(Timestamp, bool)> {
    let (fixed, rest) = text.split_at_checked(19)?;
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if shape.iter().any(|&(at, sign)| fixed[at] != sign) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        fixed[range]
            .iter()
            .try_fold(0, |number: i64, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // What days a month has is only asked past the 28th.
    if !(1..=12).contains(&month)
        || !(1..=28).contains(&day) && !has_day(year, month, day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let (fraction, naive) = match rest {
        [fraction @ .., b'Z'] | [fraction @ .., b'+', b'0', b'0', b':', b'0', b'0'] => (fraction, false),
        fraction => (fraction, true),
    };
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            let padded = digits.iter().map(|digit| i64::from(digit - b'0')).chain(std::iter::repeat(0));
            padded.take(6).fold(0, |number, digit| number * 10 + digit)
        }
        _ => return None,
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((Timestamp(seconds * 1_000_000 + micros), naive))
}

fn has_day(year: i64, month: i64, day: i64) -> bool {
    NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32).is_some()
}

/// Of the proleptic Gregorian calendar, counted in years that begin in March, so that a leap day ends one (H. Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
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
    fn milliseconds_are_told_from_seconds() {
        assert_eq!(Timestamp::from_millis(1_769_860_800_250), Ok(Timestamp(1_769_860_800_250_000)));
        assert_eq!(Timestamp::from_millis(100_000_000_000).map(Timestamp::date).unwrap().to_string(), "1973-03-03");
        for seconds in [1_769_860_800, 99_999_999_999, 0, -1] {
            assert_eq!(Timestamp::from_millis(seconds), Err(NotMilliseconds::Seconds(seconds)));
        }
        assert_eq!(Timestamp::from_millis(i64::MAX), Err(NotMilliseconds::Beyond(i64::MAX)));
    }

    #[test]
    fn it_is_written_so_that_it_is_read_back() {
        let moment = Timestamp(-1_234_567);
        assert_eq!(moment.to_string(), "1969-12-31T23:59:58.765433Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }

    #[test]
    fn the_quick_way_reads_what_the_thorough_one_reads() {
        let mut moment = -62_135_596_800_000_000; // the year 1
        while moment < 253_402_300_800_000_000 {
            let text = Timestamp(moment).to_string();
            assert_eq!(read_common(text.as_bytes()), Some((Timestamp(moment), false)), "{text}");
            moment += 86_399_123_457 * 13;
        }
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T23:59:60Z",
            "2026-01-31T1:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31 12:00:00",
            "2026-01-31T12:00:00+02:00",
            "+026-01-31T12:00:00Z",
        ] {
            assert_eq!(read_common(text.as_bytes()), None, "{text}");
        }
        let python = b"2026-01-31T12:00:00.250000+00:00";
        assert_eq!(read_common(python), Some((Timestamp(1_769_860_800_250_000), false)));
        for text in
            ["2024-02-29T00:00:00Z", "2026-01-31T12:00:00", "2026-01-31T12:00:00.123456789Z", "1969-12-31T23:59:59.5Z"]
        {
            let naive = format!("{}Z", text.trim_end_matches('Z'));
            let expected = DateTime::parse_from_rfc3339(&naive).unwrap().timestamp_micros();
            assert_eq!(Timestamp::read(text), Ok((Timestamp(expected), !text.ends_with('Z'))));
        }
    }

    #[test]
    fn the_date_is_that_of_utc() {
        let (late, _) = Timestamp::read("2026-01-31T23:30:00-02:00").unwrap();
        assert_eq!(late.date().to_string(), "2026-02-01");
    }
}
