//! Splits a training dataset into named parts, never through a query.
//!
//! A query's part is decided by a hash of its id and the seed alone: it stays where it is when the data grows, when files are
//! cut differently, and when ids turn from integers to text.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::FilterBuilder;
use arrow::datatypes::Int64Type;
use dataset::writer::{Kind, Runs, Staging, TrainingWriter, WriteError};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Chunk, Output, PipelineError, ReadOptions, TrainingReader, Written, tally::Distinct};

/// One part of a split: a folder of this name, and its share of the queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub share: f64,
}

/// The parts of a split, as in `train=0.8,validation=0.1,test=0.1` ([`FromStr`]): names of folders, shares that add up to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parts(Vec<Part>);

/// Options of [`split`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SplitOptions {
    /// A Parquet file, or a folder of them.
    pub input: PathBuf,
    /// Its path is the folder that holds one folder a part.
    pub output: Output,
    pub parts: Parts,
    pub seed: u64,
    /// Default `query_id`; a dataset without one is split by list.
    pub query: Option<String>,
    /// Default `label`.
    pub label: Option<String>,
}

/// What a split wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitReport {
    pub rows: u64,
    pub queries: u64,
    /// In the order of the options.
    pub parts: Vec<PartReport>,
}

/// One part as written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartReport {
    pub name: String,
    pub share: f64,
    pub queries: u64,
    pub written: Written,
}

/// A part is a folder: its name is one, and not that of another or of a shard.
pub(crate) fn check_part_name<'a>(name: &str, mut before: impl Iterator<Item = &'a str>) -> Result<(), PipelineError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with("shard-") {
        return Err(PipelineError::options(format!("a part cannot be named `{name}`"))
            .with_hint("letters, digits, - and _, not beginning with shard-"));
    }
    if before.any(|other| other == name) {
        return Err(
            PipelineError::options(format!("part `{name}` appears twice")).with_hint("give each part its own name")
        );
    }
    Ok(())
}

impl Parts {
    pub fn new(parts: Vec<Part>) -> Result<Self, PipelineError> {
        let refuse = |message: String, hint: &str| Err(PipelineError::options(message).with_hint(hint));
        for (index, Part { name, share }) in parts.iter().enumerate() {
            check_part_name(name, parts[..index].iter().map(|other| other.name.as_str()))?;
            if !(*share > 0.0 && *share <= 1.0) {
                return refuse(format!("the share of part `{name}` is {share}"), "shares are above 0 and add up to 1");
            }
        }
        let sum: f64 = parts.iter().map(|part| part.share).sum();
        if (sum - 1.0).abs() > 1e-6 {
            return refuse(format!("the shares add up to {sum}"), "they must add up to 1: name a part for the rest");
        }
        Ok(Self(parts))
    }

    pub fn as_slice(&self) -> &[Part] {
        &self.0
    }

    /// Which part the query belongs to.
    pub(crate) fn of(&self, hash: u64) -> usize {
        let position = (hash >> 11) as f64 / (1u64 << 53) as f64;
        let mut below = 0.0;
        let part = self.0.iter().position(|part| {
            below += part.share;
            position < below
        });
        // Shares may add up to a hair less than 1.
        part.unwrap_or(self.0.len() - 1)
    }
}

impl Default for Parts {
    /// `train=0.8,validation=0.1,test=0.1`
    fn default() -> Self {
        let part = |name: &str, share| Part { name: name.into(), share };
        Self(vec![part("train", 0.8), part("validation", 0.1), part("test", 0.1)])
    }
}

impl FromStr for Parts {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        let part = |text: &str| {
            let (name, share) = text.split_once('=')?;
            Some(Part { name: name.trim().into(), share: share.trim().parse().ok()? })
        };
        let parts = text.split(',').map(|text| {
            part(text).ok_or_else(|| {
                PipelineError::options(format!("`{text}` is not a part"))
                    .with_hint("as in train=0.8,validation=0.1,test=0.1")
            })
        });
        Self::new(parts.collect::<Result<_, _>>()?)
    }
}

