//! Data to be scored: features found by the names that a model knows them by, and beside them the columns that say which row is
//! which. It needs no label, no lists and no order, and more columns do no harm.

use std::{
    fs::File,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use arrow::{
    array::{ArrayRef, AsArray as _, RecordBatch},
    datatypes::{DataType, Field, Float32Type, Schema, SchemaRef},
    record_batch::RecordBatchReader as _,
};
use crossbeam_channel::{Receiver, bounded};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::{
    layout::{self, Footer},
    manifest::{self, DatasetError},
    source::{Place, as_f32, transpose_into},
};

/// A column beside the features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    /// It was asked for by name; otherwise it is taken where the data has it.
    pub must_be_there: bool,
}

impl Wanted {
    /// The column that `asked` names, else `default`, where the data has that.
    pub fn or(asked: Option<String>, default: &str) -> Self {
        let must_be_there = asked.is_some();
        Self { name: asked.unwrap_or_else(|| default.to_owned()), must_be_there }
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Wish {
    /// In the model's order.
    pub features: Vec<String>,
    pub query: Wanted,
    pub list: Wanted,
    pub document: Wanted,
    /// Read as f32, which is what training reads; may be null.
    pub label: Wanted,
}

impl Wish {
    fn beside(&self) -> [(&'static str, &Wanted); 4] {
        [("query", &self.query), ("list", &self.list), ("document", &self.document), ("label", &self.label)]
    }
}

/// A Parquet file or a folder of them, every footer looked at.
#[derive(Debug)]
pub struct Scorable {
    files: Vec<(PathBuf, ArrowReaderMetadata)>,
    wish: Wish,
    /// Of the columns beside the features.
    schema: SchemaRef,
    rows: u64,
}

/// How a file keeps the features.
#[derive(Clone, Debug)]
enum Kept {
    /// A column each; which of a batch's they are, once that is known.
    Wide(Vec<usize>),
    /// Elements of the list column, by number; none: all of them, in the model's order.
    Vector { width: usize, which: Option<Vec<usize>> },
}

/// Some rows of a file.
#[derive(Debug)]
pub struct Chunk {
    path: Arc<Path>,
    /// In the file.
    first_row: u64,
    batch: RecordBatch,
    wish: Arc<Wish>,
    kept: Arc<Kept>,
    schema: SchemaRef,
}

/// The features of a chunk: all of them finite.
#[derive(Debug)]
pub struct Features {
    /// A column each, or the elements of the list column.
    columns: Vec<ArrayRef>,
    kept: Arc<Kept>,
}

impl Scorable {
    /// Refuses, by name, what lacks a feature, or holds one that is no number. Where the data lacks a list column that was not asked
    /// for, lists are those of [`layout::LIST`], as in judgments. Blocking.
    pub fn open(root: &Path, mut wish: Wish) -> Result<Self, DatasetError> {
        let mut files = Vec::new();
        let mut schema: Option<SchemaRef> = None;
        let mut rows = 0;
        for path in manifest::parquet_files(root)? {
            let broken = |error: &dyn std::fmt::Display| {
                DatasetError::new(&path, format!("`{}` is not a whole Parquet file: {error}", path.display()))
                    .hint("was it cut short while it was copied? Replace it, or move it out of the folder")
            };
            let file = File::open(&path).map_err(|error| broken(&error))?;
            let metadata =
                ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| broken(&error))?;
            kept(&path, &metadata, &wish.features)?;
            let lists_are_there = metadata.schema().field_with_name(&wish.list.name).is_ok();
            if files.is_empty() && !wish.list.must_be_there && !lists_are_there {
                wish.list.name = layout::LIST.to_owned();
            }
            let beside = Arc::new(beside(&path, metadata.schema(), &wish)?);
            match &schema {
                None => schema = Some(beside),
                Some(first) if *first == beside => {}
                Some(first) => return Err(unlike(&path, first, &beside)),
            }
            rows += metadata.metadata().file_metadata().num_rows() as u64;
            files.push((path, metadata));
        }
        match schema {
            Some(schema) if rows > 0 => Ok(Self { files, wish, schema, rows }),
            Some(_) => Err(DatasetError::new(root, format!("the dataset `{}` has no rows", root.display()))),
            None => Err(DatasetError::new(root, format!("no Parquet file in `{}`", root.display()))),
        }
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The columns beside the features: those of query, list, document and label that there are, in this order.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The column whose runs of equal values are lists, as in validation: the list's, else the query's; none where there is neither.
    pub fn group(&self) -> Option<&str> {
        let there = |name: &&String| self.schema.field_with_name(name).is_ok();
        [&self.wish.list.name, &self.wish.query.name].into_iter().find(there).map(String::as_str)
    }

    /// The column of labels, where there is one.
    pub fn label(&self) -> Option<&str> {
        let name = &self.wish.label.name;
        self.schema.field_with_name(name).is_ok().then_some(name.as_str())
    }

    /// Every row once, in the order of files and rows, `rows` at a time, read ahead on a thread of its own. Ends with an error.
    pub fn chunks(self, rows: usize) -> Receiver<Result<Chunk, DatasetError>> {
        // One waits while one is read: more would only fill the memory.
        let (send, chunks) = bounded(1);
        let reader = thread::Builder::new().name("read".into()).spawn(move || {
            for (path, metadata) in &self.files {
                let malformed = || {
                    let message = format!("`{}`: its pages are malformed", path.display());
                    Err(DatasetError::new(path, message).hint("`lockstep inspect` reads every value: write it anew"))
                };
                let read =
                    AssertUnwindSafe(|| self.read(path, metadata, rows, &mut |chunk| send.send(Ok(chunk)).is_ok()));
                // A decoder that panics over a malformed page has found bad input, like one that returns an error.
                match panic::catch_unwind(read).unwrap_or_else(|_| malformed()) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        // Nobody who listens: nobody to tell.
                        let _ = send.send(Err(error));
                        return;
                    }
                }
            }
        });
        if let Err(error) = reader {
            tracing::error!(%error, "no thread to read data with");
        }
        chunks
    }

    /// Whether `each` still takes more.
    fn read(
        &self,
        path: &Path,
        metadata: &ArrowReaderMetadata,
        rows: usize,
        each: &mut dyn FnMut(Chunk) -> bool,
    ) -> Result<bool, DatasetError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            DatasetError::new(path, format!("cannot read `{}`: {error}", path.display()))
        };
        let mut kept = kept(path, metadata, &self.wish.features)?;
        let mut names: Vec<&str> = match &kept {
            Kept::Wide(_) => self.wish.features.iter().map(String::as_str).collect(),
            Kept::Vector { .. } => vec![layout::FEATURES],
        };
        names.extend(self.schema.fields().iter().map(|field| field.name().as_str()));
        let mask = manifest::projection(metadata, &names)
            .map_err(|name| unreadable(&format!("there is no column `{name}`")))?;
        let file = File::open(path).map_err(|error| unreadable(&error))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
            .with_projection(mask)
            .with_batch_size(rows)
            .build()
            .map_err(|error| unreadable(&error))?;
        if let Kept::Wide(places) = &mut kept {
            let schema = reader.schema();
            let found = self.wish.features.iter().map(|name| schema.index_of(name));
            *places = found.collect::<Result<_, _>>().map_err(|error| unreadable(&error))?;
        }
        let kept = Arc::new(kept);
        let (path, wish): (Arc<Path>, _) = (path.into(), Arc::new(self.wish.clone()));
        let mut first_row = 0;
        for batch in reader {
            let batch = batch.map_err(|error| unreadable(&error))?;
            let rows = batch.num_rows() as u64;
            let (kept, schema) = (Arc::clone(&kept), Arc::clone(&self.schema));
            let chunk = Chunk { path: Arc::clone(&path), first_row, batch, wish: Arc::clone(&wish), kept, schema };
            if rows > 0 && !each(chunk) {
                return Ok(false);
            }
            first_row += rows;
        }
        Ok(true)
    }
}

