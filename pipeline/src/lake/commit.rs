//! Commits: which data files count, and up to where their source was read.

use bytes::Bytes;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::{PipelineError, store::Store};

/// Below the table; hidden from engines that list folders.
const COMMITS: &str = "_commits";

/// What one writer adds to the lake at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Who wrote it, as a path: `kafka/search_events/all/p00003`.
    pub source: String,
    /// Drawn by chance: no two commits are alike.
    pub token: String,
    pub files: Vec<CommittedFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_letters: Vec<DeadLetters>,
    /// What the source wants to find again.
    #[serde(default)]
    pub extra: serde_json::Value,
}

/// A Parquet file of events of one date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFile {
    /// Below the table's folder.
    pub path: String,
    pub date: NaiveDate,
    pub rows: u64,
    pub bytes: u64,
    /// XXH3 (64 bits, hex) of its bytes.
    pub xxh3: String,
}

/// A file of messages that are no events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// Below the table's folder.
    pub path: String,
    pub messages: u64,
    pub bytes: u64,
    /// XXH3 (64 bits, hex) of its bytes.
    pub xxh3: String,
}

pub fn path(source: &str, name: &str) -> String {
    format!("{COMMITS}/{source}/{name}.json")
}

/// Paths of all commits there are.
pub async fn all(store: &Store) -> Result<Vec<String>, PipelineError> {
    below(store, COMMITS).await
}

/// The names of a source's commits, ascending.
pub async fn names(store: &Store, source: &str) -> Result<Vec<String>, PipelineError> {
    let folder = format!("{COMMITS}/{source}");
    let paths = below(store, &folder).await?;
    let name = |path: &String| {
        let name = path.strip_prefix(&folder)?.strip_prefix('/')?.strip_suffix(".json")?;
        (!name.contains('/')).then(|| name.to_owned())
    };
    Ok(paths.iter().filter_map(name).collect())
}

async fn below(store: &Store, folder: &str) -> Result<Vec<String>, PipelineError> {
    let found = store.list(folder).await?;
    let path = found.iter().filter_map(|object| store.relative(&object.location));
    let counts = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.ends_with(".json") && !name.starts_with(['.', '_'])
    };
    Ok(path.filter(counts).collect())
}

/// Whether the lake counts by commits, be there one yet or not.
pub async fn is_kept(store: &Store) -> Result<bool, PipelineError> {
    Ok(!store.list(COMMITS).await?.is_empty())
}

/// Before the first file appears: what no commit lists does not count from now on.
pub async fn keep(store: &Store) -> Result<(), PipelineError> {
    // The underscore hides it from those who look for commits.
    store.put_new(&format!("{COMMITS}/_kept.json"), Bytes::from_static(b"{}")).await.map(drop)
}

pub async fn read(store: &Store, below: &str) -> Result<Commit, PipelineError> {
    let unreadable = || {
        PipelineError::data(format!("`{}` is no commit of a lake", store.display(below)))
            .with_hint("commits are written whole or not at all: was it changed by hand?")
    };
    let bytes = store.get(below).await?.ok_or_else(unreadable)?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable().because(error))
}

/// False if the source has a commit of this name.
pub async fn write(store: &Store, name: &str, commit: &Commit) -> Result<bool, PipelineError> {
    let json =
        serde_json::to_vec_pretty(commit).map_err(|error| PipelineError::data("a commit as JSON").because(error))?;
    store.put_new(&path(&commit.source, name), Bytes::from(json)).await
}
