use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::propensity::{Exploration, PropensityTable};

/// No bounds: what is tested is the numbers.
const ANY: Limits = Limits { min_effective: 0.0, max_share: 1.0, max_unsupported: 1.0 };

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, not {expected}");
}

/// Reward, propensity, target.
const ROWS: [(f64, f64, f64); 8] = [
    (1.0, 0.5, 0.2),
    (0.0, 0.5, 0.4),
    (1.0, 0.25, 0.6),
    (0.0, 0.1, 0.8),
    (2.5, 0.8, 0.8),
    (-1.0, 0.4, 0.1),
    (1.0, 1.0, 0.0),
    (0.5, 0.05, 0.3),
];

fn actions(rows: &[(f64, f64, f64)], clip: Option<f64>) -> Actions {
    let mut actions = Actions::new(clip);
    for (unit, &(reward, propensity, target)) in rows.iter().enumerate() {
        actions.add(unit as u64, Action { reward, propensity, target }).unwrap();
    }
    actions
}

#[test]
fn ips_clipped_snips_and_effective_size_are_the_formulas_written_out() {
    let found = actions(&ROWS, Some(2.0)).estimates(&ANY).unwrap();
    // Weights, worked out: 0.4, 0.8, 2.4, 8, 1, 0.25, 0, 6.
    let weights = [0.4, 0.8, 2.4, 8.0, 1.0, 0.25, 0.0, 6.0];
    let rewards = ROWS.map(|(reward, ..)| reward);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    close(found.logged.value, 5.0 / 8.0);
    close(found.ips.value, (0.4 + 2.4 + 2.5 - 0.25 + 3.0) / 8.0);
    close(found.ips.value, dot(&weights, &rewards) / 8.0);
    close(found.clipped.unwrap().value, (0.4 + 2.0 + 2.5 - 0.25 + 1.0) / 8.0);
    close(found.snips.unwrap().value, 8.05 / 18.85);
    close(found.weights.effective, 18.85 * 18.85 / (0.16 + 0.64 + 5.76 + 64.0 + 1.0 + 0.0625 + 36.0));
    close(found.weights.largest_share, 8.0 / 18.85);
    // By weight times reward: 0.4, 2.4, 2.5, 0.25, 3.
    close(found.rewarded.largest_share, 3.0 / 8.55);
    close(found.mean_weight.unwrap().value, 18.85 / 8.0);
    assert_eq!((found.clipped_rows, found.weights.rows, found.rewarded.rows), (2, 8, 5));
    close(found.snips_difference.unwrap().value, 8.05 / 18.85 - 0.625);
}

#[test]
fn intervals_are_those_of_the_delta_method_written_out() {
    // Of these eight units no two share a group.
    let found = actions(&ROWS, None).estimates(&ANY).unwrap();
    let weighted = ROWS.map(|(reward, propensity, target)| reward * target / propensity);
    let weights = ROWS.map(|(_, propensity, target)| target / propensity);
    let quantile = 2.364_624_251_592_785; // of Student's t with 7 degrees of freedom
    let error = |influence: [f64; 8]| (influence.iter().map(|x| x * x).sum::<f64>() * 8.0 / 7.0).sqrt();
    let ips = weighted.iter().sum::<f64>() / 8.0;
    let half = quantile * error(weighted.map(|x| (x - ips) / 8.0));
    assert!((found.ips.high - (ips + half)).abs() < 1e-9 && (found.ips.low - (ips - half)).abs() < 1e-9);
    let all = weights.iter().sum::<f64>();
    let snips = weighted.iter().sum::<f64>() / all;
    let mut influence = [0.0; 8];
    for at in 0..8 {
        influence[at] = (weighted[at] - snips * weights[at]) / all;
    }
    let half = quantile * error(influence);
    assert!((found.snips.unwrap().high - (snips + half)).abs() < 1e-9);
}

