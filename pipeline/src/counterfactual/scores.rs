//! The scores that a new ranker gives, to be found by search and document.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
};

use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::table::Table;
use crate::{
    PipelineError,
    lake::{Event, Shown},
};

/// What a score belongs to, beside its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoredBy {
    /// One search: the file has the `list_id` that `prepare` gives it.
    ListId,
    /// All searches for the same thing.
    QueryId,
}

impl ScoredBy {
    pub fn column(self) -> &'static str {
        match self {
            Self::ListId => "list_id",
            Self::QueryId => "query_id",
        }
    }
}

/// In memory, by hashes: about 30 bytes a score.
pub(super) struct Scores {
    pub by: ScoredBy,
    scores: HashMap<u64, f64>,
}

impl Scores {
    /// Of a file as `lockstep score` writes it: `list_id` or `query_id`, `document_id`, `score`.
    pub fn read(path: &Path) -> Result<Self, PipelineError> {
        let table = Table::open(path)?;
        let by = if table.has("list_id") { ScoredBy::ListId } else { ScoredBy::QueryId };
        let names = [by.column(), "document_id", "score"];
        names.iter().try_for_each(|name| table.check(name, None))?;
        let mut scores = HashMap::new();
        table.for_each(&names, |rows| {
            let (searches, documents, values) = (rows.ids(0)?, rows.ids(1)?, rows.numbers(2)?);
            for row in 0..rows.len() {
                let (search, document, score) = (searches.value(row), documents.value(row), values.value(row));
                if !score.is_finite() {
                    return Err(rows.wrong(row, format!("the score is {score}, which is no place in a ranking")));
                }
                let of = match by {
                    ScoredBy::QueryId => xxh3_64(search.as_bytes()),
                    ScoredBy::ListId => search.parse::<i64>().map(|id| id as u64).map_err(|_| {
                        rows.wrong(
                            row,
                            format!("`{search}` is no list_id: those of `lockstep prepare` are whole numbers"),
                        )
                    })?,
                };
                match scores.entry(key(of, xxh3_64(document.as_bytes()))) {
                    Entry::Vacant(place) => _ = place.insert(score),
                    Entry::Occupied(place) if *place.get() == score => {}
                    Entry::Occupied(place) => {
                        let message = format!(
                            "document `{document}` of {} `{search}` has score {score}, and had {} before",
                            by.column(),
                            place.get()
                        );
                        let hint =
                            "scores that differ from search to search need the `list_id` of their search beside them";
                        return Err(rows.wrong(row, message).with_hint(hint));
                    }
                }
            }
            Ok(())
        })?;
        if scores.is_empty() {
            return Err(PipelineError::data(format!("`{}` holds no scores", path.display())));
        }
        Ok(Self { by, scores })
    }

    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// The score of each result of a search, as far as they are known; false where the log does not tell which search it was.
    pub fn of(&self, event: &Event<'_>, found: &mut Vec<Option<f64>>) -> bool {
        let of = match self.by {
            ScoredBy::QueryId => Some(event.query),
            ScoredBy::ListId => event.search.map(|id| id as u64),
        };
        let score = |result: &Shown| self.scores.get(&key(of?, result.document)).copied();
        found.clear();
        found.extend(event.results.iter().map(score));
        of.is_some()
    }
}

fn key(of: u64, document: u64) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&of.to_le_bytes());
    hash.update(&document.to_le_bytes());
    hash.digest()
}
