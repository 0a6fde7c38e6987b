//! Labels that raters gave: on the results of a log, and as an evaluation set of their own.

use ranking::{events::LogSchema, propensity::WeightKind};

use super::*;

fn judgments(world: &World, pairs: &[(&str, &str, f32)]) -> String {
    let (queries, rest): (Vec<&str>, Vec<(&str, f32)>) = pairs.iter().map(|(q, d, l)| (*q, (*d, *l))).unzip();
    let (documents, labels): (Vec<&str>, Vec<f32>) = rest.into_iter().unzip();
    let columns = vec![("query_id", texts(&queries)), ("document_id", texts(&documents)), ("label", floats(&labels))];
    world.table("judgments", columns)
}

const PAIRS: [(&str, &str, f32); 5] =
    [("q0", "d3", 4.0), ("q2", "d1", 0.0), ("q0", "d1", 1.0), ("q2", "d9", 3.0), ("q7", "d2", 2.0)];

#[test]
fn results_that_were_judged_have_the_raters_labels_and_the_others_are_left_out_and_counted() {
    let (world, events) = (World::new(), events(40));
    world.log("1", &LogSchema::default(), &events);
    let tables = [document_table(&world), query_table(&world)];
    let mut options = world.options(&tables, &["doc_quality", "query_length"]);
    options.judgments = Some(judgments(&world, &PAIRS));
    let mut expected: Vec<(i64, String, f32)> = Vec::new();
    for event in &events {
        for result in &event.results {
            let found = PAIRS.iter().find(|(q, d, _)| *q == event.query_id && *d == result.document_id);
            if let Some((.., label)) = found {
                let list = pipeline::prepare::list_id(&event.session_id, &event.query_id, event.query_timestamp.0);
                expected.push((list, result.document_id.clone(), *label));
            }
        }
    }
    expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for joins in [JoinChoice::Streamed, JoinChoice::Sorted] {
        options.joins = joins;
        let (report, rows) = world.prepare(&options).unwrap();
        assert_contiguous(&rows);
        let found: Vec<(i64, String, f32)> =
            sorted(rows).into_iter().map(|row| (row.list, row.document, row.label)).collect();
        assert_eq!(found, expected);
        let shown: usize = events.iter().map(|event| event.results.len()).sum();
        assert_eq!(report.unjudged_rows as usize, shown - expected.len());
        assert_eq!((report.rows as usize, report.labels.len()), (expected.len(), 4));
    }
}

#[test]
fn without_a_log_every_query_is_a_list_of_its_judged_documents() {
    let world = World::new();
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    (options.logs, options.judgments) = (None, Some(judgments(&world, &PAIRS)));
    let (report, rows) = world.prepare(&options).unwrap();
    assert_contiguous(&rows);
    let mut found: Vec<(&str, &str, f32, f32, f32)> = rows
        .iter()
        .map(|row| (row.query.as_str(), row.document.as_str(), row.label, row.features[0], row.weight))
        .collect();
    found.sort_by_key(|row| (row.0, row.1));
    let expected = [
        ("q0", "d1", 1.0, 10.0, 1.0),
        ("q0", "d3", 4.0, 30.0, 1.0),
        ("q2", "d1", 0.0, 10.0, 1.0),
        ("q2", "d9", 3.0, 90.0, 1.0),
        ("q7", "d2", 2.0, 20.0, 1.0),
    ];
    assert_eq!(found, expected);
    assert_eq!((report.events, report.queries, report.lists), (5, 3, 3));
    assert!(report.log.is_none());
}

#[test]
fn judgments_that_cannot_be_used_are_refused() {
    let world = World::new();
    world.log("1", &LogSchema::default(), &events(10));
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    options.judgments = Some(judgments(&world, &[("q0", "d1", 1.0), ("q0", "d1", 2.0)]));
    let said = world.refused(&options);
    assert!(said.contains("judgments `") && said.contains("`q0 / d1` in 2 rows"), "{said}");
    options.judgments = Some(judgments(&world, &[("other", "d1", 1.0)]));
    let said = world.refused(&options);
    assert!(said.contains("results has a label in judgments"), "{said}");
    options.judgments = Some(document_table(&world).1);
    assert!(world.refused(&options).contains("there is no column `query_id`"));
    options.judgments = Some(judgments(&world, &PAIRS));
    options.weighting.kind = WeightKind::Ipw;
    assert!(world.refused(&options).contains("not weighed by position"));
    options.weighting.kind = WeightKind::None;
    options.tables.insert(Key::User, world.text("users.parquet"));
    options.logs = None;
    assert!(world.refused(&options).contains("no users"));
}
