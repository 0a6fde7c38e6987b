//! Where a dataset goes and how it is written: what every verb that writes one asks for.

use std::path::{Path, PathBuf};

use dataset::writer::{Compression, Layout, Totals, WriterOptions};
use serde::Serialize;

/// The folder to write and the physical choices of [`dataset::writer`].
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The folder that appears when all is well.
    pub path: PathBuf,
    /// Replace a dataset that is there, at the very end. Without it an existing, non-empty folder is refused.
    pub overwrite: bool,
    /// Default: as the input where that is a dataset (split), else [`Layout::Wide`].
    pub layout: Option<Layout>,
    pub compression: Compression,
    /// A new file begins with the first list at or past this many rows.
    pub rows_per_file: u64,
}

impl Default for Output {
    fn default() -> Self {
        let writer = WriterOptions::default();
        Self {
            path: PathBuf::new(),
            overwrite: false,
            layout: None,
            compression: writer.compression,
            rows_per_file: writer.rows_per_file,
        }
    }
}

impl Output {
    pub(crate) fn writer_options(&self, default_layout: Layout) -> WriterOptions {
        WriterOptions {
            layout: self.layout.unwrap_or(default_layout),
            compression: self.compression,
            rows_per_file: self.rows_per_file,
            overwrite: self.overwrite,
            ..WriterOptions::default()
        }
    }
}

/// What one written dataset folder holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    pub path: PathBuf,
    pub files: usize,
    pub rows: u64,
    pub lists: u64,
    pub bytes: u64,
}

impl Written {
    pub(crate) fn new(path: &Path, totals: Totals) -> Self {
        let Totals { files, rows, lists, bytes } = totals;
        Self { path: path.to_owned(), files, rows, lists, bytes }
    }
}
