//! Text data into the training layout: [`svmrank`] (SVMrank, LibSVM, LightGBM rows) and [`csv`].
//!
//! Two passes over the input: the first validates every value and decides what the second needs to know (how many
//! features, whether query ids are integers), so that nothing is written for an input that would be refused.
//! Several input files are read as one long file, in the order given.

mod csv;
mod sink;
mod svmrank;

use std::{fmt, path::PathBuf};

use serde::Serialize;

pub use self::{csv::csv, svmrank::svmrank};
use crate::{LabelCount, output::Output, output::Written};

/// Which number the first feature has in SVMrank rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// One, unless a feature 0 appears anywhere in the input.
    #[default]
    Auto,
    Zero,
    One,
}

/// Options of [`svmrank`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SvmrankOptions {
    pub inputs: Vec<PathBuf>,
    /// Files of one document count a query, one per input, for rows without `qid`. Default: `<input>.query` or `<input>.group`.
    pub counts: Vec<PathBuf>,
    pub base: Base,
    /// How many features there are; a larger id is refused. Default: as many as the largest id says.
    pub features: Option<usize>,
    pub output: Output,
}

/// What separates the fields of a [`csv`] input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delimiter {
    /// A tab for `.tsv` and `.tab`, else a comma.
    #[default]
    Auto,
    /// This byte.
    Byte(u8),
}

/// Options of [`csv`]. A column named in an option must be there; the defaults are used where the header has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsvOptions {
    pub inputs: Vec<PathBuf>,
    pub delimiter: Delimiter,
    /// Default `label`.
    pub label: Option<String>,
    /// Default `query_id`.
    pub query: Option<String>,
    /// Default `list_id`, where there is one.
    pub list: Option<String>,
    /// Default `document_id`, where there is one.
    pub document: Option<String>,
    /// Default `sample_weight`, where there is one.
    pub weight: Option<String>,
    /// Default: every other column whose first value is a number.
    pub features: Option<Vec<String>>,
    /// What an empty feature becomes. Default: it is refused.
    pub fill: Option<f32>,
    pub output: Output,
}

/// What an import read and wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportReport {
    pub written: Written,
    pub rows: u64,
    pub queries: u64,
    pub features: Vec<String>,
    /// Rows by label, ascending; at most 64 different labels are told apart.
    pub labels: Vec<LabelCount>,
    /// Sentences about what is odd but was taken.
    pub warnings: Vec<String>,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let features = self.features.len();
        writeln!(f, "{} rows, {} queries, {features} features", self.rows, self.queries)?;
        writeln!(f, "labels  {}", crate::tally::spell_labels(&self.labels))?;
        write!(f, "wrote   {} ({} files)", self.written.path.display(), self.written.files)?;
        for warning in &self.warnings {
            write!(f, "\nnote    {warning}")?;
        }
        Ok(())
    }
}
