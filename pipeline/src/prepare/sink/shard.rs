//! One partition's share of a dataset, written into a folder of its own.

use std::{fs, path::PathBuf, sync::Arc};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, RecordBatch};
use arrow::compute::{self, FilterBuilder};
use arrow::datatypes::{DataType, Float32Type, Int8Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use dataset::{
    layout::{DOCUMENT, LABEL, QUERY, WEIGHT},
    writer::{TrainingWriter, WriteError},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Counts, Fill, LIST, Outcome, PartOutcome, PartRule, SinkSpec, TIME, WEIGHED};
use crate::{
    prepare::expressions,
    tally::{Labels, Lists},
};

/// Writes batches of the plan's columns.
pub struct Shard {
    spec: Arc<SinkSpec>,
    partition: usize,
    folder: PathBuf,
    name: String,
    parts: Vec<Option<TrainingWriter>>,
    counts: Counts,
    labels: Labels,
    lists: Lists,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The data cannot be trained on.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error("cannot create `{}`", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

impl Shard {
    /// The folder's name is new at each attempt, so that one that was given up never mixes with the one that is taken.
    pub fn begin(spec: Arc<SinkSpec>, partition: usize) -> Result<Self, ShardError> {
        let name = format!("shard-{partition:05}-{}", ulid::Ulid::new().to_string().to_lowercase());
        let folder = spec.staging.join(&name);
        fs::create_dir_all(&folder).map_err(|source| ShardError::Folder { path: folder.clone(), source })?;
        let counts = Counts {
            missing: vec![0; spec.features.len()],
            unmatched: vec![0; spec.tables.len()],
            ..Counts::default()
        };
        let parts = spec.part_names().iter().map(|_| None).collect();
        Ok(Self { spec, partition, folder, name, parts, counts, labels: Labels::default(), lists: Lists::default() })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ShardError> {
        let mut batch = batch.clone();
        self.counts.rows += batch.num_rows() as u64;
        self.count_unmatched(&batch)?;
        if self.count_missing(&batch)? > 0 && self.spec.fill == Fill::DropRow {
            batch = self.without_missing(&batch)?;
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = self.columns(&batch)?;
        let labels: &[f32] = columns[3].as_primitive::<Float32Type>().values();
        self.labels.add(labels);
        self.lists.add(&columns[0], labels);
        let weighed = named(&batch, WEIGHED)?.as_primitive::<Int8Type>();
        self.weigh(columns[4].as_primitive::<Float32Type>().values(), weighed.values());

        match self.part_of_rows(&batch, &columns)? {
            None => self.append(0, &columns),
            Some(parts) => {
                for part in 0..self.parts.len() {
                    let own: BooleanArray = parts.iter().map(|of| Some(*of == part)).collect();
                    match own.true_count() {
                        0 => {}
                        all if all == own.len() => self.append(part, &columns)?,
                        _ => {
                            let filter = FilterBuilder::new(&own).optimize().build();
                            let own =
                                columns.iter().map(|column| filter.filter(column)).collect::<Result<Vec<_>, _>>()?;
                            self.append(part, &own)?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Closes the files.
    pub fn finish(mut self) -> Result<Outcome, ShardError> {
        self.lists.finish();
        self.counts.labels = self.labels.counts();
        self.counts.single_label_lists = self.lists.single_label;
        let mut parts = Vec::with_capacity(self.parts.len());
        for writer in self.parts {
            let totals = writer.map(TrainingWriter::finish).transpose()?.unwrap_or_default();
            let dataset::writer::Totals { files, rows, lists, bytes } = totals;
            parts.push(PartOutcome { files, rows, lists, bytes });
        }
        Ok(Outcome { partition: self.partition, shard: self.name, parts, counts: self.counts, refused: None })
    }

    /// The outcome of a partition that is no training data; its files are removed.
    pub fn refuse(self, why: String) -> Outcome {
        drop(self.parts);
        // Whoever owns the staging folder removes it in any case.
        let _ = fs::remove_dir_all(&self.folder);
        Outcome { partition: self.partition, shard: self.name, refused: Some(why), ..Outcome::default() }
    }

    fn append(&mut self, part: usize, columns: &[ArrayRef]) -> Result<(), ShardError> {
        let writer = match &mut self.parts[part] {
            Some(writer) => writer,
            none => {
                let folder = self.folder.join(self.spec.part_names()[part]);
                none.insert(TrainingWriter::create_in(&folder, self.spec.schema()?, self.spec.writer())?)
            }
        };
        writer.write(columns).map_err(|error| match error {
            // The writer counts the rows it was given; what a person can look for is a list and a document.
            WriteError::Value { column, value, refused, .. } => {
                let names = writer.schema().columns().iter().position(|other| other.name == column);
                let at = names.and_then(|index| {
                    columns[index]
                        .as_primitive::<Float32Type>()
                        .iter()
                        .position(|found| found.is_some_and(|found| found.to_bits() == value.to_bits()))
                });
                let place = at.map_or_else(String::new, |row| format!("{}: ", place(columns, row)));
                ShardError::Refused(format!("{place}column `{column}`: {value} {refused}"))
            }
            WriteError::Null { column, .. } => ShardError::Refused(format!("`{column}` is null in a row of the log")),
            WriteError::Scattered { id, .. } => {
                ShardError::Refused(format!("list `{id}` comes again after other lists"))
            }
            other => ShardError::Write(other),
        })
    }

    /// The training layout's columns, features filled.
    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ShardError> {
        let mut columns = Vec::with_capacity(5 + self.spec.features.len());
        columns.push(named(batch, LIST)?.clone());
        for name in [QUERY, DOCUMENT] {
            columns.push(compute::cast(named(batch, name)?, &DataType::Utf8)?);
        }
        columns.push(without_nulls(named(batch, LABEL)?));
        columns.push(without_nulls(named(batch, WEIGHT)?));
        for (at, name) in self.spec.features.iter().enumerate() {
            let column = named(batch, name)?;
            let fill = match &self.spec.fill {
                Fill::With(values) => values[at],
                Fill::Refuse | Fill::DropRow => 0.0,
            };
            columns.push(if column.null_count() == 0 { without_nulls(column) } else { filled(column, fill) });
        }
        Ok(columns)
    }

    fn count_unmatched(&mut self, batch: &RecordBatch) -> Result<(), ShardError> {
        for (table, count) in self.spec.tables.iter().zip(&mut self.counts.unmatched) {
            *count += named(batch, &marker(table))?.null_count() as u64;
        }
        Ok(())
    }

    fn count_missing(&mut self, batch: &RecordBatch) -> Result<u64, ShardError> {
        let mut all = 0;
        for (name, count) in self.spec.features.iter().zip(&mut self.counts.missing) {
            let missing = named(batch, name)?.null_count() as u64;
            *count += missing;
            all += missing;
        }
        Ok(all)
    }

    fn without_missing(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ShardError> {
        let mut complete = BooleanArray::from(vec![true; batch.num_rows()]);
        for name in &self.spec.features {
            complete = compute::and(&complete, &compute::is_not_null(named(batch, name)?)?)?;
        }
        let kept = compute::filter_record_batch(batch, &complete)?;
        self.counts.dropped += (batch.num_rows() - kept.num_rows()) as u64;
        Ok(kept)
    }

    fn weigh(&mut self, weights: &[f32], weighed: &[i8]) {
        let health = &mut self.counts.weights;
        for (&weight, &weighed) in weights.iter().zip(weighed) {
            if weighed == expressions::NOT_WEIGHED {
                continue;
            }
            let weight = f64::from(weight);
            health.rows += 1;
            health.clipped += u64::from(weighed == expressions::CLIPPED);
            health.largest = health.largest.max(weight);
            health.sum += weight;
            health.sum_of_squares += weight * weight;
        }
    }

    /// The part that each row belongs to; none where the dataset is not split.
    fn part_of_rows(&self, batch: &RecordBatch, columns: &[ArrayRef]) -> Result<Option<Vec<usize>>, ShardError> {
        let Some(rule) = &self.spec.parts else { return Ok(None) };
        let lists: &[i64] = columns[0].as_primitive::<Int64Type>().values();
        let part: Box<dyn Fn(usize) -> usize> = match rule {
            PartRule::Query { parts, seed } => {
                let ids = columns[1].as_string::<i32>();
                Box::new(move |row| parts.of(xxh3_64_with_seed(ids.value(row).as_bytes(), *seed)))
            }
            PartRule::Time(parts) => {
                let times = named(batch, TIME)?.as_primitive::<TimestampMicrosecondType>();
                Box::new(move |row| {
                    let at = times.value(row);
                    parts.iter().rposition(|part| part.from.is_none_or(|from| from <= at)).unwrap_or(0)
                })
            }
        };
        let mut of = Vec::with_capacity(lists.len());
        for row in 0..lists.len() {
            // All rows of a list have one query and one time.
            let same = row > 0 && lists[row] == lists[row - 1];
            of.push(if same { of[row - 1] } else { part(row) });
        }
        Ok(Some(of))
    }
}

/// The column that is true where a row found its key in the table, else null.
pub fn marker(table: &str) -> String {
    format!("matched_{table}")
}

fn place(columns: &[ArrayRef], row: usize) -> String {
    let text = |column: usize| columns[column].as_string::<i32>().value(row);
    format!("query `{}`, document `{}`", text(1), text(2))
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("the plan hands no column `{name}` to its sink")))
}

/// The writer wants no validity mask, also where nothing in it is null.
fn without_nulls(column: &ArrayRef) -> ArrayRef {
    match column.nulls() {
        None => column.clone(),
        Some(_) => filled(column, 0.0),
    }
}

fn filled(column: &ArrayRef, fill: f32) -> ArrayRef {
    let column = column.as_primitive::<Float32Type>();
    let values = column.iter().map(|value| value.unwrap_or(fill));
    Arc::new(Float32Array::from_iter_values(values))
}
