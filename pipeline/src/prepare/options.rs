//! What `prepare` is told.

use std::{collections::BTreeMap, ops::RangeInclusive};

use chrono::NaiveDate;
use dataset::layout::RESERVED;
use ranking::{
    labels::LabelOptions,
    propensity::{PropensityTable, WeightKind, Weighting},
};

use super::{
    numbered::ROW,
    sink::{PartRule, TIME, TimePart, WEIGHED},
    sources::Key,
};
use crate::{
    Output, PipelineError,
    engine::EngineOptions,
    split::{Parts, check_part_name},
};

/// The reference pipeline's ten.
pub const DEFAULT_FEATURES: [&str; 10] = [
    "bm25_score",
    "embedding_sim",
    "title_match",
    "doc_popularity",
    "doc_freshness",
    "doc_quality",
    "query_length",
    "query_popularity",
    "user_preference_match",
    "price_match",
];

/// What to do about rows that lack a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Publish nothing, and say how many lack which.
    #[default]
    Error,
    Zero,
    /// The feature's mean over all rows that have it.
    Mean,
    /// Leave the rows out.
    Drop,
}

/// How the dataset is split.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SplitBy {
    /// One folder.
    #[default]
    Nothing,
    /// By a hash of the query's id.
    Query { parts: Parts, seed: u64 },
    /// By the time of the search; each part begins where the one before ends.
    Time(Vec<TimePart>),
}

impl SplitBy {
    pub(super) fn rule(&self) -> Option<PartRule> {
        match self {
            Self::Nothing => None,
            Self::Query { parts, seed } => Some(PartRule::Query { parts: parts.clone(), seed: *seed }),
            Self::Time(parts) => Some(PartRule::Time(parts.clone())),
        }
    }
}

/// How rows meet the feature tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinChoice {
    /// Streamed where the tables fit into memory.
    #[default]
    Auto,
    Streamed,
    Sorted,
}

/// The part of a lake that is prepared.
#[derive(Clone, Debug)]
pub struct LogRange {
    pub lake: String,
    /// Both ends included, in UTC.
    pub dates: RangeInclusive<NaiveDate>,
}

/// Options of [`prepare`](super::prepare).
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Every search a list. None: every query of the judgments is one, of all its judged documents.
    pub logs: Option<LogRange>,
    /// A table of `lockstep judge aggregate` to take labels from instead of clicks; rows that nobody judged are left out.
    pub judgments: Option<String>,
    /// Parquet files or folders.
    pub tables: BTreeMap<Key, String>,
    /// In the order that the dataset will have them.
    pub features: Vec<String>,
    pub labels: LabelOptions,
    pub weighting: Weighting,
    pub propensities: PropensityTable,
    pub missing: Missing,
    pub split: SplitBy,
    pub joins: JoinChoice,
    pub output: Output,
    pub engine: EngineOptions,
}

impl PrepareOptions {
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        let refuse = |message: String, hint: &str| Err(PipelineError::options(message).with_hint(hint));
        match &self.logs {
            Some(LogRange { dates, .. }) if dates.is_empty() => {
                let (from, to) = (dates.start(), dates.end());
                let hint = "--from comes before --to; both are included";
                return refuse(format!("from {from} to {to} is no range"), hint);
            }
            None if self.judgments.is_none() => {
                return refuse("there is nothing to prepare".into(), "name a lake with --logs, or --judgments");
            }
            None if self.tables.contains_key(&Key::User) => {
                return refuse(
                    "judgments have no users to join features of".into(),
                    "leave --user-features out, or name the --logs of searches",
                );
            }
            None if matches!(self.split, SplitBy::Time(_)) => {
                return refuse("judgments have no time to be split by".into(), "split by query");
            }
            _ => {}
        }
        if self.judgments.is_some() && self.weighting.kind != WeightKind::None {
            let hint = "inverse propensities make up for what clicks lack: leave --weights out";
            return refuse("judgments are not weighed by position".into(), hint);
        }
        if self.features.is_empty() {
            return refuse("no features are chosen".into(), "name some with --features, or leave the option out");
        }
        for (at, name) in self.features.iter().enumerate() {
            if self.features[..at].contains(name) {
                return refuse(format!("feature `{name}` is chosen twice"), "name each once");
            }
            let taken = RESERVED.contains(&name.as_str()) && name != "position";
            if taken
                || [TIME, WEIGHED, ROW].contains(&name.as_str())
                || name.starts_with("matched_")
                || name.contains('.')
            {
                return refuse(format!("`{name}` cannot be a feature's name"), "rename the column in its table");
            }
        }
        self.labels.check().map_err(|error| PipelineError::options(error.to_string()))?;
        self.weighting.check().map_err(|error| PipelineError::options(error.to_string()))?;
        if let SplitBy::Time(parts) = &self.split {
            for (at, part) in parts.iter().enumerate() {
                check_part_name(&part.name, parts[..at].iter().map(|other| other.name.as_str()))?;
            }
            let ordered = parts.windows(2).all(|pair| pair[0].from < pair[1].from);
            if parts.len() < 2 || parts[0].from.is_some() || !ordered {
                return refuse(
                    "the parts of a split by time do not follow each other".into(),
                    "as in time:train,validation=2026-01-21,test=2026-01-26",
                );
            }
        }
        Ok(())
    }
}
