//! Joins: streamed and sorted alike, as of a moment, and events that the log repeats.

use pipeline::prepare::JoinChoice;
use ranking::events::LogSchema;

use super::*;

#[test]
fn sorted_joins_give_the_rows_of_streamed_ones_and_lists_stay_together() {
    let (world, events) = (World::new(), events(90));
    world.log("1", &LogSchema::default(), &events[..50]);
    world.log("2", &LogSchema::default(), &events[50..]);
    let mut options = world.options(&[document_table(&world), query_table(&world)], &["doc_quality", "query_length"]);
    options.joins = JoinChoice::Streamed;
    let (report, streamed) = world.prepare(&options).unwrap();
    assert_eq!(report.joins, "streamed");
    options.joins = JoinChoice::Sorted;
    let (report, by_sorting) = world.prepare(&options).unwrap();
    assert_eq!(report.joins, "sorted");
    assert_contiguous(&streamed);
    assert_contiguous(&by_sorting);
    assert_eq!(sorted(streamed), sorted(by_sorting));
}

#[test]
fn a_table_with_valid_from_gives_what_was_known_at_the_time_of_the_search() {
    for joins in [JoinChoice::Streamed, JoinChoice::Sorted] {
        let world = World::new();
        let day = |number: usize, day: u32| event(number, "q0", day, vec![result(1, "d1"), result(2, "d2")]);
        world.log("1", &LogSchema::default(), &[day(1, 1), day(2, 10), day(3, 20)]);
        let table = world.table(
            "documents",
            vec![
                ("document_id", texts(&["d1", "d1", "d1", "d2"])),
                // Of d1 the second holds from the very second of the second search on; nothing is known of d2 before the third.
                (
                    "valid_from",
                    moments(&[
                        "2025-12-01T00:00:00Z",
                        "2026-01-10T12:00:02Z",
                        "2026-01-25T00:00:00Z",
                        "2026-01-15T00:00:00Z",
                    ]),
                ),
                ("doc_quality", floats(&[1.0, 2.0, 3.0, 4.0])),
            ],
        );
        let mut options = world.options(&[(Key::Document, table)], &["doc_quality"]);
        (options.joins, options.missing) = (joins, Missing::Zero);
        let (report, mut rows) = world.prepare(&options).unwrap();
        rows.sort_by_key(|row| (row.document.clone(), row.features[0] as i32));
        let found: Vec<(&str, f32)> = rows.iter().map(|row| (row.document.as_str(), row.features[0])).collect();
        assert_eq!(found, [("d1", 1.0), ("d1", 2.0), ("d1", 2.0), ("d2", 0.0), ("d2", 0.0), ("d2", 4.0)], "{joins:?}");
        assert!(report.tables[0].as_of);
        assert_eq!(report.tables[0].unmatched_rows, 2);
    }
}

#[test]
fn a_search_that_the_log_repeats_counts_once() {
    let (world, events) = (World::new(), events(20));
    world.log("1", &LogSchema::default(), &events);
    world.log("2", &LogSchema::default(), &events[5..8]);
    world.log("3", &LogSchema::default(), &events[7..8]);
    let options = world.options(&[document_table(&world)], &["doc_quality"]);
    let (report, rows) = world.prepare(&options).unwrap();
    assert_eq!((report.events, report.repeated_events, report.lists), (24, 4, 20));
    assert_eq!(rows.len(), events.iter().map(|event| event.results.len()).sum::<usize>());
    assert_contiguous(&rows);
}

