//! Published figures, and what must hold for any votes.

use proptest::prelude::*;

use super::*;

/// Dawid & Skene 1979, table 1: 45 patients as rated for fitness to undergo anaesthesia, 1 to 4. A patient's first three digits are
/// the first observer's, who rated three times; then come observers 2 to 5.
#[rustfmt::skip]
const ANAESTHESIA: [&str; 45] = [
    "1111111", "3334334", "1122122", "2223121", "2223222", "2223322", "1222111", "3333433", "2222223",
    "2322223", "4444444", "2223343", "1111111", "2223212", "1211111", "1112111", "1111111", "1111111",
    "2222221", "2221322", "2222222", "2222221", "2223222", "2212222", "1111111", "1111111", "2322222",
    "1111111", "1111111", "1121121", "1111111", "3333233", "1111111", "2222222", "2223232", "4334343",
    "2212232", "2323233", "3333432", "1111111", "1111111", "1212111", "2322222", "1211111", "2222222",];

fn anaesthesia() -> Votes {
    let mut votes = Votes::new(4);
    for (item, patient) in ANAESTHESIA.iter().enumerate() {
        for (rater, digit) in [0, 0, 0, 1, 2, 3, 4].into_iter().zip(patient.bytes()) {
            votes.push(item, Vote { rater, class: usize::from(digit - b'1') });
        }
    }
    votes
}

/// Items by how many votes each class has; each vote is another rater's.
fn from_counts<const K: usize>(items: &[[usize; K]]) -> Votes {
    let mut votes = Votes::new(K);
    for (item, counts) in items.iter().enumerate() {
        let classes = counts.iter().enumerate().flat_map(|(class, count)| std::iter::repeat_n(class, *count));
        classes.enumerate().for_each(|(rater, class)| votes.push(item, Vote { rater, class }));
    }
    votes
}

fn rounded(values: &[f64], digits: i32) -> Vec<f64> {
    let scale = 10f64.powi(digits);
    values.iter().map(|value| (value * scale).round() / scale).collect()
}