impl Chunk {
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The columns beside the features, as in [`Scorable::schema`].
    pub fn beside(&self) -> Result<Vec<ArrayRef>, DatasetError> {
        let place = self.place();
        let column = |field: &Arc<Field>| {
            let name = field.name();
            let column = self.batch.column_by_name(name).ok_or_else(|| place.absent(name))?;
            if *name != self.wish.label.name {
                return Ok(Arc::clone(column));
            }
            as_f32(column).map_err(|error| place.odd(name, &error))
        };
        self.schema.fields().iter().map(column).collect()
    }

    /// Refuses what training refuses: a feature that is null, NaN or infinite, by its row and column.
    pub fn features(&self) -> Result<Features, DatasetError> {
        let place = self.place();
        match &*self.kept {
            Kept::Wide(places) => {
                let names = &self.wish.features;
                let columns = names.iter().zip(places);
                let columns: Vec<ArrayRef> =
                    columns.map(|(name, at)| place.numbers(self.batch.column(*at), name)).collect::<Result<_, _>>()?;
                for (column, name) in columns.iter().zip(names) {
                    place.finite(column, name)?;
                }
                Ok(Features { columns, kept: Arc::clone(&self.kept) })
            }
            Kept::Vector { width, which } => {
                // Named as the file has them: all of a row's elements must be finite, as in training.
                let name = |element: usize| match which {
                    None => self.wish.features[element].clone(),
                    Some(which) => {
                        let feature = which.iter().position(|taken| *taken == element);
                        feature.map_or_else(
                            || format!("{}[{element}]", layout::FEATURES),
                            |at| self.wish.features[at].clone(),
                        )
                    }
                };
                let values = place.vector(&self.batch, layout::FEATURES, *width, &name)?;
                Ok(Features { columns: vec![values], kept: Arc::clone(&self.kept) })
            }
        }
    }

