//! The feature tables of a world and its truth, as folders of Parquet that appear whole or not at all.

use std::{fs, fs::File, path::Path, sync::Arc};

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use dataset::writer::{Column, IdKind, Staging, TrainingSchema, TrainingWriter, WriteError, WriterOptions};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use serde::Serialize;

use super::{
    SimulateOptions,
    clicks::ClickModel,
    log::{document_id, query_id, user_id},
    world::{Candidate, FEATURES, Owner, PREFERENCE, World},
};
use crate::{PipelineError, Written};

/// Rows that are handed to Parquet at once.
const CHUNK_ROWS: usize = 1 << 14;
const FILE_ROWS: u64 = 4_000_000;
const TRUTH: &str = "truth.json";

/// A feature table that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableWritten {
    pub path: std::path::PathBuf,
    /// What a row is found by.
    pub key: Vec<&'static str>,
    pub features: Vec<&'static str>,
    pub rows: u64,
    /// True where it has a `valid_from` column, and more than one row a key.
    pub versioned: bool,
}

/// The true mechanism behind a log.
#[derive(Serialize)]
struct Truth<'a> {
    /// By position from 1, the last one for all further positions; none where it depends on more than the position.
    examination: Option<&'a [f64]>,
    #[serde(flatten)]
    options: &'a SimulateOptions,
}

/// Whose features a table holds, and what it is called.
const TABLES: [(Owner, &str, &[&str]); 4] = [
    (Owner::Query, "query_features", &["query_id"]),
    (Owner::Document, "document_features", &["document_id"]),
    (Owner::Pair, "pair_features", &["query_id", "document_id"]),
    (Owner::User, "user_features", &["user_id"]),
];

/// Refuses, before any work is done, folders that may not be replaced.
pub fn check(folder: &Path, overwrite: bool) -> Result<(), PipelineError> {
    let names = TABLES.iter().map(|(_, name, _)| *name).chain(["truth"]);
    for path in names.map(|name| folder.join(name)) {
        drop(Staging::begin(&path, overwrite)?);
    }
    if !overwrite && folder.join(TRUTH).exists() {
        return Err(WriteError::Exists { path: folder.join(TRUTH) }.into());
    }
    Ok(())
}

/// Writes the tables of all features that are not logged.
pub fn write_tables(
    world: &World,
    options: &SimulateOptions,
    folder: &Path,
) -> Result<Vec<TableWritten>, PipelineError> {
    let mut written = Vec::new();
    for (owner, name, key) in TABLES {
        let theirs = FEATURES
            .iter()
            .enumerate()
            .filter(|(_, (name, of))| *of == owner && !options.log_features.iter().any(|logged| logged == name));
        let columns: Vec<usize> = theirs.map(|(at, _)| at).collect();
        if columns.is_empty() {
            continue;
        }
        let versioned = owner == Owner::Document && options.second_version.is_some();
        let path = folder.join(name);
        let mut table = Table::create(&path, key, &columns, versioned, options.overwrite)?;
        match owner {
            Owner::Query => {
                for number in 0..options.queries {
                    let query = world.query(number);
                    let mut features = [0.0; 10];
                    (features[6], features[7]) = (query.length, query.popularity);
                    table.row(&[&query_id(number)], &features, None)?;
                }
            }
            Owner::Document => {
                let since = options.second_version.map(|day| options.first_day().0 + i64::from(day) * 86_400_000_000);
                let versions = [Some(options.first_day().0), since];
                for number in 0..options.documents {
                    for (version, valid_from) in versions.iter().enumerate().filter(|(_, from)| from.is_some()) {
                        let document = world.document(number, version as u8);
                        let mut features = [0.0; 10];
                        features[3..6].copy_from_slice(&[document.popularity, document.freshness, document.quality]);
                        table.row(&[&document_id(number)], &features, *valid_from)?;
                    }
                }
            }
            Owner::Pair => {
                for number in 0..options.queries {
                    let query = world.query(number);
                    let id = query_id(number);
                    for candidate in world.candidates(&query, 0) {
                        table.row(&[&id, &document_id(candidate.document)], &candidate.features, None)?;
                    }
                }
            }
            Owner::User => {
                for number in 0..options.users {
                    let mut features = [0.0; 10];
                    features[PREFERENCE] = world.preference(number);
                    table.row(&[&user_id(number)], &features, None)?;
                }
            }
        }
        let rows = table.finish()?;
        let features = columns.iter().map(|&at| FEATURES[at].0).collect();
        written.push(TableWritten { path, key: key.to_vec(), features, rows, versioned });
    }
    Ok(written)
}

