//! Reads training Parquet, ours or foreign, as chunks of columns in the types of [`TrainingSchema`].
//!
//! For split and inspect: all columns, in order, on the caller's thread. What training reads with is `dataset`'s reader.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use dataset::layout::{DOCUMENT, FEATURES, FOOTER_KEY, Footer, LABEL, LIST, QUERY, RESERVED, WEIGHT};
use dataset::writer::{Column, IdKind, Kind, Layout, TrainingSchema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use crate::PipelineError;

/// Which columns are what. A column named here must be there; otherwise the layout's names are used where the data has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadOptions {
    /// Default `label`, which must be there.
    pub label: Option<String>,
    /// Default `query_id`.
    pub query: Option<String>,
    /// What a list is. Default: what the file's footer says, else `list_id`, else the query.
    pub group: Option<String>,
}

/// Some rows of a file.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Index of the file among [`TrainingReader::files`].
    pub file: usize,
    /// The first row's number in that file, from 0.
    pub row: u64,
    pub rows: usize,
    /// In the schema's order and types; nulls are as in the file.
    pub columns: Vec<ArrayRef>,
}

/// A file and what its footer says.
pub struct SourceFile {
    pub path: PathBuf,
    pub metadata: ArrowReaderMetadata,
    pub footer: Option<Footer>,
}

/// An iterator over the rows of a Parquet file or a folder of them.
pub struct TrainingReader {
    files: Vec<SourceFile>,
    schema: TrainingSchema,
    layout: Layout,
    /// The name of the list column of the vector layout.
    vector: Option<String>,
    batch_rows: usize,
    next_file: usize,
    open: Option<(ParquetRecordBatchReader, u64)>,
}

impl TrainingReader {
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self, PipelineError> {
        let files: Vec<SourceFile> = list_files(path)?.into_iter().map(SourceFile::open).collect::<Result<_, _>>()?;
        let Resolved { schema, vector } = resolve(&files[0], options)?;
        let batch_rows = ((1 << 20) / schema.features().len()).clamp(256, 1 << 16);
        let layout = if vector.is_some() { Layout::Vector } else { Layout::Wide };
        Ok(Self { files, schema, layout, vector, batch_rows, next_file: 0, open: None })
    }

