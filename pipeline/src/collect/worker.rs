//! One thread: a client of its own, some partitions, and their batches.

use std::{
    collections::BTreeMap,
    sync::{atomic::Ordering, mpsc::SyncSender},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::KafkaError,
};

use super::{
    Said, Work,
    batch::{Batch, Received},
    broker::{Broker, Meaning, meaning},
    offsets::{Name, Span},
    resume::{self, Evidence, Start, Watermarks},
};
use crate::PipelineError;

/// Messages between two looks at the clock and at how large the batches are.
const LOOK_AFTER: u32 = 512;
const WAIT: Duration = Duration::from_millis(100);
/// How long the last commits of group offsets are waited for.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);
/// Starts in a row at an offset that was gone by then.
const MAX_STARTS: u32 = 5;

pub struct Worker<'a> {
    work: &'a Work<'a>,
    broker: Broker,
    says: SyncSender<Said>,
}

/// A partition, and where it ends unless it is followed.
struct Reading<'a> {
    batch: Batch<'a>,
    end: Option<i64>,
    high: i64,
    done: bool,
}

/// Why a round of reading ended.
enum Round {
    Done,
    /// An offset to be read is gone: gaps and topics made anew must be looked for again.
    Again,
}

impl<'a> Worker<'a> {
    pub fn new(work: &'a Work<'a>, says: SyncSender<Said>) -> Result<Self, PipelineError> {
        let broker = Broker::client(work.options)?;
        Ok(Self { work, broker, says })
    }

