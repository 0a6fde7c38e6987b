//! The training writer: what it writes, refuses, and leaves behind.

use std::{fs, fs::File, path::Path, sync::Arc};

use arrow::array::{Array, ArrayRef, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use dataset::layout::{FOOTER_KEY, Footer, MAX_MARKS};
use dataset::writer::{
    Column, Compression, IdKind, Kind, Layout, Staging, TrainingSchema, TrainingWriter, WriteError, WriterOptions,
};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Encoding;
use parquet::file::metadata::PageIndexPolicy;

use crate::{Table, entries, floats, ints};

fn schema() -> TrainingSchema {
    let position = Arc::new(Field::new("position", DataType::Int32, true));
    TrainingSchema::new(vec![
        Column::query(IdKind::Int64),
        Column::document(),
        Column::label(),
        Column::weight(),
        Column::feature("a"),
        Column::feature("b"),
        Column::new("position", Kind::Other(position)),
    ])
    .unwrap()
}

/// Lists of 1 to 7 rows.
fn rows(count: usize) -> Vec<ArrayRef> {
    let mut ids = Vec::with_capacity(count);
    let mut list = 100;
    while ids.len() < count {
        list += 3;
        let length = (1 + list as usize % 7).min(count - ids.len());
        ids.extend(std::iter::repeat_n(list, length));
    }
    vec![
        ints(ids),
        Arc::new(StringArray::from_iter_values((0..count).map(|row| format!("d{row}")))),
        floats((0..count).map(|row| (row % 5) as f32)),
        floats((0..count).map(|row| 0.5 + (row % 3) as f32)),
        floats((0..count).map(|row| row as f32 * 0.25)),
        floats((0..count).map(|row| -(row as f32))),
        Arc::new(Int32Array::from_iter((0..count).map(|row| (row % 4 != 0).then_some(row as i32)))),
    ]
}

fn write(target: &Path, options: &WriterOptions, columns: &[ArrayRef], chunk: usize) {
    let mut writer = TrainingWriter::create(target, schema(), options.clone()).unwrap();
    let count = columns[0].len();
    for from in (0..count).step_by(chunk) {
        let slices: Vec<ArrayRef> = columns.iter().map(|column| column.slice(from, chunk.min(count - from))).collect();
        writer.write(&slices).unwrap();
    }
    writer.finish().unwrap();
}

fn small() -> WriterOptions {
    WriterOptions { row_group_rows: 1000, rows_per_file: 2500, ..WriterOptions::default() }
}

fn metadata(path: &Path) -> ArrowReaderMetadata {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    ArrowReaderMetadata::load(&File::open(path).unwrap(), options).unwrap()
}

fn footer(metadata: &ArrowReaderMetadata) -> Footer {
    let pairs = metadata.metadata().file_metadata().key_value_metadata().unwrap();
    let pair = pairs.iter().find(|pair| pair.key == FOOTER_KEY).unwrap();
    serde_json::from_str(pair.value.as_ref().unwrap()).unwrap()
}

#[test]
fn what_is_written_reads_back_the_same_in_every_layout_and_compression() {
    let home = tempfile::tempdir().unwrap();
    let columns = rows(10_000);
    for layout in [Layout::Wide, Layout::Vector] {
        for compression in [Compression::None, Compression::Zstd] {
            let target = home.path().join(format!("{layout}-{compression}"));
            write(&target, &WriterOptions { layout, compression, ..small() }, &columns, 777);
            let table = Table::read(&target);
            assert_eq!(table.schema, schema());
            assert_eq!(table.columns, columns);
        }
    }
}

#[test]
fn files_do_not_depend_on_how_rows_were_cut_into_chunks() {
    let home = tempfile::tempdir().unwrap();
    let columns = rows(30_000);
    let options = WriterOptions { row_group_rows: 12_000, rows_per_file: 20_000, ..WriterOptions::default() };
    for (name, chunk) in [("one", 30_000), ("many", 613), ("few", 8192)] {
        write(&home.path().join(name), &options, &columns, chunk);
    }
    let files = entries(&home.path().join("one"));
    assert_eq!(files, ["part-00000.parquet", "part-00001.parquet"]);
    for file in files {
        let bytes = |name: &str| fs::read(home.path().join(name).join(&file)).unwrap();
        assert!(bytes("one") == bytes("many") && bytes("one") == bytes("few"), "{file} differs");
    }
}

#[test]
fn a_changed_value_changes_the_content_hash() {
    let home = tempfile::tempdir().unwrap();
    let content = |name: &str, columns: &[ArrayRef]| {
        write(&home.path().join(name), &WriterOptions::default(), columns, 100);
        footer(&metadata(&home.path().join(name).join("part-00000.parquet"))).content
    };
    let columns = rows(100);
    let original = content("a", &columns);
    assert_eq!(original.len(), 32);
    assert_eq!(original, content("b", &columns));
    for (at, changed) in [
        (0, ints((0..100).map(|row| row / 5))),
        (1, Arc::new(StringArray::from_iter_values((0..100).map(|row| format!("e{row}")))) as ArrayRef),
        (4, floats((0..100).map(|row| row as f32))),
        (6, Arc::new(Int32Array::from_iter((0..100).map(Some)))),
    ] {
        let mut columns = columns.clone();
        columns[at] = changed;
        assert_ne!(original, content(&format!("c{at}"), &columns), "column {at}");
    }
}

#[test]
fn row_groups_and_files_end_with_a_list_and_the_footer_counts_lists() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("data");
    let columns = rows(10_000);
    write(&target, &small(), &columns, 300);
    let ids = Table::read(&target).ints("query_id");
    let starts_list = |row: usize| row == ids.len() || ids[row] != ids[row - 1];
    let (mut row, mut lists) = (0, 0);
    for file in entries(&target) {
        let metadata = metadata(&target.join(file));
        let footer = footer(&metadata);
        assert_eq!((footer.version, footer.group.as_str()), (1, "query_id"));
        assert_eq!(footer.features, ["a", "b"]);
        assert_eq!((footer.mark_rows[0], footer.mark_lists[0]), (0, 0));
        assert_eq!(footer.mark_rows.len() as u64, footer.lists);
        for &mark in &footer.mark_rows[1..] {
            assert!(starts_list(row + mark as usize));
        }
        lists += footer.lists;
        for group in metadata.metadata().row_groups() {
            assert!(group.num_rows() < 1010);
            row += group.num_rows() as usize;
            assert!(starts_list(row), "a row group ends within a list at row {row}");
        }
    }
    assert_eq!(row, 10_000);
    assert_eq!(lists as usize, 1 + ids.windows(2).filter(|pair| pair[0] != pair[1]).count());
}

