//! Predictions as batches: Parquet and CSV files, and streams that somebody else reads.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use arrow::record_batch::{RecordBatch, RecordBatchReader};
use dataset::files::files_under;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{
    ColumnNames,
    csv::{CsvBatches, line_of_row},
    form::{Form, form_of},
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
    /// What of the folder is not read, in words.
    left_out: Option<String>,
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
        let (files, left_out) = list_files(path)?;
        Ok(Self {
            path: path.to_owned(),
            names,
            documents,
            files,
            left_out,
            opened: Vec::new(),
            reading: None,
            next_row: 0,
        })
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

    fn notes(&self) -> Vec<String> {
        self.left_out.iter().cloned().collect()
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
    match form_of(path)? {
        Form::Nothing => Err(PipelineError::data(format!("{} is empty", shown(path)))
            .with_hint("predictions are Parquet, or CSV with a line of column names")),
        form => Ok(form == Form::Parquet),
    }
}

/// The file itself, or by path the Parquet files in a folder and its folders, or where there are none the CSV files; and what else is there.
fn list_files(path: &Path) -> Result<(Vec<PathBuf>, Option<String>), PipelineError> {
    let is_csv = |name: &str| name.ends_with(".csv") || name.ends_with(".tsv");
    let wanted = |name: &str| name.ends_with(".parquet") || is_csv(name);
    let files = files_under(path, wanted, |path, error| PipelineError::io("read", path, error))?;
    let is_csv = |file: &PathBuf| is_csv(&file.to_string_lossy());
    if path.is_file() || files.iter().all(is_csv) {
        return match files.is_empty() {
            true => Err(PipelineError::data(format!("{} holds no .parquet, .csv or .tsv file", shown(path)))),
            false => Ok((files, None)),
        };
    }
    let (csv, parquet): (Vec<_>, Vec<_>) = files.into_iter().partition(is_csv);
    let left_out = match &csv[..] {
        [] => None,
        [one] => Some(format!("beside Parquet and not read: {}", shown(one))),
        [first, more @ ..] => Some(format!(
            "beside Parquet and not read: {} and {} CSV file{} more",
            shown(first),
            more.len(),
            if more.len() == 1 { "" } else { "s" }
        )),
    };
    Ok((parquet, left_out))
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
