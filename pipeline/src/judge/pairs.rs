//! Reads the query-document pairs that are to be rated, from CSV, JSONL or Parquet.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ranking::judgments::Pair;
use serde::Deserialize;

use super::ratings::{Id, spell_json};
use crate::PipelineError;

/// The columns of a file of pairs; all but the first two may be missing.
const COLUMNS: [&str; 5] = ["query_id", "document_id", "query", "title", "text"];
const WHAT: &str = "a file of pairs has `query_id` and `document_id`, and for raters to read `query`, `title`, `text`";

/// A pair, and what a rater reads of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PairToRate {
    pub pair: Pair,
    /// The query's words; without them raters see its id.
    pub query: Option<String>,
    /// The document's title.
    pub title: Option<String>,
    /// The document's text; without title and text raters see its id.
    pub text: Option<String>,
}

/// Reads `.csv`, `.tsv`, `.jsonl` or `.parquet`. Ids are text; whole numbers become their digits. Other columns are passed over.
///
/// A pair that is listed twice, and an id that is missing, are refused with their place (lines from 1, Parquet rows from 0).
pub fn read_pairs(path: &Path) -> Result<Vec<PairToRate>, PipelineError> {
    let mut gathering = Gathering { path, unit: "line", pairs: Vec::new(), seen: HashMap::new() };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => read_csv(&mut gathering, b',')?,
        Some("tsv" | "tab") => read_csv(&mut gathering, b'\t')?,
        Some("jsonl" | "ndjson") => read_jsonl(&mut gathering)?,
        Some("parquet") => read_parquet(&mut gathering)?,
        _ => {
            let message = format!("`{}` is no kind of file that pairs are read from", path.display());
            return Err(PipelineError::options(message).with_hint("write .csv, .tsv, .jsonl or .parquet"));
        }
    }
    if gathering.pairs.is_empty() {
        return Err(PipelineError::data(format!("`{}` holds no pair", path.display())));
    }
    Ok(gathering.pairs)
}

struct Gathering<'a> {
    path: &'a Path,
    /// What places count.
    unit: &'static str,
    pairs: Vec<PairToRate>,
    seen: HashMap<Pair, u64>,
}

impl Gathering<'_> {
    /// The values in the order of [`COLUMNS`], empty ones as good as none.
    fn push(&mut self, place: u64, values: [Option<String>; 5]) -> Result<(), PipelineError> {
        let at = format!("`{}` {} {place}", self.path.display(), self.unit);
        let [query_id, document_id, query, title, text] = values.map(|value| value.filter(|text| !text.is_empty()));
        let id = |id: Option<String>, name: &str| {
            id.ok_or_else(|| PipelineError::data(format!("{at}, `{name}`: the id is missing")))
        };
        let pair = Pair { query_id: id(query_id, COLUMNS[0])?, document_id: id(document_id, COLUMNS[1])? };
        if let Some(first) = self.seen.insert(pair.clone(), place) {
            let Pair { query_id, document_id } = pair;
            let message =
                format!("{at}: query `{query_id}` with document `{document_id}` is on {} {first} too", self.unit);
            return Err(PipelineError::data(message).with_hint("list each pair once; raters are counted by --raters"));
        }
        self.pairs.push(PairToRate { pair, query, title, text });
        Ok(())
    }

    /// Where the known columns are among those there are.
    fn columns(&self, there: &[String]) -> Result<[Option<usize>; 5], PipelineError> {
        let columns = COLUMNS.map(|name| there.iter().position(|column| column == name));
        match columns[..2].iter().position(Option::is_none) {
            Some(missing) => {
                let message = format!("`{}` has no column `{}`", self.path.display(), COLUMNS[missing]);
                Err(PipelineError::data(message).with_hint(format!("its columns are {}; {WHAT}", there.join(", "))))
            }
            None => Ok(columns),
        }
    }

    fn open(&self) -> Result<File, PipelineError> {
        File::open(self.path).map_err(|error| PipelineError::io("open", self.path, error))
    }
}

