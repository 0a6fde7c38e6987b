//! Parts by query: nothing lost, nothing torn, all or none.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::Path,
    sync::Arc,
};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use pipeline::{
    Layout, Output,
    generate::{GenerateOptions, generate},
    split::{Parts, SplitOptions, split},
};

use crate::{Table, entries, floats, ints, to};

fn generated(path: &Path, queries: u64, layout: Option<Layout>) {
    let output = Output { layout, ..to(path.to_owned()) };
    let options =
        GenerateOptions { queries, truth: true, weights: true, list_id: true, output, ..GenerateOptions::default() };
    generate(&options, &mut |_, _| {}).unwrap();
}

fn foreign(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

const PARTS: [&str; 3] = ["train", "validation", "test"];

#[test]
fn a_split_is_by_query_keeps_columns_and_loses_no_row() {
    let home = tempfile::tempdir().unwrap();
    for layout in [Layout::Wide, Layout::Vector] {
        let input = home.path().join(format!("{layout}"));
        let output = home.path().join(format!("{layout}-parts"));
        generated(&input, 4000, Some(layout));
        let options = SplitOptions { input: input.clone(), output: to(output.clone()), ..SplitOptions::default() };
        let report = split(&options).unwrap();
        assert_eq!(entries(&output), ["test", "train", "validation"]);

        let whole = Table::read(&input);
        let mut expected: HashMap<i64, Vec<(String, u32)>> = HashMap::new();
        let fingerprints = |table: &Table| -> Vec<(i64, (String, u32))> {
            let rows =
                table.texts("document_id").into_iter().zip(table.floats("true_score").into_iter().map(f32::to_bits));
            table.ints("query_id").into_iter().zip(rows).collect()
        };
        for (query, row) in fingerprints(&whole) {
            expected.entry(query).or_default().push(row);
        }
        assert_eq!((report.queries, report.rows), (4000, whole.columns[0].len() as u64));
        for part in &report.parts {
            let path = output.join(&part.name);
            let table = Table::read(&path);
            assert_eq!(table.schema, whole.schema);
            let mut found: HashMap<i64, Vec<(String, u32)>> = HashMap::new();
            for (query, row) in fingerprints(&table) {
                found.entry(query).or_default().push(row);
            }
            assert_eq!(part.queries as usize, found.len());
            let share = found.len() as f64 / 4000.0;
            assert!((share - part.share).abs() < 0.03, "{}: {share}", part.name);
            for (query, rows) in found {
                assert_eq!(expected.remove(&query), Some(rows), "query {query} is torn apart or in two parts");
            }
        }
        assert!(expected.is_empty());
        let reader = pipeline::TrainingReader::open(&output.join("train"), &Default::default()).unwrap();
        assert_eq!(reader.layout(), layout);
    }
}

#[test]
fn queries_stay_in_their_part_when_the_data_grows_or_ids_become_text() {
    let home = tempfile::tempdir().unwrap();
    let parts = |name: &str, seed: u64| -> Vec<HashSet<i64>> {
        let output = home.path().join(format!("{name}-{seed}"));
        let input = home.path().join(name);
        split(&SplitOptions { input, output: to(output.clone()), seed, ..SplitOptions::default() }).unwrap();
        PARTS
            .iter()
            .map(|part| {
                let table = Table::read(&output.join(part));
                let ids = arrow::compute::cast(table.column("query_id"), &arrow::datatypes::DataType::Int64).unwrap();
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&ids)
                    .values()
                    .iter()
                    .copied()
                    .collect()
            })
            .collect()
    };
    generated(&home.path().join("small"), 300, None);
    generated(&home.path().join("large"), 900, None);
    let text = StringArray::from_iter_values((1..=900).map(|id| id.to_string()));
    let label = floats((1..=900).map(|id| (id % 3) as f32));
    foreign(&home.path().join("text"), vec![("query_id", Arc::new(text)), ("label", label.clone()), ("x", label)]);
    let large = parts("large", 7);
    assert!(parts("small", 7).iter().zip(&large).all(|(small, large)| small.is_subset(large)));
    assert_eq!(parts("text", 7), large);
    assert_ne!(parts("large", 8), large);
}

