//! A click world: the same for the same seed, with clicks, propensities and truth that are what they are said to be.

use std::{collections::HashSet, fs, path::Path};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipeline::{
    inspect::{InspectOptions, inspect},
    lake::Lake,
    simulate::{
        ClickModel, Destination, EXAMINATION, EventsTo, Log, SimulateOptions, SimulateReport, SimulatedArm, World,
        query_id, simulate,
    },
};
use ranking::events::SearchEvent;

use crate::{Table, entries};

fn events(options: &SimulateOptions) -> Vec<SearchEvent> {
    options.check().unwrap();
    let mut log = Log::new(options);
    let mut events = Vec::new();
    let mut event = Log::blank();
    while log.fill(&mut event) {
        events.push(event.clone());
    }
    events
}

fn run(options: &SimulateOptions) -> SimulateReport {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(simulate(options, |_, _| {})).unwrap()
}

fn refused(options: &SimulateOptions) -> pipeline::PipelineError {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(simulate(options, |_, _| {})).unwrap_err()
}

fn small() -> SimulateOptions {
    SimulateOptions { queries: 200, documents: 2000, users: 300, events: 3000, days: 3, ..SimulateOptions::default() }
}

fn to_lake(home: &Path, options: SimulateOptions) -> SimulateOptions {
    let destination = Destination::Lake(home.join("lake").display().to_string());
    SimulateOptions { destination, features: Some(home.join("features")), ..options }
}

/// All rows of a folder of Parquet.
fn read(folder: &Path) -> RecordBatch {
    let mut batches = Vec::new();
    for name in entries(folder) {
        let file = fs::File::open(folder.join(name)).unwrap();
        batches.extend(ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap));
    }
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    batch.column_by_name(column).unwrap().as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
}

