//! What must outlive the process: runs, their events, curves and checkpoints, in one embedded database under the state folder.
//!
//! Values are the messages of the wire, which is the one format that already promises to be read by later versions. One writer: the
//! driver. Readers see what was committed, also what is not yet on disk.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message as _;
use proto::v1::{self, run_event};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableError, TransactionError,
};

use crate::figures::figures;

const FILE: &str = "journal.redb";
const FORMAT: u64 = 1;

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

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Entry {
    Run(Box<v1::RunStatus>),
    /// Its figures become points of the run's curves.
    Event(Arc<v1::RunEvent>),
    Checkpoint {
        run: String,
        checkpoint: v1::Checkpoint,
    },
    Pruned {
        run: String,
        step: u64,
    },
    Tracking {
        run: String,
        tracking: Box<v1::Tracking>,
    },
}

impl Entry {
    /// Figures may be lost with the power, and how far they have been sent; nothing else may.
    pub fn must_be_durable(&self) -> bool {
        match self {
            Self::Event(event) => {
                !matches!(event.event, Some(run_event::Event::Progress(_) | run_event::Event::System(_)))
            }
            Self::Tracking { .. } => false,
            _ => true,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("state folder `{}` is in use by another coordinator", .0.display())]
    InUse(PathBuf),
    #[error("state folder `{}` cannot be used", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("there is no journal in `{}`", .0.display())]
    NoJournal(PathBuf),
    #[error("state folder `{}` was written by another version: format {found}, this version has {FORMAT}", path.display())]
    Format { path: PathBuf, found: u64 },
    #[error("journal is closed")]
    Closed,
    #[error("journal cannot be read or written")]
    Storage(#[source] Box<redb::Error>),
    #[error("journal holds a record that cannot be read")]
    Record(#[source] prost::DecodeError),
}

impl<E: Into<redb::Error>> From<E> for JournalError {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

impl JournalError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoJournal(_) => {
                "name the state folder of a coordinator or of `lockstep train` (<checkpoint.dir>/.state)"
            }
            Self::InUse(_) => "talk to that one, stop it, or choose another state folder",
            Self::Folder { .. } | Self::Storage(_) => "check its permissions and the space on its disk",
            Self::Format { .. } => "use the version that wrote it, or choose another state folder",
            Self::Closed => "the coordinator has ended: start it again",
            Self::Record(_) => "restore the state folder from a copy, or choose another",
        }
    }
}

/// The database; clones share it. Everything here blocks.
#[derive(Clone)]
pub struct Journal {
    path: PathBuf,
    database: Arc<Mutex<Held>>,
}

#[derive(Default)]
enum Held {
    Open(Arc<Store>),
    /// To be opened (again): after an error of its disk the database refuses everything.
    #[default]
    NotOpen,
    /// For good.
    Closed,
}

enum Store {
    Writable(Database),
    /// Shared with other readers.
    ReadOnly(ReadOnlyDatabase),
}

impl Store {
    fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        match self {
            Self::Writable(database) => database.begin_read(),
            Self::ReadOnly(database) => database.begin_read(),
        }
    }
}

