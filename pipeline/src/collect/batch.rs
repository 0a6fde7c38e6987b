//! What one partition gave since its last commit, on its way to the next.

use std::time::{Duration, Instant};

use ranking::events::{self, Timestamp};

use super::{
    Mode, Work,
    dead_letters::{Letter, Letterbox},
    offsets::{Fingerprint, Name, Span, Tally},
    repeats::Repeats,
    report::Committed,
    resume::Start,
};
use crate::{
    PipelineError,
    lake::{CommitOptions, LakeWriter, RollOptions},
};

/// 1970-01-01 and 10000-01-01 in microseconds: dates between have names that engines read.
const CALENDAR: std::ops::Range<i64> = 0..253_402_300_800_000_000;
/// A batch ends with so many dates or bytes of dead letters, whatever its files weigh.
const MAX_DATES: usize = 64;
const MAX_DEAD_BYTES: u64 = 64 << 20;

/// A message, as it is borrowed from librdkafka.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub payload: Option<&'a [u8]>,
}

/// A partition being gathered.
pub struct Batch<'a> {
    work: &'a Work<'a>,
    pub partition: i32,
    source: String,
    writer: LakeWriter,
    letters: Option<Letterbox>,
    repeats: Repeats,
    /// The next commit's.
    name: Name,
    from: i64,
    position: i64,
    last: Option<Fingerprint>,
    begun: Option<Instant>,
    tally: Tally,
    /// What of the tally was shown.
    shown: Tally,
    notice: Option<String>,
    /// Files that would have been part of the next commit, of a collector that did not live to make it.
    leftovers: Vec<String>,
    /// Something failed half-way: what was taken is no longer what the offsets say.
    broken: bool,
}

/// What there is to say when a batch may have to end.
#[derive(Clone, Copy, Debug)]
struct Size {
    bytes: u64,
    dead_bytes: u64,
    dates: usize,
    age: Duration,
}

fn is_full(size: Size, roll_bytes: u64, roll_every: Duration) -> bool {
    size.bytes >= roll_bytes || size.age >= roll_every || size.dates >= MAX_DATES || size.dead_bytes >= MAX_DEAD_BYTES
}

impl<'a> Batch<'a> {
    pub fn new(work: &'a Work<'a>, partition: i32, start: &Start, partitions: usize) -> Self {
        let options = work.options;
        let source = options.mode.source(&options.topic, partition);
        let memory = (options.memory / 2 / partitions.max(1)).max(4 << 20);
        // A batch is one file a date, ended by its commit alone.
        let roll = RollOptions { file_bytes: u64::MAX, memory, open_dates: usize::MAX, ..RollOptions::default() };
        let writer = LakeWriter::new(&work.lake, options.schema.clone(), roll, &source);
        let notice = start.odd.map(|odd| odd.words(&options.topic, partition));
        let mark = format!("kafka-{}-{partition:05}-{}-", options.topic, start.name);
        let folder = match options.mode {
            Mode::All => None,
            Mode::Date(date) => Some(format!("date={date}/")),
        };
        let left = |path: &&String| {
            let (place, name) = path.rsplit_once('/').unwrap_or(("", path.as_str()));
            let here = match &folder {
                _ if place.starts_with(super::dead_letters::FOLDER) => place.ends_with(&source),
                Some(folder) => path.starts_with(folder),
                None => true,
            };
            here && name.starts_with(&mark)
        };
        let leftovers = work.leftovers.iter().filter(left).cloned().collect();
        Self {
            work,
            partition,
            source,
            writer,
            letters: None,
            repeats: Repeats::default(),
            name: start.name,
            from: start.from,
            position: start.from,
            last: None,
            begun: None,
            tally: Tally::default(),
            shown: Tally::default(),
            notice,
            leftovers,
            broken: false,
        }
    }

    /// The offset after the last one read.
    pub fn position(&self) -> i64 {
        self.position
    }

    pub fn take(&mut self, message: Received<'_>) -> Result<(), PipelineError> {
        let taken = self.sort(message);
        self.broken |= taken.is_err();
        taken
    }

    fn sort(&mut self, message: Received<'_>) -> Result<(), PipelineError> {
        // Asked for once, given twice? The lake would hold it twice.
        if message.offset < self.position {
            return Ok(());
        }
        self.begun.get_or_insert_with(Instant::now);
        self.tally.messages += 1;
        let Some(payload) = message.payload else {
            self.refuse(message, "the message is empty (a tombstone)")?;
            self.pass(message);
            return Ok(());
        };
        self.tally.payload_bytes += payload.len() as u64;
        match events::view(payload, &self.work.options.schema) {
            Ok((event, _)) if !CALENDAR.contains(&event.query_timestamp.0) => {
                let reason = format!("query_timestamp: {} lies outside 1970 to 9999", event.query_timestamp);
                self.refuse(message, &reason)?;
            }
            Ok((event, naive)) => {
                let at = event.query_timestamp;
                match self.work.options.mode {
                    Mode::Date(date) if at.date() != date => self.tally.leave(at.date()),
                    _ => {
                        let again = self.repeats.again(&event.session_id, &event.query_id, at);
                        self.tally.repeats += u64::from(again);
                        self.tally.naive_timestamps += u64::from(naive);
                        self.tally.events += 1;
                        self.writer.append(at, |columns| columns.append(&event))?;
                    }
                }
            }
            Err(malformed) => self.refuse(message, &malformed.to_string())?,
        }
        self.pass(message);
        Ok(())
    }

