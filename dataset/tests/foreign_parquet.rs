//! Parquet that Lockstep did not write: read right, or refused with the place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, Int32Array, StringArray},
    datatypes::{DataType, Field},
    record_batch::RecordBatch,
};
use dataset::{
    lanes::{Atom, Blocks},
    manifest::{self, DatasetError},
    source::{Decoded, ParquetSource, Source},
};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use proto::{spec::Data, v1};

type Columns = Vec<(&'static str, ArrayRef)>;

/// Writes columns in row groups of `rows` rows.
fn write(path: &Path, columns: &Columns, rows: usize) {
    let nullable = |(name, column): &(&'static str, ArrayRef)| (*name, Arc::clone(column), column.null_count() > 0);
    let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(nullable)).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Twelve rows in lists of 5, 1, 4 and 2; features say which row and which column they are.
fn twelve() -> Columns {
    let ids = ["a", "a", "a", "a", "a", "b", "c", "c", "c", "c", "d", "d"];
    let number =
        |column: f32| Arc::new(Float32Array::from_iter_values((0..12).map(|row| row as f32 + column))) as ArrayRef;
    vec![
        ("query_id", Arc::new(StringArray::from(ids.to_vec()))),
        ("label", Arc::new(Int32Array::from_iter_values((0..12).map(|row| row % 3)))),
        ("bm25.title", number(0.25)),
        ("price", number(0.5)),
    ]
}

fn replaced(name: &str, column: ArrayRef) -> Columns {
    let mut columns = twelve();
    columns.iter_mut().find(|(found, _)| *found == name).unwrap().1 = column;
    columns
}

/// Everything a dataset holds, block by block: rows, and the lengths of the lists.
fn read(manifest: &v1::Manifest, atom: Atom, lanes: u32, cache: u64) -> Result<(Vec<f32>, Vec<usize>), DatasetError> {
    let blocks = Blocks::cut(manifest, atom, lanes, 1 << 16);
    let source = ParquetSource::new(manifest.clone(), &blocks, cache);
    let (mut features, mut lengths) = (Vec::new(), Vec::new());
    for block in &blocks.blocks {
        let Decoded { rows, range, atoms } = source.read(block)?;
        let width = source.features();
        features.extend_from_slice(&rows.features[range.start * width..range.end * width]);
        if atom == Atom::List {
            lengths.extend(atoms.map(|list| (rows.starts[list + 1] - rows.starts[list]) as usize));
        }
    }
    Ok((features, lengths))
}

fn built(columns: &Columns, rows: usize) -> (tempfile::TempDir, Result<v1::Manifest, DatasetError>) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("part.parquet"), columns, rows);
    let manifest = manifest::build(folder.path(), &Data::default(), true);
    (folder, manifest)
}

#[test]
fn lists_that_span_row_groups_are_joined_whether_the_data_is_kept_in_memory_or_not() {
    let expected: Vec<f32> = (0..12).flat_map(|row| [row as f32 + 0.25, row as f32 + 0.5]).collect();
    for row_group in [12, 5, 3, 1] {
        let (_folder, manifest) = built(&twelve(), row_group);
        let manifest = manifest.unwrap();
        assert_eq!((manifest.rows, manifest.lists), (12, 4));
        assert_eq!(manifest.columns.as_ref().unwrap().features, ["bm25.title", "price"]);
        for (lanes, cache) in [(1, 0), (1, 1 << 20), (8, 0), (8, 1 << 20)] {
            let (features, lengths) = read(&manifest, Atom::List, lanes, cache).unwrap();
            assert_eq!(features, expected, "row groups of {row_group}, {lanes} lanes, cache {cache}");
            assert_eq!(lengths, [5, 1, 4, 2]);
            assert_eq!(read(&manifest, Atom::Row, lanes, cache).unwrap().0, expected);
        }
    }
}

#[test]
fn a_fixed_size_list_of_features_reads_as_wide_columns_do() {
    let values = Arc::new(Float32Array::from_iter_values((0..24).map(|value| value as f32)));
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    let mut columns = twelve();
    columns.truncate(2);
    columns.push(("features", Arc::new(FixedSizeListArray::new(field, 2, values, None))));
    let (_folder, manifest) = built(&columns, 7);
    let (features, _) = read(&manifest.unwrap(), Atom::List, 8, 0).unwrap();
    assert_eq!(features, (0..24).map(|value| value as f32).collect::<Vec<_>>());
}

/// The error of a dataset, from its manifest or from its rows.
fn error(columns: &Columns) -> String {
    let (_folder, manifest) = built(columns, 5);
    let found = manifest.and_then(|manifest| read(&manifest, Atom::List, 1, 0));
    found.expect_err("the dataset must be refused").message
}

fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

#[test]
fn bad_values_are_refused_with_file_row_and_column() {
    let floats = |bad: f32| (0..12).map(|row| if row == 7 { bad } else { 1.0 }).collect::<Vec<_>>();
    let nan = replaced("price", Arc::new(Float32Array::from(floats(f32::NAN))));
    says(&error(&nan), &["part.parquet", "row 7", "`price`", "NaN"]);
    let null: Vec<Option<f32>> = (0..12).map(|row| (row != 9).then_some(1.0)).collect();
    says(&error(&replaced("price", Arc::new(Float32Array::from(null)))), &["row 9", "`price`", "null"]);
    let infinite = replaced("label", Arc::new(Float32Array::from(floats(f32::INFINITY))));
    says(&error(&infinite), &["row 7", "`label`", "inf"]);
    let mut negative = twelve();
    negative.push(("sample_weight", Arc::new(Float32Array::from(floats(-2.0)))));
    says(&error(&negative), &["row 7", "`sample_weight`", "negative"]);
    let words = replaced("label", Arc::new(StringArray::from(vec!["good"; 12])));
    says(&error(&words), &["label column `label`", "not a number"]);
}

#[test]
fn a_list_that_starts_again_is_refused_with_its_row() {
    let ids = ["a", "a", "b", "b", "c", "c", "a", "d", "d", "d", "d", "d"];
    let again = replaced("query_id", Arc::new(StringArray::from(ids.to_vec())));
    says(&error(&again), &["part.parquet", "row 6", "`query_id`", "starts again"]);
}

#[test]
fn an_empty_dataset_is_refused() {
    let empty: Columns = twelve().into_iter().map(|(name, column)| (name, column.slice(0, 0))).collect();
    says(&error(&empty), &["no rows"]);
}

#[test]
fn files_with_other_columns_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &twelve(), 12);
    let mut fewer = twelve();
    fewer.pop();
    write(&folder.path().join("b.parquet"), &fewer, 12);
    let error = manifest::build(folder.path(), &Data::default(), false).unwrap_err();
    says(&error.message, &["b.parquet", "`price` is missing"]);
}
