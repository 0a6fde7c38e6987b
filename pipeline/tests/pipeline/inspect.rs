//! Reports on datasets, ours and others'.

use std::{fs::File, path::Path, sync::Arc};

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Float32Type;
use parquet::arrow::ArrowWriter;
use pipeline::{
    Layout, Output,
    generate::{GenerateOptions, generate},
    import::{SvmrankOptions, svmrank},
    inspect::{InspectOptions, InspectReport, inspect, render},
};

use crate::{floats, ints, lightgbm, to};

fn foreign(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn report(path: &Path) -> InspectReport {
    inspect(path, &InspectOptions::default()).unwrap()
}

fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_generated_dataset_is_reported_as_written_and_nothing_is_odd() {
    let home = tempfile::tempdir().unwrap();
    for layout in [Layout::Wide, Layout::Vector] {
        let output = Output { layout: Some(layout), ..to(home.path().join(layout.to_string())) };
        let options = GenerateOptions {
            queries: 2000,
            features: 24,
            truth: true,
            output: output.clone(),
            ..GenerateOptions::default()
        };
        let written = generate(&options, &mut |_, _| {}).unwrap();
        let report = report(&output.path);
        assert_eq!((report.rows, report.lists, report.queries), (written.rows, 2000, Some(2000)));
        assert_eq!((report.list_length.min, report.list_length.max), (10, 30));
        assert_eq!(report.labels, written.labels);
        assert_eq!(report.layout.features, layout.to_string());
        assert_eq!(report.layout.encodings, ["PLAIN"]);
        assert_eq!(report.layout.compressions, ["UNCOMPRESSED"]);
        assert!(report.layout.offset_index && report.layout.lockstep);
        assert_eq!(report.layout.bytes, written.written.bytes);
        assert_eq!(report.features.len(), 24);
        assert!(report.odd.iter().all(|sentence| sentence.contains("single label")), "{:?}", report.odd);
        let text = render(&report);
        assert_fits(&text);
        assert!(text.contains("bm25_score") && text.contains("f20") && !text.contains("f21"), "{text}");
        assert!(text.contains("… and 4 more"));
        let all = inspect(&output.path, &InspectOptions { all_features: true, ..InspectOptions::default() }).unwrap();
        assert!(render(&all).contains("f24"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["features"][0]["name"], "bm25_score");
    }
}

#[test]
fn statistics_are_of_finite_values_and_faults_are_counted_and_placed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("odd.parquet");
    let x =
        Float64Array::from(vec![Some(1.0), Some(2.0), None, Some(f64::NAN), Some(0.0), Some(5.0), Some(f64::INFINITY)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("query_id", Arc::new(StringArray::from(vec!["a", "a", "b", "b", "c", "a", "a"]))),
        ("document_id", ints([1, 1, 1, 2, 1, 3, 4])),
        ("label", floats([1.0, 0.0, 2.0, 2.0, -1.0, 0.0, 1.0])),
        ("sample_weight", floats([0.0; 7])),
        ("x", Arc::new(x)),
        ("same", floats([3.0; 7])),
        ("title", Arc::new(StringArray::from(vec![None, Some("t"), None, None, None, None, None]))),
    ];
    foreign(&path, columns);
    let report = report(&path);
    assert_eq!((report.rows, report.lists), (7, 3));
    let x = &report.features[0];
    assert_eq!((x.name.as_str(), x.min, x.mean, x.max), ("x", 0.0, 2.0, 5.0));
    assert!((x.std - 3.5f64.sqrt()).abs() < 1e-12);
    assert_eq!((x.zeros, x.nulls, x.nonfinite), (1, 1, 2));
    assert_eq!(report.columns.last().unwrap().nulls, 6);
    let odd = report.odd.join("\n").replace(&format!("{}/", home.path().display()), "");
    for sentence in [
        "`x` is nan or infinite 2 times, first at `odd.parquet` row 3",
        "`x` is missing once, first at `odd.parquet` row 2",
        "the rows of a list do not follow each other: `query_id` comes back once, first at `odd.parquet` row 5",
        "1 of 4 lists (25.0 %) name a document twice, first the one at `odd.parquet` row 0",
        "the weights are 0 everywhere: no row would count",
        "1 of 4 lists (25.0 %) have a single label: useless for pairwise and listwise losses",
        "the label is below 0 once: NDCG expects grades from 0",
        "1 of 4 lists (25.0 %) have one document: nothing to rank",
        "feature `same` is constant: it says nothing",
    ] {
        assert!(odd.lines().any(|line| line == sentence), "{sentence}\nnot in\n{odd}");
    }
    assert_fits(&render(&report));
}

#[test]
fn feature_lists_of_other_software_are_read_and_ragged_ones_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("lists.parquet");
    let rows = || vec![("query_id", ints([1, 1, 2])), ("label", floats([1.0, 0.0, 1.0]))];
    let lists = |third: Vec<f32>| -> ArrayRef {
        let lists =
            [vec![1.0, 2.0], vec![3.0, 4.0], third].map(|row| Some(row.into_iter().map(Some).collect::<Vec<_>>()));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
    };
    let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].map(|row| Some(row.map(Some))),
        2,
    );
    for features in [lists(vec![5.0, 6.0]), Arc::new(fixed) as ArrayRef] {
        foreign(&path, [rows(), vec![("features", features)]].concat());
        let report = report(&path);
        assert_eq!(report.layout.features, "vector");
        let found: Vec<(&str, f64, f64)> = report.features.iter().map(|f| (f.name.as_str(), f.min, f.max)).collect();
        assert_eq!(found, [("f1", 1.0, 5.0), ("f2", 2.0, 6.0)]);
    }
    foreign(&path, [rows(), vec![("features", lists(vec![5.0]))]].concat());
    let error = inspect(&path, &InspectOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("row 2, column `features`: 1 features, the first row has 2"), "{error}");
}

