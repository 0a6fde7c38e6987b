//! Evaluation of rankings that somebody made: a file or stream of predictions, or a TREC qrels and run pair.
//!
//! Predictions are streamed list by list and nothing that grows with their number is kept: means are exact sums
//! ([`ranking::metrics::Sum`]), intervals are a bootstrap that needs no second look, and that no query comes back is checked by sorting hashes on
//! disk past a bound. Judgments and runs of TREC's form, whose lines may come in any order, are held in memory; so is one value a
//! metric and query where two rankings are compared ([`compare`]).

mod bootstrap;
mod columns;
mod compare;
mod csv;
mod form;
mod lists;
mod per_query;
mod predictions;
mod randomisation;
mod render;
mod seen;
mod summary;
mod trec;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use arrow::record_batch::RecordBatchReader;
use ranking::metrics::{Convention, Metric, Profile, Ties};
use serde::Serialize;

pub use bootstrap::{Bootstrap, Interval};
pub use columns::ColumnNames;
pub use compare::{Change, CompareOptions, CompareReport, Compared, compare};
pub use render::{render, render_comparison};

use crate::PipelineError;
use lists::{Judged, Lists};
use predictions::{Predictions, Stream};
use summary::Summary;
use trec::Pair;

/// How to evaluate, whatever is evaluated.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    pub metrics: Vec<Metric>,
    pub convention: Convention,
    /// Where the convention comes from; for its name and for what the tool does not have.
    pub profile: Profile,
    pub intervals: Option<Bootstrap>,
    pub per_query: Option<PerQuery>,
}

impl EvaluateOptions {
    /// Whether ties go by document id: nothing else looks at documents.
    fn by_document(&self) -> bool {
        self.convention.ties == Ties::DocumentDescending
    }
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            metrics: Metric::REPORTED.to_vec(),
            convention: Convention::default(),
            profile: Profile::Reference,
            intervals: None,
            per_query: None,
        }
    }
}

/// Where the values of each query go: `.csv` or `.parquet`.
#[derive(Clone, Debug)]
pub struct PerQuery {
    pub path: PathBuf,
    pub overwrite: bool,
}

impl PerQuery {
    /// Refuses a place that is one of what is read, or inside it.
    pub fn check_apart(&self, inputs: &[&Path]) -> Result<(), PipelineError> {
        dataset::whole_file::check_apart(&self.path, inputs)
            .map_err(|error| PipelineError { hint: error.hint, ..PipelineError::options(error.message) })
    }
}

/// What is evaluated.
#[derive(Clone, Debug)]
pub enum Rankings {
    /// Parquet or CSV: a file, or a folder of files.
    Predictions { path: PathBuf, columns: ColumnNames },
    /// Judgments and a ranking of TREC's form.
    Trec {
        qrels: PathBuf,
        run: PathBuf,
        /// Average over all judged queries: one without rows in the run is a list of no documents.
        complete: bool,
    },
}

impl Rankings {
    fn inputs(&self) -> Vec<&Path> {
        match self {
            Self::Predictions { path, .. } => vec![path],
            Self::Trec { qrels, run, .. } => vec![qrels, run],
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluateReport {
    /// What was evaluated, in words.
    pub input: String,
    pub rows: u64,
    pub queries: u64,
    /// Of these, queries without a relevant document.
    pub queries_without_relevant: u64,
    pub profile: Profile,
    /// Whether the convention is the profile's in all.
    pub profile_is_whole: bool,
    pub convention: Convention,
    /// The same in one sentence.
    pub convention_words: String,
    pub metrics: Vec<Value>,
    pub intervals: Option<Bootstrap>,
    pub per_query: Option<PathBuf>,
    pub notes: Vec<String>,
}

/// A metric's mean and what it means.
#[derive(Clone, Debug, Serialize)]
pub struct Value {
    pub name: Metric,
    /// None where no query counts.
    pub value: Option<f64>,
    /// The queries that count.
    pub queries: u64,
    pub interval: Option<Interval>,
    pub convention: String,
}

/// Evaluates files.
pub fn evaluate(rankings: &Rankings, options: &EvaluateOptions) -> Result<EvaluateReport, PipelineError> {
    if let Some(target) = &options.per_query {
        target.check_apart(&rankings.inputs())?;
    }
    let mut summary = Summary::new(options)?;
    let walked = walk(rankings, options, &mut |judged| summary.add(judged))?;
    summary.finish(walked)
}

/// Evaluates a stream of rows whose lists are contiguous, such as a model's scores. `name` says in messages what it is.
pub fn evaluate_batches(
    reader: &mut dyn RecordBatchReader,
    name: &str,
    columns: &ColumnNames,
    options: &EvaluateOptions,
) -> Result<EvaluateReport, PipelineError> {
    let mut summary = Summary::new(options)?;
    let mut stream = Stream::new(reader, name);
    let walked = Lists::new(options, columns).walk(&mut stream, &mut |judged| summary.add(judged))?;
    summary.finish(walked)
}

/// What was gone through.
pub(crate) struct Walked {
    input: String,
    rows: u64,
    notes: Vec<String>,
}

/// Evaluates each list of what is there, and hands on its values.
fn walk(
    rankings: &Rankings,
    options: &EvaluateOptions,
    on: &mut dyn FnMut(Judged<'_>) -> Result<(), PipelineError>,
) -> Result<Walked, PipelineError> {
    match rankings {
        Rankings::Predictions { path, columns } => {
            let mut files = Predictions::open(path, columns, options.by_document())?;
            Lists::new(options, columns).walk(&mut files, on)
        }
        Rankings::Trec { qrels, run, complete } => Pair::read(qrels, run, options)?.walk(*complete, options, on),
    }
}

/// An id for people: control characters are spelled out, so that no id moves a terminal's cursor.
fn printable(id: &str) -> Cow<'_, str> {
    if !id.contains(char::is_control) {
        return Cow::Borrowed(id);
    }
    let spell = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    Cow::Owned(id.chars().map(spell).collect())
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.display())
}