    /// An error about one of its rows.
    pub fn wrong(&self, row: usize, what: &str) -> DatasetError {
        let row = self.first_row + row as u64;
        DatasetError::new(&self.path, format!("`{}`, row {row}: {what}", self.path.display()))
    }

    fn place(&self) -> Place<'_> {
        Place { path: &self.path, first_row: self.first_row }
    }
}

impl Features {
    /// Copies rows, row-major.
    pub fn copy(&self, rows: Range<usize>, out: &mut [f32]) {
        let width = match &*self.kept {
            Kept::Wide(_) => 1,
            Kept::Vector { width, .. } => *width,
        };
        let part = rows.start * width..rows.end * width;
        let slices: Vec<&[f32]> =
            self.columns.iter().map(|column| &column.as_primitive::<Float32Type>().values()[part.clone()]).collect();
        match &*self.kept {
            Kept::Wide(_) => transpose_into(&slices, out),
            Kept::Vector { which: None, .. } => out.copy_from_slice(slices[0]),
            Kept::Vector { which: Some(which), .. } => {
                for (row, out) in slices[0].chunks_exact(width).zip(out.chunks_exact_mut(which.len())) {
                    out.iter_mut().zip(which).for_each(|(out, element)| *out = row[*element]);
                }
            }
        }
    }
}

/// Where a file keeps the features that a model wants.
fn kept(path: &Path, metadata: &ArrowReaderMetadata, features: &[String]) -> Result<Kept, DatasetError> {
    let schema = metadata.schema();
    let shown = path.display();
    let vector = match schema.field_with_name(layout::FEATURES).map(Field::data_type) {
        Ok(DataType::FixedSizeList(_, width)) => Some(*width as usize),
        _ => None,
    };
    if let Some(width) = vector
        && !features.iter().any(|name| name == layout::FEATURES)
    {
        let named: Vec<String> = match manifest::footer(metadata) {
            Some(Footer { features, .. }) if features.len() == width => features,
            // As training names them where nobody else does.
            _ => (1..=width).map(|n| format!("f{n}")).collect(),
        };
        if named == features {
            return Ok(Kept::Vector { width, which: None });
        }
        let which = features.iter().map(|name| named.iter().position(|other| other == name).ok_or(name));
        return match which.collect::<Result<_, _>>() {
            Ok(which) => Ok(Kept::Vector { width, which: Some(which) }),
            Err(name) => Err(lacks(path, name, named.iter().map(String::as_str))),
        };
    }
    for name in features {
        let Ok(field) = schema.field_with_name(name) else {
            return Err(lacks(path, name, schema.fields().iter().map(|field| field.name().as_str())));
        };
        if !field.data_type().is_numeric() {
            let kind = field.data_type();
            let message = format!("`{shown}`: feature `{name}` is {kind}, not a number");
            return Err(DatasetError::new(path, message).hint("encode it as it was for training"));
        }
    }
    Ok(Kept::Wide(Vec::new()))
}