#[test]
fn what_is_no_training_data_is_refused_with_what_it_holds() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data.parquet");
    let message = |options: &InspectOptions| {
        let error = inspect(&path, options).unwrap_err();
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    std::fs::write(&path, "no parquet").unwrap();
    assert!(message(&InspectOptions::default()).contains("as Parquet"));
    foreign(&path, vec![("query_id", ints([1, 1])), ("grade", floats([1.0, 0.0])), ("x", floats([1.0, 2.0]))]);
    assert!(message(&InspectOptions::default()).contains("no column holds the label"));
    let named = InspectOptions { label: Some("stars".into()), ..InspectOptions::default() };
    assert!(message(&named).contains("no column `stars`; its columns are query_id, grade, x"));
    let named = InspectOptions { label: Some("grade".into()), ..InspectOptions::default() };
    assert_eq!(inspect(&path, &named).unwrap().features[0].name, "x");
    let weight = Float32Array::from(vec![1.0, 2.0]);
    foreign(&path, vec![("query_id", Arc::new(weight)), ("label", floats([1.0, 0.0])), ("x", floats([1.0, 2.0]))]);
    assert!(message(&InspectOptions::default()).contains("ids are integers or text, not Float32"));
    let empty = home.path().join("empty");
    std::fs::create_dir_all(empty.join("train")).unwrap();
    let error = inspect(&empty, &InspectOptions::default()).unwrap_err();
    assert!(error.hint().unwrap().contains("did you mean"), "{error}");
}

#[test]
fn lightgbms_example_is_a_pleasure_to_read() {
    let Some(train) = lightgbm("rank.train") else { return };
    let home = tempfile::tempdir().unwrap();
    let output = to(home.path().join("data"));
    svmrank(&SvmrankOptions { inputs: vec![train], output: output.clone(), ..SvmrankOptions::default() }).unwrap();
    let report = report(&output.path);
    assert_eq!((report.rows, report.lists, report.features.len()), (3005, 201, 300));
    let text = render(&report);
    eprintln!("{text}");
    assert_fits(&text);
}
