//! What a commit says of a partition, and how it is named.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Dates that are told apart; the events of more are counted under the last.
const MAX_DATES: usize = 64;

/// A commit's name, `0000-00000000000000001234`: names sort as offsets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// How often the topic was made anew.
    pub life: u32,
    /// Where the commit before it ended; 0 for the first of a life, wherever that began.
    pub first: i64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:020}", self.life, self.first)
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (life, first) = text.split_once('-').ok_or(())?;
        Ok(Self { life: life.parse().map_err(drop)?, first: first.parse().map_err(drop)? })
    }
}

/// The offsets that a commit covers, and what was among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub topic: String,
    pub partition: i32,
    pub life: u32,
    /// The name's.
    pub first: i64,
    /// Where reading began: past `first` where offsets were gone.
    pub from: i64,
    /// The offset after the last one read; the next commit's first.
    pub next: i64,
    /// The last message: that it is still there tells that the topic is.
    pub last: Option<Fingerprint>,
    #[serde(flatten)]
    pub tally: Tally,
    /// What was odd when reading began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// A message by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub offset: i64,
    /// XXH3 (64 bits) of the payload.
    pub hash: u64,
}

impl Fingerprint {
    pub fn of(offset: i64, payload: Option<&[u8]>) -> Self {
        Self { offset, hash: xxh3_64(payload.unwrap_or_default()) }
    }
}

/// Messages, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub messages: u64,
    pub payload_bytes: u64,
    /// Those that went into the lake.
    pub events: u64,
    /// Those that went to a dead-letter file.
    pub malformed: u64,
    /// Malformed ones that, by the broker's clock, belong to another date's run.
    pub malformed_elsewhere: u64,
    /// Events left to the runs of their dates.
    pub other_dates: BTreeMap<NaiveDate, u64>,
    /// Events whose session, query and time were seen a short while before; they are in the lake as often as they came.
    pub repeats: u64,
    /// Timestamps without a zone, taken as UTC.
    pub naive_timestamps: u64,
}

impl Tally {
    pub fn leave(&mut self, date: NaiveDate) {
        let known = self.other_dates.contains_key(&date);
        let last = self.other_dates.last_key_value().map(|(&last, _)| last);
        let key = if known || self.other_dates.len() < MAX_DATES { date } else { last.unwrap_or(date) };
        *self.other_dates.entry(key).or_default() += 1;
    }

    pub fn left(&self) -> u64 {
        self.other_dates.values().sum()
    }

    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.payload_bytes += other.payload_bytes;
        self.events += other.events;
        self.malformed += other.malformed;
        self.malformed_elsewhere += other.malformed_elsewhere;
        for (&date, events) in &other.other_dates {
            *self.other_dates.entry(date).or_default() += events;
        }
        self.repeats += other.repeats;
        self.naive_timestamps += other.naive_timestamps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_sort_by_life_and_offset() {
        let names = [(0, 0), (0, 9), (0, 10), (1, 0), (1, i64::MAX)].map(|(life, first)| Name { life, first });
        let texts = names.map(|name| name.to_string());
        assert!(texts.is_sorted());
        assert_eq!(texts.each_ref().map(|text| text.parse()), names.map(Ok));
        assert!("_mode".parse::<Name>().is_err());
    }

    #[test]
    fn dates_are_told_apart_up_to_a_bound_and_no_event_is_lost() {
        let mut tally = Tally::default();
        for day in 0..200 {
            tally.leave(NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + chrono::Days::new(day));
        }
        assert_eq!((tally.other_dates.len(), tally.left()), (MAX_DATES, 200));
    }
}
