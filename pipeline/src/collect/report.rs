//! What a collector tells while it works and when it has ended.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{CollectOptions, Mode, offsets::Tally};

/// What happens while a topic is gathered.
#[derive(Debug)]
pub enum Happening<'a> {
    Started {
        partitions: usize,
    },
    Committed(&'a Committed),
    /// Something that a person should know.
    Notice(&'a str),
    Progress(&'a Standing),
}

/// A commit that was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Committed {
    pub partition: i32,
    /// Offsets, from the first to the one after the last.
    pub first: i64,
    pub next: i64,
    pub files: usize,
    pub bytes: u64,
    /// Paths below the lake's table.
    pub dead_letters: Vec<String>,
    #[serde(flatten)]
    pub tally: Tally,
}

/// How far it is, committed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Standing {
    pub seconds: f64,
    pub messages: u64,
    pub payload_bytes: u64,
    pub events: u64,
    pub malformed: u64,
    /// Messages of the topic that were not read yet.
    pub lag: u64,
}

/// What each partition was read to.
#[derive(Debug, Default)]
pub struct Positions {
    /// Position and end.
    partitions: BTreeMap<i32, (i64, i64)>,
    messages: u64,
    payload_bytes: u64,
    events: u64,
    malformed: u64,
}

impl Positions {
    pub fn note(&mut self, partition: i32, position: i64, high: i64) {
        let known = self.partitions.entry(partition).or_insert((position, high));
        *known = (position, known.1.max(high));
    }

    pub fn note_highs(&mut self, highs: &BTreeMap<i32, i64>) {
        for (partition, &high) in highs {
            if let Some(known) = self.partitions.get_mut(partition) {
                known.1 = high;
            }
        }
    }

    pub fn count(&mut self, tally: &Tally) {
        self.messages += tally.messages;
        self.payload_bytes += tally.payload_bytes;
        self.events += tally.events;
        self.malformed += tally.malformed;
    }

    pub fn standing(&self, since: Duration) -> Standing {
        let lag = self.partitions.values().map(|(position, high)| (high - position).max(0) as u64).sum();
        let Self { messages, payload_bytes, events, malformed, .. } = *self;
        Standing { seconds: since.as_secs_f64(), messages, payload_bytes, events, malformed, lag }
    }
}

/// What was committed, all in all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectReport {
    pub topic: String,
    pub lake: String,
    /// The one date that was gathered; none if all were.
    pub date: Option<chrono::NaiveDate>,
    pub partitions: usize,
    pub commits: u64,
    pub files: u64,
    pub bytes: u64,
    #[serde(flatten)]
    pub tally: Tally,
    /// Paths below the lake's table.
    pub dead_letters: Vec<String>,
    /// Gaps, topics made anew, and other oddities.
    pub notices: Vec<String>,
    pub seconds: f64,
    /// What the topic held beyond, when last asked.
    pub lag: u64,
    /// It was told to stop.
    pub stopped: bool,
}

impl CollectReport {
    pub fn new(options: &CollectOptions, partitions: usize) -> Self {
        Self {
            topic: options.topic.clone(),
            lake: options.lake.clone(),
            date: match options.mode {
                Mode::All => None,
                Mode::Date(date) => Some(date),
            },
            partitions,
            commits: 0,
            files: 0,
            bytes: 0,
            tally: Tally::default(),
            dead_letters: Vec::new(),
            notices: Vec::new(),
            seconds: 0.0,
            lag: 0,
            stopped: false,
        }
    }

    pub fn add(&mut self, committed: &Committed) {
        self.commits += 1;
        self.files += committed.files as u64;
        self.bytes += committed.bytes;
        self.tally.add(&committed.tally);
        self.dead_letters.extend_from_slice(&committed.dead_letters);
    }
}