#[test]
fn dawid_skene_finds_the_published_prevalences_and_error_rates_of_the_anaesthesia_data() {
    let fit = DawidSkene::fit(&anaesthesia(), EmOptions::default());
    assert!(fit.converged && fit.iterations < 100, "{} iterations", fit.iterations);
    assert_eq!(rounded(&fit.priors, 2), [0.40, 0.42, 0.11, 0.07]);
    let row = |rater: usize, class: usize| rounded(fit.confusion[rater][class].as_ref().unwrap(), 2);
    assert_eq!(row(0, 0), [0.89, 0.11, 0.0, 0.0]);
    assert_eq!(row(0, 1), [0.07, 0.88, 0.05, 0.0]);
    assert_eq!(row(0, 2), [0.0, 0.34, 0.66, 0.0]);
    assert_eq!(row(0, 3), [0.0, 0.0, 0.56, 0.44]);
    assert_eq!(row(2, 0), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(row(4, 3), [0.0, 0.0, 0.33, 0.67]);
    // All patients but these are sure to three digits.
    let unsure: Vec<(usize, Vec<f64>)> = (0..45)
        .filter(|&patient| !fit.posterior[patient].iter().any(|probability| *probability > 0.9995))
        .map(|patient| (patient + 1, rounded(&fit.posterior[patient], 2)))
        .collect();
    let expected = [
        (7, vec![0.98, 0.02, 0.0, 0.0]),
        (30, vec![1.0, 0.0, 0.0, 0.0]),
        (35, vec![0.0, 0.95, 0.05, 0.0]),
        (38, vec![0.0, 0.02, 0.98, 0.0]),
    ];
    assert_eq!(unsure, expected);
    assert!((fit.log_likelihood - -192.890_881).abs() < 1e-5, "{}", fit.log_likelihood);
}

#[test]
fn dawid_skene_overrules_the_majority_where_the_error_rates_say_so() {
    // Patient 3: four votes for class 2, three for class 1; patient 36: four for class 3, three for class 4.
    let votes = anaesthesia();
    let majority = majority(&votes, 0.5);
    assert_eq!(majority[2].accepted(), Some(1));
    assert_eq!(majority[35].accepted(), Some(2));
    let outcomes = DawidSkene::fit(&votes, EmOptions::default()).outcomes(0.9);
    assert_eq!(outcomes[2].accepted(), Some(1));
    assert_eq!(outcomes[35].accepted(), Some(3));
    let differ = (0..45).filter(|&item| outcomes[item].accepted() != majority[item].accepted()).count();
    assert!((1..8).contains(&differ), "{differ} differ");
}

/// Fleiss 1971, table 1: 30 patients diagnosed by six psychiatrists each (depression, personality disorder, schizophrenia, neurosis,
/// other).
#[rustfmt::skip]
const DIAGNOSES: [[usize; 5]; 30] = [
    [0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0],
    [0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0],
    [0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0],
    [0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0],
    [1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6],
];

#[test]
fn fleiss_kappa_of_the_psychiatric_diagnoses_is_the_published_one() {
    let kappa = fleiss_kappa(&from_counts(&DIAGNOSES)).unwrap();
    assert_eq!(rounded(&[kappa.kappa.unwrap(), kappa.observed, kappa.expected], 3), [0.430, 0.556, 0.220]);
    assert_eq!((kappa.items, kappa.equal_raters), (30, true));
}

#[test]
fn fleiss_kappa_leaves_out_items_with_one_vote_and_says_that_raters_differ() {
    let mut items = DIAGNOSES.to_vec();
    items.push([1, 0, 0, 0, 0]);
    let kappa = fleiss_kappa(&from_counts(&items)).unwrap();
    assert_eq!((kappa.items, kappa.equal_raters), (30, true));
    items.push([2, 0, 0, 0, 0]);
    let kappa = fleiss_kappa(&from_counts(&items)).unwrap();
    assert_eq!((kappa.items, kappa.equal_raters), (31, false));
    assert!(kappa.kappa.unwrap() > 0.430, "{kappa:?}");
    assert_eq!(fleiss_kappa(&from_counts(&[[1, 0], [0, 1]])), None);
}

/// Krippendorff 2011, example C: four observers, twelve units, values 1 to 5, `.` is missing.
const OBSERVERS: [&str; 4] = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."];

#[test]
fn krippendorffs_alphas_are_the_published_ones() {
    let mut votes = Votes::new(5);
    for (rater, values) in OBSERVERS.iter().enumerate() {
        for (item, value) in values.bytes().enumerate().filter(|(_, value)| *value != b'.') {
            votes.push(item, Vote { rater, class: usize::from(value - b'1') });
        }
    }
    let alpha = |difference| krippendorff_alpha(&votes, difference).unwrap().alpha.unwrap();
    let alphas = [Difference::Nominal, Difference::Ordinal, Difference::Interval].map(alpha);
    assert_eq!(rounded(&alphas, 3), [0.743, 0.815, 0.849]);
    assert_eq!(krippendorff_alpha(&votes, Difference::Nominal).unwrap().values, 40);
}

#[test]
fn where_all_votes_are_alike_agreement_has_no_value() {
    let votes = from_counts(&[[3, 0], [2, 0]]);
    assert_eq!(fleiss_kappa(&votes).unwrap().kappa, None);
    assert_eq!(krippendorff_alpha(&votes, Difference::Ordinal).unwrap().alpha, None);
    assert_eq!(krippendorff_alpha(&from_counts(&[[1, 0], [0, 1]]), Difference::Ordinal), None);
}

#[test]
fn a_majority_needs_its_minimum_exactly_and_ties_are_nobodys() {
    let votes = from_counts(&[[3, 2, 0], [2, 1, 1], [2, 2, 0], [0, 0, 1], [0, 0, 0]]);
    let mut votes_and_unrated = votes.clone();
    votes_and_unrated.push(5, Vote { rater: 0, class: 0 });
    let outcomes = majority(&votes_and_unrated, 0.6);
    assert_eq!(outcomes[0], Outcome::Accepted { class: 0, agreement: 0.6 });
    assert_eq!(outcomes[1], Outcome::UnderAgreement { class: 0, agreement: 0.5 });
    assert_eq!(outcomes[2], Outcome::Tie { agreement: 0.5 });
    assert_eq!(outcomes[3], Outcome::Accepted { class: 2, agreement: 1.0 });
    assert_eq!(outcomes[4], Outcome::Unrated);
    // A tie stays one however little agreement is asked for.
    assert_eq!(majority(&votes, 0.0)[2], Outcome::Tie { agreement: 0.5 });
}

#[test]
fn two_raters_who_always_contradict_each_other_tie() {
    let mut votes = Votes::new(2);
    for item in 0..4 {
        votes.push(item, Vote { rater: 0, class: item % 2 });
        votes.push(item, Vote { rater: 1, class: 1 - item % 2 });
    }
    let outcomes = DawidSkene::fit(&votes, EmOptions::default()).outcomes(0.6);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Tie { .. })), "{outcomes:?}");
}

