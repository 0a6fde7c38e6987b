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
                    let scores: Vec<f64> = relevances.iter().map(|relevance| relevance + noise * rng.random::<f64>()).collect();
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
                Shown { document: mix(*document as u64 + 1), clicked: rng.random::<f64>() < probability }
            }));
            list(mix(query as u64), shown.explored, &results);
        }
    }

    fn randomized(&self, seed: u64) -> Randomized {
        let mut counts = Randomized::new(10);
        self.log(seed, |_, explored, results| {
            counts.add(explored, results.iter().zip(1..).map(|(result, position)| (position, result.clicked)));
        });
        counts
    }

    fn exposures(&self, seed: u64) -> Exposures {
        let mut exposures = Exposures::new(10, DEFAULT_LIMIT);
        self.log(seed, |query, _, results| {
            for (result, position) in results.iter().zip(1..) {
                exposures.add(query, result.document, position, result.clicked);
            }
        });
        exposures
    }
}

const SEEDS: u64 = 200;

/// Of 200 windows, how many intervals a position may hold the truth in when it holds 95 % of all: all but one in a thousand
/// draws of a binomial on either side, which is 179 to 198.
fn band() -> (u64, u64) {
    let held = Binomial::new(LEVEL, SEEDS).unwrap();
    (held.inverse_cdf(0.001), held.inverse_cdf(0.999))
}

/// How many of the intervals hold the truth, by position from 2, and the mean error of the logarithms in standard errors of a mean.
fn coverage(estimate: impl Fn(u64) -> Result<Estimate, Insufficient>) -> (Vec<u64>, Vec<f64>) {
    let truth = PropensityTable::reference();
    let mut held = vec![0; 9];
    let mut errors = vec![(0.0, 0.0); 9];
    for seed in 0..SEEDS {
        let estimate = estimate(seed).unwrap();
        assert_eq!((estimate.positions[0].ratio, estimate.positions[0].low, estimate.positions[0].high), (1.0, 1.0, 1.0));
        for ((held, errors), found) in held.iter_mut().zip(&mut errors).zip(&estimate.positions[1..]) {
            let propensity = truth.propensity(found.position);
            *held += u64::from(found.low <= propensity && propensity <= found.high);
            let error = (found.ratio / propensity).ln();
            *errors = (errors.0 + error, errors.1 + error * error);
        }
    }
    let n = SEEDS as f64;
    let bias = errors.iter().map(|(sum, squares)| sum / n / ((squares / n - (sum / n).powi(2)) / n).sqrt());
    (held, bias.collect())
}

fn assert_covers(name: &str, estimate: impl Fn(u64) -> Result<Estimate, Insufficient>) {
    let (held, bias) = coverage(estimate);
    let (least, most) = band();
    let all: u64 = held.iter().sum();
    println!("{name}: {held:?} of {SEEDS} intervals hold the truth, {:.1} % of all; mean errors in standard errors {bias:.1?}", all as f64 / 18.0);
    assert!(held.iter().all(|held| (least..=most).contains(held)), "{name}: {held:?}, not all within {least} to {most}");
}

/// Some queries are asked a hundred times, some once.
fn busy() -> World {
    World { queries: 300, documents: 10, lists: 4000, flatness: 5.0, exploration: Exploration::new(0.4, 10).unwrap() }
}

/// Few queries are asked twice: most documents were shown at few positions, once each.
fn sparse() -> World {
    World { queries: 6000, flatness: 1e4, lists: 9000, ..busy() }
}

#[test]
fn intervals_from_explored_lists_hold_the_truth_as_often_as_they_claim() {
    assert_covers("randomized", |seed| busy().randomized(seed).estimate());
}

#[test]
fn intervals_from_moved_documents_hold_the_truth_as_often_as_they_claim() {
    assert_covers("pairs", |seed| pairs(&busy().exposures(seed), 200, seed));
}

#[test]
fn intervals_by_maximum_likelihood_hold_the_truth_as_often_as_they_claim() {
    assert_covers("em", |seed| em(&busy().exposures(seed), 200, seed));
}

#[test]
fn a_relevance_for_each_of_many_seldom_shown_documents_does_no_harm() {
    assert_covers("pairs, sparse", |seed| pairs(&sparse().exposures(seed), 200, seed));
    assert_covers("em, sparse", |seed| em(&sparse().exposures(seed), 200, seed));
}