fn read_csv(gathering: &mut Gathering<'_>, delimiter: u8) -> Result<(), PipelineError> {
    let unreadable = |path: &Path, error: csv::Error| {
        PipelineError::data(format!("cannot read `{}` as CSV", path.display())).because(error)
    };
    let path = gathering.path;
    let mut text = Vec::new();
    gathering.open()?.read_to_end(&mut text).map_err(|error| PipelineError::io("read", path, error))?;
    if let Some(line) = open_quote(&text, delimiter) {
        let message = format!("`{}` line {line}: a quote opens a value here and never closes", path.display());
        return Err(PipelineError::data(message).with_hint(
            "write a value that begins with a quote as \"\"\"12 inch\": in quotes, and its own ones twice",
        ));
    }
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(&text[..]);
    let header = reader.headers().map_err(|error| unreadable(path, error))?;
    let columns = gathering.columns(&header.iter().map(str::to_owned).collect::<Vec<_>>())?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| unreadable(path, error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let value = |column: Option<usize>| column.and_then(|column| record.get(column)).map(str::to_owned);
        gathering.push(line, columns.map(value))?;
    }
    Ok(())
}

/// The line of a quote that is still open at the end: the CSV reader takes all that follows it as one value, and says nothing.
fn open_quote(text: &[u8], delimiter: u8) -> Option<u64> {
    // As that reader has it, a quote opens a value only where the value begins; inside, two of them are one of its own.
    let (mut line, mut opened, mut inside, mut begins, mut closed) = (1, 0, false, true, false);
    for &byte in text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text) {
        let quote = byte == b'"';
        if inside {
            (inside, closed) = (!quote, quote);
        } else if quote && (begins || closed) {
            opened = if closed { opened } else { line };
            (inside, closed) = (true, false);
        } else {
            closed = false;
        }
        begins = !inside && (byte == delimiter || byte == b'\n' || byte == b'\r');
        line += u64::from(byte == b'\n');
    }
    inside.then_some(opened)
}

#[derive(Deserialize)]
struct Line {
    query_id: Id,
    document_id: Id,
    query: Option<String>,
    title: Option<String>,
    text: Option<String>,
}

fn read_jsonl(gathering: &mut Gathering<'_>) -> Result<(), PipelineError> {
    let path = gathering.path;
    for (number, line) in (1..).zip(BufReader::new(gathering.open()?).lines()) {
        let line = line.map_err(|error| PipelineError::io("read", path, error))?;
        if line.trim().is_empty() {
            continue;
        }
        let Line { query_id, document_id, query, title, text } = serde_json::from_str(&line).map_err(|error| {
            let message = format!("`{}` line {number}: {}", path.display(), spell_json(&error));
            PipelineError::data(message).with_hint(WHAT)
        })?;
        gathering.push(number, [Some(query_id.0), Some(document_id.0), query, title, text])?;
    }
    Ok(())
}

fn read_parquet(gathering: &mut Gathering<'_>) -> Result<(), PipelineError> {
    gathering.unit = "row";
    let path = gathering.path;
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| PipelineError {
        source: Some(error),
        ..PipelineError::data(format!("cannot read `{}` as Parquet", path.display()))
    };
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(gathering.open()?).map_err(|error| unreadable(error.into()))?;
    let fields = builder.schema().fields().clone();
    let columns = gathering.columns(&fields.iter().map(|field| field.name().clone()).collect::<Vec<_>>())?;
    for column in columns.into_iter().flatten() {
        let field = &fields[column];
        if !is_text(field.data_type()) && !field.data_type().is_integer() {
            let message = format!("`{}`, column `{}`: {} is not text", path.display(), field.name(), field.data_type());
            return Err(PipelineError::data(message).with_hint("ids are text or whole numbers, the rest is text"));
        }
    }
    let mut row = 0;
    for batch in builder.build().map_err(|error| unreadable(error.into()))? {
        let batch: RecordBatch = batch.map_err(|error| unreadable(error.into()))?;
        let texts = |column: Option<usize>| -> Result<Option<ArrayRef>, PipelineError> {
            let cast = |column: usize| arrow::compute::cast(batch.column(column), &DataType::Utf8);
            column.map(cast).transpose().map_err(|error| unreadable(error.into()))
        };
        let mut arrays = Vec::with_capacity(columns.len());
        for column in columns {
            arrays.push(texts(column)?);
        }
        for at in 0..batch.num_rows() {
            let values = std::array::from_fn(|column| {
                let texts = arrays[column].as_ref()?.as_string::<i32>();
                texts.is_valid(at).then(|| texts.value(at).to_owned())
            });
            gathering.push(row, values)?;
            row += 1;
        }
    }
    Ok(())
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}
