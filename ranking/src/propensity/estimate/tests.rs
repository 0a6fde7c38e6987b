//! The estimators against a position-based model whose truth is known.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::*;
use crate::propensity::{Exploration, PropensityTable};

/// A click world: documents of queries with relevances, and two rankers that know them in part.
#[derive(Clone, Copy)]
struct World {
    queries: usize,
    documents: usize,
    lists: usize,
    /// How much popular queries outnumber others: query i is asked in proportion to 1 / (i + this).
    flatness: f64,
    exploration: Exploration,
}

/// One result as an estimator gets it.
#[derive(Clone, Copy)]
struct Shown {
    document: u64,
    clicked: bool,
}

impl World {
    fn log(&self, seed: u64, mut list: impl FnMut(u64, bool, &[Shown])) {
        let truth = PropensityTable::reference();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Relevances of a query lie together, so that queries differ.
        let relevances: Vec<Vec<f64>> = (0..self.queries)
            .map(|_| {
                let best: f64 = rng.random_range(0.2..0.9);
                (0..self.documents).map(|_| best * rng.random::<f64>()).collect()
            })
            .collect();
        let rankings: Vec<[Vec<usize>; 2]> = relevances
            .iter()
            .map(|relevances| {
                [0.2, 0.5].map(|noise| {
                    let scores: Vec<f64> =
                        relevances.iter().map(|relevance| relevance + noise * rng.random::<f64>()).collect();
                    let mut order: Vec<usize> = (0..self.documents).collect();
                    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                    order
                })
            })
            .collect();
        let asked: Vec<f64> = (0..self.queries)
            .scan(0.0, |sum, query| {
                *sum += 1.0 / (query as f64 + self.flatness);
                Some(*sum)
            })
            .collect();
        let all = asked[self.queries - 1];
        let mut results = Vec::new();
        for _ in 0..self.lists {
            let at = rng.random::<f64>() * all;
            let query = asked.partition_point(|sum| *sum <= at).min(self.queries - 1);
            let ranking = &rankings[query][rng.random_range(0..2)];
            let shown = self.exploration.explore(ranking, &mut rng);
            results.clear();
            results.extend(shown.results.iter().zip(1..).map(|(document, position)| {
                let probability = truth.propensity(position) * relevances[query][*document];
                Shown { document: finalise(*document as u64 + 1), clicked: rng.random::<f64>() < probability }
            }));
            list(finalise(query as u64), shown.explored, &results);
        }
    }

    /// What the estimators count of one log.
    fn counts(&self, seed: u64) -> (Randomized, Exposures) {
        let (mut lists, mut exposures) = (Randomized::new(10), Exposures::new(10, DEFAULT_LIMIT));
        self.log(seed, |query, explored, results| {
            lists.add(explored, results.iter().zip(1..).map(|(result, position)| (position, result.clicked)));
            for (result, position) in results.iter().zip(1..) {
                exposures.add(query, result.document, position, result.clicked);
            }
        });
        (lists, exposures)
    }
}

/// Some queries are asked a hundred times, some once.
fn busy() -> World {
    World { queries: 300, documents: 10, lists: 3000, flatness: 5.0, exploration: Exploration::new(0.4, 10).unwrap() }
}

/// Few queries are asked twice: most documents were shown at few positions, once each.
fn sparse() -> World {
    World { queries: 3000, flatness: 1e4, lists: 4500, ..busy() }
}

const SEEDS: u64 = 200;

/// Of 200 logs, in how many an interval that holds the truth in 95 % of all may hold it: all but one in a thousand draws
/// of a binomial on either side, which is 179 to 198.
fn band() -> (u64, u64) {
    let held = Binomial::new(LEVEL, SEEDS).unwrap();
    (held.inverse_cdf(0.001), held.inverse_cdf(0.999))
}

/// How an estimator fared over many logs, by position from 2.
#[derive(Default)]
struct Record {
    held: [u64; 9],
    /// Sum of the errors of log propensities, and of their squares.
    errors: [(f64, f64); 9],
}