/// Writes the candidates of all queries with their true grades as training data, features as they were at the end of the log, and
/// what the log was made with beside it.
pub fn write_truth(world: &World, options: &SimulateOptions, folder: &Path) -> Result<Written, PipelineError> {
    let path = folder.join("truth");
    let ids = [Column::query(IdKind::Utf8), Column::document(), Column::label()];
    let schema = TrainingSchema::new(ids.into_iter().chain(FEATURES.map(|(name, _)| Column::feature(name))).collect())?;
    let writer_options = WriterOptions { overwrite: options.overwrite, ..WriterOptions::default() };
    let mut writer = TrainingWriter::create(&path, schema, writer_options)?;
    let version = u8::from(options.second_version.is_some());
    let mut rows = TruthRows::default();
    for number in 0..options.queries {
        let query = world.query(number);
        let preference = world.preference(world.typical_asker(number));
        let id = query_id(number);
        for candidate in world.candidates(&query, version) {
            rows.push(&id, candidate, preference);
        }
        if rows.labels.len() >= CHUNK_ROWS {
            writer.write(&rows.take())?;
        }
    }
    if !rows.labels.is_empty() {
        writer.write(&rows.take())?;
    }
    let totals = writer.finish()?;
    let examination = (options.click_model == ClickModel::Pbm).then_some(&*options.examination);
    let truth = Truth { examination, options };
    let json =
        serde_json::to_vec_pretty(&truth).map_err(|error| PipelineError::data("the truth as JSON").because(error))?;
    let (target, partial) = (folder.join(TRUTH), folder.join(format!(".{TRUTH}.partial")));
    fs::write(&partial, json).map_err(|error| PipelineError::io("write", &partial, error))?;
    fs::rename(&partial, &target).map_err(|error| PipelineError::io("rename to", &target, error))?;
    Ok(Written::new(&path, totals))
}

#[derive(Default)]
struct TruthRows {
    queries: StringBuilder,
    documents: StringBuilder,
    labels: Vec<f32>,
    features: [Vec<f32>; 10],
}

impl TruthRows {
    fn push(&mut self, query: &str, candidate: Candidate, preference: f32) {
        self.queries.append_value(query);
        self.documents.append_value(document_id(candidate.document));
        self.labels.push(f32::from(candidate.grade));
        for (at, (column, value)) in self.features.iter_mut().zip(candidate.features).enumerate() {
            column.push(if at == PREFERENCE { preference } else { value });
        }
    }

    /// In the order of the truth's schema.
    fn take(&mut self) -> Vec<ArrayRef> {
        let floats = |values: &mut Vec<f32>| Arc::new(Float32Array::from(std::mem::take(values))) as ArrayRef;
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.queries.finish()), Arc::new(self.documents.finish()), floats(&mut self.labels)];
        columns.extend(self.features.iter_mut().map(floats));
        columns
    }
}

/// One feature table being written.
struct Table {
    staging: Staging,
    schema: SchemaRef,
    /// Which of [`FEATURES`] it holds.
    columns: Vec<usize>,
    keys: Vec<StringBuilder>,
    valid_from: Option<Vec<i64>>,
    values: Vec<Vec<f32>>,
    file: Option<ArrowWriter<File>>,
    files: usize,
    file_rows: u64,
    rows: u64,
}

impl Table {
    fn create(
        path: &Path,
        key: &[&str],
        columns: &[usize],
        versioned: bool,
        overwrite: bool,
    ) -> Result<Self, PipelineError> {
        let valid_from =
            Field::new("valid_from", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false);
        let mut fields: Vec<Field> = key.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
        fields.extend(versioned.then_some(valid_from));
        fields.extend(columns.iter().map(|&at| Field::new(FEATURES[at].0, DataType::Float32, false)));
        Ok(Self {
            staging: Staging::begin(path, overwrite)?,
            schema: Arc::new(Schema::new(fields)),
            columns: columns.to_vec(),
            keys: key.iter().map(|_| StringBuilder::new()).collect(),
            valid_from: versioned.then(Vec::new),
            values: vec![Vec::new(); columns.len()],
            file: None,
            files: 0,
            file_rows: 0,
            rows: 0,
        })
    }

    fn row(&mut self, key: &[&str], features: &[f32; 10], valid_from: Option<i64>) -> Result<(), PipelineError> {
        for (column, id) in self.keys.iter_mut().zip(key) {
            column.append_value(id);
        }
        if let (Some(column), Some(moment)) = (&mut self.valid_from, valid_from) {
            column.push(moment);
        }
        for (column, &at) in self.values.iter_mut().zip(&self.columns) {
            column.push(features[at]);
        }
        self.rows += 1;
        if self.values[0].len() == CHUNK_ROWS { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<(), PipelineError> {
        let mut columns: Vec<ArrayRef> =
            self.keys.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        if let Some(moments) = &mut self.valid_from {
            columns.push(Arc::new(TimestampMicrosecondArray::from(std::mem::take(moments)).with_timezone("UTC")));
        }
        columns.extend(
            self.values.iter_mut().map(|values| Arc::new(Float32Array::from(std::mem::take(values))) as ArrayRef),
        );
        let path = self.staging.path().to_owned();
        let failed = |source| PipelineError::from(WriteError::Parquet { path: path.clone(), source });
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| failed(error.into()))?;
        if self.file_rows >= FILE_ROWS {
            self.end_file()?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = path.join(format!("part-{:05}.parquet", self.files));
                self.files += 1;
                let properties =
                    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
                let file = File::create(&path).map_err(|error| PipelineError::io("create", &path, error))?;
                none.insert(ArrowWriter::try_new(file, self.schema.clone(), Some(properties)).map_err(failed)?)
            }
        };
        self.file_rows += batch.num_rows() as u64;
        file.write(&batch).map_err(failed)
    }

    fn end_file(&mut self) -> Result<(), PipelineError> {
        self.file_rows = 0;
        if let Some(file) = self.file.take() {
            let path = self.staging.path().to_owned();
            file.close().map_err(|source| WriteError::Parquet { path, source })?;
        }
        Ok(())
    }

    /// The table appears; its rows.
    fn finish(mut self) -> Result<u64, PipelineError> {
        if !self.values[0].is_empty() {
            self.hand_on()?;
        }
        self.end_file()?;
        self.staging.commit()?;
        Ok(self.rows)
    }
}