#[test]
fn numbers_past_what_can_be_summed_are_never_concluded_from() {
    // A policy that changes nothing, but for one action that was next to impossible.
    let mut rows: Vec<(f64, f64, f64)> = (0..5000).map(|at| (f64::from(u8::from(at % 5 == 0)), 0.5, 0.5)).collect();
    assert_eq!(actions(&rows, None).estimates(&Limits::default()).unwrap().conclusion, Some(Conclusion::NotApart));
    rows.push((0.0, 1e-200, 0.5));
    let found = actions(&rows, None).estimates(&Limits::default()).unwrap();
    assert_eq!((found.conclusion, found.weights.effective), (None, 1.0), "{found:?}");
    let doubted = |wanted: fn(&Doubt) -> bool| found.doubts.iter().any(wanted);
    assert!(doubted(|doubt| matches!(doubt, Doubt::NotFinite { .. })), "{:?}", found.doubts);
    assert!(doubted(|doubt| matches!(doubt, Doubt::FewEffective { .. })), "{:?}", found.doubts);
    // Rewards whose sum is no number: not even without bounds.
    let rows: Vec<(f64, f64, f64)> = (0..1000).map(|at| (if at % 3 == 0 { 0.0 } else { 1e308 }, 0.1, 0.9)).collect();
    let found = actions(&rows, None).estimates(&ANY).unwrap();
    assert_eq!(found.conclusion, None);
    assert!(matches!(found.doubts[0], Doubt::NotFinite { .. }), "{:?}", found.doubts);
    assert!(found.doubts[0].to_string().starts_with("the numbers are not finite, NaN"), "{}", found.doubts[0]);
}

#[test]
fn a_log_without_rewards_is_said_to_be_one() {
    let found = actions(&[(0.0, 0.5, 0.5); 500], None).estimates(&Limits::default()).unwrap();
    assert_eq!((found.conclusion, &found.doubts[..]), (None, &[Doubt::NoRewards { samples: 500 }][..]));
    let mut clicks = ByExamination::new(None, PropensityTable::reference(), Gain::Clicks);
    clicks.add(1, &[moved(1, 2, 0.0, None), moved(2, 1, 0.0, None)]);
    clicks.add(2, &[moved(1, 2, 0.0, None), moved(2, 1, 0.0, None)]);
    assert_eq!(clicks.estimates(&Limits::default()).unwrap().doubts, [Doubt::NoRewards { samples: 2 }]);
}

#[test]
fn rows_that_cannot_be_are_refused() {
    let refused = |reward, propensity, target| {
        Actions::new(None).add(0, Action { reward, propensity, target }).unwrap_err().to_string()
    };
    assert_eq!(refused(f64::NAN, 0.5, 0.5), "the reward is NaN, which is not finite");
    assert_eq!(refused(1.0, 0.0, 0.5), "the propensity is 0, which is not above 0 and at most 1");
    assert_eq!(refused(1.0, 0.5, 1.5), "the target probability is 1.5, which is not between 0 and 1");
    assert_eq!(refused(1.0, 1e-320, 1.0), format!("the weight, 1 / {:e}, is past what a number holds", 1e-320));
    assert!(Actions::new(None).estimates(&ANY).is_none());
}

#[test]
fn a_new_ranker_moves_results_among_their_own_positions_and_ties_stay_as_they_were() {
    assert_eq!(new_positions(&[1, 2, 3], &[0.1, 0.9, 0.5]), [3, 1, 2]);
    assert_eq!(new_positions(&[3, 1, 2], &[0.5, 0.5, 0.5]), [3, 1, 2]);
    assert_eq!(new_positions(&[1, 2, 3], &[-0.0, 0.0, -0.0]), [1, 2, 3]);
    // Nearer to each other than f32 can tell.
    assert_eq!(new_positions(&[1, 2, 3], &[20_000_000.1, 20_000_000.2, 20_000_000.3]), [3, 2, 1]);
    // A second page, with a hole.
    assert_eq!(new_positions(&[11, 12, 14], &[1.0, 3.0, 2.0]), [14, 11, 12]);
}

fn moved(logged: u32, new: u32, reward: f64, propensity: Option<f64>) -> Moved {
    Moved { logged, new, reward, propensity }
}

