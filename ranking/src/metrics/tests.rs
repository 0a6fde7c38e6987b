use proptest::prelude::*;

use super::*;

fn values_of(metrics: &[Metric], convention: Convention, labels: &[f32], scores: &[f32]) -> Vec<f64> {
    let mut values = vec![0.0; metrics.len()];
    Evaluator::new(metrics, convention).list(labels, scores, &mut values);
    values
}

fn values(labels: &[f32], scores: &[f32]) -> Vec<f64> {
    values_of(&Metric::REPORTED, Convention::default(), labels, scores)
}

fn metrics(names: &str) -> Vec<Metric> {
    names.split(' ').map(|name| name.parse().unwrap()).collect()
}

#[test]
fn the_largest_linear_gains_add_up_exactly() {
    let convention = Convention { gain: Gain::Linear, ..Convention::default() };
    let range = convention.labels(&[Metric::Dcg(None)]);
    assert!(range.contains(Convention::LINEAR_LIMIT) && !range.contains(Convention::LINEAR_LIMIT * 2.0));
    assert!(convention.labels(&[Metric::Mrr(None)]).contains(1e30));
    let value = f64::from(Convention::LINEAR_LIMIT);
    let mut mean = Mean::default();
    (0..1_000_000).for_each(|_| mean.add(value));
    assert_eq!(mean.value(), value);
}

#[test]
fn a_list_worked_out_by_hand() {
    // Ranked: labels 0, 3, 1, 0.
    let found = values(&[3.0, 0.0, 0.0, 1.0], &[0.5, 0.9, -1.0, 0.1]);
    let ndcg = (7.0 / 3f64.log2() + 1.0 / 2.0) / (7.0 + 1.0 / 3f64.log2());
    for (value, expected) in found.iter().zip([0.0, ndcg, ndcg, (1.0 / 2.0 + 2.0 / 3.0) / 2.0, 0.5]) {
        assert!((value - expected).abs() < 1e-12, "{found:?}");
    }
}

#[test]
fn ties_stay_in_row_order() {
    assert_eq!(values(&[1.0, 0.0], &[0.0, -0.0])[4], 1.0);
    assert_eq!(values(&[0.0, 1.0], &[0.0, 0.0])[4], 0.5);
}

#[test]
fn scores_that_only_f64_tells_apart_are_ties_where_the_convention_compares_f32() {
    let (labels, scores) = ([0.0, 1.0], [1.0f64, 1.0 + 1e-9]);
    let mrr = metrics("mrr");
    let of = |precision| {
        let mut value = [0.0];
        Evaluator::new(&mrr, Convention { precision, ..Convention::default() }).list(&labels, &scores, &mut value);
        value[0]
    };
    assert_eq!((of(Precision::AsGiven), of(Precision::Single)), (1.0, 0.5));
}

