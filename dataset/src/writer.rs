//! Writes the training [`layout`](crate::layout) into a folder that appears whole or not at all.
//!
//! Rows come in chunks of columns; a list may span chunks. Row groups and files end with a list, at the first list that starts
//! at or past their size, and pages end at fixed rows of a row group: the files do not depend on how the rows were cut into chunks.

mod content;
mod lists;
mod schema;
mod staging;

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{Float32Type, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use self::content::Content;
pub use self::{
    lists::{Runs, Seen},
    schema::{Column, IdKind, Kind, TrainingSchema, WriteError},
    staging::Staging,
};
use crate::{
    layout::{FOOTER_KEY, Footer},
    lists::Marks,
};

/// Rows of a page: small enough to seek to a block, large enough to decode at full speed.
const PAGE_ROWS: usize = 8192;
/// A page of the vector layout holds at most about this much.
const PAGE_BYTES: usize = 1 << 20;

/// How features lie in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One float32 column a feature.
    #[default]
    Wide,
    /// One fixed-size list of float32.
    Vector,
}

/// How pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Decodes at the speed of memory.
    #[default]
    None,
    Zstd,
}

/// Displays and parses as these words.
macro_rules! words {
    ($type:ty: $($word:literal = $value:path),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($value => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok($value),)+
                    _ => Err(format!("`{word}` is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Layout: "wide" = Layout::Wide, "vector" = Layout::Vector);
words!(Compression: "none" = Compression::None, "zstd" = Compression::Zstd);

/// Physical choices, and what to do about a target that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterOptions {
    pub layout: Layout,
    pub compression: Compression,
    /// A row group ends with the list that brings its features to this, or its rows to [`row_group_rows`](Self::row_group_rows).
    pub row_group_bytes: usize,
    pub row_group_rows: usize,
    pub rows_per_file: u64,
    /// Replace a dataset that is there, when this one is complete.
    pub overwrite: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            layout: Layout::Wide,
            compression: Compression::None,
            row_group_bytes: 64 << 20,
            row_group_rows: 1_000_000,
            rows_per_file: 4_000_000,
            overwrite: false,
        }
    }
}

/// What a writer wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: usize,
    pub rows: u64,
    pub lists: u64,
    pub bytes: u64,
}

/// Writes one training dataset.
pub struct TrainingWriter {
    schema: TrainingSchema,
    physical: SchemaRef,
    options: WriterOptions,
    properties: WriterProperties,
    page_rows: usize,
    group_rows: usize,
    /// Where the files go; `staging` is who owns that folder, if it is this writer.
    folder: PathBuf,
    file: Option<OpenFile>,
    runs: Runs,
    seen: Seen,
    starts: Vec<usize>,
    totals: Totals,
    /// Last: an unfinished folder is removed after its files are closed.
    staging: Option<Staging>,
}

struct OpenFile {
    path: PathBuf,
    writer: ArrowWriter<File>,
    rows: u64,
    lists: u64,
    group_rows: usize,
    marks: Marks,
    content: Content,
}

impl TrainingWriter {
    /// Begins a dataset that appears at `target` when [`finish`](Self::finish)ed.
    pub fn create(target: &Path, schema: TrainingSchema, options: WriterOptions) -> Result<Self, WriteError> {
        let staging = Staging::begin(target, options.overwrite)?;
        let mut writer = Self::create_in(staging.path(), schema, options)?;
        writer.staging = Some(staging);
        Ok(writer)
    }

    /// Begins a dataset in a folder that somebody else publishes.
    pub fn create_in(folder: &Path, schema: TrainingSchema, options: WriterOptions) -> Result<Self, WriteError> {
        fs::create_dir_all(folder).map_err(|source| WriteError::Io { what: "create", path: folder.into(), source })?;
        let row_bytes = 4 * schema.features().len();
        let page_rows = match options.layout {
            Layout::Wide => PAGE_ROWS,
            Layout::Vector => (PAGE_BYTES / row_bytes).clamp(1, PAGE_ROWS),
        };
        Ok(Self {
            physical: schema.physical(options.layout),
            properties: properties(&schema, &options, page_rows),
            page_rows,
            group_rows: (options.row_group_bytes / row_bytes).min(options.row_group_rows).max(1),
            folder: folder.to_owned(),
            file: None,
            runs: Runs::default(),
            seen: Seen::default(),
            starts: Vec::new(),
            totals: Totals::default(),
            staging: None,
            schema,
            options,
        })
    }

    pub fn schema(&self) -> &TrainingSchema {
        &self.schema
    }

