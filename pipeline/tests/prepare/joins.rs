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
