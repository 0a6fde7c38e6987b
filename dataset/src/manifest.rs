//! The manifest of a dataset: ordered files, row groups, rows, lists and a hash; built once a run, by the coordinator.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array as _, ArrayRef},
    datatypes::{DataType, Schema},
};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
};
use proto::{spec::Data, v1};

use crate::{
    files::files_under,
    layout::{self, Footer},
    lists::ListCounter,
};

/// Why a folder or a file is not a training dataset. The message names the file, row or column.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DatasetError {
    pub path: PathBuf,
    pub message: String,
    pub hint: Option<String>,
}

impl DatasetError {
    pub fn new(path: &Path, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Reads the footers under `root` (a Parquet file or a folder of them) and resolves the columns that `data` asks for.
/// `lists`: also find where lists start (a scan of the group column in files that Lockstep did not write). Blocking.
pub fn build(root: &Path, data: &Data, lists: bool) -> Result<v1::Manifest, DatasetError> {
    let mut files = Vec::new();
    let mut columns: Option<v1::Columns> = None;
    let mut hash = blake3::Hasher::new();
    let mut seen = HashSet::new();
    for path in parquet_files(root)? {
        let opened = Opened::read(root, path)?;
        let resolved = resolve(&opened, data)?;
        match &columns {
            None => columns = Some(resolved.clone()),
            Some(first) if *first == resolved => {}
            Some(first) => {
                let message = format!(
                    "`{}` has other columns than the files before it: {}",
                    opened.path.display(),
                    difference(first, &resolved)
                );
                return Err(DatasetError::new(root, message)
                    .hint("keep files of one layout in a folder, or name the columns in [data]"));
            }
        }
        hash.update(opened.name.as_bytes()).update(&opened.bytes.to_le_bytes()).update(&opened.footer_bytes);
        files.push(opened.describe(&resolved, lists, &mut seen)?);
    }
    let Some(columns) = columns else {
        return Err(DatasetError::new(root, format!("no Parquet file in `{}`", root.display()))
            .hint("`lockstep import`, `generate` and `split` write training Parquet"));
    };
    for part in columns.features.iter().chain([&columns.label, &columns.weight, &columns.group]) {
        hash.update(part.as_bytes()).update(&[0]);
    }
    let rows = files.iter().flat_map(|file: &v1::DataFile| &file.row_group_rows).sum();
    if rows == 0 {
        return Err(DatasetError::new(root, format!("the dataset `{}` has no rows", root.display())));
    }
    Ok(v1::Manifest {
        root: root.to_string_lossy().into_owned(),
        lists: files.iter().map(|file| file.lists).sum(),
        rows,
        files,
        columns: Some(columns),
        hash: hash.finalize().to_hex()[..32].to_owned(),
    })
}

/// The files of a dataset, sorted by path.
pub(crate) fn parquet_files(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let unreadable = |path: &Path, error: io::Error| {
        let wrong = DatasetError::new(root, format!("cannot read `{}`: {error}", path.display()));
        if error.kind() == io::ErrorKind::NotFound {
            wrong.hint("paths in [data] are relative to where lockstep was started")
        } else {
            wrong
        }
    };
    files_under(root, |name| name.ends_with(".parquet"), unreadable)
}

/// A file whose footer has been read.
struct Opened {
    path: PathBuf,
    /// Relative to the dataset's root.
    name: String,
    bytes: u64,
    footer_bytes: Vec<u8>,
    metadata: ArrowReaderMetadata,
    footer: Option<Footer>,
}

impl Opened {
    fn read(root: &Path, path: PathBuf) -> Result<Self, DatasetError> {
        let broken = |what: String| {
            DatasetError::new(root, format!("`{}` is not a whole Parquet file: {what}", path.display()))
                .hint("was it cut short while it was copied? Replace it, or move it out of the folder")
        };
        let file = File::open(&path).map_err(|error| broken(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| broken(error.to_string()))?.len();
        let footer_bytes = footer_bytes(&file, bytes).map_err(|error| broken(error.to_string()))?;
        let metadata =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| broken(error.to_string()))?;
        let row_groups = metadata.metadata().row_groups();
        let end = row_groups.iter().flat_map(|group| group.columns()).map(|column| column.byte_range());
        if let Some(past) = end.map(|(start, length)| start + length).find(|end| *end > bytes) {
            return Err(broken(format!("its footer speaks of byte {past}, the file has {bytes}")));
        }
        let footer = footer(&metadata);
        let name = path.strip_prefix(root).unwrap_or(Path::new("")).to_string_lossy().into_owned();
        Ok(Self { path, name, bytes, footer_bytes, metadata, footer })
    }

    fn describe(
        self,
        columns: &v1::Columns,
        lists: bool,
        seen: &mut HashSet<u64>,
    ) -> Result<v1::DataFile, DatasetError> {
        let row_group_rows: Vec<u64> =
            self.metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u64).collect();
        let mut file =
            v1::DataFile { path: self.name.clone(), bytes: self.bytes, row_group_rows, ..Default::default() };
        if !lists {
            return Ok(file);
        }
        let (count, mark_rows, mark_lists) = match &self.footer {
            Some(footer) if footer.group == columns.group && !footer.mark_rows.is_empty() => {
                (footer.lists, footer.mark_rows.clone(), footer.mark_lists.clone())
            }
            _ => {
                let counter = self.scan(&columns.group, seen)?;
                let lists = counter.lists();
                let (mark_rows, mark_lists) = counter.into_marks();
                (lists, mark_rows, mark_lists)
            }
        };
        file.lists = count;
        file.mark_rows = deltas(&mark_rows);
        file.mark_lists = deltas(&mark_lists);
        Ok(file)
    }

    /// Reads the group column of a file that Lockstep did not write, once.
    fn scan(&self, group: &str, seen: &mut HashSet<u64>) -> Result<ListCounter, DatasetError> {
        let broken = |error: &dyn std::fmt::Display| {
            DatasetError::new(&self.path, format!("cannot read column `{group}` of `{}`: {error}", self.path.display()))
        };
        let file = File::open(&self.path).map_err(|error| broken(&error))?;
        let mask = projection(&self.metadata, &[group]).map_err(|name| broken(&format!("there is no `{name}`")))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(mask)
            .with_batch_size(1 << 16)
            .build()
            .map_err(|error| broken(&error))?;
        let mut counter = ListCounter::default();
        for batch in reader {
            let batch = batch.map_err(|error| broken(&error))?;
            let column: &ArrayRef = batch.column(0);
            if column.null_count() > 0 {
                let row = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or(0) as u64 + counter.rows();
                let message =
                    format!("`{}`, row {row}: column `{group}` is null; every row needs its list", self.path.display());
                return Err(DatasetError::new(&self.path, message));
            }
            let again = counter.add(column, seen).map_err(|error| broken(&error))?;
            if let Some(row) = again {
                let message = format!(
                    "`{}`, row {row}: a list of column `{group}` starts again after other lists",
                    self.path.display()
                );
                return Err(DatasetError::new(&self.path, message)
                    .hint("the rows of a list must lie together: sort the data by that column"));
            }
        }
        Ok(counter)
    }
}

/// What Lockstep's own writer says about a file, where it wrote it.
pub(crate) fn footer(metadata: &ArrowReaderMetadata) -> Option<Footer> {
    let about = metadata.metadata().file_metadata();
    let pair = about.key_value_metadata()?.iter().find(|pair| pair.key == layout::FOOTER_KEY)?;
    let footer: Footer = serde_json::from_str(pair.value.as_deref().unwrap_or_default()).ok()?;
    // Other writers copy key-value metadata along with rows that they have moved.
    let ours = about.created_by().unwrap_or_default().starts_with("lockstep");
    (footer.version == 1 && ours && footer.is_sound(about.num_rows() as u64)).then_some(footer)
}

/// The mask of some top-level columns, whose names may hold dots; `Err` names one that is not there.
pub(crate) fn projection<'n>(metadata: &ArrowReaderMetadata, names: &[&'n str]) -> Result<ProjectionMask, &'n str> {
    let index = |name: &&'n str| metadata.schema().index_of(name).map_err(|_| *name);
    let roots: Vec<usize> = names.iter().map(index).collect::<Result<_, _>>()?;
    Ok(ProjectionMask::roots(metadata.parquet_schema(), roots))
}

