//! The values of each query, to a file.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use csv::Writer;
use parquet::arrow::ArrowWriter;
use ranking::metrics::Metric;

use super::{PerQuery, lists::Judged, shown};
use crate::{PipelineError, fresh::FreshFile};

/// Columns `query`, `rows`, and one a metric; a value that does not count is empty, or null. The file appears when all is well.
pub(super) enum PerQueryFile {
    Csv(Box<CsvFile>),
    Parquet(Box<ParquetFile>),
}

pub(super) struct CsvFile {
    writer: Writer<FreshFile>,
    path: String,
}

pub(super) struct ParquetFile {
    writer: ArrowWriter<FreshFile>,
    path: String,
    schema: SchemaRef,
    queries: StringBuilder,
    rows: UInt64Builder,
    values: Vec<Float64Builder>,
    pending: usize,
}

const BATCH: usize = 16 << 10;

impl PerQueryFile {
    pub fn begin(target: &PerQuery, metrics: &[Metric]) -> Result<Self, PipelineError> {
        let path = shown(&target.path);
        match target.path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => {
                let mut writer = Writer::from_writer(FreshFile::begin(&target.path, target.overwrite)?);
                let names =
                    ["query".to_owned(), "rows".to_owned()].into_iter().chain(metrics.iter().map(Metric::to_string));
                writer.write_record(names).map_err(|error| failed(&path, error))?;
                Ok(Self::Csv(Box::new(CsvFile { writer, path })))
            }
            Some("parquet") => {
                let mut fields =
                    vec![Field::new("query", DataType::Utf8, false), Field::new("rows", DataType::UInt64, false)];
                fields.extend(metrics.iter().map(|metric| Field::new(metric.to_string(), DataType::Float64, true)));
                let schema = Arc::new(Schema::new(fields));
                let file = FreshFile::begin(&target.path, target.overwrite)?;
                let writer =
                    ArrowWriter::try_new(file, Arc::clone(&schema), None).map_err(|error| failed(&path, error))?;
                let values = metrics.iter().map(|_| Float64Builder::new()).collect();
                let (queries, rows) = (StringBuilder::new(), UInt64Builder::new());
                Ok(Self::Parquet(Box::new(ParquetFile { writer, path, schema, queries, rows, values, pending: 0 })))
            }
            _ => Err(PipelineError::options(format!("{path} is neither a .csv nor a .parquet file"))
                .with_hint("the name's ending says how the values of each query are written")),
        }
    }

    pub fn add(&mut self, judged: &Judged<'_>) -> Result<(), PipelineError> {
        match self {
            Self::Csv(file) => {
                let spell = |value: &f64| if value.is_nan() { String::new() } else { value.to_string() };
                let fields = [judged.query.to_string(), judged.rows.to_string()];
                let record = fields.into_iter().chain(judged.values.iter().map(spell));
                file.writer.write_record(record).map_err(|error| failed(&file.path, error))
            }
            Self::Parquet(file) => {
                file.queries.append_value(judged.query.to_string());
                file.rows.append_value(judged.rows);
                let values = file.values.iter_mut().zip(judged.values);
                values.for_each(|(column, value)| column.append_option((!value.is_nan()).then_some(*value)));
                file.pending += 1;
                if file.pending == BATCH { file.flush() } else { Ok(()) }
            }
        }
    }

    pub fn finish(self) -> Result<(), PipelineError> {
        match self {
            Self::Csv(file) => {
                let CsvFile { writer, path } = *file;
                writer.into_inner().map_err(|error| failed(&path, error.into_error()))?.commit()
            }
            Self::Parquet(mut file) => {
                file.flush()?;
                let ParquetFile { writer, path, .. } = *file;
                writer.into_inner().map_err(|error| failed(&path, error))?.commit()
            }
        }
    }
}

impl ParquetFile {
    fn flush(&mut self) -> Result<(), PipelineError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.queries.finish()), Arc::new(self.rows.finish())];
        columns.extend(self.values.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        self.pending = 0;
        let batch =
            RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| failed(&self.path, error))?;
        self.writer.write(&batch).map_err(|error| failed(&self.path, error))
    }
}

fn failed(path: &str, error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError {
        kind: crate::ErrorKind::Io,
        message: format!("cannot write {path}"),
        hint: None,
        source: Some(Box::new(error)),
    }
}
