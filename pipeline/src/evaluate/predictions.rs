//! Predictions as batches: Parquet and CSV files, and streams that somebody else reads.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use arrow::record_batch::{RecordBatch, RecordBatchReader};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{
    ColumnNames,
    csv::{CsvBatches, line_of_row},
    lists::Rows,
    shown,
};
use crate::PipelineError;

/// Large enough that a batch's overhead vanishes, small enough for a cache.
const BATCH_ROWS: usize = 16 << 10;

/// The files of a folder in order, or one file.
pub(super) struct Predictions<'a> {
    path: PathBuf,
    names: &'a ColumnNames,
    /// Whether the columns of documents are read.
    documents: bool,
    files: Vec<PathBuf>,
    /// Of each opened file: its number of the first row, over all; and whether it has lines.
    opened: Vec<Opened>,
    reading: Option<Reading>,
    next_row: u64,
}

struct Opened {
    first_row: u64,
    is_csv: bool,
}

enum Reading {
    Parquet(ParquetRecordBatchReader),
    Csv(CsvBatches),
}

impl<'a> Predictions<'a> {
    pub fn open(path: &Path, names: &'a ColumnNames, documents: bool) -> Result<Self, PipelineError> {
        let files = list_files(path)?;
        Ok(Self { path: path.to_owned(), names, documents, files, opened: Vec::new(), reading: None, next_row: 0 })
    }

    fn open_next(&mut self) -> Result<bool, PipelineError> {
        let Some(path) = self.files.get(self.opened.len()) else { return Ok(false) };
        let parquet = is_parquet(path)?;
        self.opened.push(Opened { first_row: self.next_row, is_csv: !parquet });
        self.reading = Some(if parquet {
            open_parquet(path, self.names, self.documents)?
        } else {
            Reading::Csv(CsvBatches::open(path, self.names, self.documents)?)
        });
        Ok(true)
    }

    fn current(&self) -> &Path {
        &self.files[self.opened.len().saturating_sub(1)]
    }
}

impl Rows for Predictions<'_> {
    fn name(&self) -> String {
        shown(self.current())
    }

    fn input(&self) -> String {
        match self.files.len() {
            1 => shown(&self.path),
            files => format!("{}, {files} files", shown(&self.path)),
        }
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, PipelineError> {
        loop {
            let batch = match &mut self.reading {
                None => None,
                Some(Reading::Parquet(reader)) => {
                    reader.next().transpose().map_err(|error| unreadable(self.current(), error))?
                }
                Some(Reading::Csv(batches)) => batches.next(BATCH_ROWS)?,
            };
            match batch {
                Some(batch) => {
                    self.next_row += batch.num_rows() as u64;
                    return Ok(Some(batch));
                }
                None if !self.open_next()? => return Ok(None),
                None => {}
            }
        }
    }

    fn place(&self, row: u64) -> String {
        let file = self.opened.partition_point(|opened| opened.first_row <= row).saturating_sub(1);
        let Some(opened) = self.opened.get(file) else { return shown(&self.path) };
        let (row, path) = (row - opened.first_row, &self.files[file]);
        match opened.is_csv.then(|| line_of_row(path, row)).flatten() {
            Some(line) => format!("{} line {line}", shown(path)),
            None => format!("{} row {row}", shown(path)),
        }
    }
}

fn open_parquet(path: &Path, names: &ColumnNames, documents: bool) -> Result<Reading, PipelineError> {
    let file = File::open(path).map_err(|error| PipelineError::io("open", path, error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(path, error))?;
    let fields = builder.schema().fields().clone();
    let found = names.find(&shown(path), fields.iter().map(|field| field.name().as_str()), documents)?;
    let roots = [found.query, found.label, found.score].into_iter().chain(found.document);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    Ok(Reading::Parquet(reader.map_err(|error| unreadable(path, error))?))
}

fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::data(format!("cannot read {} as Parquet", shown(path))).because(error)
}

/// By what it begins with, whatever it is called.
fn is_parquet(path: &Path) -> Result<bool, PipelineError> {
    let failed = |error| PipelineError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = Vec::with_capacity(4);
    file.by_ref().take(4).read_to_end(&mut magic).map_err(failed)?;
    if magic.is_empty() {
        return Err(PipelineError::data(format!("{} is empty", shown(path)))
            .with_hint("predictions are Parquet, or CSV with a line of column names"));
    }
    Ok(magic == b"PAR1")
}

/// The file itself, or by name the Parquet files of a folder, or where it has none its CSV files; hidden ones (`.` and `_`) are
/// somebody's working state.
fn list_files(path: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let failed = |error| PipelineError::io("read", path, error);
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut parquet, mut csv) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        match entry.extension().and_then(|extension| extension.to_str()) {
            _ if hidden => {}
            Some("parquet") => parquet.push(entry),
            Some("csv" | "tsv") => csv.push(entry),
            _ => {}
        }
    }
    let mut files = if parquet.is_empty() { csv } else { parquet };
    if files.is_empty() {
        return Err(PipelineError::data(format!("{} holds no .parquet, .csv or .tsv file", shown(path))));
    }
    files.sort();
    Ok(files)
}

/// Batches that somebody else reads.
pub(super) struct Stream<'a> {
    reader: &'a mut dyn RecordBatchReader,
    name: &'a str,
}

impl<'a> Stream<'a> {
    pub fn new(reader: &'a mut dyn RecordBatchReader, name: &'a str) -> Self {
        Self { reader, name }
    }
}

impl Rows for Stream<'_> {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn input(&self) -> String {
        self.name.to_owned()
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, PipelineError> {
        self.reader
            .next()
            .transpose()
            .map_err(|error| PipelineError::data(format!("the rows of {} cannot be read", self.name)).because(error))
    }

    fn place(&self, row: u64) -> String {
        format!("{} row {row}", self.name)
    }
}
