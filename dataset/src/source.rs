//! Where decoded rows come from: [`Source`], and its reader of local Parquet files.
//!
//! A block is decoded column by column, checked (no null, nothing but finite numbers, no negative weight) and turned into
//! row-major features in one pass. Datasets that fit `data.cache` are decoded once and stay in memory.

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray as _, RecordBatch},
    compute,
    datatypes::{DataType, Float32Type},
};
use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
    },
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::PageIndexPolicy,
        reader::{ChunkReader, Length},
    },
};
use proto::v1;

use crate::{
    lanes::{Atom, Block, Blocks},
    lists,
    manifest::{self, DatasetError},
};

/// Decoded rows, in file order.
#[derive(Debug, Default)]
pub struct Rows {
    /// Row-major, `rows() * features`.
    pub features: Vec<f32>,
    pub labels: Vec<f32>,
    /// Empty where the dataset has no weights.
    pub weights: Vec<f32>,
    /// First row of each list, and the number of rows at the end; empty where atoms are rows.
    pub starts: Vec<u32>,
}

impl Rows {
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    pub fn bytes(&self) -> usize {
        4 * (self.features.len() + self.labels.len() + self.weights.len() + self.starts.len())
    }
}

/// A block inside decoded rows, which may hold more than the block.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub rows: Arc<Rows>,
    /// The block's rows.
    pub range: Range<usize>,
    /// The block's lists, as indices into `rows.starts`; the same as `range` where atoms are rows.
    pub atoms: Range<usize>,
}

/// Gives decoded blocks. Called from several threads.
pub trait Source: Send + Sync {
    fn read(&self, block: &Block) -> Result<Decoded, DatasetError>;
}

/// Reads the local Parquet files of a manifest.
pub struct ParquetSource {
    manifest: v1::Manifest,
    columns: v1::Columns,
    atom: Atom,
    opened: Mutex<HashMap<u32, Arc<Opened>>>,
    /// One a file where the whole dataset is kept.
    kept: Option<Vec<OnceLock<Arc<Rows>>>>,
}

struct Opened {
    file: PositionedFile,
    metadata: ArrowReaderMetadata,
}

/// Files whose footer and page index stay in memory.
const OPEN_FILES: usize = 256;

impl ParquetSource {
    /// `cache`: keep everything decoded if it is within so many bytes.
    pub fn new(manifest: v1::Manifest, blocks: &Blocks, cache: u64) -> Self {
        let columns = manifest.columns.clone().unwrap_or_default();
        let decoded = manifest.rows * 4 * (columns.features.len() as u64 + 3);
        let kept = (decoded <= cache).then(|| manifest.files.iter().map(|_| OnceLock::new()).collect());
        Self { manifest, columns, atom: blocks.atom, opened: Mutex::default(), kept }
    }

    pub fn features(&self) -> usize {
        self.columns.features.len()
    }

