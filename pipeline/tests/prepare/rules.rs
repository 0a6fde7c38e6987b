//! Labels, weights and features of every row, against `ranking`'s own functions.

use pipeline::prepare::{Missing, SplitBy, TimePart, list_id};
use ranking::{
    events::{LogSchema, SearchEvent, Timestamp},
    labels::{LabelKind, LabelOptions},
    propensity::{PropensityTable, WeightKind, Weighting},
};

use super::*;

fn expected(events: &[SearchEvent], labels: &LabelOptions, weighting: &Weighting, table: &PropensityTable) -> Vec<Row> {
    let rows = events.iter().flat_map(|event| {
        event.results.iter().map(move |result| Row {
            list: list_id(&event.session_id, &event.query_id, event.query_timestamp.0),
            query: event.query_id.clone(),
            document: result.document_id.clone(),
            label: labels.label(result),
            weight: weighting.weight(table, result.position, result.clicked, result.propensity) as f32,
            features: vec![
                result.document_id[1..].parse::<f32>().unwrap() * 10.0,
                event.query_id[1..].parse::<f32>().unwrap() + 1.0,
            ],
        })
    });
    sorted(rows.collect())
}

#[test]
fn every_row_has_the_label_the_weight_and_the_features_that_the_rules_say() {
    let (world, events) = (World::new(), events(60));
    world.log("1", &LogSchema::default(), &events);
    let tables = [document_table(&world), query_table(&world)];
    let mut options = world.options(&tables, &["doc_quality", "query_length"]);
    let kinds = [
        (LabelKind::Graded, Weighting { kind: WeightKind::Ipw, ..Weighting::default() }),
        (LabelKind::Binary, Weighting { kind: WeightKind::IpwClicks, clip: Some(4.0), ..Weighting::default() }),
        (LabelKind::Weighted, Weighting { kind: WeightKind::Ipw, logged: true, ..Weighting::default() }),
        (LabelKind::Weighted, Weighting::default()),
    ];
    for (kind, weighting) in kinds {
        for table in [PropensityTable::reference(), PropensityTable::reference_rounded()] {
            options.labels = LabelOptions { kind, dwell_threshold: 33.0, cart_weight: 2.5, ..LabelOptions::default() };
            (options.weighting, options.propensities) = (weighting, table);
            let (report, rows) = world.prepare(&options).unwrap();
            assert_contiguous(&rows);
            let expected = expected(&events, &options.labels, &weighting, &options.propensities);
            assert_eq!(sorted(rows), expected, "{kind:?} {weighting:?}");
            assert_eq!((report.events, report.queries, report.lists), (60, 3, 60));
            assert_eq!(report.rows as usize, expected.len());
            assert_eq!(report.labels.iter().map(|count| count.rows).sum::<u64>(), report.rows);
        }
    }
}

#[test]
fn the_health_of_weights_is_that_of_the_rows_that_are_weighed() {
    let (world, events) = (World::new(), events(40));
    world.log("1", &LogSchema::default(), &events);
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    options.weighting =
        Weighting { kind: WeightKind::IpwClicks, clip: Some(3.0), self_normalize: true, ..Weighting::default() };
    let (report, rows) = world.prepare(&options).unwrap();
    let mut health = ranking::propensity::WeightHealth::default();
    for result in events.iter().flat_map(|event| &event.results).filter(|result| result.clicked) {
        health.add(
            options.weighting.unclipped(&options.propensities, result.position, true, None),
            options.weighting.clip,
        );
    }
    assert_eq!((report.weights.rows, report.weights.clipped), (health.rows, health.clipped));
    assert!(health.clipped > 0);
    assert!((report.divisor - health.mean()).abs() < 1e-9);
    assert!((report.weights.effective_rows() / health.effective_rows() - 1.0).abs() < 1e-5);
    // Weighed rows weigh 1 on average, the others exactly 1.
    let mean = rows.iter().map(|row| f64::from(row.weight)).sum::<f64>() / rows.len() as f64;
    assert!((mean - 1.0).abs() < 1e-6, "{mean}");
}

#[test]
fn features_are_taken_from_the_log_too_and_missing_ones_are_counted_filled_or_dropped() {
    let (world, events) = (World::new(), events(30));
    world.log("1", &LogSchema::with_features(["bm25_score"]), &events);
    let mut options = world.options(&[document_table(&world)], &["bm25_score", "doc_quality", "position"]);
    let results = || events.iter().flat_map(|event| &event.results);
    let missing = results().filter(|result| result.features[0].is_none()).count();
    assert!(missing > 0);
    let refused = world.refused(&options);
    assert!(refused.contains(&format!("`bm25_score` in {missing}")) && refused.contains("--missing"), "{refused}");

    options.missing = Missing::Zero;
    let (report, rows) = world.prepare(&options).unwrap();
    assert_eq!(report.features[0].missing_rows as usize, missing);
    let sum = |rows: &[Row]| rows.iter().map(|row| f64::from(row.features[0])).sum::<f64>();
    let known: f64 = results().filter_map(|result| result.features[0]).map(f64::from).sum();
    assert!((sum(&rows) - known).abs() < 1e-3);
    assert!(rows.iter().all(|row| row.features[2] * 10.0 == row.features[1]));

    options.missing = Missing::Mean;
    let (report, rows) = world.prepare(&options).unwrap();
    let mean = known / (rows.len() - missing) as f64;
    assert!((f64::from(report.features[0].filled_with.unwrap()) - mean).abs() < 1e-4);
    assert!((sum(&rows) / rows.len() as f64 - mean).abs() < 1e-4);

    options.missing = Missing::Drop;
    let (report, dropped) = world.prepare(&options).unwrap();
    assert_eq!(dropped.len(), rows.len() - missing);
    assert_eq!(report.dropped_rows as usize, missing);
    assert_contiguous(&dropped);
}

#[test]
fn a_split_by_time_begins_each_part_at_its_moment_and_one_by_query_never_cuts_a_query() {
    let (world, events) = (World::new(), events(60));
    world.log("1", &LogSchema::default(), &events);
    let mut options = world.options(&[document_table(&world)], &["doc_quality"]);
    let moment: Timestamp = "2026-01-11T00:00:00Z".parse().unwrap();
    options.split = SplitBy::Time(vec![TimePart::new("train", None), TimePart::new("validation", Some(moment))]);
    let report = prepare(&options, &|_| {}).unwrap();
    let part = |name: &str| read(&options.output.path.join(name), &options.features);
    let later: Vec<i64> = events
        .iter()
        .filter(|event| event.query_timestamp >= moment)
        .map(|event| list_id(&event.session_id, &event.query_id, event.query_timestamp.0))
        .collect();
    let (train, validation) = (part("train"), part("validation"));
    assert!(!later.is_empty() && validation.iter().all(|row| later.contains(&row.list)));
    assert!(train.iter().all(|row| !later.contains(&row.list)));
    assert_eq!((train.len() + validation.len()) as u64, report.rows);

    options.split = SplitBy::Query { parts: "a=0.5,b=0.5".parse().unwrap(), seed: 3 };
    prepare(&options, &|_| {}).unwrap();
    let part = |name: &str| read(&options.output.path.join(name), &options.features);
    let queries = |rows: &[Row]| rows.iter().map(|row| row.query.clone()).collect::<std::collections::BTreeSet<_>>();
    let (a, b) = (queries(&part("a")), queries(&part("b")));
    assert!(a.is_disjoint(&b) && a.len() + b.len() == 3);
}
