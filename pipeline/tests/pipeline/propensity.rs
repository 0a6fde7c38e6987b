//! Propensities estimated from a lake.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int32Array, LargeListArray, RecordBatch, StringArray, StructArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields},
};
use parquet::arrow::ArrowWriter;
use pipeline::{
    ErrorKind, PipelineError,
    lake::{Lake, LakeWriter, RollOptions},
    propensity::{EstimateOptions, EstimateReport, Estimator, estimate, read_table},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ranking::{
    events::{LogSchema, ResultImpression, SearchEvent, Timestamp},
    propensity::{Exploration, Method, PropensityTable},
};

const NOON: i64 = 1_769_860_800_000_000; // 2026-01-31T12:00:00Z
const DAY: i64 = 86_400_000_000;

fn event(query: usize, at: i64, explored: Option<bool>, results: Vec<ResultImpression>) -> SearchEvent {
    SearchEvent {
        session_id: format!("s{at}"),
        query_id: format!("q{query}"),
        user_id: None,
        query: "shoes".into(),
        query_timestamp: Timestamp(at),
        results,
        device: "phone".into(),
        location: "DE".into(),
        ranker_version: None,
        explored,
        arm: None,
    }
}

fn result(position: u32, document: usize, clicked: bool, propensity: Option<f64>) -> ResultImpression {
    ResultImpression {
        position,
        document_id: format!("d{document}"),
        score: 0.5,
        clicked,
        click_timestamp: None,
        dwell_time_seconds: None,
        added_to_cart: false,
        purchased: false,
        propensity,
        features: Vec::new(),
    }
}

/// Searches of a position-based model whose propensities are the reference's, half of the lists explored, over two days.
async fn simulate(lake: &Path, top_k: usize) {
    let truth = PropensityTable::reference();
    let exploration = Exploration::new(0.5, top_k).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let lake = Lake::open(lake.to_str().unwrap()).unwrap();
    let mut writer = LakeWriter::new(&lake, LogSchema::default(), RollOptions::default(), "test");
    let mut again = None;
    for at in 0..12_000usize {
        let query = rng.random_range(0..200usize);
        let ranked: Vec<usize> = (0..6).collect();
        let shown = exploration.explore(&ranked, &mut rng);
        let results =
            shown.results.iter().zip(&shown.propensities).zip(1..).map(|((document, propensity), position)| {
                let relevance = 0.3 + 0.1 * ((query + document) % 6) as f64;
                let clicked = rng.random::<f64>() < relevance * truth.propensity(position);
                result(position, *document, clicked, Some(*propensity))
            });
        let results = results.collect();
        let event = event(query, NOON + at as i64 % 2 * DAY + at as i64, Some(shown.explored), results);
        writer.push(&event).unwrap();
        again = Some(event);
    }
    // A search that the log repeats is none of its own.
    writer.push(&again.unwrap()).unwrap();
    writer.commit("0001", serde_json::Value::Null).await.unwrap();
}

fn options(folder: &Path, estimator: Estimator) -> EstimateOptions {
    EstimateOptions {
        logs: folder.join("lake").to_str().unwrap().to_owned(),
        estimator,
        positions: 6,
        out: folder.join("propensities.json"),
        overwrite: true,
        ..EstimateOptions::default()
    }
}

async fn estimated(options: &EstimateOptions) -> Result<EstimateReport, PipelineError> {
    estimate(options, &mut |done, all| assert!(done <= all)).await
}

#[tokio::test]
async fn each_method_finds_the_truth_in_a_lake_and_writes_a_table_that_says_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    simulate(&folder.path().join("lake"), 10).await;
    let truth = PropensityTable::reference();
    let methods =
        [(Estimator::Randomized, Method::Randomized), (Estimator::Pairs, Method::Pairs), (Estimator::Em, Method::Em)];
    for (estimator, method) in methods {
        let options = options(folder.path(), estimator);
        let report = estimated(&options).await.unwrap();
        assert_eq!((report.files, report.events, report.impressions, report.query_share), (2, 12_000, 72_000, 1.0));
        assert!((5_700..6_300).contains(&report.explored), "{}", report.explored);
        let table = read_table(&options.out).unwrap();
        assert_eq!(table, report.table);
        assert_eq!(table.method(), method);
        let window = table.window().unwrap();
        assert_eq!((window.from.to_string(), window.to.to_string()), ("2026-01-31".into(), "2026-02-01".into()));
        assert_eq!(table.positions().len(), 6);
        for entry in &table.positions()[1..] {
            // Intervals of 95 % hold the truth of one draw but for bad luck; thrice as wide they hold it always.
            let (low, high) = (entry.low.unwrap().ln(), entry.high.unwrap().ln());
            let off = (entry.propensity.ln() - truth.propensity(entry.position).ln()).abs();
            assert!(off < 1.5 * (high - low) && high - low < 0.4, "{method:?}: {entry:?}");
            assert!(entry.clicks.unwrap() > 100 && entry.impressions.unwrap() > 1000, "{entry:?}");
        }
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn a_window_takes_its_dates_only_and_one_without_logs_names_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    simulate(&folder.path().join("lake"), 10).await;
    let day = |text: &str| Some(text.parse().unwrap());
    let one = EstimateOptions { from: day("2026-02-01"), ..options(folder.path(), Estimator::Em) };
    assert_eq!(estimated(&one).await.unwrap().events, 6000);
    let none = EstimateOptions { from: day("2026-03-01"), ..one.clone() };
    assert!(estimated(&none).await.unwrap_err().hint().unwrap().contains("2026-01-31 to 2026-02-01"));
    let error = estimated(&EstimateOptions { to: day("2026-01-01"), ..one }).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Options, "the window begins on 2026-02-01, after its end on 2026-01-01")
    );
}