impl Record {
    fn add(&mut self, estimate: &Estimate) {
        let truth = PropensityTable::reference();
        let first = estimate.positions[0];
        assert_eq!((first.ratio, first.low, first.high), (1.0, 1.0, 1.0));
        for (at, found) in estimate.positions[1..].iter().enumerate() {
            let propensity = truth.propensity(found.position);
            self.held[at] += u64::from(found.low <= propensity && propensity <= found.high);
            let error = (found.ratio / propensity).ln();
            self.errors[at].0 += error;
            self.errors[at].1 += error * error;
        }
    }

    /// Intervals hold the truth as often as they claim, and estimates lie about it without bias.
    fn judge(&self, name: &str) {
        let n = SEEDS as f64;
        let (least, most) = band();
        let share = 100.0 * self.held.iter().sum::<u64>() as f64 / (9.0 * n);
        let bias = self.errors.map(|(sum, squares)| sum / n / ((squares / n - (sum / n).powi(2)) / n).sqrt());
        println!(
            "{name}: {:?} of {SEEDS} intervals hold the truth, {share:.1} % of all; mean errors in standard errors {bias:.1?}",
            self.held
        );
        assert!(
            self.held.iter().all(|held| (least..=most).contains(held)),
            "{name}: {:?}, not all within {least} to {most}",
            self.held
        );
        assert!(bias.iter().all(|bias| bias.abs() < 4.0), "{name}: {bias:.1?}");
    }
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_claim() {
    let (mut by_lists, mut by_pairs, mut by_em) = (Record::default(), Record::default(), Record::default());
    for seed in 0..SEEDS {
        let (lists, exposures) = busy().counts(seed);
        by_lists.add(&lists.estimate().unwrap());
        by_pairs.add(&pairs(&exposures, 200, seed).unwrap());
        by_em.add(&em(&exposures, 200, seed).unwrap());
    }
    by_lists.judge("randomized");
    by_pairs.judge("pairs");
    by_em.judge("em");
}

#[test]
fn a_relevance_for_each_of_many_seldom_shown_documents_does_no_harm() {
    let (mut by_pairs, mut by_em) = (Record::default(), Record::default());
    for seed in 0..SEEDS {
        let (_, exposures) = sparse().counts(seed);
        by_pairs.add(&pairs(&exposures, 200, seed).unwrap());
        by_em.add(&em(&exposures, 200, seed).unwrap());
    }
    by_pairs.judge("pairs, sparse");
    by_em.judge("em, sparse");
}

/// So many documents of their own queries, each shown once at either of two positions.
fn two_positions(outcomes: &[(bool, bool, u64)]) -> Exposures {
    let mut exposures = Exposures::new(2, DEFAULT_LIMIT);
    let mut query = 0;
    for &(first, second, times) in outcomes {
        for _ in 0..times {
            query += 1;
            exposures.add(finalise(query), 1 << 8, 1, first);
            exposures.add(finalise(query), 1 << 8, 2, second);
        }
    }
    exposures
}

#[test]
fn two_impressions_a_document_give_the_truth_where_the_likelihood_of_each_click_would_not() {
    // θ_2 = 0.5 and γ = 0.5 in exact proportions: both clicked 1/8, only the second 1/8, only the first 3/8.
    let exposures = two_positions(&[(true, true, 100), (false, true, 100), (true, false, 300), (false, false, 300)]);
    for estimate in [em(&exposures, 200, 1).unwrap(), pairs(&exposures, 200, 1).unwrap()] {
        let second = estimate.positions[1];
        assert!((second.ratio - 0.5).abs() < 1e-9, "{second:?}");
        // Shown and clicked: only documents with a click say anything.
        assert_eq!((second.impressions, second.clicks, estimate.units), (500, 200, 500));
        // By hand, the sum over documents of (c_2 / 200 - c_1 / 400)² is 100 / 400² + 100 / 200² + 300 / 400²; groups of queries,
        // their draws and Student's t move that by a few per cent.
        let half = 1.96 * (100.0 / 160_000.0 + 100.0 / 40_000.0 + 300.0 / 160_000.0f64).sqrt();
        let width = (second.high / second.low).ln() / 2.0;
        assert!((width / half - 1.0).abs() < 0.15, "{width} {half}");
    }
}

#[test]
fn pairs_weigh_documents_as_mantel_and_haenszel_do() {
    let mut exposures = Exposures::new(2, DEFAULT_LIMIT);
    let mut show = |query: u64, position: u32, shown: u64, clicked: u64| {
        (0..shown).for_each(|n| exposures.add(finalise(query), 1 << 8, position, n < clicked));
    };
    for query in 0..40 {
        let (n, m) = (3 + query % 5, 1 + query % 7);
        show(query, 1, n, 1 + query % 2);
        show(query, 2, m, query % 3 % (m + 1));
    }
    let (mut first, mut second) = (0.0, 0.0);
    for query in 0..40u64 {
        let (n, m) = (3 + query % 5, 1 + query % 7);
        first += (1 + query % 2) as f64 * m as f64 / (n + m) as f64;
        second += (query % 3 % (m + 1)) as f64 * n as f64 / (n + m) as f64;
    }
    let found = pairs(&exposures, 100, 0).unwrap().positions[1].ratio;
    assert!((found - second / first).abs() < 1e-9, "{found} {}", second / first);
}

#[test]
fn alternating_relevances_and_propensities_ends_where_em_does() {
    let (_, exposures) = busy().counts(3);
    let mut documents = Vec::new();
    exposures.for_each_pair(|pair| documents.push(pair.cells.to_vec()));
    let mut theta = vec![1.0; 10];
    for _ in 0..3000 {
        let (mut clicks, mut looks) = (vec![0.0; 10], vec![0.0; 10]);
        for cells in documents.iter().filter(|cells| cells.len() > 1) {
            let clicked: f64 = cells.iter().map(|(_, cell)| f64::from(cell.clicks)).sum();
            let looked: f64 = cells.iter().map(|(at, cell)| f64::from(cell.impressions) * theta[*at]).sum();
            for (at, cell) in cells {
                clicks[*at] += f64::from(cell.clicks);
                looks[*at] += f64::from(cell.impressions) * clicked / looked;
            }
        }
        theta = clicks.iter().zip(&looks).map(|(clicks, looks)| clicks / looks).collect();
    }
    for (found, theta_k) in em(&exposures, 50, 0).unwrap().positions.iter().zip(&theta) {
        assert!((found.ratio - theta_k / theta[0]).abs() < 1e-6, "{found:?} {}", theta_k / theta[0]);
    }
}

#[test]
fn neither_the_order_of_the_logs_nor_their_parts_move_an_estimate_and_memory_keeps_its_bound() {
    let world = World { queries: 400, lists: 6000, ..busy() };
    let mut seen = Vec::new();
    world.log(5, |query, _, results| {
        seen.extend(
            results.iter().zip(1..).map(|(result, position)| (query, result.document, position, result.clicked)),
        );
    });
    for limit in [DEFAULT_LIMIT, 8_000] {
        let mut forwards = Exposures::new(10, limit);
        let mut backwards = forwards.clone();
        let mut parts = [forwards.clone(), forwards.clone()];
        seen.iter().for_each(|&(query, document, position, clicked)| forwards.add(query, document, position, clicked));
        seen.iter()
            .rev()
            .for_each(|&(query, document, position, clicked)| backwards.add(query, document, position, clicked));
        for (at, &(query, document, position, clicked)) in seen.iter().enumerate() {
            parts[usize::from(at > 20_000)].add(query, document, position, clicked);
        }
        let [mut whole, rest] = parts;
        whole.merge(&rest);
        assert_eq!(forwards.share() < 1.0, limit == 8_000);
        for estimator in [pairs, em] {
            let estimate = estimator(&forwards, 50, 9).unwrap();
            assert_eq!(estimator(&backwards, 50, 9).unwrap(), estimate);
            assert_eq!(estimator(&whole, 50, 9).unwrap(), estimate);
            assert_ne!(estimator(&forwards, 50, 10).unwrap().positions[5].low, estimate.positions[5].low);
        }
    }
}

#[test]
fn explored_lists_are_compared_only_where_they_reach() {
    let mut counts = Randomized::new(3);
    let mut add = |times: u64, explored: bool, clicked: &[bool]| {
        (0..times).for_each(|_| {
            counts.add(explored, clicked.iter().zip(1..).map(|(clicked, position)| (position, *clicked)))
        });
    };
    add(40, true, &[true, false, false]);
    add(20, true, &[false, true, false]);
    add(10, true, &[true, true, true]);
    // Short lists, more clicked at the top: they say nothing about position 3.
    add(50, true, &[true, true]);
    add(1000, false, &[true, false, false, true]);
    let mut halves = Randomized::new(3);
    halves.add(false, [(1, true)]);
    halves.merge(&counts);
    let estimate = halves.estimate().unwrap();
    let ratios: Vec<f64> = estimate.positions.iter().map(|found| found.ratio).collect();
    assert_eq!(ratios, [1.0, 80.0 / 100.0, 10.0 / 50.0]);
    let third = estimate.positions[2];
    assert_eq!((third.impressions, third.clicks, estimate.units), (70, 10, 120));
    let deviation = (1.0 / 10.0 + 1.0 / 50.0 - 2.0 * 10.0 / 500.0f64).sqrt();
    assert!(((third.high / third.ratio).ln() - 1.959_964 * deviation).abs() < 1e-6);
}

#[test]
fn a_table_takes_ratios_above_one_as_one_and_says_so() {
    let mut counts = Randomized::new(2);
    (0..30).for_each(|n| counts.add(true, [(1, n < 15), (2, n >= 12)]));
    let estimate = counts.estimate().unwrap();
    let table = estimate.table(None).unwrap();
    assert_eq!((table.propensity(2), table.positions()[1].high, table.level()), (1.0, Some(1.0), Some(0.95)));
    assert!(table.positions()[1].low.unwrap() < 1.0);
    assert!(estimate.warnings()[0].starts_with("position 2 came out at 1.200"), "{:?}", estimate.warnings());
    assert_eq!(PropensityTable::from_json(&table.to_json()).unwrap(), table);
}

#[test]
fn logs_that_hold_too_little_are_refused_with_a_reason() {
    let mut counts = Randomized::new(2);
    counts.add(false, [(1, true), (2, true)]);
    assert_eq!(counts.estimate(), Err(Insufficient::NothingExplored { lists: 1 }));
    (0..20).for_each(|n| counts.add(true, [(1, true), (2, n < 3)]));
    assert_eq!(counts.estimate(), Err(Insufficient::FewClicks { position: 2, impressions: 20, clicks: 3 }));
    assert_eq!(counts.estimate().unwrap_err().hint(), "take a longer window");
    let third = Insufficient::FewClicks { position: 3, impressions: 20, clicks: 3 };
    assert_eq!(third.hint(), "take a longer window, or stop above it with `--positions 2`");

    let mut still = Exposures::new(3, DEFAULT_LIMIT);
    (0..100).for_each(|n| still.add(finalise(n), 1 << 8, 1 + n as u32 % 3, true));
    assert_eq!(em(&still, 50, 0), Err(Insufficient::NothingMoved { pairs: 100, positions: 3 }));

    // Positions 1 and 2 are compared, 3 and 4 are, but not one with the other.
    let mut apart = Exposures::new(4, DEFAULT_LIMIT);
    for n in 0..100 {
        for position in if n % 2 == 0 { [1, 2] } else { [3, 4] } {
            apart.add(finalise(n), 1 << 8, position, true);
        }
    }
    assert_eq!(em(&apart, 50, 0), Err(Insufficient::Unconnected { position: 3 }));
    assert_eq!(pairs(&apart, 50, 0), Err(Insufficient::Unconnected { position: 3 }));

    let mut few = Exposures::new(2, DEFAULT_LIMIT);
    for n in 0..100u32 {
        few.add(finalise(u64::from(n) % 5), 1 << 8, 1 + n / 50, n % 2 == 0);
    }
    assert_eq!(em(&few, 50, 0), Err(Insufficient::FewQueries { queries: 5 }));
    assert!([pairs, em].iter().all(|estimator| estimator(&Exposures::new(2, 10), 50, 0).is_err()));
}