    /// Gathers these partitions until they end, or it is told to stop.
    pub fn run(&self, partitions: &[i32]) -> Result<(), PipelineError> {
        let mut starts = 0;
        loop {
            starts += 1;
            let mut readings = BTreeMap::new();
            for &partition in partitions {
                readings.insert(partition, self.begin(partition, partitions.len())?);
            }
            let (round, read) = self.read(&mut readings);
            // Whatever ended the round: what was read is whole, and goes into the lake.
            let mut committed = Ok(());
            for reading in readings.values_mut() {
                committed = committed.and(self.commit(&mut reading.batch));
            }
            match round.and_then(|round| committed.map(|()| round)) {
                Ok(Round::Again) if read > 0 => starts = 0,
                Ok(Round::Again) if starts < MAX_STARTS => {}
                Ok(Round::Again) => {
                    return Err(PipelineError::network(format!(
                        "`{}` does not keep messages long enough to be read: {starts} starts found their offset gone",
                        self.broker.topic
                    ))
                    .with_hint("raise the topic's retention, or collect more often"));
                }
                Ok(Round::Done) => {
                    self.await_group_offsets();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Where a partition is read from, by what lake and topic say.
    fn begin(&self, partition: i32, partitions: usize) -> Result<Reading<'a>, PipelineError> {
        let (options, lake) = (self.work.options, &self.work.lake);
        let source = options.mode.source(&options.topic, partition);
        let names = self.work.handle.block_on(lake.commit_names(&source))?;
        let names: Vec<Name> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let newest = names.last().map(|&name| self.span(&source, name)).transpose()?;
        let marks = self.broker.patiently(|| self.broker.watermarks(partition))?;
        let evidence = match resume::wanted(newest.as_ref(), marks) {
            Some(wanted) => self.broker.look_for(partition, wanted)?,
            None => Evidence::None,
        };
        let remains = match &newest {
            Some(newest) if resume::is_lost(newest, marks, evidence) => {
                resume::remains(&names, newest, marks, |name| self.is_there(&source, name, marks))?
            }
            _ => None,
        };
        let start = resume::decide(newest.as_ref(), marks, evidence, remains);
        if let Some(odd) = start.odd {
            let _ = self.says.send(Said::Notice(odd.words(&options.topic, partition)));
        }
        Ok(self.reading(partition, &start, marks, partitions))
    }

    fn reading(&self, partition: i32, start: &Start, marks: Watermarks, partitions: usize) -> Reading<'a> {
        let end = (!self.work.options.follow).then_some(marks.high);
        let batch = Batch::new(self.work, partition, start, partitions);
        if let Ok(mut positions) = self.work.positions.lock() {
            positions.note(partition, start.from, marks.high);
        }
        Reading { batch, end, high: marks.high, done: end.is_some_and(|end| start.from >= end) }
    }

    fn span(&self, source: &str, name: Name) -> Result<Span, PipelineError> {
        let commit = self.work.handle.block_on(self.work.lake.commit(source, &name.to_string()))?;
        serde_json::from_value(commit.extra).map_err(|error| {
            PipelineError::data(format!("the commit `{source}/{name}` says nothing of its offsets"))
                .with_hint("was it changed by hand?")
                .because(error)
        })
    }

    /// Whether the topic still holds the last message of a commit.
    fn is_there(&self, source: &str, name: Name, marks: Watermarks) -> Result<bool, PipelineError> {
        let span = self.span(source, name)?;
        match resume::wanted(Some(&span), marks) {
            Some(wanted) => Ok(self.broker.look_for(span.partition, wanted)? == Evidence::Same),
            None => Ok(false),
        }
    }

    /// Reads until all partitions end. The second is how many messages came.
    fn read(&self, readings: &mut BTreeMap<i32, Reading<'a>>) -> (Result<Round, PipelineError>, u64) {
        let mut read = 0;
        let round = self.read_on(readings, &mut read);
        // Whatever still lies in the queues is not ours any more.
        let _ = self.broker.consumer.unassign();
        (round, read)
    }

    fn read_on(&self, readings: &mut BTreeMap<i32, Reading<'a>>, read: &mut u64) -> Result<Round, PipelineError> {
        let from = readings.iter().filter(|(_, reading)| !reading.done);
        let from: Vec<(i32, i64)> = from.map(|(&partition, reading)| (partition, reading.batch.position())).collect();
        if from.is_empty() {
            return Ok(Round::Done);
        }
        self.broker.assign(&from)?;
        let mut left = from.len();
        let mut since_look = 0;
        let mut silent_since = None::<Instant>;
        while left > 0 {
            match self.broker.consumer.poll(WAIT) {
                Some(Ok(message)) => {
                    silent_since = None;
                    let Some(reading) = readings.get_mut(&message.partition()) else { continue };
                    let offset = message.offset();
                    if !reading.done && reading.end.is_none_or(|end| offset < end) {
                        let timestamp = message.timestamp().to_millis();
                        reading.batch.take(Received { offset, timestamp, payload: message.payload() })?;
                        *read += 1;
                    }
                    if !reading.done && reading.end.is_some_and(|end| offset + 1 >= end) {
                        left -= usize::from(self.finish(reading)?);
                    }
                    since_look += 1;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    silent_since = None;
                    since_look = LOOK_AFTER;
                    let Some(reading) = readings.get_mut(&partition) else { continue };
                    reading.high = reading.high.max(reading.batch.position());
                    // What is missing to its end was compacted, or belongs to a transaction.
                    if reading.end.is_some() && !reading.done {
                        left -= usize::from(self.finish(reading)?);
                    }
                }
                Some(Err(error)) => match meaning(&error) {
                    Meaning::OffsetGone => return Ok(Round::Again),
                    Meaning::Final => return Err(self.broker.failed(&error)),
                    Meaning::Passing => {
                        tracing::warn!(%error, "the broker is away");
                        let since = *silent_since.get_or_insert_with(Instant::now);
                        if !self.work.options.follow && since.elapsed() >= self.work.options.patience {
                            return Err(self.broker.failed(&error));
                        }
                    }
                },
                None => {
                    since_look = LOOK_AFTER;
                    let patience = self.work.options.patience;
                    if !self.work.options.follow && silent_since.get_or_insert_with(Instant::now).elapsed() >= patience
                    {
                        return Err(self.broker.silent());
                    }
                }
            }
            if since_look >= LOOK_AFTER {
                since_look = 0;
                self.look(readings)?;
                if self.work.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Ok(Round::Done)
    }

    /// Commits the batches that are full, and shows how far all are.
    fn look(&self, readings: &mut BTreeMap<i32, Reading<'a>>) -> Result<(), PipelineError> {
        for (&partition, reading) in readings.iter_mut() {
            if let Ok(mut positions) = self.work.positions.lock() {
                positions.count(&reading.batch.news());
                positions.note(partition, reading.batch.position(), reading.high);
            }
            if reading.batch.is_full() {
                self.commit(&mut reading.batch)?;
            }
        }
        Ok(())
    }

    /// A partition is read to its end.
    fn finish(&self, reading: &mut Reading<'a>) -> Result<bool, PipelineError> {
        reading.done = true;
        if let Ok(mut positions) = self.work.positions.lock() {
            positions.count(&reading.batch.news());
            let end = reading.end.unwrap_or(reading.high);
            positions.note(reading.batch.partition, end, reading.high);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.broker.topic, reading.batch.partition);
        self.broker.consumer.pause(&list).map_err(|error| self.broker.failed(&error))?;
        self.commit(&mut reading.batch)?;
        Ok(true)
    }

    fn commit(&self, batch: &mut Batch<'a>) -> Result<(), PipelineError> {
        let Some(committed) = batch.commit()? else { return Ok(()) };
        self.commit_group_offset(committed.partition, committed.next);
        let _ = self.says.send(Said::Committed(Box::new(committed)));
        Ok(())
    }

    /// For tools that show lag; a broker without groups is as good.
    fn commit_group_offset(&self, partition: i32, next: i64) {
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&self.broker.topic, partition, Offset::Offset(next));
        let committed = added.and_then(|()| self.broker.consumer.commit(&list, CommitMode::Async));
        if committed.is_ok() {
            self.broker.consumer.context().unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn await_group_offsets(&self) {
        let begun = Instant::now();
        let unanswered = &self.broker.consumer.context().unanswered;
        while unanswered.load(Ordering::Relaxed) > 0 && begun.elapsed() < LEAVE_WITHIN {
            let _ = self.broker.consumer.poll(Duration::from_millis(10));
        }
    }
}
