//! Synthetic data: the same for the same seed, graded in its shares, learnable only by nonlinear models.

use std::{collections::HashSet, fs};

use pipeline::{
    Output,
    generate::{GenerateOptions, GenerateReport, LabelKind, generate, true_score},
};

use crate::{Table, entries, to};

fn run(options: &GenerateOptions) -> GenerateReport {
    generate(options, &mut |_, _| {}).unwrap()
}

fn score_columns(table: &Table) -> Vec<[f32; 10]> {
    let names = table.schema.feature_names();
    let columns: Vec<Vec<f32>> = names[..10].iter().map(|name| table.floats(name)).collect();
    (0..columns[0].len()).map(|row| std::array::from_fn(|at| columns[at][row])).collect()
}

#[test]
fn the_same_options_give_the_same_bytes_and_another_seed_does_not() {
    let home = tempfile::tempdir().unwrap();
    let base =
        GenerateOptions { queries: 3000, features: 12, weights: true, truth: true, ..GenerateOptions::default() };
    let bytes = |name: &str, options: GenerateOptions| {
        let path = home.path().join(name);
        run(&GenerateOptions { output: to(path.clone()), ..options });
        assert_eq!(entries(&path), ["part-00000.parquet"]);
        fs::read(path.join("part-00000.parquet")).unwrap()
    };
    let first = bytes("a", base.clone());
    assert!(first == bytes("b", base.clone()));
    assert!(first != bytes("c", GenerateOptions { seed: 1, ..base }));
}

#[test]
fn a_larger_dataset_begins_with_the_smaller_one() {
    let home = tempfile::tempdir().unwrap();
    let table = |name: &str, queries| {
        let output = to(home.path().join(name));
        run(&GenerateOptions { queries, output: output.clone(), ..GenerateOptions::default() });
        Table::read(&output.path)
    };
    let (small, large) = (table("small", 100), table("large", 5000));
    let rows = small.columns[0].len();
    for (small, large) in small.columns.iter().zip(&large.columns) {
        assert_eq!(small, &large.slice(0, rows));
    }
}

#[test]
fn grades_come_in_their_shares_whatever_the_noise() {
    let home = tempfile::tempdir().unwrap();
    for noise in [0.0, 0.2, 1.0] {
        let output = Output { overwrite: true, ..to(home.path().join("data")) };
        let report = run(&GenerateOptions { noise, output, ..GenerateOptions::default() });
        let shares: Vec<f64> = report.labels.iter().map(|count| count.rows as f64 / report.rows as f64).collect();
        for (share, expected) in shares.iter().zip([0.55, 0.20, 0.13, 0.08, 0.04]) {
            assert!((share - expected).abs() < 0.015, "{shares:?} with noise {noise}");
        }
    }
    let output = Output { overwrite: true, ..to(home.path().join("data")) };
    let report = run(&GenerateOptions { labels: LabelKind::Binary, output, ..GenerateOptions::default() });
    assert_eq!(report.labels.iter().map(|count| count.label.unwrap()).collect::<Vec<_>>(), [0.0, 1.0]);
    assert!((report.labels[1].rows as f64 / report.rows as f64 - 0.25).abs() < 0.015);
}

#[test]
fn the_columns_are_what_was_asked_for_and_the_truth_is_no_feature() {
    let home = tempfile::tempdir().unwrap();
    let output = to(home.path().join("data"));
    let options = GenerateOptions {
        queries: 500,
        documents: (3, 9),
        features: 12,
        noise: 0.0,
        weights: true,
        truth: true,
        list_id: true,
        corpus: 10,
        output: output.clone(),
        ..GenerateOptions::default()
    };
    let mut last = (0, 0);
    let report = generate(&options, &mut |done, total| last = (done, total)).unwrap();
    assert_eq!(last, (report.rows, report.rows));
    let table = Table::read(&output.path);
    assert_eq!(table.names()[..5], ["list_id", "query_id", "document_id", "label", "sample_weight"]);
    assert_eq!(table.names()[5], "bm25_score");
    assert_eq!(table.names()[15..], ["f11", "f12", "true_score"]);
    assert_eq!(table.schema.features().len(), 12);
    assert!(table.floats("sample_weight").iter().all(|weight| (0.25..4.0).contains(weight)));

    let (queries, documents) = (table.ints("query_id"), table.texts("document_id"));
    assert_eq!(queries, table.ints("list_id"));
    assert_eq!(queries.last(), Some(&500));
    let pairs: HashSet<(&i64, &String)> = queries.iter().zip(&documents).collect();
    assert_eq!(pairs.len(), queries.len(), "a document comes twice in a query");
    for query in 1..=500 {
        assert!((3..=9).contains(&queries.iter().filter(|id| **id == query).count()));
    }

    let (truth, labels) = (table.floats("true_score"), table.floats("label"));
    for ((features, truth), label) in score_columns(&table).iter().zip(truth).zip(labels) {
        assert_eq!(true_score(features), truth);
        assert_eq!(report.thresholds.iter().filter(|threshold| truth >= **threshold).count() as f32, label);
    }
    let quality: HashSet<(String, u32)> =
        documents.into_iter().zip(table.floats("doc_quality").into_iter().map(f32::to_bits)).collect();
    assert_eq!(quality.len(), 10, "a document's own features differ between queries");
}