    fn open(&self, file: u32) -> Result<Arc<Opened>, DatasetError> {
        let path = manifest::file_path(&self.manifest, file as usize);
        let broken = |what: &dyn std::fmt::Display| {
            DatasetError::new(&path, format!("cannot read `{}`: {what}", path.display()))
                .hint("the run's data must stay where it is, unchanged, until the run has ended")
        };
        let mut opened = self.opened.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(file) = opened.get(&file) {
            return Ok(Arc::clone(file));
        }
        let handle = File::open(&path).map_err(|error| broken(&error))?;
        let length = handle.metadata().map_err(|error| broken(&error))?.len();
        let expected = self.manifest.files[file as usize].bytes;
        if length != expected {
            return Err(broken(&format!("it has {length} bytes, {expected} when the run began")));
        }
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&handle, options).map_err(|error| broken(&error))?;
        let entry = Arc::new(Opened { file: PositionedFile { file: handle, length }, metadata });
        if opened.len() >= OPEN_FILES {
            opened.clear();
        }
        opened.insert(file, Arc::clone(&entry));
        Ok(entry)
    }

    fn decode(&self, block: &Block) -> Result<Rows, DatasetError> {
        let path = manifest::file_path(&self.manifest, block.file as usize);
        let opened = self.open(block.file)?;
        let unreadable = |error: &dyn std::fmt::Display| {
            DatasetError::new(&path, format!("cannot read `{}`: {error}", path.display()))
        };
        let (groups, selection) = select(&self.manifest.files[block.file as usize].row_group_rows, block);
        let mut names: Vec<&str> = match self.columns.vector.as_str() {
            "" => self.columns.features.iter().map(String::as_str).collect(),
            vector => vec![vector],
        };
        names.push(&self.columns.label);
        if !self.columns.weight.is_empty() {
            names.push(&self.columns.weight);
        }
        if self.atom == Atom::List {
            names.push(&self.columns.group);
        }
        let mask = manifest::projection(&opened.metadata, &names)
            .map_err(|name| unreadable(&format!("there is no column `{name}`")))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
            opened.file.clone_handle(&unreadable)?,
            opened.metadata.clone(),
        )
        .with_projection(mask)
        .with_row_groups(groups)
        .with_row_selection(selection)
        .with_batch_size(block.rows as usize)
        .build()
        .map_err(|error| unreadable(&error))?;
        let mut decoded = Rows::default();
        decoded.features.reserve_exact(block.rows as usize * self.features());
        for batch in reader {
            let batch = batch.map_err(|error| unreadable(&error))?;
            self.append(&mut decoded, &batch, &path, block)?;
        }
        if decoded.rows() as u64 != block.rows {
            return Err(unreadable(&format!("{} rows where the manifest says {}", decoded.rows(), block.rows)));
        }
        if self.atom == Atom::List {
            decoded.starts.push(decoded.labels.len() as u32);
            if decoded.starts.len() as u64 != block.atoms + 1 {
                let found = decoded.starts.len() - 1;
                return Err(unreadable(&format!("{found} lists where the manifest says {}", block.atoms)));
            }
        }
        Ok(decoded)
    }

    fn append(&self, rows: &mut Rows, batch: &RecordBatch, path: &Path, block: &Block) -> Result<(), DatasetError> {
        let first_row = block.first_row + rows.rows() as u64;
        let place = Place { path, first_row };
        let labels = place.column(batch, &self.columns.label)?;
        rows.labels.extend_from_slice(place.finite(&labels, &self.columns.label)?);
        if !self.columns.weight.is_empty() {
            let weights = place.column(batch, &self.columns.weight)?;
            let weights = place.finite(&weights, &self.columns.weight)?;
            if let Some(row) = weights.iter().position(|weight| *weight < 0.0) {
                return Err(place.wrong(row, &self.columns.weight, &format!("is {}, a negative weight", weights[row])));
            }
            rows.weights.extend_from_slice(weights);
        }
        if self.atom == Atom::List {
            let group = batch.column_by_name(&self.columns.group).ok_or_else(|| place.absent(&self.columns.group))?;
            let starts = lists::starts(group).map_err(|error| place.odd(&self.columns.group, &error))?;
            let before = (rows.rows() - batch.num_rows()) as u32;
            // Only a whole block in one batch keeps lists apart from their continuation; `decode` asks for just that.
            rows.starts.extend(starts.into_iter().map(|start| start + before));
        }
        if self.columns.vector.is_empty() {
            let columns: Vec<ArrayRef> =
                self.columns.features.iter().map(|name| place.column(batch, name)).collect::<Result<_, _>>()?;
            let mut slices = Vec::with_capacity(columns.len());
            for (column, name) in columns.iter().zip(&self.columns.features) {
                slices.push(place.finite(column, name)?);
            }
            transpose(&slices, &mut rows.features);
        } else {
            let (name, width) = (&self.columns.vector, self.features());
            let values = place.vector(batch, name, width, &|element| self.columns.features[element].clone())?;
            rows.features.extend_from_slice(values.as_primitive::<Float32Type>().values());
        }
        Ok(())
    }
}