fn floats(batch: &RecordBatch, column: &str) -> Vec<f32> {
    batch.column_by_name(column).unwrap().as_primitive::<Float32Type>().values().to_vec()
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_does_not() {
    let first = events(&small());
    assert_eq!(first, events(&small()));
    assert_ne!(first, events(&SimulateOptions { seed: 1, ..small() }));
}

#[test]
fn a_longer_log_begins_with_the_shorter_one() {
    let short = events(&small());
    assert_eq!(short.len(), 3000);
    let long = events(&SimulateOptions { events: 5000, days: 5, ..small() });
    assert!(long[..3000] == short[..]);
    // More events a day come at other times; of the first day what is searched, shown and clicked is the same.
    let denser = events(&SimulateOptions { events: 6000, ..small() });
    let content = |event: &SearchEvent| {
        let results =
            event.results.iter().map(|result| (result.document_id.clone(), result.clicked, result.dwell_time_seconds));
        (event.session_id.clone(), event.query.clone(), event.user_id.clone(), results.collect::<Vec<_>>())
    };
    assert!(denser[..1000].iter().map(content).eq(short[..1000].iter().map(content)));
}

#[test]
fn users_stay_in_their_arm_whose_ranker_answers_and_who_searches_what_is_as_without_a_test() {
    let arm = |name: &str, ranker| SimulatedArm { name: name.into(), ranker };
    let options = SimulateOptions { anonymous: 0.2, ..small() };
    let without = events(&options);
    let tested = events(&SimulateOptions { arms: vec![arm("control", 1), arm("treatment", 4)], ..options });
    let mut arms = std::collections::HashMap::new();
    for (event, without) in tested.iter().zip(&without) {
        let same = |event: &SearchEvent| {
            (event.session_id.clone(), event.query.clone(), event.user_id.clone(), event.query_timestamp)
        };
        assert_eq!((same(event), &without.arm), (same(without), &None));
        let arm = event.arm.as_deref().unwrap();
        let ranker = event.ranker_version.as_deref().unwrap();
        assert!([("control", "r1"), ("treatment", "r4")].contains(&(arm, ranker)), "{arm} {ranker}");
        let who = event.user_id.clone().unwrap_or_else(|| event.session_id.clone());
        assert_eq!(*arms.entry(who).or_insert(arm), arm);
    }
    let treated = arms.values().filter(|arm| **arm == "treatment").count() as f64 / arms.len() as f64;
    assert!((treated - 0.5).abs() < 0.1, "{treated} of {}", arms.len());
    let twice = SimulateOptions { arms: vec![arm("a", 1), arm("a", 2)], ..small() };
    assert!(twice.check().unwrap_err().message.starts_with("two arms are called `a`"));
    let none = SimulateOptions { arms: vec![arm("a", 0)], ..small() };
    assert_eq!(none.check().unwrap_err().message, "arm `a` has ranker 0");
}

#[test]
fn events_lie_on_their_days_and_no_two_share_session_query_and_time() {
    let options = SimulateOptions { events: 20_000, days: 4, anonymous: 0.25, ..small() };
    let events = events(&options);
    let keys: HashSet<_> =
        events.iter().map(|event| (&event.session_id, &event.query_id, event.query_timestamp)).collect();
    assert_eq!(keys.len(), events.len());
    for (day, of_day) in events.chunks(5000).enumerate() {
        let date = options.from + chrono::Days::new(day as u64);
        assert!(of_day.iter().all(|event| event.query_timestamp.date() == date), "{date}");
    }
    let sessions: HashSet<&String> = events.iter().map(|event| &event.session_id).collect();
    let searches = events.len() as f64 / sessions.len() as f64;
    assert!((1.8..2.6).contains(&searches), "{searches} searches a session");
    for pair in events.windows(2).filter(|pair| pair[0].session_id == pair[1].session_id) {
        assert!(pair[0].query_timestamp < pair[1].query_timestamp);
        assert_eq!((&pair[0].user_id, &pair[0].device), (&pair[1].user_id, &pair[1].device));
    }
    let unknown = events.iter().filter(|event| event.user_id.is_none()).count() as f64 / events.len() as f64;
    assert!((unknown - 0.25).abs() < 0.03, "{unknown} of the events have no user");
    for event in &events {
        for (at, result) in event.results.iter().enumerate() {
            assert_eq!(result.position as usize, at + 1);
            assert_eq!(result.clicked, result.click_timestamp.is_some());
            assert!(result.click_timestamp.is_none_or(|moment| moment > event.query_timestamp));
            assert!(result.clicked || result.dwell_time_seconds.is_none() && !result.added_to_cart);
            assert!(result.added_to_cart || !result.purchased);
        }
    }
}

#[test]
fn clicks_on_shuffled_lists_are_in_proportion_to_the_examination() {
    let options = SimulateOptions { events: 60_000, exploration: 0.5, ..small() };
    let mut counts = [(0f64, 0f64); 10];
    let (mut shuffled, events) = (0.0, events(&options));
    for event in events.iter().filter(|event| event.explored == Some(true)) {
        shuffled += 1.0;
        for (result, (shown, clicked)) in event.results.iter().zip(&mut counts) {
            *shown += 1.0;
            *clicked += f64::from(u8::from(result.clicked));
        }
    }
    assert!((shuffled / events.len() as f64 - 0.5).abs() < 0.01);
    // The mean attractiveness of what is shown, from all positions together.
    let attractiveness =
        counts.iter().map(|(_, clicked)| clicked).sum::<f64>() / shuffled / EXAMINATION.iter().sum::<f64>();
    for ((shown, clicked), examination) in counts.iter().zip(EXAMINATION) {
        let expected = attractiveness * examination;
        let deviation = (expected * (1.0 - expected) / shown).sqrt();
        // Lists of one query are alike, which widens it a little; five deviations of ten positions leave no room for a wrong table.
        assert!((clicked / shown - expected).abs() < 5.0 * deviation, "{} instead of {expected}", clicked / shown);
    }
}

#[test]
fn the_default_examination_is_the_references_table() {
    let table = ranking::propensity::PropensityTable::reference();
    let known: Vec<f64> = (1..=10).map(|position| table.propensity(position)).collect();
    assert_eq!(known, EXAMINATION);
}

#[test]
fn a_propensity_is_the_share_of_lists_in_which_the_document_stands_there() {
    let options = SimulateOptions {
        queries: 1,
        documents: 40,
        events: 40_000,
        exploration: 0.3,
        top_k: 4,
        rankers: 1,
        ..small()
    };
    let events = events(&options);
    let ranking: Vec<String> = events
        .iter()
        .find(|event| event.explored == Some(false))
        .unwrap()
        .results
        .iter()
        .map(|r| r.document_id.clone())
        .collect();
    let mut shown = vec![vec![0u32; 10]; 10];
    for event in &events {
        for (at, result) in event.results.iter().enumerate() {
            let rank = ranking.iter().position(|document| *document == result.document_id).unwrap();
            shown[rank][at] += 1;
            let expected = match (rank, at) {
                (rank, at) if rank < 4 && rank == at => 0.7 + 0.3 / 4.0,
                (rank, at) if rank < 4 && at < 4 => 0.3 / 4.0,
                (rank, at) => f64::from(u8::from(rank == at)),
            };
            assert!((result.propensity.unwrap() - expected).abs() < 1e-12);
        }
    }
    for (rank, counts) in shown.iter().enumerate() {
        for (at, &count) in counts.iter().enumerate() {
            let expected = match (rank < 4, at < 4, rank == at) {
                (true, true, true) => 0.775,
                (true, true, false) => 0.075,
                (_, _, same) => f64::from(u8::from(same)),
            };
            let deviation = (expected * (1.0 - expected) / events.len() as f64).sqrt();
            let share = f64::from(count) / events.len() as f64;
            assert!((share - expected).abs() <= 5.0 * deviation, "rank {rank} at {at}: {share}, not {expected}");
        }
    }
}

#[test]
fn the_cascade_ends_with_the_first_click_and_a_shorter_table_of_examination_goes_on() {
    let cascade = events(&SimulateOptions { click_model: ClickModel::Cascade, ..small() });
    assert!(cascade.iter().all(|event| event.results.iter().filter(|result| result.clicked).count() <= 1));
    assert!(cascade.iter().any(|event| event.results[7].clicked));
    let sure = SimulateOptions { examination: vec![1.0], attractiveness: [0.0, 1.0, 1.0, 1.0, 1.0], ..small() };
    let world = World::new(&sure);
    let grades: std::collections::HashMap<(String, String), u8> = (0..sure.queries)
        .flat_map(|number| {
            let query = world.query(number);
            let candidates: Vec<_> = world.candidates(&query, 0).collect();
            candidates
                .into_iter()
                .map(move |c| ((query_id(number), pipeline::simulate::document_id(c.document)), c.grade))
        })
        .collect();
    for event in events(&sure) {
        for result in &event.results {
            assert_eq!(result.clicked, grades[&(event.query_id.clone(), result.document_id.clone())] > 0);
        }
    }
}

#[test]
fn deeper_grades_hold_their_readers_longer_and_sell_more() {
    let options = SimulateOptions { events: 40_000, examination: vec![1.0], attractiveness: [1.0; 5], ..small() };
    let world = World::new(&options);
    let mut of_grade = [(0f64, 0f64, 0f64, 0f64); 5];
    let mut grades = std::collections::HashMap::new();
    for number in 0..options.queries {
        for candidate in world.candidates(&world.query(number), 0) {
            grades.insert((query_id(number), pipeline::simulate::document_id(candidate.document)), candidate.grade);
        }
    }
    for event in events(&options) {
        for result in &event.results {
            let (clicks, long, carts, purchases) =
                &mut of_grade[usize::from(grades[&(event.query_id.clone(), result.document_id.clone())])];
            *clicks += 1.0;
            *long += f64::from(u8::from(result.dwell_time_seconds.is_some_and(|dwell| dwell > 30.0)));
            *carts += f64::from(u8::from(result.added_to_cart));
            *purchases += f64::from(u8::from(result.purchased));
        }
    }
    let long: Vec<f64> = of_grade.iter().map(|(clicks, long, ..)| long / clicks).collect();
    assert!(long[0] < 0.1 && long[1] < 0.2 && long[2] > 0.75 && long[3] > 0.9, "{long:?}");
    for pair in of_grade.windows(2) {
        assert!(
            pair[0].2 / pair[0].0 < pair[1].2 / pair[1].0 && pair[0].3 / pair[0].0 < pair[1].3 / pair[1].0,
            "{of_grade:?}"
        );
    }
}

#[test]
fn lake_tables_and_truth_agree_with_each_other() {
    let home = tempfile::tempdir().unwrap();
    let options = to_lake(home.path(), small());
    let left = home.path().join(format!("lake/click_logs/date={}/.partial-killed", options.from));
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "half").unwrap();
    let report = run(&options);
    assert!(!left.exists(), "what a killed writer left is swept");
    assert_eq!((report.events, report.impressions, report.dates.len()), (3000, 30_000, 3));
    let clicks: u64 = report.positions.iter().map(|at| at.clicked).sum();
    assert!(
        clicks == report.clicks
            && report.clicks > report.carts
            && report.carts > report.purchases
            && report.purchases > 0
    );
    let EventsTo::Lake { files, .. } = report.events_to else { panic!("not a lake") };

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = Lake::open(home.path().join("lake").to_str().unwrap()).unwrap();
    let dates = options.from..=options.last_day();
    let found = runtime.block_on(lake.files(dates)).unwrap();
    assert_eq!((found.len(), found.iter().filter_map(|file| file.rows).sum::<u64>()), (files, 3000));

    let folder = home.path().join("features");
    let expected = ["document_features", "pair_features", "query_features", "truth", "truth.json", "user_features"];
    assert_eq!(entries(&folder), expected);
    let rows = |name: &str| read(&folder.join(name)).num_rows();
    let counts = ["query_features", "document_features", "pair_features", "user_features"].map(rows);
    assert_eq!(counts, [200, 2000, 6000, 300]);
    let truth: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("truth.json")).unwrap()).unwrap();
    assert_eq!((truth["examination"][1].as_f64(), truth["seed"].as_u64()), (Some(0.65), Some(0)));
    assert_eq!(truth["click_model"], "pbm");

    // The truth is training data, and its features are those of the tables.
    let inspected = inspect(&folder.join("truth"), &InspectOptions::default()).unwrap();
    assert_eq!((inspected.rows, inspected.queries), (6000, Some(200)));
    let table = Table::read(&folder.join("truth"));
    assert_eq!(table.names()[..4], ["query_id", "document_id", "label", "bm25_score"]);
    assert!(table.floats("label").iter().all(|grade| [0.0, 1.0, 2.0, 3.0, 4.0].contains(grade)));
    let pairs = read(&folder.join("pair_features"));
    assert_eq!(
        (texts(&pairs, "query_id"), texts(&pairs, "document_id")),
        (table.texts("query_id"), table.texts("document_id"))
    );
    for name in ["bm25_score", "embedding_sim", "title_match", "price_match"] {
        assert_eq!(floats(&pairs, name), table.floats(name));
    }
    let documents = read(&folder.join("document_features"));
    let quality: std::collections::HashMap<String, f32> =
        texts(&documents, "document_id").into_iter().zip(floats(&documents, "doc_quality")).collect();
    let of_truth = table.texts("document_id").into_iter().zip(table.floats("doc_quality"));
    assert!(of_truth.into_iter().all(|(document, value)| quality[&document] == value));
    let known: HashSet<(String, String)> =
        texts(&pairs, "query_id").into_iter().zip(texts(&pairs, "document_id")).collect();
    for event in events(&options) {
        assert!(
            event.results.iter().all(|result| known.contains(&(event.query_id.clone(), result.document_id.clone())))
        );
    }

    // What is there is not written again, and a longer log of the same days would repeat it.
    let error = refused(&SimulateOptions { events: 6000, overwrite: true, ..options.clone() });
    assert!(error.to_string().contains("seed 0 from 2026-01-01..2026-01-03"), "{error}");
    let error = refused(&SimulateOptions { seed: 1, ..options.clone() });
    assert!(error.to_string().contains("exists and is not empty"), "{error}");
    run(&SimulateOptions { seed: 1, overwrite: true, ..options });
}