#[test]
fn a_list_without_relevant_documents_counts_what_the_convention_says() {
    assert_eq!(values(&[0.0, 0.0], &[1.0, 2.0]), [0.0; 5]);
    let all = metrics("ndcg@5 dcg map mrr precision@5 recall@5 err");
    let of = |empty| values_of(&all, Convention { empty, ..Convention::default() }, &[0.0, 0.0], &[1.0, 2.0]);
    assert_eq!(of(Empty::Zero), [0.0; 7]);
    assert_eq!(of(Empty::One), [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    assert!(of(Empty::Skip).iter().all(|value| value.is_nan()));
    let mut mean = Mean::default();
    [0.5, f64::NAN, 1.0].iter().for_each(|value| mean.add(*value));
    assert_eq!((mean.lists, mean.value()), (2, 0.75));
}

#[test]
fn a_list_of_no_rows_misses_what_was_judged_and_is_empty_where_nothing_was() {
    let all = metrics("ndcg dcg@3 map mrr precision@5 precision recall err@2");
    let convention = Convention { empty: Empty::One, ..Convention::default() };
    let mut found = vec![f64::NAN; all.len()];
    let mut evaluator = Evaluator::new(&all, convention);
    evaluator.list_and_unretrieved::<f32>(&[], &[], &[2.0, 0.0], &mut found);
    assert_eq!(found, [0.0; 8]);
    evaluator.list_and_unretrieved::<f32>(&[], &[], &[0.0], &mut found);
    assert_eq!(found, [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn labels_have_a_range_that_follows_from_gain_and_metrics() {
    let range = |names: &str, convention: Convention| {
        let range = convention.labels(&metrics(names));
        (
            range.contains(-1.0),
            range.contains(4.5),
            range.contains(31.0),
            range.contains(40.0),
            range.contains(f32::NAN),
        )
    };
    let reference = Convention::default();
    assert_eq!(range("ndcg@10 map", reference), (false, true, true, false, false));
    assert_eq!(range("map", reference), (false, true, true, true, false));
    assert_eq!(range("map err@10", reference), (false, false, false, false, false));
    assert_eq!(range("ndcg", Profile::TrecEval.convention()), (true, true, true, true, false));
    assert_eq!(range("ndcg", Profile::LightGbm.convention()), (false, true, false, false, false));
}

#[test]
fn names_are_read_back() {
    for metric in Metric::REPORTED.into_iter().chain(metrics("ndcg dcg@3 map@7 mrr@10 precision recall@100 err@20")) {
        assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
    }
    for wrong in ["ndcg@0", "auc", "ndcg@", "ndcg@-1", "@3", "ndcg@3@4", ""] {
        assert!(wrong.parse::<Metric>().is_err(), "{wrong}");
    }
    for profile in Profile::ALL {
        assert_eq!(profile.name().parse::<Profile>().unwrap(), profile);
    }
}

#[test]
fn what_stands_beside_a_value_says_all_that_moves_it() {
    let words = |profile: Profile, name: &str| profile.convention().words(name.parse().unwrap());
    expect_test::expect![[r#"
        gain 2^label-1, discount 1/log2(rank+1), ties in row order, lists without relevant documents count 0
        relevant: label >= 1, divided by all relevant, ties in row order, lists without relevant documents count 0
        relevant: label >= 1, ties in row order, lists without relevant documents count 0
        satisfied with (2^label-1)/2^4, ties in row order, lists without relevant documents count 0
        gain label (0 for labels below 0), discount 1/log2(rank+1), ties (as f32) by document id descending, lists without relevant documents count 0
        relevant: label >= 1, divided by all relevant but at most k, ties in row order, lists without relevant documents count 1
        relevant: label >= 1, divided by k or the list's length, without @k the first 32 ranks, ties (as f32) in row order, lists without relevant documents count 0
        gain label, discount 1/log2(rank+1), ties averaged over their orders, lists without relevant documents count 0
    "#]]
    .assert_eq(
        &[
            words(Profile::Reference, "ndcg@10"),
            words(Profile::Reference, "map"),
            words(Profile::Reference, "mrr"),
            words(Profile::Reference, "err@10"),
            words(Profile::TrecEval, "ndcg@10"),
            words(Profile::LightGbm, "map@5"),
            words(Profile::XgBoost, "precision"),
            words(Profile::Sklearn, "ndcg"),
            String::new(),
        ]
        .join("\n"),
    );
    expect_test::expect![
        "gain 2^label-1, discount 1/log2(rank+1), relevant: label >= 1, map divided by all relevant but at most k, precision divided by k or the list's length, without @k the first 32 ranks, ties (as f32) in row order, lists without relevant documents count 1 (0 in precision)"
    ]
    .assert_eq(&Profile::XgBoost.convention().sentence(&metrics("ndcg map@5 precision@3")));
}

/// A metric of labels in their order, straight from its definition.
fn naive(metric: Metric, convention: &Convention, ranked: &[f32], unretrieved: &[f32]) -> f64 {
    let length = ranked.len();
    let cut = metric.cut().or(convention.uncut).map(|k| k.get());
    let within = cut.unwrap_or(length).min(length);
    let worth = |label: f32| match convention.gain {
        Gain::Exponential => 2f64.powf(f64::from(label.max(0.0))) - 1.0,
        Gain::Linear => f64::from(label.max(0.0)),
    };
    let dcg = |labels: &[f32]| -> f64 {
        let ranks = cut.unwrap_or(usize::MAX).min(labels.len());
        (0..ranks).map(|rank| worth(labels[rank]) / (rank as f64 + 2.0).log2()).sum()
    };
    let relevant = |label: f32| label >= convention.relevant_at;
    let found = |ranks: usize| ranked[..ranks].iter().filter(|label| relevant(**label)).count() as f64;
    let all = found(length) + unretrieved.iter().filter(|label| relevant(**label)).count() as f64;
    let mut best = [ranked, unretrieved].concat();
    best.sort_by(|a, b| b.total_cmp(a));
    let empty = match metric {
        Metric::Ndcg(_) | Metric::Dcg(_) => dcg(&best) == 0.0,
        Metric::Err(_) => best.iter().all(|label| *label <= 0.0),
        _ => all == 0.0,
    };
    let answers = matches!(metric, Metric::Dcg(_) | Metric::Precision(_) | Metric::Err(_));
    match convention.empty {
        Empty::Skip if empty => return f64::NAN,
        Empty::One if empty && !answers => return 1.0,
        _ if empty => return 0.0,
        _ => {}
    }
    match metric {
        Metric::Ndcg(_) => dcg(ranked) / dcg(&best),
        Metric::Dcg(_) => dcg(ranked),
        Metric::Map(_) => {
            let divided_by = match convention.map_denominator {
                MapDenominator::Relevant => all,
                MapDenominator::RelevantWithinCut => all.min(cut.map_or(f64::MAX, |k| k as f64)),
            };
            let hits = (0..within).filter(|rank| relevant(ranked[*rank]));
            hits.map(|rank| found(rank + 1) / (rank + 1) as f64).sum::<f64>() / divided_by
        }
        Metric::Mrr(_) => (0..within).find(|rank| relevant(ranked[*rank])).map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
        Metric::Precision(_) => match convention.precision_denominator {
            _ if length == 0 => 0.0,
            PrecisionDenominator::Cut => found(within) / cut.unwrap_or(length) as f64,
            PrecisionDenominator::CutOrLength => found(within) / within as f64,
        },
        Metric::Recall(_) => found(within) / all,
        Metric::Err(_) => {
            let satisfied = |rank: usize| {
                (2f64.powf(f64::from(ranked[rank].max(0.0))) - 1.0) / 2f64.powi(convention.largest_grade.into())
            };
            (0..within)
                .map(|rank| {
                    (0..rank).map(|above| 1.0 - satisfied(above)).product::<f64>() * satisfied(rank) / (rank + 1) as f64
                })
                .sum()
        }
    }
}

/// All orders of the rows that the scores allow.
fn orders(scores: &[f32]) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    rows.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut orders = vec![Vec::new()];
    for group in rows.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let mut permutations = vec![Vec::new()];
        for row in group {
            permutations = permutations
                .iter()
                .flat_map(|order: &Vec<usize>| {
                    (0..=order.len()).map(|at| {
                        let mut order = order.clone();
                        order.insert(at, *row);
                        order
                    })
                })
                .collect();
        }
        orders = orders.iter().flat_map(|order| permutations.iter().map(|more| [&order[..], more].concat())).collect();
    }
    orders
}

fn any_metrics() -> Vec<Metric> {
    metrics(
        "ndcg ndcg@1 ndcg@3 dcg dcg@4 map map@2 map@30 mrr mrr@2 precision precision@3 precision@20 recall recall@2 err err@3",
    )
}

prop_compose! {
    fn any_convention()(
        gain in prop::sample::select(vec![Gain::Exponential, Gain::Linear]),
        empty in prop::sample::select(vec![Empty::Zero, Empty::One, Empty::Skip]),
        relevant_at in prop::sample::select(vec![1.0f32, 2.0]),
        map_denominator in prop::sample::select(vec![MapDenominator::Relevant, MapDenominator::RelevantWithinCut]),
        precision_denominator in prop::sample::select(vec![PrecisionDenominator::Cut, PrecisionDenominator::CutOrLength]),
        uncut in prop::sample::select(vec![None, std::num::NonZeroUsize::new(2)]),
    ) -> Convention {
        let negative = Negative::Zero;
        Convention { gain, empty, relevant_at, map_denominator, precision_denominator, uncut, negative, ..Convention::default() }
    }
}

fn near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 1e-12 || value.is_nan() && expected.is_nan()
}

proptest! {
    #[test]
    fn the_best_order_scores_one_and_every_value_lies_in_zero_to_one(
        rows in prop::collection::vec((0u8..5, -10f32..10.0), 1..30),
    ) {
        let labels: Vec<f32> = rows.iter().map(|row| f32::from(row.0)).collect();
        let scores: Vec<f32> = rows.iter().map(|row| row.1).collect();
        prop_assert!(values(&labels, &scores).iter().all(|value| (0.0..=1.0 + 1e-12).contains(value)));
        let perfect = values(&labels, &labels);
        let expected = if labels.iter().any(|label| *label >= 1.0) { 1.0 } else { 0.0 };
        prop_assert!(perfect.iter().all(|value| (value - expected).abs() < 1e-12));
    }

    #[test]
    fn ranking_agrees_with_a_stable_sort(scores in prop::collection::vec(-3i8..3, 0..40)) {
        let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
        let mut order = Vec::new();
        rank(&scores, &mut order);
        let mut expected: Vec<u64> = (0..scores.len() as u64).collect();
        expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        prop_assert_eq!(order, expected);
    }

    #[test]
    fn every_metric_under_every_convention_is_its_definition(
        convention in any_convention(),
        rows in prop::collection::vec((-1i8..5, -4i8..4), 0..12),
        fraction in prop::bool::ANY,
        unretrieved in prop::collection::vec(-1i8..5, 0..4),
    ) {
        // Half labels leave the path of small whole ones.
        let label = |label: i8| f32::from(label) - if fraction { 0.5 } else { 0.0 };
        let labels: Vec<f32> = rows.iter().map(|row| label(row.0)).collect();
        let scores: Vec<f32> = rows.iter().map(|row| f32::from(row.1) / 3.0).collect();
        let unretrieved: Vec<f32> = unretrieved.into_iter().map(label).collect();
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let ranked: Vec<f32> = order.iter().map(|row| labels[*row]).collect();
        let all = any_metrics();
        let mut evaluator = Evaluator::new(&all, convention);
        let (mut single, mut double) = (vec![0.0; all.len()], vec![0.0; all.len()]);
        evaluator.list_and_unretrieved(&labels, &scores, &unretrieved, &mut single);
        let wide: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
        evaluator.list_and_unretrieved(&labels, &wide, &unretrieved, &mut double);
        for (at, metric) in all.iter().enumerate() {
            let expected = naive(*metric, &convention, &ranked, &unretrieved);
            prop_assert!(near(single[at], expected), "{}: {} and not {}", metric, single[at], expected);
            prop_assert_eq!(single[at].to_bits(), double[at].to_bits());
        }
    }

    #[test]
    fn averaged_ties_are_the_mean_over_all_orders(
        convention in any_convention(),
        rows in prop::collection::vec((-1i8..5, 0u8..3), 1..8),
        unretrieved in prop::collection::vec(0u8..3, 0..3),
    ) {
        let convention = Convention { ties: Ties::Averaged, ..convention };
        let labels: Vec<f32> = rows.iter().map(|row| f32::from(row.0)).collect();
        let scores: Vec<f32> = rows.iter().map(|row| f32::from(row.1)).collect();
        let unretrieved: Vec<f32> = unretrieved.into_iter().map(f32::from).collect();
        let all = any_metrics();
        let mut found = vec![0.0; all.len()];
        Evaluator::new(&all, convention).list_and_unretrieved(&labels, &scores, &unretrieved, &mut found);
        let orders = orders(&scores);
        for (metric, value) in all.iter().zip(found) {
            let of_order = |order: &Vec<usize>| {
                let ranked: Vec<f32> = order.iter().map(|row| labels[*row]).collect();
                naive(*metric, &convention, &ranked, &unretrieved)
            };
            let expected = orders.iter().map(of_order).sum::<f64>() / orders.len() as f64;
            prop_assert!(near(value, expected), "{}: {} and not {} over {} orders", metric, value, expected, orders.len());
        }
    }

    #[test]
    fn a_sum_does_not_know_in_which_order_or_blocks_it_was_made(
        mut numbers in prop::collection::vec(prop_oneof![0.0..1.0f64, -1e9..1e9f64, Just(1e-18)], 0..60),
        cut in 0usize..60,
    ) {
        let sum = |numbers: &[f64]| {
            let mut sum = Sum::default();
            numbers.iter().for_each(|number| sum.add(*number));
            sum
        };
        let forward = sum(&numbers);
        let (left, right) = numbers.split_at(cut.min(numbers.len()));
        let mut merged = sum(right);
        merged.merge(Sum::from_bytes(sum(left).to_bytes()));
        prop_assert_eq!(merged, forward);
        prop_assert_eq!(Sum::from_bytes(forward.to_bytes()), forward);
        numbers.reverse();
        prop_assert_eq!(sum(&numbers), forward);
        let plain: f64 = numbers.iter().sum();
        prop_assert!((forward.value() - plain).abs() <= 1e-6 * (1.0 + plain.abs()), "{} {}", forward.value(), plain);
    }
}
