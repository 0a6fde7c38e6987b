//! The training layout: how Lockstep's own writers mark a Parquet file, so that readers need not scan it first.
//!
//! One row an impression. Reserved columns: `list_id`, `query_id`, `document_id`, `label`, `sample_weight`; everything else
//! that is named in [`Footer::features`] is a feature. Rows of a list are contiguous and a row group ends with a list.

use serde::{Deserialize, Serialize};

/// The key of [`Footer`] in a file's key-value metadata.
pub const FOOTER_KEY: &str = "lockstep.training";

pub const LABEL: &str = "label";
pub const QUERY: &str = "query_id";
pub const LIST: &str = "list_id";
pub const DOCUMENT: &str = "document_id";
pub const WEIGHT: &str = "sample_weight";
/// The list column of the vector layout.
pub const FEATURES: &str = "features";

/// Columns that are never features by default in a foreign file.
pub const RESERVED: [&str; 6] = [LABEL, QUERY, LIST, DOCUMENT, WEIGHT, "position"];

/// How many marks a file holds at most; past it every other one is dropped.
pub const MAX_MARKS: usize = 4096;

/// What our writers say about a file, as JSON under [`FOOTER_KEY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// 1.
    pub version: u32,
    /// Feature names in order: the columns of the wide layout, the elements of the vector layout.
    pub features: Vec<String>,
    /// True where the features are one fixed-size list column named [`FEATURES`].
    pub vector: bool,
    /// The column whose runs of equal values are the lists counted here: [`LIST`] or [`QUERY`].
    pub group: String,
    /// Lists in this file.
    pub lists: u64,
    /// Some list starts, evenly spread, the first of them (0, 0): list `mark_lists[k]` starts at row `mark_rows[k]` of the file. Ascending, not deltas.
    pub mark_rows: Vec<u64>,
    pub mark_lists: Vec<u64>,
    /// xxh3-128 over the rows, in hex: makes the footer, and so the dataset's hash, speak for the content.
    pub content: String,
}

impl Footer {
    /// Whether the marks make sense for a file of so many rows.
    pub fn is_sound(&self, rows: u64) -> bool {
        let ascending = |marks: &[u64]| marks.windows(2).all(|pair| pair[0] < pair[1]);
        self.mark_rows.len() == self.mark_lists.len()
            && self.mark_rows.first().is_none_or(|first| *first == 0)
            && ascending(&self.mark_rows)
            && ascending(&self.mark_lists)
            && self.mark_rows.last().is_none_or(|last| *last < rows)
            && self.mark_lists.last().is_none_or(|last| *last < self.lists)
    }
}