    pub fn schema(&self) -> &TrainingSchema {
        &self.schema
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Every row once, in the order of files and rows; `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, PipelineError> {
        loop {
            if let Some((reader, row)) = &mut self.open {
                let file = self.next_file - 1;
                let first = *row;
                if let Some(batch) = reader.next() {
                    let path = &self.files[file].path;
                    let batch = batch.map_err(|error| unreadable(path, error))?;
                    *row += batch.num_rows() as u64;
                    if batch.num_rows() == 0 {
                        continue;
                    }
                    let columns = self.columns(&batch, file, first)?;
                    return Ok(Some(Chunk { file, row: first, rows: batch.num_rows(), columns }));
                }
            }
            let Some(file) = self.files.get(self.next_file) else { return Ok(None) };
            let handle = File::open(&file.path).map_err(|error| PipelineError::io("open", &file.path, error))?;
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, file.metadata.clone())
                .with_batch_size(self.batch_rows)
                .build()
                .map_err(|error| unreadable(&file.path, error))?;
            self.open = Some((reader, 0));
            self.next_file += 1;
        }
    }

    fn columns(&self, batch: &RecordBatch, file: usize, first: u64) -> Result<Vec<ArrayRef>, PipelineError> {
        let path = self.files[file].path.display();
        let mut elements = match &self.vector {
            Some(name) => {
                let array = batch.column_by_name(name).ok_or_else(|| missing(&self.files[file].path, name))?;
                let width = self.schema.features().len();
                let elements = unpack(array, width).map_err(|(row, what)| {
                    PipelineError::data(format!("`{path}` row {}, column `{name}`: {what}", first + row as u64))
                })?;
                Some(elements.into_iter())
            }
            None => None,
        };
        // Not safe: a value that does not fit is an error, not a null.
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let columns = self.schema.columns().iter().map(|column| {
            if column.kind == Kind::Feature
                && let Some(element) = elements.as_mut().and_then(Iterator::next)
            {
                return Ok(element);
            }
            let array =
                batch.column_by_name(&column.name).ok_or_else(|| missing(&self.files[file].path, &column.name))?;
            cast_with_options(array, &column.data_type(), &options).map_err(|error| {
                let message = format!("`{path}`, column `{}`: not readable as {}", column.name, column.data_type());
                PipelineError::data(message).because(error)
            })
        });
        columns.collect()
    }
}

impl SourceFile {
    fn open(path: PathBuf) -> Result<Self, PipelineError> {
        let file = File::open(&path).map_err(|error| PipelineError::io("open", &path, error))?;
        let metadata =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| unreadable(&path, error))?;
        let footer = metadata.metadata().file_metadata().key_value_metadata().and_then(|pairs| {
            let pair = pairs.iter().find(|pair| pair.key == FOOTER_KEY)?;
            serde_json::from_str(pair.value.as_deref()?).ok()
        });
        Ok(Self { path, metadata, footer })
    }

    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows() as u64
    }
}

fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::data(format!("cannot read `{}` as Parquet", path.display())).because(error)
}

fn missing(path: &Path, column: &str) -> PipelineError {
    PipelineError::data(format!("`{}` has no column `{column}`, the first file has it", path.display()))
        .with_hint("files of one dataset have the same columns")
}

/// The file itself, or the Parquet files of a folder by name; hidden ones (`.` and `_`) are somebody's working state.
pub(crate) fn list_files(path: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let metadata = fs::metadata(path).map_err(|error| PipelineError::io("read", path, error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folder = None;
    for entry in fs::read_dir(path).map_err(|error| PipelineError::io("read", path, error))? {
        let entry = entry.map_err(|error| PipelineError::io("read", path, error))?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if entry.is_dir() {
            folder = Some(entry);
        } else if entry.extension().is_some_and(|extension| extension == "parquet") {
            files.push(entry);
        }
    }
    files.sort();
    if files.is_empty() {
        let error = PipelineError::data(format!("`{}` holds no .parquet file", path.display()));
        return Err(match folder {
            Some(folder) => error.with_hint(format!("did you mean `{}`?", folder.display())),
            None => error,
        });
    }
    Ok(files)
}

struct Resolved {
    schema: TrainingSchema,
    vector: Option<String>,
}

/// Gives every column of a file its role.
fn resolve(file: &SourceFile, options: &ReadOptions) -> Result<Resolved, PipelineError> {
    let fields: &Schema = file.metadata.schema();
    let path = file.path.display();
    let named = |asked: &Option<String>, default: &str| match asked {
        Some(name) if fields.column_with_name(name).is_none() => {
            let names: Vec<&str> = fields.fields().iter().map(|field| field.name().as_str()).collect();
            Err(PipelineError::options(format!("`{path}` has no column `{name}`"))
                .with_hint(format!("its columns are {}", names.join(", "))))
        }
        Some(name) => Ok(Some(name.clone())),
        None => Ok(fields.column_with_name(default).map(|_| default.to_owned())),
    };
    let label = named(&options.label, LABEL)?;
    let query = named(&options.query, QUERY)?;
    let footer_group = file.footer.as_ref().map_or(LIST, |footer| &footer.group);
    let list = named(&options.group, footer_group)?.or(named(&None, LIST)?).filter(|list| query.as_ref() != Some(list));
    let of_footer = file.footer.as_ref().map(|footer| footer.features.as_slice());
    let vector = vector_field(fields, file.footer.as_ref()).map(|field| field.name().clone());

    let mut columns = Vec::with_capacity(fields.fields().len());
    for field in fields.fields() {
        let name = field.name();
        let is = |role: &Option<String>| role.as_ref() == Some(name);
        let ids = || {
            id_kind(field.data_type()).ok_or_else(|| {
                PipelineError::data(format!(
                    "`{path}`, column `{name}`: ids are integers or text, not {}",
                    field.data_type()
                ))
            })
        };
        let number = |kind: Kind| match field.data_type().is_numeric() {
            true => Ok(kind),
            false => {
                Err(PipelineError::data(format!("`{path}`, column `{name}` is {}, not a number", field.data_type())))
            }
        };
        let kind = if is(&label) {
            number(Kind::Label)?
        } else if is(&list) {
            Kind::List(ids()?)
        } else if is(&query) {
            Kind::Query(ids()?)
        } else if name == WEIGHT {
            number(Kind::Weight)?
        } else if name == DOCUMENT {
            Kind::Document(ids()?)
        } else if is(&vector) {
            let width = vector_width(file, field)?;
            let foreign = || (1..=width).map(|at| format!("f{at}")).collect();
            let names = of_footer.map_or_else(foreign, <[String]>::to_vec);
            if names.len() != width {
                let message = format!("`{path}`: the footer names {} features, `{name}` has {width}", names.len());
                return Err(PipelineError::data(message));
            }
            columns.extend(names.into_iter().map(Column::feature));
            continue;
        } else if vector.is_none() && is_feature(field, of_footer) {
            number(Kind::Feature)?
        } else {
            Kind::Other(field.clone())
        };
        columns.push(Column::new(name, kind));
    }
    let schema = TrainingSchema::new(columns).map_err(|error| {
        PipelineError::data(format!("`{path}` is no training data: {error}"))
            .with_hint("say which columns hold the label and the query")
    })?;
    Ok(Resolved { schema, vector })
}

fn is_feature(field: &Field, of_footer: Option<&[String]>) -> bool {
    match of_footer {
        Some(names) => names.contains(field.name()),
        None => field.data_type().is_numeric() && !RESERVED.contains(&field.name().as_str()),
    }
}

fn id_kind(kind: &DataType) -> Option<IdKind> {
    match kind {
        kind if kind.is_integer() => Some(IdKind::Int64),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(IdKind::Utf8),
        DataType::Dictionary(_, values) => id_kind(values),
        _ => None,
    }
}

/// The list column that holds the features, if they are in one.
fn vector_field<'a>(fields: &'a Schema, footer: Option<&Footer>) -> Option<&'a Field> {
    if footer.is_some_and(|footer| !footer.vector) {
        return None;
    }
    let (_, field) = fields.column_with_name(FEATURES)?;
    match field.data_type() {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            item.data_type().is_numeric().then_some(field)
        }
        _ => None,
    }
}

/// How many elements: said by the type, else by the first row.
fn vector_width(file: &SourceFile, field: &Field) -> Result<usize, PipelineError> {
    if let DataType::FixedSizeList(_, width) = field.data_type() {
        return Ok(*width as usize);
    }
    let handle = File::open(&file.path).map_err(|error| PipelineError::io("open", &file.path, error))?;
    let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, file.metadata.clone())
        .with_batch_size(1)
        .build()
        .map_err(|error| unreadable(&file.path, error))?;
    let first = reader.next().transpose().map_err(|error| unreadable(&file.path, error))?;
    let Some(array) = first.as_ref().and_then(|batch| batch.column_by_name(field.name())) else { return Ok(0) };
    Ok(array
        .as_list_opt::<i32>()
        .map(|lists| lists.value_length(0) as usize)
        .unwrap_or_else(|| array.as_list_opt::<i64>().map_or(0, |lists| lists.value_length(0) as usize)))
}

/// One array an element of a list column; or which row is no list of `width` numbers, and how.
fn unpack(lists: &ArrayRef, width: usize) -> Result<Vec<ArrayRef>, (usize, String)> {
    let rows = lists.len();
    if lists.null_count() > 0 {
        let row = (0..rows).find(|&row| lists.is_null(row)).unwrap_or(0);
        return Err((row, "the value is missing".into()));
    }
    let item = match lists.data_type() {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => item,
        other => return Err((0, format!("{other} is no list"))),
    };
    let lengths = |ends: &mut dyn Iterator<Item = usize>| match ends.enumerate().find(|&(_, length)| length != width) {
        Some((row, length)) => Err((row, format!("{length} features, the first row has {width}"))),
        None => Ok(()),
    };
    let (values, from) = match lists.data_type() {
        DataType::List(_) => {
            let lists = lists.as_list::<i32>();
            lengths(&mut lists.value_offsets().windows(2).map(|pair| (pair[1] - pair[0]) as usize))?;
            (lists.values(), lists.value_offsets()[0] as usize)
        }
        DataType::LargeList(_) => {
            let lists = lists.as_list::<i64>();
            lengths(&mut lists.value_offsets().windows(2).map(|pair| (pair[1] - pair[0]) as usize))?;
            (lists.values(), lists.value_offsets()[0] as usize)
        }
        _ => {
            let lists = lists.as_fixed_size_list();
            lengths(&mut std::iter::once(lists.value_length() as usize))?;
            (lists.values(), lists.value_offset(0) as usize)
        }
    };
    let values = values.slice(from, rows * width);
    let values = cast_with_options(&values, &DataType::Float32, &CastOptions::default())
        .map_err(|error| (0, format!("{} is no number: {error}", item.data_type())))?;
    let values = values.as_primitive::<Float32Type>();
    let element = |at: usize| -> ArrayRef {
        if values.null_count() == 0 {
            let column: Vec<f32> = values.values()[at..].iter().step_by(width).copied().collect();
            return Arc::new(Float32Array::from(column));
        }
        let column = (at..rows * width).step_by(width).map(|cell| values.is_valid(cell).then(|| values.value(cell)));
        Arc::new(Float32Array::from_iter(column))
    };
    Ok((0..width).map(element).collect())
}