#[test]
fn features_of_the_log_are_in_no_table_and_documents_can_have_two_versions() {
    let home = tempfile::tempdir().unwrap();
    let log_features = vec!["user_preference_match".to_owned(), "bm25_score".to_owned()];
    let options =
        to_lake(home.path(), SimulateOptions { log_features, second_version: Some(2), anonymous: 0.2, ..small() });
    let report = run(&options);
    let folder = home.path().join("features");
    assert_eq!(entries(&folder), ["document_features", "pair_features", "query_features", "truth", "truth.json"]);
    let names: Vec<_> = report.tables.iter().map(|table| table.features.clone()).collect();
    assert_eq!(names[2], ["embedding_sim", "title_match", "price_match"]);
    let documents = read(&folder.join("document_features"));
    assert_eq!(documents.num_rows(), 4000);
    let valid_from = documents.column_by_name("valid_from").unwrap().as_primitive::<TimestampMicrosecondType>();
    let first = options.first_day().0;
    assert_eq!((valid_from.value(0), valid_from.value(1)), (first, first + 2 * 86_400_000_000));
    let popularity = floats(&documents, "doc_popularity");
    assert_ne!(popularity[0], popularity[1]);
    let truth = Table::read(&folder.join("truth"));
    let at = texts(&documents, "document_id").iter().position(|id| *id == truth.texts("document_id")[0]).unwrap();
    assert_eq!(truth.floats("doc_popularity")[0], popularity[at + 1]);

    let log = Log::new(&options);
    assert_eq!(log.schema().features(), ["bm25_score", "user_preference_match"]);
    for event in events(&options) {
        for result in &event.results {
            assert_eq!(result.features.len(), 2);
            assert!(result.features[0].is_some());
            assert_eq!(result.features[1].is_some(), event.user_id.is_some());
        }
    }
}

#[test]
fn options_that_make_no_world_are_refused() {
    let home = tempfile::tempdir().unwrap();
    for (options, message) in [
        (SimulateOptions { events: 0, ..small() }, "0 events"),
        (SimulateOptions { results: 31, ..small() }, "31 results cannot be shown"),
        (SimulateOptions { documents: 20, ..small() }, "20 documents cannot give 30 candidates"),
        (SimulateOptions { exploration: 1.5, ..small() }, "exploration is 1.5"),
        (SimulateOptions { top_k: 0, ..small() }, "top 0"),
        (SimulateOptions { zipf: f64::NAN, ..small() }, "exponent is NaN"),
        (SimulateOptions { examination: vec![1.0, 0.0], ..small() }, "examination"),
        (SimulateOptions { log_features: vec!["colour".into()], ..small() }, "`colour` is no feature"),
        (SimulateOptions { second_version: Some(3), ..small() }, "from day 3 on, of 3"),
    ] {
        let error = refused(&to_lake(home.path(), options));
        assert!(error.to_string().contains(message) && error.hint().is_some(), "{error}");
    }
    assert!(entries(home.path()).is_empty());
}
