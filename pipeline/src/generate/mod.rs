//! A synthetic ranking dataset of any size: relevance is a known nonlinear function of the features ([`true_score`]), plus noise.
//!
//! Every value is a hash of the seed, its query and its document, so the data does not depend on chunks or threads, and a
//! dataset of more queries begins with the rows of the smaller one.

pub(crate) mod random;
mod truth;

use std::{
    sync::{Arc, mpsc},
    thread,
};

use arrow::array::{ArrayRef, Float32Array, Int64Array, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use dataset::writer::{Column, IdKind, Kind, Layout, TrainingSchema, TrainingWriter, WriteError};
use serde::Serialize;

pub use self::truth::true_score;
use self::truth::{NAMES, Query, Row, documents_of};
use crate::{LabelCount, Output, PipelineError, Written, tally::Labels};

/// Rows of a chunk, about.
const CHUNK_ROWS: u32 = 1 << 15;
/// Rows from which the thresholds of the grades are taken.
const SAMPLE_ROWS: usize = 1 << 16;
/// Queries of the sample are numbered from here, far from those of the dataset.
const SAMPLE_QUERIES: u64 = 1 << 62;
/// Shares of the rows below grade 1, 2, 3 and 4.
const BELOW: [f64; 4] = [0.55, 0.75, 0.88, 0.96];
/// The stream of a row's key at which further features begin.
const FURTHER: u64 = 16;

/// What labels a generated dataset has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelKind {
    /// 0 to 4, about 55, 20, 13, 8 and 4 % of the rows.
    #[default]
    Graded,
    /// 1 for what would be graded 2 and better, about 25 % of the rows; else 0.
    Binary,
}

/// Options of [`generate`].
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    pub queries: u64,
    /// Documents of a query: at least and at most.
    pub documents: (u32, u32),
    /// At least 10: the ten that relevance depends on, then `f11`… that are noise.
    pub features: usize,
    pub seed: u64,
    /// Standard deviation of what is added to the true score before it is graded, in standard deviations of the true score.
    pub noise: f32,
    /// Write uneven `sample_weight`s in [0.25, 4).
    pub weights: bool,
    pub labels: LabelKind,
    /// Write a `true_score` column, which is not a feature.
    pub truth: bool,
    /// Write a `list_id` column, equal to `query_id`.
    pub list_id: bool,
    /// How many different documents there are; a document's own features are the same in every query.
    pub corpus: u64,
    pub output: Output,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            queries: 10_000,
            documents: (10, 30),
            features: 10,
            seed: 0,
            noise: 0.2,
            weights: false,
            labels: LabelKind::Graded,
            truth: false,
            list_id: false,
            corpus: 1_000_000,
            output: Output::default(),
        }
    }
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateReport {
    pub written: Written,
    pub rows: u64,
    pub queries: u64,
    pub features: Vec<String>,
    pub labels: Vec<LabelCount>,
    /// The scores at which a better grade (or label 1) begins.
    pub thresholds: Vec<f32>,
}