/// Least squares over the ten features, by Gaussian elimination of the normal equations.
fn linear_fit(rows: &[[f32; 10]], target: &[f32]) -> impl Fn(&[f32; 10]) -> f64 {
    let extend =
        |row: &[f32; 10]| -> [f64; 11] { std::array::from_fn(|at| if at < 10 { f64::from(row[at]) } else { 1.0 }) };
    let mut system = [[0f64; 12]; 11];
    for (row, &target) in rows.iter().zip(target) {
        let row = extend(row);
        for i in 0..11 {
            for j in 0..11 {
                system[i][j] += row[i] * row[j];
            }
            system[i][11] += row[i] * f64::from(target);
        }
    }
    for pivot in 0..11 {
        for other in (0..11).filter(|other| *other != pivot) {
            let factor = system[other][pivot] / system[pivot][pivot];
            let subtracted = system[pivot];
            for (cell, value) in system[other].iter_mut().zip(subtracted) {
                *cell -= factor * value;
            }
        }
    }
    let weights: [f64; 11] = std::array::from_fn(|at| system[at][11] / system[at][at]);
    move |row| extend(row).iter().zip(weights).map(|(value, weight)| value * weight).sum()
}

/// Mean NDCG@10 with gains 2^label - 1, over queries with a relevant document.
fn ndcg(queries: &[i64], labels: &[f32], score: impl Fn(usize) -> f64) -> f64 {
    let gain = |label: f32| f64::from(label).exp2() - 1.0;
    let dcg = |order: &[usize]| -> f64 {
        order.iter().take(10).enumerate().map(|(rank, &row)| gain(labels[row]) / (rank as f64 + 2.0).log2()).sum()
    };
    let (mut sum, mut count, mut from) = (0.0, 0, 0);
    while from < queries.len() {
        let to = (from..queries.len()).find(|&row| queries[row] != queries[from]).unwrap_or(queries.len());
        let mut order: Vec<usize> = (from..to).collect();
        order.sort_by(|&a, &b| labels[b].total_cmp(&labels[a]));
        let ideal = dcg(&order);
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        if ideal > 0.0 {
            sum += dcg(&order) / ideal;
            count += 1;
        }
        from = to;
    }
    sum / f64::from(count)
}

#[test]
fn the_truth_ranks_far_better_than_any_linear_model() {
    let home = tempfile::tempdir().unwrap();
    let output = to(home.path().join("data"));
    run(&GenerateOptions { output: output.clone(), truth: true, ..GenerateOptions::default() });
    let table = Table::read(&output.path);
    let (queries, labels, truth) = (table.ints("query_id"), table.floats("label"), table.floats("true_score"));
    let rows = score_columns(&table);
    let linear = linear_fit(&rows, &truth);
    let random = ndcg(&queries, &labels, |row| (row.wrapping_mul(2_654_435_761) % 1009) as f64);
    let linear = ndcg(&queries, &labels, |row| linear(&rows[row]));
    let true_ = ndcg(&queries, &labels, |row| f64::from(truth[row]));
    eprintln!("ndcg@10: random {random:.3}, linear {linear:.3}, truth {true_:.3}");
    assert!(random < linear && linear + 0.1 < true_, "random {random}, linear {linear}, truth {true_}");
    assert!(true_ > 0.9, "noise hides the truth: {true_}");
}

#[test]
fn options_that_make_no_dataset_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let base = GenerateOptions { output: to(home.path().join("data")), ..GenerateOptions::default() };
    for (options, message) in [
        (GenerateOptions { queries: 0, ..base.clone() }, "no rows"),
        (GenerateOptions { documents: (0, 3), ..base.clone() }, "no rows"),
        (GenerateOptions { documents: (4, 3), ..base.clone() }, "at least 4 but at most 3"),
        (GenerateOptions { features: 9, ..base.clone() }, "9 features"),
        (GenerateOptions { corpus: 5, ..base.clone() }, "a corpus of 5"),
        (GenerateOptions { noise: f32::NAN, ..base }, "noise is NaN"),
    ] {
        let error = generate(&options, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(message) && error.hint().is_some(), "{error}");
    }
    assert!(entries(home.path()).is_empty());
}