fn lacks<'n>(path: &Path, feature: &str, names: impl Iterator<Item = &'n str>) -> DatasetError {
    let names: Vec<&str> = names.collect();
    let more = if names.len() > 12 { ", …" } else { "" };
    let shown = names[..names.len().min(12)].join(", ");
    let message =
        format!("`{}` has no feature `{feature}`, which the model needs; it has: {shown}{more}", path.display());
    DatasetError::new(path, message).hint("features are found by the names that the model was trained with")
}

/// The fields of the columns beside the features, as they are handed out.
fn beside(path: &Path, schema: &Schema, wish: &Wish) -> Result<Schema, DatasetError> {
    let shown = path.display();
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for (what, wanted) in wish.beside() {
        let name = &wanted.name;
        let Some((_, field)) = schema.fields().find(name) else {
            if wanted.must_be_there {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).take(12).collect();
                let message = format!("`{shown}` has no {what} column `{name}`; it has: {}", names.join(", "));
                return Err(DatasetError::new(path, message).hint("name the dataset's own columns"));
            }
            continue;
        };
        if what == "label"
            && let Some((other, _)) =
                wish.beside().into_iter().find(|(other, taken)| *other != "label" && taken.name == *name)
        {
            let message = format!("`{shown}`: column `{name}` is to be the label and the {other} at once");
            return Err(DatasetError::new(path, message).hint("name the column of labels with --label"));
        }
        // What a list is may be the query itself.
        if fields.iter().any(|taken| taken.name() == name) {
            continue;
        }
        if what == "label" {
            if !field.data_type().is_numeric() {
                let message = format!("`{shown}`: label column `{name}` is {}, not a number", field.data_type());
                return Err(DatasetError::new(path, message).hint("write it as a number, or name another column"));
            }
            fields.push(Arc::new(Field::new(name, DataType::Float32, true)));
        } else {
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
    }
    Ok(Schema::new(fields))
}