    /// Appends rows: one array a column of the schema, all of one length. Nothing of a refused chunk is written.
    pub fn write(&mut self, columns: &[ArrayRef]) -> Result<(), WriteError> {
        let rows = self.check(columns)?;
        let mut starts = std::mem::take(&mut self.starts);
        let ids = &columns[self.schema.group()];
        self.runs.starts(ids, &mut starts);
        let column = &self.schema.columns()[self.schema.group()].name;
        self.seen.insert_all(ids, &starts, self.totals.rows, column)?;

        let mut written = 0;
        for &start in &starts {
            let pending = start - written;
            let (file_full, group_full) = self.file.as_ref().map_or((false, false), |file| {
                let file_rows = file.rows + pending as u64;
                (file_rows >= self.options.rows_per_file, file.group_rows + pending >= self.group_rows)
            });
            if file_full || group_full {
                self.append(columns, written, pending)?;
                written = start;
                self.end_row_group()?;
            }
            if file_full {
                self.end_file()?;
            }
            let rows_before = (start - written) as u64;
            let file = self.open_file()?;
            file.marks.list_starts(file.lists, file.rows + rows_before);
            file.lists += 1;
            self.totals.lists += 1;
        }
        self.append(columns, written, rows - written)?;
        self.totals.rows += rows as u64;
        self.starts = starts;
        Ok(())
    }

    /// Closes the last file; the dataset appears, if this writer owns its folder.
    pub fn finish(mut self) -> Result<Totals, WriteError> {
        if self.totals.rows == 0 {
            return Err(WriteError::Empty);
        }
        self.end_file()?;
        if let Some(staging) = self.staging.take() {
            staging.commit()?;
        }
        Ok(self.totals)
    }