#[test]
fn a_part_without_a_query_is_refused_and_no_part_appears() {
    let home = tempfile::tempdir().unwrap();
    let input = home.path().join("data");
    generated(&input, 5, None);
    let parts = "a=0.999,b=0.001".parse().unwrap();
    let options = SplitOptions { input, output: to(home.path().join("parts")), parts, ..SplitOptions::default() };
    let error = split(&options).unwrap_err();
    assert_eq!(error.to_string(), "part `b` gets none of 5 queries");
    assert_eq!(entries(home.path()), ["data"]);
}

#[test]
fn what_cannot_be_trained_on_is_refused_by_file_row_and_column() {
    let home = tempfile::tempdir().unwrap();
    let input = home.path().join("data.parquet");
    let ids = || ints((0..100).map(|row| row / 5));
    let label = || floats((0..100).map(|row| (row % 2) as f32));
    let values = |row: usize, value: Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter((0..100).map(|at| if at == row { value } else { Some(1.0) })))
    };
    let torn: ArrayRef = ints((0..100).map(|row| row / 10));
    for (columns, message) in [
        (
            vec![("query_id", ids()), ("label", label()), ("x", values(43, None))],
            "row 43, column `x`: the value is missing",
        ),
        (
            vec![("query_id", ids()), ("label", label()), ("x", values(77, Some(f64::NAN)))],
            "row 77, column `x`: NaN is not finite",
        ),
        (
            vec![("query_id", ids()), ("label", values(3, Some(1e300))), ("x", label())],
            "row 3, column `label`: inf is not finite",
        ),
        (
            vec![("list_id", torn), ("query_id", ids()), ("label", label()), ("x", label())],
            "row 5: `query_id` changes within a list of `list_id`",
        ),
        (
            vec![("query_id", ints((0..100).map(|row| row / 5 % 15))), ("label", label()), ("x", label())],
            "row 75, query_id `0` comes again after other lists",
        ),
    ] {
        foreign(&input, columns);
        let options =
            SplitOptions { input: input.clone(), output: to(home.path().join("parts")), ..SplitOptions::default() };
        let error = split(&options).unwrap_err();
        if message.starts_with("row 75") {
            // Whichever part is written first says so; each names a row of its own.
            assert!(error.to_string().contains("comes again after other lists"), "{error}");
        } else {
            assert!(error.to_string().ends_with(message), "{error}");
        }
        assert!(error.to_string().contains("data.parquet"), "{error}");
        assert_eq!(entries(home.path()), ["data.parquet"]);
    }
}

#[test]
fn an_output_that_overlaps_the_input_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let input = home.path().join("data");
    generated(&input, 50, None);
    for target in [input.clone(), input.join("parts"), home.path().to_owned()] {
        let output = Output { overwrite: true, ..to(target) };
        let error = split(&SplitOptions { input: input.clone(), output, ..SplitOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("overlap"), "{error}");
    }
    assert_eq!(entries(&input), ["part-00000.parquet"]);
}

#[test]
fn parts_that_are_no_split_are_refused() {
    for (text, message) in [
        ("train=0.8,test=0.1", "the shares add up to 0.9"),
        ("train=0.5,train=0.5", "part `train` appears twice"),
        ("train", "`train` is not a part"),
        ("train=x", "`train=x` is not a part"),
        ("../up=1", "a part cannot be named `../up`"),
        ("a=-0.5,b=1.5", "the share of part `a` is -0.5"),
    ] {
        let error = text.parse::<Parts>().unwrap_err();
        assert!(error.to_string().starts_with(message) && error.hint().is_some(), "{error}");
    }
    assert_eq!("train=0.8, validation=0.1, test=0.1".parse::<Parts>().unwrap(), Parts::default());
}