#[test]
fn examination_weights_are_looks_at_the_new_place_over_looks_at_the_old_one() {
    let table = PropensityTable::reference(); // 1, 0.65, 0.45, …
    let mut clicks = ByExamination::new(Some(2.0), table.clone(), Gain::Clicks);
    let mut dcg = ByExamination::new(None, table, Gain::Dcg);
    let searches = [
        vec![moved(1, 2, 1.0, None), moved(2, 1, 0.0, None), moved(3, 3, 1.0, None)],
        vec![moved(1, 3, 0.0, None), moved(2, 2, 0.0, None), moved(3, 1, 1.0, None)],
    ];
    for (unit, search) in searches.iter().enumerate() {
        clicks.add(unit as u64, search);
        dcg.add(unit as u64, search);
    }
    let found = clicks.estimates(&ANY).unwrap();
    close(found.logged.value, 1.5);
    close(found.ips.value, (0.65 + 1.0 + 1.0 / 0.45) / 2.0);
    close(found.clipped.unwrap().value, (0.65 + 1.0 + 2.0) / 2.0);
    let wanted = 1.0 + 1.0 / 0.45 + 1.0 / 0.45;
    close(found.snips.unwrap().value, (0.65 + 1.0 + 1.0 / 0.45) / wanted);
    close(found.snips_logged.unwrap().value, 3.0 / wanted);
    assert_eq!((found.weights.rows, found.mean_weight), (3, None));
    let found = dcg.estimates(&ANY).unwrap();
    let at = |position: f64| 1.0 / (1.0 + position).log2();
    close(found.ips.value, (at(2.0) + at(3.0) / 0.45 + at(1.0) / 0.45) / 2.0);
    close(found.logged.value, (at(1.0) + 2.0 * at(3.0) / 0.45) / 2.0);
}

#[test]
fn placement_weights_count_what_stands_where_the_new_ranker_puts_it_and_notice_what_never_could() {
    let mut placement = ByPlacement::new(None);
    let p = Some(0.2);
    // The first two were shuffled, the third was certain.
    placement.add(1, &[moved(1, 1, 1.0, p), moved(2, 2, 0.0, p), moved(3, 3, 1.0, Some(1.0))]).unwrap();
    placement.add(2, &[moved(1, 2, 1.0, p), moved(2, 1, 0.0, p), moved(3, 3, 0.0, Some(1.0))]).unwrap();
    let found = placement.estimates(&ANY).unwrap();
    close(found.ips.value, (5.0 + 1.0) / 2.0);
    close(found.snips.unwrap().value, 6.0 / (11.0 / 3.0 + 1.0 / 3.0));
    assert_eq!(found.unsupported, 0.0);
    placement.add(3, &[moved(1, 3, 1.0, p), moved(2, 2, 0.0, p), moved(3, 1, 0.0, Some(1.0))]).unwrap();
    close(placement.estimates(&ANY).unwrap().unsupported, 1.0 / 3.0);
    let refused = |propensity| ByPlacement::new(None).add(4, &[moved(2, 2, 0.0, propensity)]).unwrap_err().to_string();
    assert_eq!(refused(None), "the result at position 2 has no logged propensity");
    assert!(refused(Some(1e-320)).ends_with("is past what a number holds"));
    assert_eq!(refused(Some(0.0)), "the result at position 2 has propensity 0, which is not above 0 and at most 1");
}

/// Searches of a world in which documents 0 to 4 earn by (2 + document) / 8 times the looks at their position, whatever their
/// order, shown by a ranker that likes them the other way round, with some exploration. The new ranker has them right.
fn explored_log(seed: u64, rate: f64, searches: u64, mut each: impl FnMut(u64, Vec<Moved>)) {
    let looks = [1.0, 0.6, 0.4, 0.3, 0.2];
    let exploration = Exploration::new(rate, 5).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for unit in 0..searches {
        let shown = exploration.explore(&[0usize, 1, 2, 3, 4], &mut rng);
        let results =
            shown.results.iter().zip(&shown.propensities).zip(1u32..).map(|((&document, &propensity), at)| {
                let clicked = rng.random::<f64>() < looks[at as usize - 1] * (2 + document) as f64 / 8.0;
                moved(at, 5 - document as u32, f64::from(u8::from(clicked)), Some(propensity))
            });
        each(unit, results.collect());
    }
}