impl Source for ParquetSource {
    fn read(&self, block: &Block) -> Result<Decoded, DatasetError> {
        let Some(kept) = &self.kept else {
            let rows = Arc::new(self.decode(block)?);
            let atoms = block.atoms as usize;
            return Ok(Decoded { range: 0..rows.rows(), atoms: 0..atoms, rows });
        };
        let slot = &kept[block.file as usize];
        let rows = match slot.get() {
            Some(rows) => Arc::clone(rows),
            None => {
                let file = &self.manifest.files[block.file as usize];
                let whole = Block {
                    file: block.file,
                    first_row: 0,
                    rows: file.row_group_rows.iter().sum(),
                    first_atom: 0,
                    atoms: file.lists,
                };
                // Two threads may both decode a file the first time; one of the results is kept.
                let rows = Arc::new(self.decode(&whole)?);
                Arc::clone(slot.get_or_init(|| rows))
            }
        };
        let range = block.first_row as usize..(block.first_row + block.rows) as usize;
        let atoms = match self.atom {
            Atom::Row => range.clone(),
            Atom::List => {
                let at = |row: usize| rows.starts.partition_point(|start| (*start as usize) < row);
                let lists = at(range.start)..at(range.end);
                let whole = rows.starts.get(lists.start) == Some(&(range.start as u32));
                if lists.len() as u64 != block.atoms || !whole {
                    let path = manifest::file_path(&self.manifest, block.file as usize);
                    let rows = format!("rows {}..{}", range.start, range.end);
                    let message = format!("`{}`: its footer is wrong about the lists in {rows}", path.display());
                    return Err(DatasetError::new(&path, message).hint("import the data again"));
                }
                lists
            }
        };
        Ok(Decoded { rows, range, atoms })
    }
}

/// The row groups that a block touches, and the rows in them.
fn select(row_group_rows: &[u64], block: &Block) -> (Vec<usize>, RowSelection) {
    let end = block.first_row + block.rows;
    let (mut first, mut groups, mut skip) = (0, Vec::new(), None);
    for (index, rows) in row_group_rows.iter().enumerate() {
        if first < end && first + rows > block.first_row {
            skip.get_or_insert(block.first_row.saturating_sub(first));
            groups.push(index);
        }
        first += rows;
    }
    let skip = skip.unwrap_or(0) as usize;
    (groups, RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(block.rows as usize)]))
}

/// Where a batch lies, for errors.
pub(crate) struct Place<'a> {
    pub path: &'a Path,
    pub first_row: u64,
}

impl Place<'_> {
    pub fn column(&self, batch: &RecordBatch, name: &str) -> Result<ArrayRef, DatasetError> {
        self.numbers(batch.column_by_name(name).ok_or_else(|| self.absent(name))?, name)
    }

    /// A column as f32, none of it null.
    pub fn numbers(&self, column: &ArrayRef, name: &str) -> Result<ArrayRef, DatasetError> {
        if let Some(row) =
            (column.null_count() > 0).then(|| (0..column.len()).find(|row| column.is_null(*row))).flatten()
        {
            return Err(self.wrong(row, name, "is null"));
        }
        as_f32(column).map_err(|error| self.odd(name, &error))
    }

    /// The values, after a look at every exponent: all ones mean NaN or infinite.
    pub fn finite<'c>(&self, column: &'c ArrayRef, name: &str) -> Result<&'c [f32], DatasetError> {
        const EXPONENT: u32 = 0x7f80_0000;
        let values = column.as_primitive::<Float32Type>().values();
        let bad = values.iter().fold(0, |bad, value| bad | u32::from(value.to_bits() & EXPONENT == EXPONENT));
        if bad == 0 && column.null_count() == 0 {
            return Ok(values);
        }
        let row = (0..column.len()).find(|row| column.is_null(*row) || !values[*row].is_finite()).unwrap_or(0);
        let what = if column.is_null(row) { "is null".to_owned() } else { format!("is {}", values[row]) };
        Err(self.wrong(row, name, &what))
    }

    /// The elements of a fixed-size list column, row by row; `name`: what an element is called.
    pub fn vector(
        &self,
        batch: &RecordBatch,
        column: &str,
        width: usize,
        name: &dyn Fn(usize) -> String,
    ) -> Result<ArrayRef, DatasetError> {
        let lists = batch.column_by_name(column).ok_or_else(|| self.absent(column))?;
        let lists = lists.as_fixed_size_list_opt().ok_or_else(|| self.odd(column, &"is not a fixed-size list"))?;
        if let Some(row) = (0..lists.len()).find(|row| lists.is_null(*row)) {
            return Err(self.wrong(row, column, "is null"));
        }
        let values = as_f32(lists.values()).map_err(|error| self.odd(column, &error))?;
        let values = values.slice(lists.value_offset(0) as usize, lists.len() * width);
        let elements = values.as_primitive::<Float32Type>();
        let unfit = |element: &usize| elements.is_null(*element) || !elements.value(*element).is_finite();
        if self.finite(&values, column).is_err()
            && let Some(element) = (0..elements.len()).find(unfit)
        {
            return Err(self.wrong(element / width, &name(element % width), "is null or not finite"));
        }
        Ok(values)
    }

    fn wrong(&self, row: usize, column: &str, what: &str) -> DatasetError {
        let row = self.first_row + row as u64;
        DatasetError::new(self.path, format!("`{}`, row {row}: column `{column}` {what}", self.path.display()))
            .hint("`lockstep inspect` lists what is odd in a dataset; every feature, label and weight must be a finite number")
    }

    pub fn absent(&self, column: &str) -> DatasetError {
        DatasetError::new(self.path, format!("`{}` has no column `{column}`", self.path.display()))
    }

    pub fn odd(&self, column: &str, what: &dyn std::fmt::Display) -> DatasetError {
        DatasetError::new(self.path, format!("`{}`: column `{column}`: {what}", self.path.display()))
    }
}