#[test]
fn ratings_keep_names_and_count_what_was_rated_again() {
    let pair = |document: &str| Pair { query_id: "q".into(), document_id: document.into() };
    let grade = |value| Grade::new(value).unwrap();
    let mut ratings = Ratings::default();
    ratings.push(pair("a"), "ann", grade(4));
    ratings.push(pair("b"), "bob", grade(0));
    ratings.push(pair("a"), "bob", grade(3));
    ratings.push(pair("a"), "ann", grade(4));
    assert_eq!(ratings.pairs(), [pair("a"), pair("b")]);
    assert_eq!(ratings.raters(), ["ann", "bob"]);
    assert_eq!((ratings.len(), ratings.votes().repeated()), (4, 1));
    assert_eq!(ratings.votes().counts(0), [0, 0, 0, 1, 2]);
}

#[test]
fn the_scale_is_the_references_and_knows_no_other_grade() {
    let labels: Vec<_> = (0..5).rev().map(|value| Grade::new(value).unwrap().choice().label).collect();
    assert_eq!(labels, ["Perfect", "Excellent", "Good", "Fair", "Bad"]);
    assert_eq!(Grade::new(5), None);
    assert_eq!(serde_json::from_str::<Grade>("3").unwrap().value(), 3);
    assert!(serde_json::from_str::<Grade>("5").unwrap_err().to_string().starts_with("5 is not a grade"));
}

fn any_votes() -> impl Strategy<Value = Votes> {
    prop::collection::vec((0usize..12, 0usize..4, 0usize..3), 1..80).prop_map(|drawn| {
        let mut votes = Votes::new(3);
        drawn.into_iter().for_each(|(item, rater, class)| votes.push(item, Vote { rater, class }));
        votes
    })
}

proptest! {
    #[test]
    fn the_likelihood_never_falls_and_probabilities_are_probabilities(votes in any_votes()) {
        let mut before = f64::NEG_INFINITY;
        for iterations in 1..20 {
            let fit = DawidSkene::fit(&votes, EmOptions { max_iterations: iterations, tolerance: 0.0 });
            prop_assert!(fit.log_likelihood >= before - 1e-9 * before.abs().min(1e9), "{before} then {}", fit.log_likelihood);
            before = fit.log_likelihood;
            prop_assert!((fit.priors.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (item, posterior) in fit.posterior.iter().enumerate() {
                let sum: f64 = posterior.iter().sum();
                let expected = if votes.items()[item].is_empty() { 0.0 } else { 1.0 };
                prop_assert!((sum - expected).abs() < 1e-12, "item {item}: {posterior:?}");
            }
        }
    }


    #[test]
    fn coefficients_are_at_most_one_and_one_only_where_all_items_agree(votes in any_votes()) {
        let agree = votes.items().iter().all(|on_item| on_item.windows(2).all(|pair| pair[0].class == pair[1].class));
        if let Some(kappa) = fleiss_kappa(&votes).and_then(|kappa| kappa.kappa) {
            prop_assert_eq!(kappa > 1.0 - 1e-12, agree);
        }
        for difference in [Difference::Nominal, Difference::Ordinal, Difference::Interval] {
            if let Some(alpha) = krippendorff_alpha(&votes, difference).and_then(|alpha| alpha.alpha) {
                prop_assert_eq!(alpha > 1.0 - 1e-12, agree);
            }
        }
    }
}