/// What the new ranker truly earns: document 4 first.
const TRUTH: f64 = (6.0 + 0.6 * 5.0 + 0.4 * 4.0 + 0.3 * 3.0 + 0.2 * 2.0) / 8.0;

#[test]
fn intervals_by_placement_hold_the_truth_as_often_as_they_say() {
    const SEEDS: u64 = 200;
    let (mut ips, mut snips, mut concluded) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut placement = ByPlacement::new(None);
        explored_log(seed, 0.5, 1500, |unit, results| placement.add(unit, &results).unwrap());
        let found = placement.estimates(&Limits::default()).unwrap();
        let holds = |value: Value| u32::from(value.low <= TRUTH && TRUTH <= value.high);
        ips += holds(found.ips);
        snips += holds(found.snips.unwrap());
        concluded += u32::from(found.conclusion == Some(Conclusion::Better));
    }
    // Four standard deviations of 200 draws at 95 % are 12.3.
    assert!((178..=200).contains(&ips) && (178..=200).contains(&snips), "{ips} and {snips} of {SEEDS}");
    assert!(concluded > SEEDS as u32 * 9 / 10, "{concluded} of {SEEDS}");
}

#[test]
fn without_enough_exploration_nothing_is_concluded_and_the_reason_is_said() {
    // Nothing explored: every propensity is 1, and four of five documents would move.
    let mut none = ByPlacement::new(None);
    explored_log(1, 0.0, 2000, |unit, results| none.add(unit, &results).unwrap());
    let found = none.estimates(&Limits::default()).unwrap();
    assert_eq!((found.conclusion, found.unsupported), (None, 1.0));
    assert!(matches!(found.doubts[0], Doubt::Unsupported { share: 1.0, .. }), "{:?}", found.doubts);
    assert!(
        found.doubts[0]
            .to_string()
            .starts_with("in 100.0 % of the searches the new ranking could never have been logged")
    );
    assert!(found.doubts[0].hint().starts_with("log more exploration"));
    // A little: supported, and far too few.
    let mut few = ByPlacement::new(None);
    explored_log(1, 0.01, 300, |unit, results| few.add(unit, &results).unwrap());
    let found = few.estimates(&Limits::default()).unwrap();
    assert_eq!((found.conclusion, found.unsupported), (None, 0.0));
    let doubted = |wanted: fn(&Doubt) -> bool| found.doubts.iter().any(wanted);
    assert!(
        doubted(|doubt| matches!(doubt, Doubt::FewEffective { .. } | Doubt::FewEffectiveRewarded { .. })),
        "{found:?}"
    );
}

#[test]
fn weights_that_are_not_one_on_average_are_doubted_either_way() {
    let of = |weight: f64| {
        let row = |at: usize| (f64::from(u8::from(at.is_multiple_of(3))), 0.5, 0.5 * weight);
        actions(&(0..3000).map(row).collect::<Vec<_>>(), None).estimates(&Limits::default()).unwrap()
    };
    assert!(matches!(of(0.6).doubts[..], [Doubt::WeightsMissing { .. }]));
    assert!(matches!(of(1.7).doubts[..], [Doubt::WeightsTooLarge { .. }]));
    let fine = of(1.0);
    assert_eq!((fine.conclusion, fine.doubts.len()), (Some(Conclusion::NotApart), 0));
    // One reward that outweighs all others.
    let mut rows: Vec<(f64, f64, f64)> = (0..3000).map(|at| (f64::from(u8::from(at % 300 == 0)), 0.5, 0.5)).collect();
    rows[1] = (1.0, 0.01, 1.0);
    let found = actions(&rows, None).estimates(&Limits::default()).unwrap();
    assert!(found.doubts.iter().any(|doubt| matches!(doubt, Doubt::OneDecides { .. })), "{:?}", found.doubts);
}