/// Splits; all parts appear, or none does.
pub fn split(options: &SplitOptions) -> Result<SplitReport, PipelineError> {
    refuse_overlap(&options.input, &options.output.path)?;
    let read = ReadOptions { label: options.label.clone(), query: options.query.clone(), group: None };
    let mut reader = TrainingReader::open(&options.input, &read)?;
    let schema = reader.schema().clone();
    let list = schema.group();
    let query = schema.find(|kind| matches!(kind, Kind::Query(_))).unwrap_or(list);

    let staging = Staging::begin(&options.output.path, options.output.overwrite)?;
    let mut parts = Vec::with_capacity(options.parts.0.len());
    for part in &options.parts.0 {
        let writer_options = options.output.writer_options(reader.layout());
        let writer = TrainingWriter::create_in(&staging.path().join(&part.name), schema.clone(), writer_options)?;
        parts.push(Writing { writer, queries: 0, rows: 0, mask: Vec::new() });
    }

    let mut dealer = Dealer { options, list, query, runs: Runs::default(), distinct: Distinct::default(), current: 0 };
    let mut rows = 0;
    while let Some(chunk) = reader.next_chunk()? {
        let place = |row: usize| (reader.files()[chunk.file].path.display(), chunk.row + row as u64);
        dealer.deal(&chunk, &mut parts).map_err(|row| {
            let (path, at) = place(row);
            let [list, query] = [list, query].map(|column| &schema.columns()[column].name);
            PipelineError::data(format!("`{path}` row {at}: `{query}` changes within a list of `{list}`"))
                .with_hint("a list is the results of one query")
        })?;
        for part in &mut parts {
            part.write(&chunk).map_err(|(row, error)| match row {
                Some(row) => {
                    let (path, at) = place(row);
                    let message = match &error {
                        WriteError::Value { column, value, refused, .. } => {
                            format!("column `{column}`: {value} {refused}")
                        }
                        WriteError::Scattered { column, id, .. } => {
                            format!("{column} `{id}` comes again after other lists")
                        }
                        WriteError::Null { column, .. } => format!("column `{column}`: the value is missing"),
                        other => other.to_string(),
                    };
                    PipelineError { message: format!("`{path}` row {at}, {message}"), ..error.into() }
                }
                None => error.into(),
            })?;
        }
        rows += chunk.rows as u64;
    }

    let mut reports = Vec::with_capacity(parts.len());
    for (part, writing) in options.parts.0.iter().zip(parts) {
        if writing.queries == 0 {
            let message = format!("part `{}` gets none of {} queries", part.name, dealer.distinct.count);
            return Err(PipelineError::data(message).with_hint("give it a larger share, or try another seed"));
        }
        let written = Written::new(&options.output.path.join(&part.name), writing.writer.finish()?);
        reports.push(PartReport { name: part.name.clone(), share: part.share, queries: writing.queries, written });
    }
    staging.commit()?;
    Ok(SplitReport { rows, queries: dealer.distinct.count, parts: reports })
}

/// A part being written.
struct Writing {
    writer: TrainingWriter,
    queries: u64,
    rows: u64,
    /// Which rows of the chunk at hand are this part's.
    mask: Vec<bool>,
}

impl Writing {
    /// On failure also which row of the chunk is to blame, where it is one.
    fn write(&mut self, chunk: &Chunk) -> Result<(), (Option<usize>, WriteError)> {
        let mask = BooleanArray::from_iter(self.mask.iter().map(|&own| Some(own)));
        if !mask.has_true() {
            return Ok(());
        }
        let filter = FilterBuilder::new(&mask).optimize().build();
        let columns = chunk.columns.iter().map(|column| filter.filter(column)).collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|error| (None, WriteError::Schema { message: error.to_string() }))?;
        self.writer.write(&columns).map_err(|error| (self.row_of(&error), error))?;
        self.rows += mask.true_count() as u64;
        Ok(())
    }

    /// The writer counts the rows of its part; what a person looks for is a row of the input.
    fn row_of(&self, error: &WriteError) -> Option<usize> {
        let (WriteError::Value { row, .. } | WriteError::Null { row, .. } | WriteError::Scattered { row, .. }) = error
        else {
            return None;
        };
        let mut own = self.mask.iter().enumerate().filter(|(_, own)| **own).map(|(row, _)| row);
        own.nth((row - self.rows) as usize)
    }
}

/// Says which part each row belongs to.
struct Dealer<'a> {
    options: &'a SplitOptions,
    /// The columns of these.
    list: usize,
    query: usize,
    runs: Runs,
    distinct: Distinct,
    /// The part of the last row's query.
    current: usize,
}

impl Dealer<'_> {
    /// Fills the masks of the parts. A list of several queries would be torn apart: then the row where the query changes.
    fn deal(&mut self, chunk: &Chunk, parts: &mut [Writing]) -> Result<(), usize> {
        for part in parts.iter_mut() {
            part.mask.clear();
            part.mask.resize(chunk.rows, false);
        }
        let mut list_starts = Vec::new();
        self.runs.starts(&chunk.columns[self.list], &mut list_starts);
        let ids = &chunk.columns[self.query];
        let mut from = 0;
        let mut torn = None;
        self.distinct.add(ids, |row, new| {
            if torn.is_none() && list_starts.binary_search(&row).is_err() {
                torn = Some(row);
            }
            parts[self.current].mask[from..row].fill(true);
            self.current = self.options.parts.of(hash(ids, row, self.options.seed));
            parts[self.current].queries += u64::from(new);
            from = row;
        });
        parts[self.current].mask[from..].fill(true);
        torn.map_or(Ok(()), Err)
    }
}

/// Of the id as text, so that 17 and `17` are one query.
fn hash(ids: &ArrayRef, row: usize, seed: u64) -> u64 {
    match ids.as_primitive_opt::<Int64Type>() {
        Some(ids) => xxh3_64_with_seed(ids.value(row).to_string().as_bytes(), seed),
        None => xxh3_64_with_seed(ids.as_string::<i32>().value(row).as_bytes(), seed),
    }
}

/// An output within the input, or around it, would be read as input next time, or replace it.
fn refuse_overlap(input: &Path, output: &Path) -> Result<(), PipelineError> {
    // An output that is not there yet is told by the folder that it will be in.
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let placed = fs::canonicalize(output)
        .or_else(|_| fs::canonicalize(parent).map(|parent| parent.join(output.file_name().unwrap_or_default())));
    let (Ok(input), Ok(output)) = (fs::canonicalize(input), placed) else { return Ok(()) };
    if input.starts_with(&output) || output.starts_with(&input) {
        let message = format!("the output `{}` and the input `{}` overlap", output.display(), input.display());
        return Err(PipelineError::options(message).with_hint("name a folder beside the input"));
    }
    Ok(())
}
