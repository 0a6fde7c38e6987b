//! One Parquet file of events being written.

use std::sync::Arc;

use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};
use ranking::events::{EventColumns, LogSchema};

use super::Spool;
use crate::{PipelineError, store::Store};

/// Events go to the encoder in batches of this many.
const BATCH: usize = 2048;

/// Events of one date on their way to one file.
pub struct EventFile {
    columns: EventColumns,
    parquet: ArrowWriter<Spool>,
    rows: u64,
    folder: String,
}

impl EventFile {
    pub fn new(
        store: &Store,
        folder: String,
        schema: &LogSchema,
        properties: &WriterProperties,
    ) -> Result<Self, PipelineError> {
        let spool = Spool::new(store, &folder)?;
        let parquet = ArrowWriter::try_new(spool, schema.arrow(), Some(properties.clone()));
        let parquet = parquet.map_err(|error| failed(&folder, error))?;
        Ok(Self { columns: EventColumns::new(schema.clone()), parquet, rows: 0, folder })
    }

    /// To append an event to; [`settle`](Self::settle) must follow.
    pub fn columns(&mut self) -> &mut EventColumns {
        &mut self.columns
    }

    /// After each event: hands on a batch that is full, and says whether it did.
    #[inline]
    pub fn settle(&mut self) -> Result<bool, PipelineError> {
        if self.columns.len() < BATCH {
            return Ok(false);
        }
        self.encode().map(|()| true)
    }

    fn encode(&mut self) -> Result<(), PipelineError> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let batch = self.columns.finish();
        self.rows += batch.num_rows() as u64;
        self.parquet.write(&batch).map_err(|error| failed(&self.folder, error))
    }

    /// Ends the row group, so that its memory is free.
    pub fn flush(&mut self) -> Result<(), PipelineError> {
        self.encode()?;
        self.parquet.flush().map_err(|error| failed(&self.folder, error))
    }

    /// How large the file will be, by what was encoded so far.
    pub fn bytes(&self) -> u64 {
        (self.parquet.bytes_written() + self.parquet.in_progress_size()) as u64
    }

    pub fn memory(&self) -> usize {
        self.parquet.memory_size()
    }

    /// Writes the footer: the whole file, its events, its folder.
    pub fn finish(mut self, metadata: &[(String, String)]) -> Result<(Spool, u64, String), PipelineError> {
        self.encode()?;
        for (key, value) in metadata {
            self.parquet.append_key_value_metadata(KeyValue::new(format!("lockstep.{key}"), value.clone()));
        }
        let Self { parquet, rows, folder, .. } = self;
        let spool = parquet.into_inner().map_err(|error| failed(&folder, error))?;
        Ok((spool, rows, folder))
    }
}

fn failed(folder: &str, error: ParquetError) -> PipelineError {
    PipelineError { kind: crate::ErrorKind::Io, ..PipelineError::data(format!("cannot write events to `{folder}`")) }
        .because(error)
}

/// Made for readers that take a few columns of many rows: dictionaries only where values repeat (trying one costs the encoder more
/// than the rest), statistics by page only for what one may filter by.
pub fn properties(schema: &LogSchema, row_group_events: usize) -> Arc<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(row_group_events))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_statistics_enabled(path(&["query_timestamp"]), EnabledStatistics::Page);
    let plain = |properties: WriterPropertiesBuilder, column: &[&str]| {
        properties.set_column_dictionary_enabled(path(column), false)
    };
    properties = plain(properties, &["session_id"]);
    properties = plain(properties, &["query_timestamp"]);
    let numbers = ["score", "click_timestamp", "dwell_time_seconds"];
    for column in numbers.into_iter().chain(schema.features().iter().map(String::as_str)) {
        properties = plain(properties, &["results", "list", "item", column]);
    }
    Arc::new(properties.build())
}

fn path(parts: &[&str]) -> ColumnPath {
    ColumnPath::new(parts.iter().map(|part| (*part).to_owned()).collect())
}
