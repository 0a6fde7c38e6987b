//! A CSV file of predictions as batches.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, Float32Builder, Float64Builder, StringBuilder};
use arrow::record_batch::RecordBatch;
use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};

use super::{ColumnNames, columns::Found, shown};
use crate::PipelineError;

pub(super) struct CsvBatches {
    path: PathBuf,
    reader: Reader<File>,
    header: Vec<String>,
    found: Found,
    record: ByteRecord,
    records: u64,
    a_row_is_a_line: bool,
}

impl CsvBatches {
    pub fn open(path: &Path, names: &ColumnNames) -> Result<Self, PipelineError> {
        let mut first = String::new();
        let file = || File::open(path).map_err(|error| PipelineError::io("open", path, error));
        std::io::BufRead::read_line(&mut std::io::BufReader::new(file()?), &mut first)
            .map_err(|error| PipelineError::io("read", path, error))?;
        let delimiter = if first.contains('\t') { b'\t' } else { b',' };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).buffer_capacity(1 << 18).from_reader(file()?);
        let header = reader.headers().map_err(|error| unreadable(path, &error))?;
        let header: Vec<String> =
            header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
        let found = names.find(&shown(path), header.iter().map(String::as_str))?;
        let record = ByteRecord::new();
        Ok(Self { path: path.to_owned(), reader, header, found, record, records: 0, a_row_is_a_line: true })
    }

    /// Whether so far every record was one line, the first of them line 2.
    pub fn a_row_is_a_line(&self) -> bool {
        self.a_row_is_a_line
    }

    pub fn next(&mut self, rows: usize) -> Result<Option<RecordBatch>, PipelineError> {
        let mut queries = StringBuilder::new();
        let (mut labels, mut scores) = (Float32Builder::with_capacity(rows), Float64Builder::with_capacity(rows));
        let mut documents = self.found.document.map(|_| StringBuilder::new());
        let mut read = 0;
        while read < rows
            && self.reader.read_byte_record(&mut self.record).map_err(|error| unreadable(&self.path, &error))?
        {
            let line = self.record.position().map_or(0, csv::Position::line);
            self.a_row_is_a_line &= line == self.records + 2;
            (read, self.records) = (read + 1, self.records + 1);
            queries.append_value(self.text(self.found.query, line)?);
            labels.append_value(self.number(self.found.label, line)?);
            scores.append_value(self.number(self.found.score, line)?);
            if let (Some(documents), Some(at)) = (&mut documents, self.found.document) {
                documents.append_value(self.text(at, line)?);
            }
        }
        if read == 0 {
            return Ok(None);
        }
        let name = |at: usize| self.header[at].as_str();
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            (name(self.found.query), Arc::new(queries.finish())),
            (name(self.found.label), Arc::new(labels.finish())),
            (name(self.found.score), Arc::new(scores.finish())),
        ];
        if let (Some(documents), Some(at)) = (&mut documents, self.found.document) {
            columns.push((name(at), Arc::new(documents.finish())));
        }
        let batch = RecordBatch::try_from_iter(columns);
        let failed =
            |error| PipelineError::data(format!("the columns of {} cannot be used", shown(&self.path))).because(error);
        batch.map(Some).map_err(failed)
    }

    fn text(&self, at: usize, line: u64) -> Result<&str, PipelineError> {
        match std::str::from_utf8(&self.record[at]) {
            Ok("") => Err(self.wrong(at, line, "the value is missing").with_hint("fill it in, or drop the line")),
            Ok(text) => Ok(text),
            Err(_) => Err(self.wrong(at, line, "the text is not UTF-8")),
        }
    }

    fn number<T: std::str::FromStr>(&self, at: usize, line: u64) -> Result<T, PipelineError> {
        let text = self.text(at, line)?.trim();
        text.parse().map_err(|_| self.wrong(at, line, &format!("`{text}` is not a number")))
    }

    fn wrong(&self, at: usize, line: u64, what: &str) -> PipelineError {
        PipelineError::data(format!("{} line {line}, column `{}`: {what}", shown(&self.path), self.header[at]))
    }
}

fn unreadable(path: &Path, error: &csv::Error) -> PipelineError {
    match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            PipelineError::data(format!("{} line {line}: {len} fields, the header has {expected_len}", shown(path)))
                .with_hint("a field that holds the delimiter is written in quotes")
        }
        ErrorKind::Utf8 { pos, .. } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            PipelineError::data(format!("{} line {line}: the text is not UTF-8", shown(path)))
                .with_hint("predictions are Parquet, or CSV with a line of column names")
        }
        _ => PipelineError::data(format!("cannot read {} as CSV: {error}", shown(path))),
    }
}
