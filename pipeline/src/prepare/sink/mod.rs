//! The end of the plan: rows become training files. A node of the query engine, so that each partition is written where it was
//! computed; what it hands on is one [`Outcome`] a partition, and only files that an outcome names are ever published.

mod node;
mod shard;

use std::path::PathBuf;

use dataset::writer::{Column, Compression, IdKind, Layout, TrainingSchema, WriteError, WriterOptions};
use ranking::{events::Timestamp, propensity::WeightHealth};
use serde::{Deserialize, Serialize};

pub use self::node::{NodePlanner, TrainingSink, TrainingSinkExec};
pub use self::shard::marker;
use crate::{LabelCount, split::Parts};

/// The plan's columns that are not features, by their names; markers are `matched_<table>`.
pub const LIST: &str = dataset::layout::LIST;
pub const TIME: &str = "query_timestamp";
/// How a row is weighed, as `expressions` numbers it.
pub const WEIGHED: &str = "weighed";

/// What to do about a feature that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fill {
    /// Count it; nothing is published.
    Refuse,
    /// A value for each feature, in their order.
    With(Vec<f32>),
    /// Leave the row out.
    DropRow,
}

/// Which part of the dataset a list belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PartRule {
    /// By a hash of the query's id, as `lockstep split` does it.
    Query { parts: Parts, seed: u64 },
    /// By the time of the search: a part takes what lies at or after its start and before the next one's.
    Time(Vec<TimePart>),
}

/// A part, and where in time it begins; the first has no beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimePart {
    pub name: String,
    /// Microseconds since 1970.
    pub from: Option<i64>,
}

impl TimePart {
    pub fn new(name: impl Into<String>, from: Option<Timestamp>) -> Self {
        Self { name: name.into(), from: from.map(|moment| moment.0) }
    }
}

impl PartRule {
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Query { parts, .. } => parts.as_slice().iter().map(|part| part.name.as_str()).collect(),
            Self::Time(parts) => parts.iter().map(|part| part.name.as_str()).collect(),
        }
    }
}

/// All that a partition must know to write its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkSpec {
    /// Shards are folders of this one.
    pub staging: PathBuf,
    pub features: Vec<String>,
    /// Tables whose marker columns tell whether a row found its key.
    pub tables: Vec<String>,
    pub vector: bool,
    pub zstd: bool,
    pub rows_per_file: u64,
    pub fill: Fill,
    pub parts: Option<PartRule>,
    /// Rows must first be brought together by list: some join has scattered them.
    pub cluster: bool,
}

impl SinkSpec {
    pub fn schema(&self) -> Result<TrainingSchema, WriteError> {
        let mut columns = vec![
            Column::list(IdKind::Int64),
            Column::query(IdKind::Utf8),
            Column::document(),
            Column::label(),
            Column::weight(),
        ];
        columns.extend(self.features.iter().map(Column::feature));
        TrainingSchema::new(columns)
    }

    fn writer(&self) -> WriterOptions {
        WriterOptions {
            layout: if self.vector { Layout::Vector } else { Layout::Wide },
            compression: if self.zstd { Compression::Zstd } else { Compression::None },
            rows_per_file: self.rows_per_file,
            ..WriterOptions::default()
        }
    }

    /// The names of the folders below the dataset; one nameless part where it is not split.
    pub fn part_names(&self) -> Vec<&str> {
        self.parts.as_ref().map_or_else(|| vec![""], PartRule::names)
    }
}

/// What became of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub partition: usize,
    /// Its folder below the staging folder.
    pub shard: String,
    pub parts: Vec<PartOutcome>,
    pub counts: Counts,
    /// Why it was given up: the data is no training data.
    pub refused: Option<String>,
}

/// One part's files, in a folder of the shard that has its name, or in the shard itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartOutcome {
    pub files: usize,
    pub rows: u64,
    pub lists: u64,
    pub bytes: u64,
}

/// What the rows were like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that arrived.
    pub rows: u64,
    /// Rows left out for a missing feature.
    pub dropped: u64,
    /// A feature each.
    pub missing: Vec<u64>,
    /// A table each.
    pub unmatched: Vec<u64>,
    pub labels: Vec<LabelCount>,
    pub single_label_lists: u64,
    /// Of the rows that are weighed.
    pub weights: WeightHealth,
}

impl Counts {
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.dropped += other.dropped;
        add(&mut self.missing, &other.missing);
        add(&mut self.unmatched, &other.unmatched);
        self.single_label_lists += other.single_label_lists;
        self.weights.merge(&other.weights);
        for count in &other.labels {
            match self.labels.iter_mut().find(|known| known.label == count.label) {
                Some(known) => known.rows += count.rows,
                None => self.labels.push(*count),
            }
        }
        // None, the rest, comes last.
        self.labels.sort_by(|a, b| a.label.unwrap_or(f32::INFINITY).total_cmp(&b.label.unwrap_or(f32::INFINITY)));
    }
}

fn add(sums: &mut Vec<u64>, counts: &[u64]) {
    sums.resize(sums.len().max(counts.len()), 0);
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}
