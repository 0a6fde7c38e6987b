//! Intervals by a bootstrap over queries that sees each query once.
//!
//! A replicate of Efron's bootstrap draws n of n queries with replacement; how often a query is in it is then nearly Poisson(1), and
//! with independent Poisson weights no n need be known beforehand (the Poisson bootstrap: Hanley & MacGibbon, "Creating
//! non-parametric bootstrap samples using Poisson frequencies", 2006). The weight of a query in a replicate is hashed from the seed, the
//! query's id and the replicate's number, so it is the same in any order, and for both of two rankings that are compared. The
//! interval is the percentile one of Efron (1979).

use ranking::chance::finalise;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bootstrap {
    pub resamples: usize,
    pub seed: u64,
}

/// 95 % of the replicates lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// 1 - P(Poisson(1) <= k) in 2^-16ths, for k from 0: a uniform number below the k-th is a weight above k.
const ABOVE: [u16; 7] = [41427, 17317, 5263, 1244, 240, 39, 5];

/// Sums of weighted values, one a metric and replicate.
pub(super) struct Replicates {
    bootstrap: Bootstrap,
    weights: Vec<f64>,
    /// By metric, then replicate.
    sums: Vec<Vec<f64>>,
    counts: Vec<Vec<f64>>,
}

impl Replicates {
    pub fn new(bootstrap: Bootstrap, metrics: usize) -> Self {
        let zeros = || vec![vec![0.0; bootstrap.resamples]; metrics];
        Self { bootstrap, weights: vec![0.0; bootstrap.resamples], sums: zeros(), counts: zeros() }
    }

    /// Adds a query's values; NaN does not count.
    pub fn add(&mut self, query: &str, values: &[f64]) {
        draw(xxh3_64_with_seed(query.as_bytes(), self.bootstrap.seed), &mut self.weights);
        for ((value, sums), counts) in values.iter().zip(&mut self.sums).zip(&mut self.counts) {
            if value.is_nan() {
                continue;
            }
            for ((weight, sum), count) in self.weights.iter().zip(sums).zip(counts) {
                *sum += weight * value;
                *count += weight;
            }
        }
    }

    /// One interval a metric; None where no replicate holds a query that counts.
    pub fn intervals(&self) -> Vec<Option<Interval>> {
        self.sums
            .iter()
            .zip(&self.counts)
            .map(|(sums, counts)| {
                let held = sums.iter().zip(counts).filter(|(_, count)| **count > 0.0);
                let mut means: Vec<f64> = held.map(|(sum, count)| sum / count).collect();
                means.sort_unstable_by(f64::total_cmp);
                Some(Interval { low: percentile(&means, 0.025)?, high: percentile(&means, 0.975)? })
            })
            .collect()
    }
}

/// Poisson(1) weights, one a replicate.
fn draw(key: u64, weights: &mut [f64]) {
    for (at, four) in weights.chunks_mut(4).enumerate() {
        let mut bits = finalise(key.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for weight in four {
            let uniform = bits as u16;
            *weight = ABOVE.iter().map(|above| u32::from(uniform < *above)).sum::<u32>().into();
            bits >>= 16;
        }
    }
}

/// Between order statistics, linearly.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)?) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_poisson_and_independent() {
        let mut weights = vec![0.0; 200_000];
        draw(7, &mut weights);
        let n = weights.len() as f64;
        let mean = weights.iter().sum::<f64>() / n;
        let variance = weights.iter().map(|weight| (weight - mean).powi(2)).sum::<f64>() / n;
        let neighbours = weights.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / n;
        assert!((mean - 1.0).abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!(neighbours.abs() < 0.01, "{neighbours}");
        let mut expected = 1.0 / std::f64::consts::E;
        for k in 0..6 {
            let share = weights.iter().filter(|weight| **weight == f64::from(k)).count() as f64 / n;
            assert!((share - expected).abs() < 4.0 * (expected / n).sqrt() + 2e-5, "{k}: {share} and not {expected}");
            expected /= f64::from(k) + 1.0;
        }
    }

    #[test]
    fn intervals_cover_a_known_mean_as_often_as_they_say_whatever_the_order() {
        let bootstrap = |seed| Bootstrap { resamples: 400, seed };
        let worlds = 300;
        let covered = (0..worlds)
            .filter(|world| {
                let uniform = |query: u64| (finalise(world * 1000 + query + 1) >> 11) as f64 / (1u64 << 53) as f64;
                let mut replicates = Replicates::new(bootstrap(*world), 1);
                (0..100).for_each(|query| replicates.add(&query.to_string(), &[uniform(query)]));
                replicates.intervals()[0].is_some_and(|interval| interval.low <= 0.5 && 0.5 <= interval.high)
            })
            .count();
        // 95 % of 300, give or take four standard deviations and the bootstrap's own optimism.
        assert!((267..=299).contains(&covered), "{covered} of {worlds}");
        let of = |queries: &[u64]| {
            let mut replicates = Replicates::new(bootstrap(3), 1);
            queries.iter().for_each(|query| replicates.add(&query.to_string(), &[*query as f64 / 4.0]));
            replicates.intervals()
        };
        assert_eq!(of(&[1, 2, 3, 4]), of(&[4, 2, 1, 3]));
    }
}