#[tokio::test]
async fn lists_that_were_not_shuffled_as_deep_as_asked_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    simulate(&folder.path().join("lake"), 4).await;
    let error = estimated(&options(folder.path(), Estimator::Randomized)).await.unwrap_err();
    assert!(error.message.contains("logs propensity 1 at position 5"), "{error}");
    assert!(error.hint().unwrap().contains("`--positions 4`"), "{error:?}");
    assert!(!folder.path().join("propensities.json").exists());
    let four = EstimateOptions { positions: 4, ..options(folder.path(), Estimator::Randomized) };
    assert_eq!(estimated(&four).await.unwrap().table.positions().len(), 4);
}

#[tokio::test]
async fn logs_without_exploration_and_options_without_sense_end_with_a_hint_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().join("lake").to_str().unwrap()).unwrap();
    let mut writer = LakeWriter::new(&lake, LogSchema::default(), RollOptions::default(), "test");
    for query in 0..100 {
        let results = (1..=6).map(|position| result(position, position as usize, position < 4, None)).collect();
        writer.push(&event(query, NOON, None, results)).unwrap();
    }
    writer.commit("0001", serde_json::Value::Null).await.unwrap();
    for (estimator, cause, hint) in [
        (Estimator::Randomized, "none of 100 lists was explored", "explored: true"),
        (Estimator::Pairs, "none of 600 query-document pairs was clicked and shown at two", "a second ranker"),
        (Estimator::Em, "none of 600 query-document pairs was clicked and shown at two", "a second ranker"),
    ] {
        let error = estimated(&options(folder.path(), estimator)).await.unwrap_err();
        assert!(error.message.starts_with("the click logs of 2026-01-31 in"), "{error}");
        assert!(error.source.as_ref().unwrap().to_string().starts_with(cause), "{error:?}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
    let sane = options(folder.path(), Estimator::Em);
    for wrong in [
        EstimateOptions { positions: 1, ..sane.clone() },
        EstimateOptions { replicates: 3, ..sane.clone() },
        EstimateOptions { out: folder.path().to_owned(), ..sane.clone() },
        EstimateOptions { out: folder.path().join("nowhere/p.json"), ..sane.clone() },
    ] {
        assert_eq!(estimated(&wrong).await.unwrap_err().kind, ErrorKind::Options, "{wrong:?}");
    }
    assert!(!sane.out.exists());
    std::fs::write(&sane.out, "mine").unwrap();
    let error = estimated(&EstimateOptions { overwrite: false, ..sane.clone() }).await.unwrap_err();
    assert!(error.message.ends_with("exists") && error.hint().unwrap().contains("--overwrite"));
    assert_eq!(std::fs::read_to_string(&sane.out).unwrap(), "mine");
    assert!(read_table(&sane.out).unwrap_err().message.contains("holds no propensities"));
}

/// A file as other writers make it: large lists, 32-bit positions, no columns but these.
fn foreign(path: &Path, positions: Vec<i32>, clicked: Vec<Option<bool>>) {
    let n = positions.len();
    let fields = Fields::from(vec![
        Field::new("clicked", DataType::Boolean, true),
        Field::new("position", DataType::Int32, true),
        Field::new("document_id", DataType::LargeUtf8, true),
    ]);
    let documents = arrow::array::LargeStringArray::from_iter_values((0..n).map(|at| format!("d{at}")));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(BooleanArray::from(clicked)), Arc::new(Int32Array::from(positions)), Arc::new(documents)];
    let results = StructArray::new(fields.clone(), columns, None);
    let item = Arc::new(Field::new("element", DataType::Struct(fields), true));
    let lists = LargeListArray::new(item, OffsetBuffer::from_lengths([n - 1, 1]), Arc::new(results), None);
    let queries: ArrayRef = Arc::new(StringArray::from(vec!["q1", "q2"]));
    let batch = RecordBatch::try_from_iter([("query_id", queries), ("results", Arc::new(lists) as ArrayRef)]).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn foreign_files_are_read_and_what_is_wrong_in_them_is_named_by_file_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lake/click_logs/date=2026-01-31/part-0.parquet");
    let options = options(folder.path(), Estimator::Randomized);
    foreign(&path, vec![1, 2, 3], vec![Some(true); 3]);
    let error = estimated(&options).await.unwrap_err();
    assert!(error.source.unwrap().to_string().starts_with("none of 2 lists was explored"));
    foreign(&path, vec![1, 2, 0], vec![Some(true); 3]);
    let error = estimated(&options).await.unwrap_err().to_string();
    assert!(error.contains("part-0.parquet`, row 1: a result is at position 0"), "{error}");
    foreign(&path, vec![1, 2, 3], vec![Some(true), None, Some(true)]);
    let error = estimated(&options).await.unwrap_err().to_string();
    assert!(error.ends_with("part-0.parquet`, row 0: `results.clicked` is null"), "{error}");
    std::fs::write(&path, "no Parquet").unwrap();
    let error = estimated(&options).await.unwrap_err();
    assert!(error.message.ends_with("part-0.parquet` cannot be read as Parquet"), "{error}");
}