#[test]
fn of_the_copies_of_a_search_the_one_with_which_most_was_done_counts_wherever_it_lies() {
    let (world, mut events) = (World::new(), events(30));
    for event in &mut events {
        event.results.iter_mut().for_each(|result| (result.purchased, result.added_to_cart) = (false, false));
    }
    let mut before = events.clone();
    for event in &mut before {
        event.results.iter_mut().for_each(|result| (result.clicked, result.dwell_time_seconds) = (false, None));
    }
    let (first, second) = events.split_at(15);
    let (first_before, second_before) = before.split_at(15);
    world.log("1", &LogSchema::default(), &[first, second_before].concat());
    world.log("2", &LogSchema::default(), &[second, first_before].concat());
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    let clicks = events.iter().flat_map(|event| &event.results).filter(|result| result.clicked).count();
    options.labels.kind = ranking::labels::LabelKind::Binary;
    for joins in [JoinChoice::Streamed, JoinChoice::Sorted] {
        options.joins = joins;
        let (report, rows) = world.prepare(&options).unwrap();
        assert_eq!(report.repeated_events, 30);
        assert_eq!(rows.iter().filter(|row| row.label == 1.0).count(), clicks, "{joins:?}");
    }
}

#[test]
fn the_same_command_gives_the_same_files() {
    let (world, events) = (World::new(), events(200));
    for (at, part) in events.chunks(17).enumerate() {
        world.log(&at.to_string(), &LogSchema::default(), part);
    }
    let options = world.options(&[document_table(&world), query_table(&world)], &["doc_quality", "query_length"]);
    let files = || {
        let (_, rows) = world.prepare(&options).unwrap();
        let mut files: Vec<(std::ffi::OsString, Vec<u8>)> = std::fs::read_dir(&options.output.path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "parquet"))
            .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        (rows, files)
    };
    let first = files();
    for _ in 0..5 {
        assert!(files() == first, "another run gave other files");
    }
}

#[test]
fn what_a_path_is_named_makes_no_difference() {
    let (world, events) = (World::new(), events(20));
    world.log("1", &LogSchema::default(), &events);
    let plain = document_table(&world);
    let mut options = world.options(&[plain], &["doc_quality"]);
    let (_, expected) = world.prepare(&options).unwrap();
    for name in ["a#b", "a?b", "a%20b", "a b", "ä[1]*"] {
        let file = world.path(&format!("{name}.parquet"));
        std::fs::copy(world.path("documents.parquet"), file).unwrap();
        options.tables.insert(Key::Document, world.text(&format!("{name}.parquet")));
        let (report, rows) = world.prepare(&options).unwrap();
        assert_eq!(report.tables[0].unmatched_rows, 0, "{name}");
        assert_eq!(rows, expected, "{name}");
    }
}

#[test]
fn keys_that_no_table_has_are_counted() {
    let (world, events) = (World::new(), events(20));
    world.log("1", &LogSchema::default(), &events);
    let table = world.table("queries", vec![("query_id", texts(&["q0", "q1"])), ("query_length", floats(&[1.0, 2.0]))]);
    let mut options = world.options(&[(Key::Query, table)], &["query_length"]);
    options.missing = Missing::Zero;
    let (report, rows) = world.prepare(&options).unwrap();
    let unknown = rows.iter().filter(|row| row.query == "q2").count();
    assert!(unknown > 0);
    assert_eq!(report.tables[0].unmatched_rows as usize, unknown);
}

#[test]
fn rows_keep_their_order_within_the_list_also_where_some_find_no_match() {
    let (world, events) = (World::new(), events(60));
    world.log("1", &LogSchema::default(), &events);
    let some: Vec<String> = (1..=13).filter(|n| n % 3 == 0).map(|n| format!("d{n}")).collect();
    let values: Vec<f32> = some.iter().map(|_| 1.0).collect();
    let table = world.table("documents", vec![("document_id", texts(&some)), ("doc_quality", floats(&values))]);
    let mut options = world.options(&[(Key::Document, table), query_table(&world)], &["doc_quality", "query_length"]);
    options.missing = Missing::Zero;
    for joins in [JoinChoice::Streamed, JoinChoice::Sorted] {
        options.joins = joins;
        let (_, rows) = world.prepare(&options).unwrap();
        assert_contiguous(&rows);
        for list in rows.chunk_by(|a, b| a.list == b.list) {
            let documents: Vec<&str> = list.iter().map(|row| row.document.as_str()).collect();
            let in_order: Vec<String> = (1..=documents.len()).map(|n| format!("d{n}")).collect();
            assert_eq!(documents, in_order, "{joins:?}");
        }
    }
}
