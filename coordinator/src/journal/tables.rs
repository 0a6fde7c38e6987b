//! The tables of the embedded database, and how they are read and written.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::v1::{self, run_event};
use redb::{
    Database, Durability, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableError, TransactionError,
};

use super::{Entry, FORMAT, JournalError, decode};
use crate::figures::figures;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Run -> its status.
const RUNS: TableDefinition<&str, &[u8]> = TableDefinition::new("runs");
/// (run, sequence) -> event.
const EVENTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("events");
/// (run, name, step) -> (Unix microseconds, value).
const POINTS: TableDefinition<(&str, &str, u64), (u64, f64)> = TableDefinition::new("points");
/// (run, step) -> checkpoint.
const CHECKPOINTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("checkpoints");
/// Run -> how much of it its tracker has.
const TRACKING: TableDefinition<&str, &[u8]> = TableDefinition::new("tracking");

pub enum Tables {
    Writable(Database),
    /// Shared with other readers.
    ReadOnly(ReadOnlyDatabase),
}

impl Tables {
    fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        match self {
            Self::Writable(database) => database.begin_read(),
            Self::ReadOnly(database) => database.begin_read(),
        }
    }

    fn database(&self) -> Result<&Database, JournalError> {
        match self {
            Self::Writable(database) => Ok(database),
            Self::ReadOnly(_) => Err(JournalError::Closed),
        }
    }

    /// The format that it was written in.
    pub fn format(&self) -> Result<Option<u64>, JournalError> {
        let meta = self.begin_read()?.open_table(META)?;
        Ok(meta.get("format")?.map(|found| found.value()))
    }

    /// Readers may then take every table for granted. Answers the format that was found, where it is not this version's.
    pub fn make(&self) -> Result<Result<(), u64>, JournalError> {
        let write = self.database()?.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let found = meta.get("format")?.map(|found| found.value());
            match found {
                Some(FORMAT) => {}
                Some(found) => return Ok(Err(found)),
                None => drop(meta.insert("format", FORMAT)?),
            }
            write.open_table(RUNS)?;
            write.open_table(EVENTS)?;
            write.open_table(POINTS)?;
            write.open_table(CHECKPOINTS)?;
            write.open_table(TRACKING)?;
        }
        write.commit()?;
        Ok(Ok(()))
    }

    /// All or nothing. `durable`: on disk when this returns; else with the next write that is.
    pub fn write<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>, durable: bool) -> Result<(), JournalError> {
        let mut write = self.database()?.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut runs = write.open_table(RUNS)?;
            let mut events = write.open_table(EVENTS)?;
            let mut points = write.open_table(POINTS)?;
            let mut checkpoints = write.open_table(CHECKPOINTS)?;
            let mut tracking_of = write.open_table(TRACKING)?;
            for entry in entries {
                match entry {
                    Entry::Run(status) => {
                        runs.insert(&*status.run_id, &*status.encode_to_vec())?;
                    }
                    Entry::Event(event) => {
                        events.insert((&*event.run_id, event.sequence), &*event.encode_to_vec())?;
                        for figure in figures(event) {
                            let key = (&*event.run_id, &*figure.name, figure.step);
                            points.insert(key, (figure.unix_micros, figure.value))?;
                        }
                    }
                    Entry::Checkpoint { run, checkpoint } => {
                        checkpoints.insert((&**run, checkpoint.step), &*checkpoint.encode_to_vec())?;
                    }
                    Entry::Pruned { run, step } => {
                        checkpoints.remove((&**run, *step))?;
                    }
                    Entry::Tracking { run, tracking } => {
                        tracking_of.insert(&**run, &*tracking.encode_to_vec())?;
                    }
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    pub fn runs(&self) -> Result<Vec<v1::RunStatus>, JournalError> {
        let table = self.begin_read()?.open_table(RUNS)?;
        table.iter()?.map(|row| decode(row?.1.value())).collect()
    }

    pub fn run(&self, run: &str) -> Result<Option<v1::RunStatus>, JournalError> {
        let table = self.begin_read()?.open_table(RUNS)?;
        table.get(run)?.map(|row| decode(row.value())).transpose()
    }

    pub fn events(&self, run: &str, after: u64, limit: usize) -> Result<Vec<v1::RunEvent>, JournalError> {
        let table = self.begin_read()?.open_table(EVENTS)?;
        let rows = table.range((run, after.saturating_add(1))..=(run, u64::MAX))?;
        rows.take(limit).map(|row| decode(row?.1.value())).collect()
    }

    pub fn told(&self, run: &str) -> Result<(Option<v1::Progress>, u64, Option<v1::EpochEnded>), JournalError> {
        let table = self.begin_read()?.open_table(EVENTS)?;
        let (mut progress, mut epoch, mut reported) = (None, None, 0);
        let mut void_past = u64::MAX;
        for row in table.range((run, 0)..=(run, u64::MAX))?.rev() {
            let event: v1::RunEvent = decode(row?.1.value())?;
            match event.event {
                Some(run_event::Event::Progress(found)) if progress.is_none() => {
                    reported = found.step.min(void_past);
                    progress = Some(found);
                }
                Some(run_event::Event::Epoch(found)) if found.step <= void_past => drop(epoch.get_or_insert(found)),
                Some(run_event::Event::Seated(seated)) => void_past = void_past.min(seated.first_step),
                _ => {}
            }
            if progress.is_some() && epoch.is_some() {
                break;
            }
        }
        Ok((progress, reported, epoch))
    }

    pub fn last_sequence(&self, run: &str) -> Result<u64, JournalError> {
        let table = self.begin_read()?.open_table(EVENTS)?;
        let last = table.range((run, 0)..=(run, u64::MAX))?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| key.value().1))
    }

    pub fn series(&self, run: &str, names: &[String]) -> Result<Vec<v1::Series>, JournalError> {
        let table = self.begin_read()?.open_table(POINTS)?;
        let mut series: BTreeMap<String, Vec<v1::Point>> = BTreeMap::new();
        for row in table.range((run, "", 0)..=(run, "\u{10ffff}", u64::MAX))? {
            let (key, value) = row?;
            let ((_, name, step), (unix_micros, value)) = (key.value(), value.value());
            if names.is_empty() || names.iter().any(|wanted| wanted == name) {
                series.entry(name.to_owned()).or_default().push(v1::Point { step, unix_micros, value });
            }
        }
        Ok(series.into_iter().map(|(name, points)| v1::Series { name, points }).collect())
    }

    pub fn tracked(&self) -> Result<Vec<(String, v1::Tracking)>, JournalError> {
        let table = match self.begin_read()?.open_table(TRACKING) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let rows = table.iter()?.map(|row| {
            let (run, tracking) = row?;
            Ok((run.value().to_owned(), decode(tracking.value())?))
        });
        rows.collect()
    }

    pub fn tracking(&self, run: &str) -> Result<Option<v1::Tracking>, JournalError> {
        let table = match self.begin_read()?.open_table(TRACKING) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        table.get(run)?.map(|row| decode(row.value())).transpose()
    }

    pub fn points_after(&self, run: &str, after: u64) -> Result<u64, JournalError> {
        let table = self.begin_read()?.open_table(EVENTS)?;
        let mut points = 0;
        for row in table.range((run, after.saturating_add(1))..=(run, u64::MAX))? {
            points += figures(&decode(row?.1.value())?).len() as u64;
        }
        Ok(points)
    }

    pub fn checkpoints(&self, run: &str) -> Result<Vec<v1::Checkpoint>, JournalError> {
        let table = match self.begin_read()?.open_table(CHECKPOINTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let rows = table.range((run, 0)..=(run, u64::MAX))?;
        rows.map(|row| decode(row?.1.value())).collect()
    }
}