fn deltas(values: &[u64]) -> Vec<u64> {
    let mut before = 0;
    values.iter().map(|value| value - std::mem::replace(&mut before, *value)).collect()
}

fn footer_bytes(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "no Parquet footer at its end");
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, bytes.checked_sub(8).ok_or_else(cut)?)?;
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if &tail[4..] != b"PAR1" || length + 8 > bytes {
        return Err(cut());
    }
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, bytes - 8 - length)?;
    Ok(footer)
}

/// Which columns of a file are what.
fn resolve(file: &Opened, data: &Data) -> Result<v1::Columns, DatasetError> {
    let schema = file.metadata.schema();
    let has = |name: &str| schema.column_with_name(name).is_some();
    let missing = |what: &str, name: &str| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).take(12).collect();
        let more = if schema.fields().len() > 12 { ", …" } else { "" };
        DatasetError::new(
            &file.path,
            format!("`{}` has no {what} column `{name}`; it has: {}{more}", file.path.display(), names.join(", ")),
        )
        .hint("name the dataset's own columns in [data]: label, query, group, weight, features")
    };
    if !has(&data.label) {
        return Err(missing("label", &data.label));
    }
    if !has(&data.query) {
        return Err(missing("query", &data.query));
    }
    let number = |what: &str, name: &str| match schema.field_with_name(name) {
        Ok(field) if !field.data_type().is_numeric() => {
            let kind = field.data_type();
            let message = format!("`{}`: {what} column `{name}` is {kind}, not a number", file.path.display());
            Err(DatasetError::new(&file.path, message).hint("write it as a number, or name another column in [data]"))
        }
        _ => Ok(()),
    };
    number("label", &data.label)?;
    let group = match &data.group {
        Some(group) if has(group) => group.clone(),
        Some(group) => return Err(missing("group", group)),
        None if has(layout::LIST) => layout::LIST.to_owned(),
        None => data.query.clone(),
    };
    let weight = match &data.weight {
        Some(weight) if has(weight) => weight.clone(),
        Some(weight) => return Err(missing("weight", weight)),
        None if has(layout::WEIGHT) => layout::WEIGHT.to_owned(),
        None => String::new(),
    };
    number("weight", &weight)?;
    let mut columns = v1::Columns {
        label: data.label.clone(),
        query: data.query.clone(),
        group,
        weight,
        features: Vec::new(),
        vector: String::new(),
    };
    let vector = has(layout::FEATURES) && list_of(schema, layout::FEATURES).is_some();
    if vector {
        columns.vector = layout::FEATURES.to_owned();
        let width = list_of(schema, layout::FEATURES).flatten();
        if let (Some(footer), Some(width)) = (&file.footer, width)
            && footer.features.len() != width
        {
            let named = footer.features.len();
            let message = format!("`{}` names {named} features, its list column holds {width}", file.path.display());
            return Err(DatasetError::new(&file.path, message).hint("import the data again"));
        }
        let own = match (&file.footer, list_of(schema, layout::FEATURES)) {
            (Some(footer), _) => footer.features.clone(),
            (None, Some(Some(length))) => (1..=length).map(|n| format!("f{n}")).collect(),
            (None, _) => {
                return Err(DatasetError::new(
                    &file.path,
                    format!("`{}`: column `features` holds lists of any length", file.path.display()),
                )
                .hint("write it as a fixed-size list, or one column a feature"));
            }
        };
        if data.features.as_ref().is_some_and(|wanted| *wanted != own) {
            return Err(DatasetError::new(
                &file.path,
                format!(
                    "`{}` keeps its features in one list column, of which none can be left out",
                    file.path.display()
                ),
            )
            .hint("leave `data.features` out, or write the dataset with `--layout wide`"));
        }
        columns.features = own;
        return Ok(columns);
    }
    columns.features = match (&data.features, &file.footer) {
        (Some(wanted), _) => wanted.clone(),
        (None, Some(footer)) => footer.features.clone(),
        (None, None) => foreign_features(schema, &columns),
    };
    if columns.features.is_empty() {
        return Err(DatasetError::new(&file.path, format!("`{}` has no numeric feature column", file.path.display())));
    }
    for name in &columns.features {
        let Some((_, field)) = schema.column_with_name(name) else { return Err(missing("feature", name)) };
        if !field.data_type().is_numeric() {
            let message = format!("`{}`: feature `{name}` is {}, not a number", file.path.display(), field.data_type());
            return Err(DatasetError::new(&file.path, message)
                .hint("encode it as a number, or list the features you want in data.features"));
        }
    }
    Ok(columns)
}