impl Journal {
    /// Of a coordinator that is not there; one that was killed is repaired first, by the only writer there is.
    pub fn open_to_read(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(JournalError::NoJournal(folder.to_owned()));
        }
        let store = match ReadOnlyDatabase::open(&path) {
            Ok(database) => Store::ReadOnly(database),
            Err(DatabaseError::RepairAborted) => match Database::open(&path) {
                Ok(database) => Store::Writable(database),
                Err(DatabaseError::DatabaseAlreadyOpen) => return Err(JournalError::InUse(folder.to_owned())),
                Err(error) => return Err(error.into()),
            },
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(JournalError::InUse(folder.to_owned())),
            Err(error) => return Err(error.into()),
        };
        let found = {
            let meta = store.begin_read()?.open_table(META)?;
            meta.get("format")?.map(|found| found.value())
        };
        match found {
            Some(FORMAT) => {}
            found => return Err(JournalError::Format { path: folder.to_owned(), found: found.unwrap_or_default() }),
        }
        let database = Arc::new(Mutex::new(Held::Open(Arc::new(store))));
        Ok(Self { path: folder.to_owned(), database })
    }

    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        fs::create_dir_all(folder).map_err(|source| JournalError::Folder { path: folder.to_owned(), source })?;
        let journal = Self { path: folder.to_owned(), database: Arc::default() };
        let store = journal.database()?;
        let Store::Writable(database) = &*store else { return Err(JournalError::Closed) };
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let found = meta.get("format")?.map(|found| found.value());
            match found {
                Some(FORMAT) => {}
                Some(found) => return Err(JournalError::Format { path: folder.to_owned(), found }),
                None => drop(meta.insert("format", FORMAT)?),
            }
            // Readers may then take every table for granted.
            write.open_table(RUNS)?;
            write.open_table(EVENTS)?;
            write.open_table(POINTS)?;
            write.open_table(CHECKPOINTS)?;
            write.open_table(TRACKING)?;
        }
        write.commit()?;
        Ok(journal)
    }

    fn database(&self) -> Result<Arc<Store>, JournalError> {
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Held::Open(database) => return Ok(Arc::clone(database)),
            Held::Closed => return Err(JournalError::Closed),
            Held::NotOpen => {}
        }
        let opened = Database::create(self.path.join(FILE)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(self.path.clone()),
            error => error.into(),
        })?;
        let opened = Arc::new(Store::Writable(opened));
        *held = Held::Open(Arc::clone(&opened));
        Ok(opened)
    }

    /// Gives the state folder free, whoever still holds a clone.
    pub fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = Held::Closed;
    }

    /// Why it cannot be written, for people.
    pub fn failure(&self, error: &JournalError) -> v1::Failure {
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            // Wrappers repeat what they wrap.
            let words = cause.to_string();
            if causes.last() != Some(&words) {
                causes.push(words);
            }
            source = cause.source();
        }
        if causes.is_empty() {
            causes.push(error.to_string());
        }
        v1::Failure {
            message: format!("the journal `{}` cannot be written", self.path.join(FILE).display()),
            causes,
            hint: "free space, or put the state elsewhere with --state".into(),
            input_is_wrong: false,
        }
    }

    /// All or nothing. `durable`: on disk when this returns; else with the next commit that is. May be tried again.
    pub fn commit(&self, entries: &[Entry], durable: bool) -> Result<(), JournalError> {
        let committed = self.try_commit(entries, durable);
        if committed.is_err() {
            let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
            if let Held::Open(_) = *held {
                *held = Held::NotOpen;
            }
        }
        committed
    }

    fn try_commit(&self, entries: &[Entry], durable: bool) -> Result<(), JournalError> {
        let store = self.database()?;
        let Store::Writable(database) = &*store else { return Err(JournalError::Closed) };
        let mut write = database.begin_write()?;
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

    /// Oldest first.
    pub fn runs(&self) -> Result<Vec<v1::RunStatus>, JournalError> {
        let table = self.database()?.begin_read()?.open_table(RUNS)?;
        table.iter()?.map(|row| decode(row?.1.value())).collect()
    }

    /// At most `limit` events after a sequence number, in order.
    pub fn events(&self, run: &str, after: u64, limit: usize) -> Result<Vec<v1::RunEvent>, JournalError> {
        let table = self.database()?.begin_read()?.open_table(EVENTS)?;
        let rows = table.range((run, after.saturating_add(1))..=(run, u64::MAX))?;
        rows.take(limit).map(|row| decode(row?.1.value())).collect()
    }

    /// How far a run is told: its newest progress that no later generation has voided, up to which step that holds, and the newest end
    /// of an epoch.
    pub fn told(&self, run: &str) -> Result<(Option<v1::Progress>, u64, Option<v1::EpochEnded>), JournalError> {
        let table = self.database()?.begin_read()?.open_table(EVENTS)?;
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

    /// The number of the newest event; 0 where there is none.
    pub fn last_sequence(&self, run: &str) -> Result<u64, JournalError> {
        let table = self.database()?.begin_read()?.open_table(EVENTS)?;
        let last = table.range((run, 0)..=(run, u64::MAX))?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| key.value().1))
    }

    /// Curves by name, points by step; all of them where no names are given.
    pub fn series(&self, run: &str, names: &[String]) -> Result<Vec<v1::Series>, JournalError> {
        let table = self.database()?.begin_read()?.open_table(POINTS)?;
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

    /// How much of each run that is tracked has reached its tracker.
    pub fn tracked(&self) -> Result<Vec<(String, v1::Tracking)>, JournalError> {
        let table = match self.database()?.begin_read()?.open_table(TRACKING) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let rows = table.iter()?.map(|row| {
            let (run, tracking) = row?;
            Ok((run.value().to_owned(), decode(tracking.value())?))
        });
        rows.collect()
    }

    /// `None`: the run is not tracked. What waits is counted.
    pub fn tracking(&self, run: &str) -> Result<Option<v1::Tracking>, JournalError> {
        let table = match self.database()?.begin_read()?.open_table(TRACKING) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        let Some(row) = table.get(run)? else { return Ok(None) };
        let mut tracking: v1::Tracking = decode(row.value())?;
        tracking.pending_points = if tracking.done { 0 } else { self.points_after(run, tracking.after_sequence)? };
        Ok(Some(tracking))
    }

    /// Points of events past a sequence number.
    pub fn points_after(&self, run: &str, after: u64) -> Result<u64, JournalError> {
        let table = self.database()?.begin_read()?.open_table(EVENTS)?;
        let mut points = 0;
        for row in table.range((run, after.saturating_add(1))..=(run, u64::MAX))? {
            points += figures(&decode(row?.1.value())?).len() as u64;
        }
        Ok(points)
    }

    /// As it was recorded last.
    pub fn run(&self, run: &str) -> Result<Option<v1::RunStatus>, JournalError> {
        let table = self.database()?.begin_read()?.open_table(RUNS)?;
        table.get(run)?.map(|row| decode(row.value())).transpose()
    }

    /// Published and not pruned since, by step.
    pub fn checkpoints(&self, run: &str) -> Result<Vec<v1::Checkpoint>, JournalError> {
        let table = match self.database()?.begin_read()?.open_table(CHECKPOINTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let rows = table.range((run, 0)..=(run, u64::MAX))?;
        rows.map(|row| decode(row?.1.value())).collect()
    }
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, JournalError> {
    M::decode(bytes).map_err(JournalError::Record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(sequence: u64, step: u64) -> Entry {
        let event = v1::Progress { step, loss: 0.5, rows: 10, seconds: 2.0, ..Default::default() };
        Entry::Event(Arc::new(v1::RunEvent {
            sequence,
            run_id: "r-1".into(),
            event: Some(run_event::Event::Progress(event)),
            ..Default::default()
        }))
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let status = v1::RunStatus { run_id: "r-1".into(), name: "baseline".into(), ..Default::default() };
        journal.commit(&[progress(1, 10), progress(2, 20)], false).unwrap();
        journal.commit(&[Entry::Run(Box::new(status))], true).unwrap();
        drop(journal);

        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.runs().unwrap()[0].name, "baseline");
        assert_eq!(journal.last_sequence("r-1").unwrap(), 2);
        assert_eq!(journal.events("r-1", 1, 9).unwrap().len(), 1);
        let series = journal.series("r-1", &["train/rows_per_second".into()]).unwrap();
        assert_eq!(series[0].points.iter().map(|p| (p.step, p.value)).collect::<Vec<_>>(), [(10, 5.0), (20, 5.0)]);
        assert_eq!(journal.series("r-1", &[]).unwrap().len(), 4);
        assert!(journal.series("r-", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_pruned_checkpoint_is_listed_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let entry =
            |step| Entry::Checkpoint { run: "r-1".into(), checkpoint: v1::Checkpoint { step, ..Default::default() } };
        journal.commit(&[entry(1), entry(2), Entry::Pruned { run: "r-1".into(), step: 1 }], true).unwrap();
        let steps: Vec<_> = journal.checkpoints("r-1").unwrap().iter().map(|c| c.step).collect();
        assert_eq!(steps, [2]);
    }

    #[test]
    fn a_state_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _journal = Journal::open(folder.path()).unwrap();
        let error = Journal::open(folder.path()).err().unwrap();
        assert!(matches!(error, JournalError::InUse(_)), "{error:?}");
    }
}
