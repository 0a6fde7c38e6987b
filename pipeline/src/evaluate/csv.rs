//! A CSV file of predictions as batches.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
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
}

impl CsvBatches {
    /// `documents`: whether the column of documents is read.
    pub fn open(path: &Path, names: &ColumnNames, documents: bool) -> Result<Self, PipelineError> {
        let mut reader = reader(path).map_err(|error| PipelineError::io("open", path, error))?;
        let header = reader.headers().map_err(|error| unreadable(path, &error))?;
        let header: Vec<String> =
            header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
        if let Some(twice) =
            header.iter().enumerate().find(|(at, name)| !name.is_empty() && header[..*at].contains(name))
        {
            return Err(PipelineError::data(format!("{} has two columns `{}`", shown(path), twice.1))
                .with_hint("which of them is meant, nobody can tell: rename or drop one"));
        }
        let found = names.find(&shown(path), header.iter().map(String::as_str), documents)?;
        Ok(Self { path: path.to_owned(), reader, header, found, record: ByteRecord::new() })
    }

    pub fn next(&mut self, rows: usize) -> Result<Option<RecordBatch>, PipelineError> {
        let mut queries = StringBuilder::new();
        let (mut labels, mut scores) = (Float32Builder::with_capacity(rows), Float64Builder::with_capacity(rows));
        let mut documents = self.found.document.map(|_| StringBuilder::new());
        let mut read = 0;
        while read < rows
            && self.reader.read_byte_record(&mut self.record).map_err(|error| unreadable(&self.path, &error))?
        {
            read += 1;
            if self.record.len() != self.header.len() {
                return Err(self.ragged());
            }
            queries.append_value(self.text(self.found.query)?);
            labels.append_value(self.number(self.found.label)?);
            scores.append_value(self.number(self.found.score)?);
            if let (Some(documents), Some(at)) = (&mut documents, self.found.document) {
                documents.append_value(self.text(at)?);
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

    fn text(&self, at: usize) -> Result<&str, PipelineError> {
        match std::str::from_utf8(&self.record[at]) {
            Ok("") => Err(self.wrong(at, "the value is missing").with_hint("fill it in, or drop the line")),
            Ok(text) => Ok(text),
            Err(_) => Err(self.wrong(at, "the text is not UTF-8").with_hint("write the file as UTF-8")),
        }
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> Result<T, PipelineError> {
        let text = self.text(at)?.trim();
        text.parse().map_err(|_| {
            let hint = match at == self.found.label {
                true => {
                    "labels are grades: write them as numbers, 0 for not relevant, or name another column with --label"
                }
                false => "scores are numbers: name another column with --score",
            };
            self.wrong(at, &format!("`{text}` is not a number")).with_hint(hint)
        })
    }

    fn wrong(&self, at: usize, what: &str) -> PipelineError {
        PipelineError::data(format!("{}, column `{}`: {what}", self.place(), self.header[at]))
    }

    fn ragged(&self) -> PipelineError {
        let (fields, wanted) = (self.record.len(), self.header.len());
        PipelineError::data(format!("{}: {fields} fields, the header has {wanted}", self.place()))
            .with_hint("a field that holds the delimiter is written in quotes")
    }

    fn place(&self) -> String {
        match line_of(&self.path, &self.record) {
            Some(line) => format!("{} line {line}", shown(&self.path)),
            None => shown(&self.path),
        }
    }
}

fn reader(path: &Path) -> io::Result<Reader<File>> {
    let mut first = Vec::new();
    BufReader::new(File::open(path)?).read_until(b'\n', &mut first)?;
    let delimiter = if first.contains(&b'\t') { b'\t' } else { b',' };
    let mut builder = ReaderBuilder::new();
    // Ragged lines are told with their true number.
    builder.delimiter(delimiter).flexible(true).buffer_capacity(1 << 18);
    Ok(builder.from_reader(File::open(path)?))
}

/// The line, from 1, at which a row begins, where the file still tells. Rows count from 0 and without the header; blank lines are no
/// rows, and a row may span lines: so the file is read again up to it, which only an error's words are worth.
pub(super) fn line_of_row(path: &Path, row: u64) -> Option<u64> {
    let mut reader = reader(path).ok()?;
    let mut record = ByteRecord::new();
    for _ in 0..=row {
        reader.read_byte_record(&mut record).ok().filter(|there| *there)?;
    }
    line_of(path, &record)
}

/// A reader says where a record was looked for, which is before the rest of a line's end and the blank lines that it skips.
fn line_of(path: &Path, record: &ByteRecord) -> Option<u64> {
    let looked_for = record.position()?.byte();
    let (mut line, mut before) = (1, 0);
    for (at, byte) in (0..).zip(BufReader::with_capacity(1 << 18, File::open(path).ok()?).bytes()) {
        let byte = byte.ok()?;
        if at >= looked_for && !matches!(byte, b'\n' | b'\r') {
            return Some(line);
        }
        // Also where `\r` alone ends lines; `\r\n` is one end.
        line += u64::from(byte == b'\r' || (byte == b'\n' && before != b'\r'));
        before = byte;
    }
    None
}

fn unreadable(path: &Path, error: &csv::Error) -> PipelineError {
    match error.kind() {
        ErrorKind::Utf8 { .. } => PipelineError::data(format!("{} line 1: the text is not UTF-8", shown(path)))
            .with_hint("predictions are Parquet, or CSV in UTF-8 with a line of column names"),
        _ => PipelineError::data(format!("cannot read {} as CSV: {error}", shown(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_as_an_editor_counts_them_past_blank_lines_and_lines_in_quotes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        for (text, lines) in [
            ("query,label,score\n\n\na,1,1\n\"a\nb\",1,1\n\nc,1,1", [4, 5, 8]),
            ("\u{feff}query,label,score\r\na,1,1\r\n\r\nb,1,1\r\nc,1,1\r\n", [2, 4, 5]),
            ("query,label,score\ra,1,1\rb,1,1\r\rc,1,1", [2, 3, 5]),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!([0, 1, 2].map(|row| line_of_row(&path, row)), lines.map(Some), "{text:?}");
            assert_eq!(line_of_row(&path, 3), None, "{text:?}");
        }
    }

    #[test]
    fn columns_of_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        std::fs::write(&path, "query,label,score,score\na,1,1,2\n").unwrap();
        let error = CsvBatches::open(&path, &ColumnNames::default(), false).err().unwrap();
        assert!(error.message.ends_with("has two columns `score`"), "{error}");
    }
}