/// Every numeric column that has no other part to play.
fn foreign_features(schema: &Schema, columns: &v1::Columns) -> Vec<String> {
    let taken = [&columns.label, &columns.query, &columns.group, &columns.weight];
    schema
        .fields()
        .iter()
        .filter(|field| field.data_type().is_numeric())
        .map(|field| field.name())
        .filter(|name| !taken.contains(name) && !layout::RESERVED.contains(&name.as_str()))
        .cloned()
        .collect()
}

/// `Some(length)` where the column is a list: its length where that is fixed.
fn list_of(schema: &Schema, name: &str) -> Option<Option<usize>> {
    match schema.field_with_name(name).ok()?.data_type() {
        DataType::FixedSizeList(_, length) => Some(Some(*length as usize)),
        DataType::List(_) | DataType::LargeList(_) => Some(None),
        _ => None,
    }
}

fn difference(first: &v1::Columns, other: &v1::Columns) -> String {
    let absent = first.features.iter().find(|name| !other.features.contains(name));
    let added = other.features.iter().find(|name| !first.features.contains(name));
    match (absent, added) {
        (Some(name), _) => format!("feature `{name}` is missing"),
        (None, Some(name)) => format!("feature `{name}` is new"),
        (None, None) if first.features != other.features => "the features are in another order".to_owned(),
        _ => format!("group `{}` and weight `{}` here", other.group, other.weight),
    }
}

/// The file of a dataset that a manifest's entry means.
pub fn file_path(manifest: &v1::Manifest, file: usize) -> PathBuf {
    let root = Path::new(&manifest.root);
    match manifest.files[file].path.as_str() {
        "" => root.to_owned(),
        name => root.join(name),
    }
}