/// Generates; `progress` is told rows done and rows in total, once a chunk.
///
/// Documents with equal true scores are ordered by their noise only; ranking by `true_score` is the best that a model can
/// hope for. Rows are made on a thread of their own, and encoded and written on the caller's.
pub fn generate(
    options: &GenerateOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<GenerateReport, PipelineError> {
    check(options)?;
    let grading = Grading::calibrate(options);
    let schema = schema(options)?;
    let features = schema.feature_names();
    let total: u64 = (0..options.queries).map(|q| u64::from(documents_of(options.seed, q, options.documents))).sum();

    let mut writer = TrainingWriter::create(&options.output.path, schema, options.output.writer_options(Layout::Wide))?;
    let mut labels = Labels::default();
    let (sender, receiver) = mpsc::sync_channel::<Chunk>(2);
    thread::scope(|scope| -> Result<(), PipelineError> {
        let grading = &grading;
        scope.spawn(move || produce(options, grading, &sender));
        // Owned here: a failed write drops it, and so ends the producer.
        let receiver = receiver;
        let mut done = 0;
        for chunk in receiver {
            labels.add(&chunk.labels);
            done += chunk.labels.len() as u64;
            writer.write(&chunk.into_columns(options)?)?;
            progress(done, total);
        }
        Ok(())
    })?;
    let totals = writer.finish()?;
    Ok(GenerateReport {
        written: Written::new(&options.output.path, totals),
        rows: totals.rows,
        queries: options.queries,
        features,
        labels: labels.counts(),
        thresholds: grading.thresholds,
    })
}

fn check(options: &GenerateOptions) -> Result<(), PipelineError> {
    let (least, most) = options.documents;
    let refuse = |message: String, hint: &str| Err(PipelineError::options(message).with_hint(hint));
    if options.queries == 0 || least == 0 {
        return refuse(
            "a dataset of no rows was asked for".into(),
            "ask for at least one query and one document a query",
        );
    }
    if least > most {
        return refuse(format!("at least {least} but at most {most} documents a query"), "swap the two");
    }
    if options.corpus < u64::from(most) || options.corpus > 1 << 40 {
        let message = format!("a corpus of {} documents cannot give {most} to a query", options.corpus);
        return refuse(message, "a corpus is at least as large as the longest query, and at most 2^40");
    }
    if options.features < NAMES.len() || options.features > 10_000 {
        let message = format!("{} features were asked for", options.features);
        return refuse(message, "between 10, which relevance depends on, and 10000");
    }
    if !(options.noise.is_finite() && options.noise >= 0.0) {
        return refuse(
            format!("label noise is {}", options.noise),
            "0 for none; 1 is as much as the scores differ themselves",
        );
    }
    if options.queries > SAMPLE_QUERIES {
        return refuse(format!("{} queries were asked for", options.queries), "at most 2^62");
    }
    Ok(())
}

fn schema(options: &GenerateOptions) -> Result<TrainingSchema, WriteError> {
    let mut columns = Vec::with_capacity(options.features + 6);
    if options.list_id {
        columns.push(Column::list(IdKind::Int64));
    }
    columns.extend([Column::query(IdKind::Int64), Column::document(), Column::label()]);
    if options.weights {
        columns.push(Column::weight());
    }
    let further = (NAMES.len()..options.features).map(|at| Column::feature(format!("f{}", at + 1)));
    columns.extend(NAMES.map(Column::feature).into_iter().chain(further));
    if options.truth {
        let field = Arc::new(Field::new("true_score", DataType::Float32, false));
        columns.push(Column::new("true_score", Kind::Other(field)));
    }
    TrainingSchema::new(columns)
}

/// Turns scores into labels.
struct Grading {
    /// In units of the score.
    noise: f32,
    thresholds: Vec<f32>,
}

impl Grading {
    /// From a sample of the same distribution, so that the shares hold whatever the noise.
    fn calibrate(options: &GenerateOptions) -> Self {
        let mut sample = Vec::with_capacity(SAMPLE_ROWS);
        let mut number = SAMPLE_QUERIES;
        while sample.len() < SAMPLE_ROWS {
            let query = Query::new(options.seed, number, options.documents, options.corpus);
            // A query's rows resemble each other: a few of each are a better sample than many of one.
            let rows = query.documents.min(16);
            sample.extend((0..rows).map(|index| query.row(index)).map(|row| (row.score, row.noise)));
            number += 1;
        }
        let rows = sample.len() as f64;
        let mean = sample.iter().map(|&(score, _)| f64::from(score)).sum::<f64>() / rows;
        let variance = sample.iter().map(|&(score, _)| (f64::from(score) - mean).powi(2)).sum::<f64>() / rows;
        let noise = options.noise * variance.sqrt() as f32;
        let mut scores: Vec<f32> = sample.into_iter().map(|(score, bell)| score + noise * bell).collect();
        scores.sort_unstable_by(f32::total_cmp);
        let quantile = |share: f64| scores[(share * scores.len() as f64) as usize];
        let thresholds = match options.labels {
            LabelKind::Graded => BELOW.map(quantile).to_vec(),
            LabelKind::Binary => vec![quantile(BELOW[1])],
        };
        Self { noise, thresholds }
    }

    #[inline]
    fn label(&self, row: &Row) -> f32 {
        let score = row.score + self.noise * row.noise;
        self.thresholds.iter().map(|&threshold| if score >= threshold { 1.0 } else { 0.0 }).sum()
    }
}

/// Makes all chunks, until nobody wants them.
fn produce(options: &GenerateOptions, grading: &Grading, chunks: &mpsc::SyncSender<Chunk>) {
    let queries_a_chunk = u64::from((CHUNK_ROWS / options.documents.1).max(1));
    let mut first = 0;
    while first < options.queries {
        let end = (first + queries_a_chunk).min(options.queries);
        if chunks.send(Chunk::of(options, grading, first..end)).is_err() {
            return;
        }
        first = end;
    }
}

/// The rows of some queries, by column.
struct Chunk {
    queries: Vec<i64>,
    /// `d…` of each row, end to end, and where each ends.
    documents: Vec<u8>,
    document_ends: Vec<i32>,
    labels: Vec<f32>,
    weights: Vec<f32>,
    truth: Vec<f32>,
    features: Vec<Vec<f32>>,
}

impl Chunk {
    fn of(options: &GenerateOptions, grading: &Grading, queries: std::ops::Range<u64>) -> Self {
        let most = (queries.end - queries.start) as usize * options.documents.1 as usize;
        let mut chunk = Self {
            queries: Vec::with_capacity(most),
            documents: Vec::with_capacity(8 * most),
            document_ends: Vec::with_capacity(most + 1),
            labels: Vec::with_capacity(most),
            weights: Vec::with_capacity(if options.weights { most } else { 0 }),
            truth: Vec::with_capacity(if options.truth { most } else { 0 }),
            features: (0..options.features).map(|_| Vec::with_capacity(most)).collect(),
        };
        chunk.document_ends.push(0);
        let mut keys = Vec::with_capacity(if options.features > NAMES.len() { most } else { 0 });
        for number in queries {
            let query = Query::new(options.seed, number, options.documents, options.corpus);
            for index in 0..query.documents {
                let row = query.row(index);
                for (column, value) in chunk.features.iter_mut().zip(row.features) {
                    column.push(value);
                }
                chunk.queries.push(number as i64 + 1);
                chunk.labels.push(grading.label(&row));
                push_decimal(&mut chunk.documents, row.document);
                chunk.document_ends.push(chunk.documents.len() as i32);
                if options.weights {
                    chunk.weights.push(row.weight);
                }
                if options.truth {
                    chunk.truth.push(row.score);
                }
                if options.features > NAMES.len() {
                    keys.push(row.key);
                }
            }
        }
        for (at, column) in chunk.features[NAMES.len()..].iter_mut().enumerate() {
            column.extend(keys.iter().map(|&key| random::one(random::draw(key, FURTHER + at as u64))));
        }
        chunk
    }

    /// In the order of [`schema`].
    fn into_columns(self, options: &GenerateOptions) -> Result<Vec<ArrayRef>, PipelineError> {
        let floats = |values: Vec<f32>| Arc::new(Float32Array::from(values)) as ArrayRef;
        let queries: ArrayRef = Arc::new(Int64Array::from(self.queries));
        let ends = OffsetBuffer::new(self.document_ends.into());
        let documents = StringArray::try_new(ends, Buffer::from_vec(self.documents), None)
            .map_err(|error| PipelineError::data("document ids are no text").because(error))?;
        let mut columns = Vec::with_capacity(self.features.len() + 6);
        if options.list_id {
            columns.push(queries.clone());
        }
        columns.extend([queries, Arc::new(documents), floats(self.labels)]);
        if options.weights {
            columns.push(floats(self.weights));
        }
        columns.extend(self.features.into_iter().map(floats));
        if options.truth {
            columns.push(floats(self.truth));
        }
        Ok(columns)
    }
}

/// Appends `d` and the number; formatting through `fmt` would be a third of the time a row takes.
fn push_decimal(bytes: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    bytes.push(b'd');
    bytes.extend_from_slice(&digits[at..]);
}