pub(crate) fn as_f32(column: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    match column.data_type() {
        DataType::Float32 => Ok(Arc::clone(column)),
        _ => compute::cast(column, &DataType::Float32),
    }
}

/// Appends columns as rows, by way of a tile of rows that stays in the first-level cache.
fn transpose(columns: &[&[f32]], out: &mut Vec<f32>) {
    const TILE: usize = 64;
    let (width, rows) = (columns.len(), columns.first().map_or(0, |column| column.len()));
    out.reserve(rows * width);
    let mut tile = vec![0.0; TILE * width];
    for first in (0..rows).step_by(TILE) {
        let last = rows.min(first + TILE);
        let part: Vec<&[f32]> = columns.iter().map(|column| &column[first..last]).collect();
        transpose_into(&part, &mut tile[..(last - first) * width]);
        out.extend_from_slice(&tile[..(last - first) * width]);
    }
}

/// Columns as rows of memory that is there already and stays in a core's cache. Some columns at a time, so that what is written side by side
/// lies side by side.
pub(crate) fn transpose_into(columns: &[&[f32]], out: &mut [f32]) {
    const SIDE: usize = 8;
    let width = columns.len();
    for (part, columns) in columns.chunks(SIDE).enumerate() {
        let first = part * SIDE;
        let rows = out.chunks_exact_mut(width).map(|row| &mut row[first..first + columns.len()]);
        match <&[&[f32]; SIDE]>::try_from(columns) {
            // The same, with a width that the compiler knows.
            Ok(columns) => lay_out(columns, rows),
            Err(_) => lay_out(columns, rows),
        }
    }
}

#[inline(always)]
fn lay_out<'a>(columns: &[&[f32]], rows: impl Iterator<Item = &'a mut [f32]>) {
    for (at, row) in rows.enumerate() {
        row.iter_mut().zip(columns).for_each(|(out, column)| *out = column[at]);
    }
}

/// Reads at positions, so that threads share one file without sharing a cursor.
struct PositionedFile {
    file: File,
    length: u64,
}

impl PositionedFile {
    fn clone_handle(&self, unreadable: &dyn Fn(&dyn std::fmt::Display) -> DatasetError) -> Result<Self, DatasetError> {
        let file = self.file.try_clone().map_err(|error| unreadable(&error))?;
        Ok(Self { file, length: self.length })
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for PositionedFile {
    type T = PositionedRead;

    fn get_read(&self, start: u64) -> ParquetResult<PositionedRead> {
        Ok(PositionedRead { file: self.file.try_clone()?, position: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = start + bytes.len() as u64;
            // Into spare capacity: these bytes need not be zeroed first.
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(ParquetError::EOF(format!("the file ends before byte {}", start + length as u64))),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ParquetError::General(format!("byte {at}: {error}"))),
            }
        }
        bytes.truncate(length);
        Ok(bytes.into())
    }
}

/// A cursor of its own over a shared file.
pub struct PositionedRead {
    file: File,
    position: u64,
}

impl io::Read for PositionedRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}
