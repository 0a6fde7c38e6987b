//! What cannot be prepared: the message names it, nothing is published.

use pipeline::prepare::TimePart;
use ranking::events::LogSchema;

use super::*;

fn world() -> World {
    let world = World::new();
    world.log("1", &LogSchema::default(), &events(20));
    world
}

#[test]
fn a_feature_of_no_table_or_of_two_is_named() {
    let world = world();
    let other = world.table("users", vec![("user_id", texts(&["u1"])), ("doc_quality", floats(&[0.5]))]);
    let options = world.options(&[document_table(&world), (Key::User, other)], &["doc_quality", "doc_age"]);
    let refused = world.refused(&options);
    assert!(refused.contains("`doc_quality` is in the user features and in the document features"), "{refused}");
    assert!(refused.contains("`doc_age` is in none of them"), "{refused}");
}

#[test]
fn a_key_that_stands_in_two_rows_is_named_with_its_table() {
    let world = world();
    let table =
        world.table("documents", vec![("document_id", texts(&["d1", "d2", "d1"])), ("doc_quality", floats(&[1.0; 3]))]);
    let refused = world.refused(&world.options(&[(Key::Document, table)], &["doc_quality"]));
    assert!(refused.contains("documents.parquet") && refused.contains("`d1` in 2 rows"), "{refused}");
}

#[test]
fn a_table_without_its_key_and_one_without_a_number_are_refused() {
    let world = world();
    let table = world.table("documents", vec![("id", texts(&["d1"])), ("doc_quality", floats(&[1.0]))]);
    let refused = world.refused(&world.options(&[(Key::Document, table)], &["doc_quality"]));
    assert!(refused.contains("no column `document_id`") && refused.contains("it has id, doc_quality"), "{refused}");
    let table = world.table("words", vec![("document_id", texts(&["d1"])), ("doc_quality", texts(&["good"]))]);
    let refused = world.refused(&world.options(&[(Key::Document, table)], &["doc_quality"]));
    assert!(refused.contains("`doc_quality` is in none"), "{refused}");
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_query_and_document() {
    let world = world();
    let ids: Vec<String> = (1..=13).map(|n| format!("d{n}")).collect();
    let mut values: Vec<f32> = (1..=13).map(|n| n as f32).collect();
    values[1] = f32::NAN;
    let table = world.table("documents", vec![("document_id", texts(&ids)), ("doc_quality", floats(&values))]);
    let refused = world.refused(&world.options(&[(Key::Document, table)], &["doc_quality"]));
    assert!(refused.contains("document `d2`: column `doc_quality`: NaN is not finite"), "{refused}");
}

#[test]
fn dates_without_data_name_those_that_have_some() {
    let world = world();
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    let dates = "2025-01-01".parse().unwrap()..="2025-02-01".parse().unwrap();
    options.logs = options.logs.map(|logs| LogRange { dates, ..logs });
    let refused = world.refused(&options);
    assert!(refused.contains("from 2025-01-01 to 2025-02-01") && refused.contains("2026-01-20"), "{refused}");
}

#[test]
fn a_day_whose_schema_differs_is_named() {
    let world = World::new();
    // A lake of another tool: no commits, so all of its files count.
    let folder = world.path("lake/click_logs/date=2026-01-05");
    std::fs::create_dir_all(&folder).unwrap();
    write(
        &folder.join("a.parquet"),
        vec![("session_id", texts(&["s"])), ("query_id", texts(&["q"])), ("results", texts(&["none"]))],
    );
    let refused = world.refused(&world.options(&[document_table(&world)], &["doc_quality"]));
    assert!(refused.contains("date=2026-01-05/a.parquet") && refused.contains("query_timestamp"), "{refused}");
    let moments = moments(&["2026-01-05T00:00:00Z"]);
    let columns = vec![
        ("session_id", texts(&["s"])),
        ("query_id", texts(&["q"])),
        ("query_timestamp", moments),
        ("results", texts(&["none"])),
    ];
    write(&folder.join("a.parquet"), columns);
    let refused = world.refused(&world.options(&[document_table(&world)], &["doc_quality"]));
    assert!(refused.contains("`results` is Utf8") || refused.contains("`results` is Utf8View"), "{refused}");
}

#[test]
fn an_output_that_exists_is_left_alone() {
    let world = world();
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    prepare(&options, &|_| {}).unwrap();
    // Its own output, report and all, may be replaced.
    prepare(&options, &|_| {}).unwrap();
    options.output.overwrite = false;
    let error = prepare(&options, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("exists and is not empty"), "{error}");
}

#[test]
fn a_valid_from_that_is_a_number_is_refused() {
    let world = world();
    let ids: Vec<String> = (1..=13).map(|n| format!("d{n}")).collect();
    let seconds: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1_767_225_600i64; 13]));
    let columns = vec![("document_id", texts(&ids)), ("valid_from", seconds), ("doc_quality", floats(&[1.0; 13]))];
    let table = world.table("documents", columns);
    let said = world.refused(&world.options(&[(Key::Document, table)], &["doc_quality"]));
    assert!(said.contains("`valid_from` is Int64, not a timestamp"), "{said}");
}

#[test]
fn a_part_by_time_is_named_like_a_folder() {
    let world = world();
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    let at = |text: &str| Some(text.parse().unwrap());
    for name in ["../evil", "", "shard-1", "/tmp/x", "later"] {
        let parts = [(name, None), ("later", at("2026-01-10T00:00:00Z"))];
        options.split = SplitBy::Time(parts.map(|(name, from)| TimePart::new(name, from)).into());
        let said = world.refused(&options);
        assert!(said.contains("cannot be named") || said.contains("appears twice"), "{said}");
    }
}

#[test]
fn an_event_that_our_writers_would_not_have_written_is_named() {
    let schema = LogSchema::default();
    let shown = |positions: &[(u32, &str)]| positions.iter().map(|(at, document)| result(*at, document)).collect();
    let bad: [(Vec<ResultImpression>, &str); 3] = [
        (shown(&[(0, "d1"), (1, "d2")]), "position 0, and positions count from 1"),
        (shown(&[(1, "d1"), (1, "d2")]), "two results are at position 1"),
        (shown(&[(1, "d1"), (2, "d1")]), "document `d1` is shown twice"),
    ];
    for (results, words) in bad {
        let world = world();
        world.log("2", &schema, &[event(900, "q1", 3, results)]);
        // Somebody else's, then: without commits.
        std::fs::remove_dir_all(world.path("lake/click_logs/_commits")).unwrap();
        let said = world.refused(&world.options(&[document_table(&world)], &["doc_quality"]));
        assert!(said.contains(words) && said.contains("session `s900`"), "{said}");
    }
}
