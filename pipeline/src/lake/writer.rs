//! Events into the files of their dates, and all of these into the lake by one commit.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use parquet::file::properties::WriterProperties;
use ranking::events::{EventColumns, LogSchema, SearchEvent, Timestamp};

use super::{
    Commit, CommittedFile, DeadLetters, Lake, LakeFile, Spool, commit,
    file::{self, EventFile},
};
use crate::PipelineError;

/// Microseconds.
const DAY: i64 = 86_400_000_000;

/// When files end, and how much memory they may take before they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollOptions {
    /// A file ends once it is this large.
    pub file_bytes: u64,
    /// Events of a row group, at most.
    pub row_group_events: usize,
    /// Row groups end early where all open files together would take more memory than this.
    pub memory: usize,
    /// Files open at once; with one date more, the file of the earliest ends.
    pub open_dates: usize,
}

impl Default for RollOptions {
    fn default() -> Self {
        Self { file_bytes: 128 << 20, row_group_events: 64 << 10, memory: 256 << 20, open_dates: 64 }
    }
}

/// What a commit says beside the files.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// How the names of the files begin; the default is the source and the commit's name. Must differ from those of all others.
    pub stem: Option<String>,
    /// Goes into the footers, under `lockstep.<key>`.
    pub metadata: Vec<(String, String)>,
    pub dead_letters: Vec<DeadLetters>,
    /// For the source to find again.
    pub extra: serde_json::Value,
}

/// Writes events to their dates. Nothing of it is in the lake before [`commit`](Self::commit): dropped or killed it leaves nothing that
/// counts.
pub struct LakeWriter {
    lake: Lake,
    schema: LogSchema,
    roll: RollOptions,
    properties: Arc<WriterProperties>,
    source: String,
    /// By days since 1970.
    open: BTreeMap<i64, EventFile>,
    closed: Vec<Closed>,
    events: u64,
    /// A commit failed half-way: some of its files are gone.
    broken: bool,
}

/// A whole file that is not published yet.
struct Closed {
    spool: Spool,
    date: NaiveDate,
    rows: u64,
    folder: String,
}

impl LakeWriter {
    /// `source` says who writes, as a path: `kafka/search_events/all/p00003`, `simulate/seed-7`.
    pub fn new(lake: &Lake, schema: LogSchema, roll: RollOptions, source: &str) -> Self {
        let properties = file::properties(&schema, roll.row_group_events);
        let (lake, source) = (lake.clone(), source.to_owned());
        Self {
            lake,
            schema,
            roll,
            properties,
            source,
            open: BTreeMap::new(),
            closed: Vec::new(),
            events: 0,
            broken: false,
        }
    }

    /// Encodes and writes to local disk; talks to no network.
    pub fn push(&mut self, event: &SearchEvent) -> Result<(), PipelineError> {
        self.append(event.query_timestamp, |columns| columns.push(event))
    }

    /// Appends one event of this time, which `push` puts into the columns.
    pub fn append(&mut self, at: Timestamp, push: impl FnOnce(&mut EventColumns)) -> Result<(), PipelineError> {
        let day = at.0.div_euclid(DAY);
        if !self.open.contains_key(&day) {
            self.begin(day, at.date())?;
        }
        let Some(file) = self.open.get_mut(&day) else { return Ok(()) };
        push(file.columns());
        self.events += 1;
        if file.settle()? {
            if file.bytes() >= self.roll.file_bytes {
                self.close(day, &[])?;
            } else if self.open.values().map(EventFile::memory).sum::<usize>() > self.roll.memory {
                self.open.values_mut().try_for_each(EventFile::flush)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, day: i64, date: NaiveDate) -> Result<(), PipelineError> {
        if self.open.len() >= self.roll.open_dates
            && let Some(&earliest) = self.open.keys().next()
        {
            self.close(earliest, &[])?;
        }
        let file = EventFile::new(self.lake.store(), format!("date={date}"), &self.schema, &self.properties)?;
        self.open.insert(day, file);
        Ok(())
    }

    fn close(&mut self, day: i64, metadata: &[(String, String)]) -> Result<(), PipelineError> {
        if let Some(file) = self.open.remove(&day) {
            let (spool, rows, folder) = file.finish(metadata)?;
            self.closed.push(Closed { spool, date: Timestamp(day.saturating_mul(DAY)).date(), rows, folder });
        }
        Ok(())
    }

    /// Events since the last commit.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes since the last commit, by what was encoded so far.
    pub fn bytes(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|file| file.spool.bytes()).sum();
        closed + self.open.values().map(EventFile::bytes).sum::<u64>()
    }

    /// Dates that are being written.
    pub fn open_dates(&self) -> usize {
        self.open.len()
    }

    /// Ends all files and makes them count, at once. `name` is the commit's; the source's commits are read in the order of their names.
    /// An error if the source has a commit of that name: another writer was faster, and nothing of this one counts.
    pub async fn commit(&mut self, name: &str, extra: serde_json::Value) -> Result<Vec<LakeFile>, PipelineError> {
        self.commit_with(name, CommitOptions { extra, ..CommitOptions::default() }).await
    }

    /// [`commit`](Self::commit), with all that there is to say.
    pub async fn commit_with(&mut self, name: &str, options: CommitOptions) -> Result<Vec<LakeFile>, PipelineError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(PipelineError::data(format!("`{}` failed before, and cannot go on", self.source)));
        }
        let days: Vec<i64> = self.open.keys().copied().collect();
        days.into_iter().try_for_each(|day| self.close(day, &options.metadata))?;
        self.events = 0;
        let token = format!("{:016x}", rand::random::<u64>());
        let stem = options.stem.unwrap_or_else(|| format!("{}-{name}", self.source.replace('/', "-")));
        let store = self.lake.store();
        commit::keep(store).await?;
        let mut files = Vec::with_capacity(self.closed.len());
        for (at, closed) in self.closed.drain(..).enumerate() {
            let Closed { spool, date, rows, folder } = closed;
            let path = format!("{folder}/{stem}-{token}-{at}.parquet");
            let published = spool.publish(store, &path).await?;
            files.push(CommittedFile { path, date, rows, bytes: published.bytes, xxh3: published.xxh3 });
        }
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        let dead: Vec<String> = options.dead_letters.iter().map(|file| file.path.clone()).collect();
        let source = self.source.clone();
        let commit = Commit { source, token, files, dead_letters: options.dead_letters, extra: options.extra };
        if !commit::write(store, name, &commit).await? {
            for path in paths.iter().chain(&dead) {
                store.remove(&store.path(path)).await?;
            }
            let message = format!("another writer has committed `{}/{name}`", self.source);
            return Err(PipelineError { kind: crate::ErrorKind::Io, ..PipelineError::data(message) }
                .with_hint("nothing of this one counts, nothing is lost or twice: one writer of a source is enough"));
        }
        self.broken = false;
        let found = commit.files.into_iter();
        Ok(found
            .map(|file| LakeFile {
                path: store.path(&file.path),
                date: file.date,
                bytes: file.bytes,
                rows: Some(file.rows),
            })
            .collect())
    }
}
