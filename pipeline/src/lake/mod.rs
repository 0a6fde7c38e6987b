//! The lake of click logs: `click_logs/date=YYYY-MM-DD/*.parquet`, one row an event ([`LogSchema`](ranking::events::LogSchema)).
//!
//! A file counts once a [`Commit`] lists it. Commits are small JSON files `_commits/<source>/<name>.json` that are put only where
//! none is, so of two writers that would write the same events one wins, and the files of the other never existed. A writer that is killed
//! leaves at most files that no commit lists. In a lake that keeps no commits (Spark's, say) all Parquet files count.

mod commit;
mod events;
mod file;
mod searches;
mod spool;
mod stored;
mod writer;

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    ops::RangeInclusive,
};

use chrono::NaiveDate;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectMeta, path::Path};

pub use self::{
    commit::{Commit, CommittedFile, DeadLetters},
    spool::{Published, Spool},
    writer::{CommitOptions, LakeWriter, RollOptions},
};
pub(crate) use self::{
    events::{Conversions, Event, EventFile, Shown, Wanted, names_arms},
    searches::Searches,
};
use crate::{PipelineError, store::Store};

/// The table's folder below the lake's root.
const TABLE: &str = "click_logs";
/// Commits read at once.
const READ_AHEAD: usize = 16;

/// A lake, on disk or on S3. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lake {
    /// At the table's folder.
    store: Store,
}

/// A data file that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LakeFile {
    /// In [`Store::object_store`].
    pub path: Path,
    pub date: NaiveDate,
    pub bytes: u64,
    /// Events, where a commit tells.
    pub rows: Option<u64>,
}

impl Lake {
    /// The lake's root, or its `click_logs` folder itself. Nothing need be there yet.
    pub fn open(location: &str) -> Result<Self, PipelineError> {
        let store = Store::open(location)?;
        let is_table = store.path("").filename() == Some(TABLE);
        Ok(Self { store: if is_table { store } else { store.below(TABLE) } })
    }

    /// The store at the table's folder.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The files of these dates, sorted by date and name. If there are none, the error names the dates that there are.
    pub async fn files(&self, dates: RangeInclusive<NaiveDate>) -> Result<Vec<LakeFile>, PipelineError> {
        let mut files = self.all_files().await?;
        let known: BTreeSet<NaiveDate> = files.iter().map(|file| file.date).collect();
        files.retain(|file| dates.contains(&file.date));
        if !files.is_empty() {
            files.sort_unstable_by(|a, b| (a.date, &a.path).cmp(&(b.date, &b.path)));
            return Ok(files);
        }
        let place = self.store.display("");
        let of = match dates.into_inner() {
            (NaiveDate::MIN, to) => format!("up to {to}"),
            (from, NaiveDate::MAX) => format!("from {from} on"),
            (from, to) => format!("from {from} to {to}"),
        };
        Err(match (known.first(), known.last()) {
            (Some(first), Some(last)) => PipelineError::data(format!("`{place}` has no click logs {of}"))
                .with_hint(format!("there are {} dates, from {first} to {last}", known.len())),
            _ => PipelineError::data(format!("`{place}` holds no click logs")).with_hint(
                "fill it with `lockstep collect` or `lockstep logs simulate`, or see whether the path is right",
            ),
        })
    }

    async fn all_files(&self) -> Result<Vec<LakeFile>, PipelineError> {
        let commits = commit::all(&self.store).await?;
        // Also before its first commit a lake of ours is known by what lies beside the commits.
        if commits.is_empty() && !commit::is_kept(&self.store).await? {
            let found = self.store.list("").await?;
            return Ok(found.iter().filter_map(|object| self.foreign(object)).collect());
        }
        let read = commits.into_iter().map(|below| async move { commit::read(&self.store, &below).await });
        let commits: Vec<Commit> = futures::stream::iter(read).buffered(READ_AHEAD).try_collect().await?;
        let files = commits.into_iter().flat_map(|commit| commit.files);
        Ok(files
            .map(|file| LakeFile {
                path: self.store.path(&file.path),
                date: file.date,
                bytes: file.bytes,
                rows: Some(file.rows),
            })
            .collect())
    }

    /// How many files of these dates are not among those that count.
    pub async fn unlisted(&self, dates: RangeInclusive<NaiveDate>, files: &[LakeFile]) -> Result<u64, PipelineError> {
        // Where there are no commits, all that was found counts.
        if files.iter().any(|file| file.rows.is_none()) {
            return Ok(0);
        }
        let listed: HashSet<&Path> = files.iter().map(|file| &file.path).collect();
        let found = self.store.list("").await?;
        let found = found.iter().filter_map(|object| self.foreign(object));
        Ok(found.filter(|file| dates.contains(&file.date) && !listed.contains(&file.path)).count() as u64)
    }

    /// A file of a lake that keeps no commits, told by its name.
    fn foreign(&self, object: &ObjectMeta) -> Option<LakeFile> {
        let below = self.store.relative(&object.location)?;
        let hidden = below.split('/').any(|part| part.starts_with(['_', '.']));
        let date = below.split('/').next()?.strip_prefix("date=")?.parse().ok()?;
        let counts = !hidden && below.ends_with(".parquet");
        counts.then(|| LakeFile { path: object.location.clone(), date, bytes: object.size, rows: None })
    }

    /// The names of a source's commits, ascending.
    pub async fn commit_names(&self, source: &str) -> Result<Vec<String>, PipelineError> {
        commit::names(&self.store, source).await
    }

    /// A commit that is there.
    pub async fn commit(&self, source: &str, name: &str) -> Result<Commit, PipelineError> {
        commit::read(&self.store, &commit::path(source, name)).await
    }

    /// Removes the hidden files that writers left behind when they were killed, and lists all others of the table.
    pub async fn sweep(&self) -> Result<Swept, PipelineError> {
        let mut swept = Swept::default();
        for object in self.store.list("").await? {
            let Some(below) = self.store.relative(&object.location) else { continue };
            if !below.rsplit('/').next().is_some_and(|name| name.starts_with('.')) {
                swept.files.push(below);
                continue;
            }
            // Whoever writes holds the lock for as long as its process lives.
            let path = self.store.local(&below).filter(|path| spool::is_hidden(path));
            if path.is_some_and(|path| File::open(path).is_ok_and(|file| file.try_lock().is_ok())) {
                self.store.remove(&object.location).await?;
                swept.removed += 1;
            }
        }
        Ok(swept)
    }
}

/// The dates from one to another, both included; open where there is none.
pub(crate) fn dates(
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
) -> Result<RangeInclusive<NaiveDate>, PipelineError> {
    let (from, to) = (from.unwrap_or(NaiveDate::MIN), to.unwrap_or(NaiveDate::MAX));
    if from > to {
        return Err(PipelineError::options(format!("the window begins on {from}, after its end on {to}")));
    }
    Ok(from..=to)
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Hidden files that were removed.
    pub removed: u64,
    /// Paths below the table, of files that have a name, whether a commit lists them or not.
    pub files: Vec<String>,
}

#[cfg(test)]
mod tests;