#[test]
fn features_are_plain_non_null_in_small_pages_with_an_offset_index() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("data");
    write(&target, &WriterOptions::default(), &rows(50_000), 50_000);
    let metadata = metadata(&target.join("part-00000.parquet"));
    let group = &metadata.metadata().row_groups()[0];
    let index = &metadata.metadata().offset_index().unwrap()[0];
    for (at, column) in
        group.columns().iter().enumerate().filter(|(_, c)| ["a", "b"].contains(&c.column_path().string().as_str()))
    {
        assert!(column.encodings().all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::RLE)));
        assert!(column.dictionary_page_offset().is_none());
        assert!(column.statistics().is_some());
        assert_eq!(column.column_descr().max_def_level(), 0);
        let starts: Vec<i64> = index[at].page_locations().iter().map(|page| page.first_row_index).collect();
        assert_eq!(starts, (0..50_000).step_by(8192).collect::<Vec<i64>>());
    }
}

#[test]
fn marks_stay_few_and_evenly_spread() {
    let home = tempfile::tempdir().unwrap();
    let schema = TrainingSchema::new(vec![Column::list(IdKind::Int64), Column::label(), Column::feature("x")]).unwrap();
    let target = home.path().join("data");
    let mut writer = TrainingWriter::create(&target, schema, WriterOptions::default()).unwrap();
    let lists = 3 * MAX_MARKS as i64 + 5;
    for first in (0..lists).step_by(1000) {
        let ids = ints((first..(first + 1000).min(lists)).flat_map(|id| [id, id]));
        let values = floats(std::iter::repeat_n(1.0, ids.len()));
        writer.write(&[ids, values.clone(), values]).unwrap();
    }
    writer.finish().unwrap();
    let footer = footer(&metadata(&target.join("part-00000.parquet")));
    assert_eq!(footer.lists, lists as u64);
    assert_eq!(footer.mark_lists, (0..lists as u64).step_by(4).collect::<Vec<_>>());
    assert!(footer.mark_rows.iter().zip(&footer.mark_lists).all(|(row, list)| *row == 2 * list));
    assert!(footer.mark_rows.len() <= MAX_MARKS);
}