    /// How many rows; or which row and value is no training data.
    fn check(&self, columns: &[ArrayRef]) -> Result<usize, WriteError> {
        let refuse = |message: String| Err(WriteError::Schema { message });
        if columns.len() != self.schema.columns().len() {
            return refuse(format!(
                "{} columns were given, the schema has {}",
                columns.len(),
                self.schema.columns().len()
            ));
        }
        let rows = columns[0].len();
        for (array, column) in columns.iter().zip(self.schema.columns()) {
            if array.len() != rows {
                return refuse(format!("column `{}` has {} rows, the first has {rows}", column.name, array.len()));
            }
            if *array.data_type() != column.data_type() {
                let (found, wanted) = (array.data_type(), column.data_type());
                return refuse(format!("column `{}` is {found}, the schema says {wanted}", column.name));
            }
            if !matches!(column.kind, Kind::Other(_)) && array.null_count() > 0 {
                let row = (0..rows).find(|&row| array.is_null(row)).unwrap_or(0) as u64;
                return Err(WriteError::Null { row: self.totals.rows + row, column: column.name.clone() });
            }
            match column.kind {
                Kind::Feature | Kind::Label => {
                    self.check_values(array, column, "is not finite", |value| value.is_finite())?;
                }
                Kind::Weight => {
                    let refused = "is not a weight, which is finite and not negative";
                    self.check_values(array, column, refused, |value| value >= 0.0 && value.is_finite())?;
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    fn check_values(
        &self,
        array: &ArrayRef,
        column: &Column,
        refused: &'static str,
        fine: impl Fn(f32) -> bool,
    ) -> Result<(), WriteError> {
        let values: &[f32] = array.as_primitive::<Float32Type>().values();
        // Without an early exit the compiler makes vector code of it.
        if values.iter().fold(true, |all, &value| all & fine(value)) {
            return Ok(());
        }
        let row = values.iter().position(|&value| !fine(value)).unwrap_or(0);
        let (at, value) = (self.totals.rows + row as u64, values[row]);
        Err(WriteError::Value { row: at, column: column.name.clone(), value, refused })
    }

    /// Writes rows `from..from + count`, cut where pages end.
    fn append(&mut self, columns: &[ArrayRef], mut from: usize, mut count: usize) -> Result<(), WriteError> {
        while count > 0 {
            let page_rows = self.page_rows;
            let group_rows = self.open_file()?.group_rows;
            let rows = count.min(page_rows - group_rows % page_rows);
            let slices: Vec<ArrayRef> = columns.iter().map(|column| column.slice(from, rows)).collect();
            let batch = self.batch(&slices);
            let file = self.open_file()?;
            batch
                .and_then(|batch| {
                    file.content.update(&slices)?;
                    file.writer.write(&batch)
                })
                .map_err(|source| WriteError::Parquet { path: file.path.clone(), source })?;
            file.rows += rows as u64;
            file.group_rows += rows;
            (from, count) = (from + rows, count - rows);
        }
        Ok(())
    }

    fn batch(&self, columns: &[ArrayRef]) -> Result<RecordBatch, ParquetError> {
        let arrays = match self.options.layout {
            Layout::Wide => columns.to_vec(),
            Layout::Vector => self.with_vector(columns)?,
        };
        Ok(RecordBatch::try_new(self.physical.clone(), arrays)?)
    }

    /// The columns with the features as one list column in the place of the first.
    fn with_vector(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError> {
        let features = self.schema.features();
        let (width, rows) = (features.len(), columns[0].len());
        let mut values = vec![0f32; rows * width];
        for (at, &feature) in features.iter().enumerate() {
            let column: &[f32] = columns[feature].as_primitive::<Float32Type>().values();
            for (cell, &value) in values[at..].iter_mut().step_by(width).zip(column) {
                *cell = value;
            }
        }
        let field = self.schema.vector_field();
        let arrow::datatypes::DataType::FixedSizeList(item, size) = field.data_type() else {
            return Err(ArrowError::SchemaError("the vector column is no fixed-size list".into()));
        };
        let vector = FixedSizeListArray::try_new(item.clone(), *size, Arc::new(Float32Array::from(values)), None)?;
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.physical.fields().len());
        let mut vector: Option<ArrayRef> = Some(Arc::new(vector));
        for (column, array) in self.schema.columns().iter().zip(columns) {
            match column.kind {
                Kind::Feature => arrays.extend(vector.take()),
                _ => arrays.push(array.clone()),
            }
        }
        Ok(arrays)
    }

    fn open_file(&mut self) -> Result<&mut OpenFile, WriteError> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let path = self.folder.join(format!("part-{:05}.parquet", self.totals.files));
                let file = OpenFile::create(path, &self.schema, &self.physical, &self.properties)?;
                self.totals.files += 1;
                Ok(none.insert(file))
            }
        }
    }

    fn end_row_group(&mut self) -> Result<(), WriteError> {
        if let Some(file) = &mut self.file {
            file.group_rows = 0;
            file.writer.flush().map_err(|source| WriteError::Parquet { path: file.path.clone(), source })?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), WriteError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let footer = Footer {
            version: 1,
            features: self.schema.feature_names(),
            vector: self.options.layout == Layout::Vector,
            group: self.schema.columns()[self.schema.group()].name.clone(),
            lists: file.lists,
            content: file.content.digest(&self.schema),
            mark_rows: file.marks.rows,
            mark_lists: file.marks.lists,
        };
        let close = |mut writer: ArrowWriter<File>| {
            let json = serde_json::to_string(&footer).map_err(|error| ParquetError::External(Box::new(error)))?;
            writer.append_key_value_metadata(KeyValue::new(FOOTER_KEY.to_owned(), json));
            writer.finish()?;
            Ok(writer.bytes_written() as u64)
        };
        self.totals.bytes += close(file.writer).map_err(|source| WriteError::Parquet { path: file.path, source })?;
        Ok(())
    }
}

impl OpenFile {
    fn create(
        path: PathBuf,
        schema: &TrainingSchema,
        physical: &SchemaRef,
        properties: &WriterProperties,
    ) -> Result<Self, WriteError> {
        let file =
            File::create_new(&path).map_err(|source| WriteError::Io { what: "create", path: path.clone(), source })?;
        let parquet = |source| WriteError::Parquet { path: path.clone(), source };
        let writer = ArrowWriter::try_new(file, physical.clone(), Some(properties.clone())).map_err(parquet)?;
        let content = Content::new(schema).map_err(|error| parquet(error.into()))?;
        Ok(Self { path, writer, rows: 0, lists: 0, group_rows: 0, marks: Marks::new(), content })
    }
}

/// Plain, without a dictionary, but for text that repeats: list and query ids.
fn properties(schema: &TrainingSchema, options: &WriterOptions, page_rows: usize) -> WriterProperties {
    let codec = match options.compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
    };
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("lockstep {}", env!("CARGO_PKG_VERSION")))
        .set_compression(codec)
        .set_encoding(Encoding::PLAIN)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(PAGE_ROWS)
        // Row groups end with a list, which only this writer knows.
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None);
    for column in schema.columns() {
        if matches!(column.kind, Kind::List(IdKind::Utf8) | Kind::Query(IdKind::Utf8)) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![column.name.clone()]), true);
        }
    }
    properties.build()
}
