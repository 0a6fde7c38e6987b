//! What both importers share: ids that are integers if all are, values with the line they stand on, and the way to the writer.

use std::{path::Path, sync::Arc};

use arrow::array::{ArrayRef, AsArray, Float32Array, Int64Array, StringArray, StringBuilder};
use arrow::datatypes::Float32Type;
use dataset::writer::{IdKind, Kind, Layout, TrainingSchema, TrainingWriter, WriteError};

use super::ImportReport;
use crate::{
    Output, PipelineError, Written,
    tally::{Distinct, Labels, Lists},
};

/// `file:line`, as editors and terminals understand it.
pub(super) fn at(path: &Path, line: u64) -> String {
    format!("`{}:{line}`", path.display())
}

/// Bytes of an input as a message shows them: readable, and not longer than a line.
pub(super) fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(40).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A finite float32, or what is wrong with the text.
pub(super) fn number(text: &[u8]) -> Result<f32, String> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f32>().ok());
    match parsed {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(format!("{} is not a finite float32", show(text))),
        None => Err(format!("{} is not a number", show(text))),
    }
}

/// An id that is an integer and spelled as one: `007` and `+7` are names, else they would become one with `7`.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if canonical { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Ids of a chunk.
pub(super) enum Ids {
    Int(Vec<i64>),
    Text(StringBuilder),
}

impl Ids {
    pub fn new(kind: IdKind) -> Self {
        match kind {
            IdKind::Int64 => Self::Int(Vec::new()),
            IdKind::Utf8 => Self::Text(StringBuilder::new()),
        }
    }

    /// False where the text is not of the kind that the first pass decided on: the input changed in between.
    pub fn push(&mut self, text: &[u8]) -> bool {
        match self {
            Self::Int(ids) => integer(text).map(|id| ids.push(id)).is_some(),
            Self::Text(ids) => std::str::from_utf8(text).map(|id| ids.append_value(id)).is_ok(),
        }
    }

    pub fn push_number(&mut self, id: i64) {
        if let Self::Int(ids) = self {
            ids.push(id);
        }
    }

    pub fn take(&mut self) -> ArrayRef {
        match self {
            Self::Int(ids) => Arc::new(Int64Array::from(std::mem::take(ids))),
            Self::Text(ids) => {
                let array: StringArray = ids.finish();
                Arc::new(array)
            }
        }
    }
}

pub(super) fn floats(values: Vec<f32>) -> ArrayRef {
    Arc::new(Float32Array::from(values))
}

/// Writes chunks and counts what they hold.
pub(super) struct Sink {
    writer: TrainingWriter,
    rows: u64,
    label: usize,
    query: usize,
    labels: Labels,
    lists: Lists,
    queries: Distinct,
    /// How to sort this kind of input.
    sort: &'static str,
}

impl Sink {
    pub fn create(output: &Output, schema: TrainingSchema, sort: &'static str) -> Result<Self, PipelineError> {
        let label = schema.find(|kind| *kind == Kind::Label).unwrap_or(0);
        let query = schema.find(|kind| matches!(kind, Kind::Query(_))).unwrap_or(schema.group());
        let writer = TrainingWriter::create(&output.path, schema, output.writer_options(Layout::Wide))?;
        let (labels, lists) = (Labels::default(), Lists::default());
        Ok(Self { writer, rows: 0, label, query, labels, lists, queries: Distinct::default(), sort })
    }

    /// `lines`: where each row stands in the input.
    pub fn write(&mut self, columns: &[ArrayRef], path: &Path, lines: &[u64]) -> Result<(), PipelineError> {
        self.writer.write(columns).map_err(|error| match &error {
            WriteError::Scattered { row, column, id } => {
                let line = lines.get((*row - self.rows) as usize).copied().unwrap_or(0);
                let place = at(path, line);
                PipelineError::data(format!("{place}: rows of {column} `{id}` come again after other rows"))
                    .with_hint(self.sort)
            }
            _ => error.into(),
        })?;
        let labels: &[f32] = columns[self.label].as_primitive::<Float32Type>().values();
        self.labels.add(labels);
        self.lists.add(&columns[self.writer.schema().group()], labels);
        self.queries.add(&columns[self.query], |_, _| {});
        self.rows += lines.len() as u64;
        Ok(())
    }

    pub fn finish(mut self, path: &Path, mut warnings: Vec<String>) -> Result<ImportReport, PipelineError> {
        self.lists.finish();
        let features = self.writer.schema().feature_names();
        let totals = self.writer.finish()?;
        warnings.extend(self.lists.warnings(&self.labels));
        Ok(ImportReport {
            written: Written::new(path, totals),
            rows: totals.rows,
            queries: self.queries.count,
            features,
            labels: self.labels.counts(),
            warnings,
        })
    }
}