fn unlike(path: &Path, first: &Schema, other: &Schema) -> DatasetError {
    let differs = |one: &Schema, other: &Schema| {
        let same = |field: &Field| other.field_with_name(field.name()).is_ok_and(|found| found == field);
        one.fields().iter().find(|field| !same(field)).map(|field| field.name().clone())
    };
    let name = differs(first, other).or_else(|| differs(other, first)).unwrap_or_default();
    let message = format!("`{}`: column `{name}` is not as in the files before it", path.display());
    DatasetError::new(path, message).hint("keep files of one layout in a folder")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use arrow::array::{FixedSizeListArray, Float32Array, Int32Array, Int64Array};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn wish(features: &[&str]) -> Wish {
        Wish {
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            query: Wanted::or(None, layout::QUERY),
            list: Wanted::or(None, layout::LIST),
            document: Wanted::or(None, layout::DOCUMENT),
            label: Wanted::or(None, layout::LABEL),
        }
    }

    fn floats(values: &[f32]) -> ArrayRef {
        Arc::new(Float32Array::from(values.to_vec()))
    }

    fn vector(values: &[f32], width: i32) -> ArrayRef {
        let field = Arc::new(Field::new_list_field(DataType::Float32, true));
        Arc::new(FixedSizeListArray::new(field, width, floats(values), None))
    }

    /// All features, row-major, read in chunks of two rows.
    fn read(root: &Path, features: &[&str]) -> Result<Vec<f32>, DatasetError> {
        let mut out = Vec::new();
        for chunk in Scorable::open(root, wish(features))?.chunks(2) {
            let chunk = chunk?;
            let first = out.len();
            out.resize(first + chunk.rows() * features.len(), 0.0);
            chunk.features()?.copy(0..chunk.rows(), &mut out[first..]);
        }
        Ok(out)
    }

    #[test]
    fn features_are_found_by_name_in_columns_and_in_a_list_column() {
        let folder = tempfile::tempdir().unwrap();
        let (wide, list) = (folder.path().join("wide.parquet"), folder.path().join("list.parquet"));
        let whole: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        write(&wide, vec![("b", floats(&[10.0, 20.0, 30.0])), ("more", floats(&[0.0; 3])), ("a", whole)]);
        assert_eq!(read(&wide, &["a", "b"]).unwrap(), [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        write(&list, vec![(layout::FEATURES, vector(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], 2))]);
        assert_eq!(read(&list, &["f1", "f2"]).unwrap(), [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        assert_eq!(read(&list, &["f2"]).unwrap(), [10.0, 20.0, 30.0]);
        // More columns than are laid out at a time, and not a multiple of them.
        let names: Vec<String> = (0..19).map(|n| format!("c{n}")).collect();
        let columns = (0..19).map(|n| floats(&[n as f32, 100.0 + n as f32, 200.0 + n as f32]));
        write(&wide, names.iter().map(String::as_str).zip(columns).collect());
        let asked: Vec<&str> = names.iter().rev().map(String::as_str).collect();
        let expected: Vec<f32> = (0..3).flat_map(|row| (0..19).rev().map(move |n| (100 * row + n) as f32)).collect();
        assert_eq!(read(&wide, &asked).unwrap(), expected);
        let lacking = read(&list, &["f1", "f3"]).unwrap_err();
        assert!(lacking.message.contains("no feature `f3`") && lacking.message.contains("f1, f2"), "{lacking}");
    }

    #[test]
    fn a_row_past_the_first_chunk_is_named_by_its_place_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (wide, list) = (folder.path().join("wide.parquet"), folder.path().join("list.parquet"));
        write(&wide, vec![("a", floats(&[0.0, 0.0, 0.0, f32::INFINITY]))]);
        let error = read(&wide, &["a"]).unwrap_err().message;
        assert!(error.ends_with("wide.parquet`, row 3: column `a` is inf"), "{error}");
        write(&list, vec![(layout::FEATURES, vector(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN], 2))]);
        let error = read(&list, &["f1", "f2"]).unwrap_err().message;
        assert!(error.ends_with("list.parquet`, row 2: column `f2` is null or not finite"), "{error}");
    }

    #[test]
    fn ids_and_labels_are_taken_where_they_are_and_files_must_agree_about_them() {
        let folder = tempfile::tempdir().unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 7]));
        let grades: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(3)]));
        let columns = vec![("label", grades), ("a", floats(&[0.0, 1.0])), ("query_id", Arc::clone(&ids))];
        write(&folder.path().join("1.parquet"), columns.clone());
        let data = Scorable::open(folder.path(), wish(&["a"])).unwrap();
        let names: Vec<&str> = data.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!((names, data.group(), data.label()), (vec!["query_id", "label"], Some("query_id"), Some("label")));
        let beside = data.chunks(8).recv().unwrap().unwrap().beside().unwrap();
        assert_eq!(
            (&beside[0], &beside[1]),
            (&ids, &(Arc::new(Float32Array::from(vec![None, Some(3.0)])) as ArrayRef))
        );
        write(&folder.path().join("2.parquet"), columns[1..].to_vec());
        let unlike = Scorable::open(folder.path(), wish(&["a"])).unwrap_err();
        assert!(unlike.message.ends_with("2.parquet`: column `label` is not as in the files before it"), "{unlike}");
        fs::remove_file(folder.path().join("1.parquet")).unwrap();
        let asked = Wish { label: Wanted::or(Some("grade".into()), layout::LABEL), ..wish(&["a"]) };
        assert!(Scorable::open(folder.path(), asked).unwrap_err().message.contains("no label column `grade`"));
    }

    #[test]
    fn lists_are_the_runs_groups_else_list_id_else_queries_as_in_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1.parquet");
        let ids = || -> ArrayRef { Arc::new(Int64Array::from(vec![7, 7])) };
        let grouped = || Wish { list: Wanted::or(None, "session"), ..wish(&["a"]) };
        let mut columns = vec![("a", floats(&[0.0, 1.0])), (layout::QUERY, ids())];
        for column in [layout::QUERY, layout::LIST, "session"] {
            if column != layout::QUERY {
                columns.push((column, ids()));
            }
            write(&file, columns.clone());
            assert_eq!(Scorable::open(&file, grouped()).unwrap().group(), Some(column));
        }
    }

    #[test]
    fn a_column_is_not_the_label_and_an_id_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1.parquet");
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
        write(&file, vec![("a", floats(&[0.0, 1.0])), (layout::DOCUMENT, ids)]);
        let twice = Wish { label: Wanted::or(Some(layout::DOCUMENT.into()), layout::LABEL), ..wish(&["a"]) };
        let error = Scorable::open(&file, twice).unwrap_err();
        assert!(error.message.ends_with("column `document_id` is to be the label and the document at once"), "{error}");
    }
}