    fn pass(&mut self, message: Received<'_>) {
        self.position = message.offset + 1;
        self.last = Some(Fingerprint::of(message.offset, message.payload));
    }

    fn refuse(&mut self, message: Received<'_>, reason: &str) -> Result<(), PipelineError> {
        // Nobody knows its event time: it belongs to the run of the day on which it was sent, or to every run.
        let sent = message.timestamp.map(|milliseconds| Timestamp(milliseconds.saturating_mul(1000)).date());
        if let (Mode::Date(date), Some(sent)) = (self.work.options.mode, sent)
            && date != sent
        {
            self.tally.malformed_elsewhere += 1;
            return Ok(());
        }
        self.tally.malformed += 1;
        let letters = match &mut self.letters {
            Some(letters) => letters,
            none => none.insert(Letterbox::new(self.work.lake.store(), &self.source)?),
        };
        let letter = Letter {
            topic: &self.work.options.topic,
            partition: self.partition,
            offset: message.offset,
            timestamp: message.timestamp,
            reason,
            payload: None,
            payload_base64: None,
        };
        letters.put(&letter.with_payload(message.payload.unwrap_or_default()))
    }

    /// What came since this was asked last.
    pub fn news(&mut self) -> Tally {
        let mut news = self.tally.clone();
        news.messages -= self.shown.messages;
        news.payload_bytes -= self.shown.payload_bytes;
        news.events -= self.shown.events;
        news.malformed -= self.shown.malformed;
        self.shown = Tally { other_dates: std::collections::BTreeMap::new(), ..self.tally.clone() };
        news
    }

    pub fn is_full(&self) -> bool {
        let Some(begun) = self.begun else { return false };
        let size = Size {
            bytes: self.writer.bytes(),
            dead_bytes: self.letters.as_ref().map_or(0, Letterbox::bytes),
            dates: self.writer.open_dates(),
            age: begun.elapsed(),
        };
        is_full(size, self.work.options.roll_bytes, self.work.options.roll_every)
    }
}

impl Batch<'_> {
    /// Puts what was taken into the lake; none if nothing was, or if something failed. Blocks.
    pub fn commit(&mut self) -> Result<Option<Committed>, PipelineError> {
        if self.tally.messages == 0 || self.broken {
            return Ok(None);
        }
        self.broken = true;
        let Name { life, first } = self.name;
        let next = self.position;
        let topic = &self.work.options.topic;
        let stem = format!("kafka-{topic}-{:05}-{}-{next:020}", self.partition, self.name);
        let span = Span {
            topic: topic.clone(),
            partition: self.partition,
            life,
            first,
            from: self.from,
            next,
            last: self.last,
            tally: std::mem::take(&mut self.tally),
            notice: self.notice.take(),
        };
        let extra =
            serde_json::to_value(&span).map_err(|error| PipelineError::data("offsets as JSON").because(error))?;
        let keys = [("topic", topic.clone()), ("partition", self.partition.to_string()), ("life", life.to_string())];
        let offsets = [("first_offset", self.from.to_string()), ("next_offset", next.to_string())];
        let metadata = keys.into_iter().chain(offsets).map(|(key, value)| (key.to_owned(), value)).collect();
        let store = self.work.lake.store();
        let letters = self.letters.take();
        let name = self.name.to_string();
        let (files, dead_letters) = self.work.handle.block_on(async {
            let dead_letters = match letters {
                Some(letters) => vec![letters.publish(store, &stem).await?],
                None => Vec::new(),
            };
            let paths = dead_letters.iter().map(|letters| letters.path.clone()).collect::<Vec<_>>();
            let options = CommitOptions { stem: Some(stem), metadata, dead_letters, extra };
            let files = self.writer.commit_with(&name, options).await?;
            // The commit is made: what others left for it can never count.
            for path in self.leftovers.drain(..) {
                store.remove(&store.path(&path)).await?;
            }
            Ok::<_, PipelineError>((files, paths))
        })?;
        self.broken = false;
        self.name = Name { life, first: next };
        let from = std::mem::replace(&mut self.from, next);
        self.begun = None;
        self.shown = Tally::default();
        let bytes = files.iter().map(|file| file.bytes).sum();
        let (partition, files) = (self.partition, files.len());
        Ok(Some(Committed { partition, first: from, next, files, bytes, dead_letters, tally: span.tally }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_by_size_by_age_and_when_it_holds_too_many_dates_or_dead_letters() {
        let small = Size { bytes: 10, dead_bytes: 0, dates: 1, age: Duration::from_secs(1) };
        let full = |size| is_full(size, 100, Duration::from_secs(60));
        assert!(!full(small));
        assert!(full(Size { bytes: 100, ..small }));
        assert!(full(Size { age: Duration::from_secs(60), ..small }));
        assert!(full(Size { dates: MAX_DATES, ..small }));
        assert!(full(Size { dead_bytes: MAX_DEAD_BYTES, ..small }));
    }
}