#[test]
fn an_unfinished_dataset_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("data");
    let mut writer = TrainingWriter::create(&target, schema(), WriterOptions::default()).unwrap();
    writer.write(&rows(100)).unwrap();
    assert_eq!(entries(home.path()), [format!(".data.partial-{}", std::process::id())]);
    let again = TrainingWriter::create(&target, schema(), WriterOptions::default());
    assert!(matches!(again.err(), Some(WriteError::Busy { .. })));
    drop(writer);
    assert!(entries(home.path()).is_empty());
    let empty = TrainingWriter::create(&target, schema(), WriterOptions::default()).unwrap();
    assert!(matches!(empty.finish(), Err(WriteError::Empty)));
    assert!(entries(home.path()).is_empty());
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not() {
    let home = tempfile::tempdir().unwrap();
    for pid in ["1", "77"] {
        fs::create_dir(home.path().join(format!(".data.partial-{pid}"))).unwrap();
        fs::write(home.path().join(format!(".data.partial-{pid}/part-00000.parquet")), "PAR1").unwrap();
    }
    let alive = File::open(home.path().join(".data.partial-77")).unwrap();
    alive.try_lock().unwrap();
    let staging = Staging::begin(&home.path().join("data"), false).unwrap();
    let mut expected = vec![".data.partial-77".to_owned(), format!(".data.partial-{}", std::process::id())];
    expected.sort();
    assert_eq!(entries(home.path()), expected);
    drop(staging);
}

#[test]
fn an_existing_dataset_is_refused_or_replaced_at_the_very_end() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("data");
    write(&target, &small(), &rows(10_000), 10_000);
    let error = TrainingWriter::create(&target, schema(), small()).err().unwrap();
    assert!(matches!(error, WriteError::Exists { .. }) && error.hint().unwrap().contains("--overwrite"), "{error}");

    let overwrite = WriterOptions { overwrite: true, ..small() };
    let mut writer = TrainingWriter::create(&target, schema(), overwrite.clone()).unwrap();
    writer.write(&rows(50)).unwrap();
    assert_eq!(Table::read(&target).columns[0].len(), 10_000);
    drop(writer);
    assert_eq!(Table::read(&target).columns[0].len(), 10_000);
    write(&target, &overwrite, &rows(50), 50);
    assert_eq!(Table::read(&target).columns, rows(50));
    assert_eq!(entries(home.path()), ["data"]);
}

#[test]
fn a_folder_that_is_no_dataset_is_never_replaced() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("thesis");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("chapter-1.txt"), "years of work").unwrap();
    let options = WriterOptions { overwrite: true, ..WriterOptions::default() };
    let error = TrainingWriter::create(&target, schema(), options.clone()).err().unwrap();
    assert!(error.to_string().contains("chapter-1.txt"), "{error}");
    let file = target.join("chapter-1.txt");
    assert!(matches!(TrainingWriter::create(&file, schema(), options).err(), Some(WriteError::NotADataset { .. })));
    assert_eq!(entries(home.path()), ["thesis"]);
}

#[test]
fn a_list_that_comes_back_is_refused_by_row() {
    let home = tempfile::tempdir().unwrap();
    let values = |count: usize| floats((0..count).map(|row| row as f32));
    let ids: [(IdKind, Vec<ArrayRef>, &str); 3] = [
        (IdKind::Int64, vec![ints([5, 6, 7, 7]), ints([7, 6])], "row 5, column `query_id`: `6`"),
        // Out of order first, then swallowed by the run that counts up.
        (IdKind::Int64, vec![ints([5, 7, 6]), ints([7])], "row 3, column `query_id`: `7`"),
        (
            IdKind::Utf8,
            vec![Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(StringArray::from(vec!["b", "c", "a"]))],
            "row 4, column `query_id`: `a`",
        ),
    ];
    for (kind, chunks, message) in ids {
        let schema = TrainingSchema::new(vec![Column::query(kind), Column::label(), Column::feature("x")]).unwrap();
        let mut writer = TrainingWriter::create(&home.path().join("data"), schema, small()).unwrap();
        let write = |chunk: &ArrayRef| writer.write(&[chunk.clone(), values(chunk.len()), values(chunk.len())]);
        let error = chunks.iter().map(write).find_map(Result::err).unwrap();
        assert!(error.to_string().starts_with(message), "{error}");
        assert!(error.hint().unwrap().contains("sort"));
    }
}

#[test]
fn values_that_are_no_training_data_are_refused_by_row_and_column() {
    let home = tempfile::tempdir().unwrap();
    for (column, value, message) in [
        (2, f32::NAN, "row 107, column `label`: NaN is not finite"),
        (3, -1.0, "row 107, column `sample_weight`: -1 is not a weight"),
        (3, f32::INFINITY, "row 107, column `sample_weight`: inf is not a weight"),
        (5, f32::NEG_INFINITY, "row 107, column `b`: -inf is not finite"),
    ] {
        let mut writer = TrainingWriter::create(&home.path().join("data"), schema(), small()).unwrap();
        let columns = rows(200);
        writer.write(&columns.iter().map(|column| column.slice(0, 100)).collect::<Vec<_>>()).unwrap();
        let mut second: Vec<ArrayRef> = columns.iter().map(|column| column.slice(100, 100)).collect();
        second[column] = floats((0..100).map(|row| if row == 7 { value } else { 1.0 }));
        let error = writer.write(&second).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
        drop(writer);
    }
    assert!(entries(home.path()).is_empty());
}
