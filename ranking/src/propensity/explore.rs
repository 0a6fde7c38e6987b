//! Exploration: shuffling some lists so that their logs tell position from relevance.

use rand::{Rng, seq::SliceRandom};

/// The reference pipeline's randomisation (`debias_with_randomization`): with probability `rate`, the first `top_k` results, or
/// all where there are fewer, are put in an order drawn uniformly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exploration {
    rate: f64,
    top_k: usize,
}

/// A rate that is no probability.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("an exploration rate of {0} is no probability, which lies between 0 and 1")]
pub struct BadRate(pub f64);

/// A list as it is to be shown, and what to log of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explored<T> {
    /// In the order to show.
    pub results: Vec<T>,
    /// For each result shown, the probability that THIS document stood at THIS position, over the coin and the shuffle: log it as
    /// the result's `propensity`.
    pub propensities: Vec<f64>,
    /// The list was shuffled, be it into the order it had: log it as the event's `explored`.
    pub explored: bool,
}

impl Default for Exploration {
    /// One list in ten, its first ten results, as in the reference.
    fn default() -> Self {
        Self { rate: 0.1, top_k: 10 }
    }
}

impl Exploration {
    pub fn new(rate: f64, top_k: usize) -> Result<Self, BadRate> {
        if (0.0..=1.0).contains(&rate) { Ok(Self { rate, top_k }) } else { Err(BadRate(rate)) }
    }

    /// How many results of a list of this length are shuffled.
    fn depth(&self, results: usize) -> usize {
        self.top_k.min(results)
    }

    /// The probability that the document which the ranker put at `ranked` is shown at `shown`, both from 0, in a list of so many
    /// results: it stays when the coin says so, or when the shuffle, in which each of the k places is equally likely, happens to
    /// leave it there. (1 - rate) \[ranked = shown\] + rate / k among the first k, and certainty below.
    pub fn propensity(&self, ranked: usize, shown: usize, results: usize) -> f64 {
        let depth = self.depth(results);
        let stays = f64::from(u8::from(ranked == shown));
        match (ranked < depth, shown < depth) {
            (true, true) if depth > 1 => (1.0 - self.rate) * stays + self.rate / depth as f64,
            _ => stays,
        }
    }

    /// Decides for one list, given in the ranker's order.
    pub fn explore<T: Clone>(&self, results: &[T], rng: &mut impl Rng) -> Explored<T> {
        let explored = rng.random::<f64>() < self.rate;
        let mut order: Vec<usize> = (0..results.len()).collect();
        if explored {
            order[..self.depth(results.len())].shuffle(rng);
        }
        let propensities =
            order.iter().enumerate().map(|(shown, ranked)| self.propensity(*ranked, shown, results.len())).collect();
        Explored { results: order.iter().map(|ranked| results[*ranked].clone()).collect(), propensities, explored }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// All orders of the first `depth` of `n`.
    fn orders(depth: usize, n: usize) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new()];
        for _ in 0..depth {
            let longer = all.iter().flat_map(|order: &Vec<usize>| {
                (0..depth)
                    .filter(|next| !order.contains(next))
                    .map(|next| order.iter().copied().chain([next]).collect())
            });
            all = longer.collect();
        }
        all.iter().map(|order| order.iter().copied().chain(depth..n).collect()).collect()
    }

    #[test]
    fn propensities_are_those_of_all_orders_counted() {
        for (rate, top_k, n) in
            [(0.1, 3, 5), (0.1, 10, 4), (1.0, 3, 3), (0.0, 3, 4), (0.3, 1, 3), (0.3, 0, 2), (0.5, 4, 4)]
        {
            let exploration = Exploration::new(rate, top_k).unwrap();
            let depth = top_k.min(n);
            let orders = orders(depth, n);
            let each = rate / orders.len() as f64;
            for ranked in 0..n {
                for shown in 0..n {
                    let shuffled = orders.iter().filter(|order| order[shown] == ranked).count() as f64 * each;
                    let stayed = if ranked == shown { 1.0 - rate } else { 0.0 };
                    let found = exploration.propensity(ranked, shown, n);
                    assert!(
                        (found - (shuffled + stayed)).abs() < 1e-12,
                        "{rate} {top_k} {n}: {ranked} at {shown}: {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn lists_are_drawn_as_often_as_their_propensities_say() {
        let exploration = Exploration::new(0.4, 3).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut shown, mut explored) = ([[0u32; 4]; 4], 0u32);
        const LISTS: u32 = 40_000;
        for _ in 0..LISTS {
            let list = exploration.explore(&[0usize, 1, 2, 3], &mut rng);
            explored += u32::from(list.explored);
            for (position, (document, propensity)) in list.results.iter().zip(&list.propensities).enumerate() {
                assert_eq!(*propensity, exploration.propensity(*document, position, 4));
                shown[*document][position] += 1;
            }
            assert!(list.explored || list.results == [0, 1, 2, 3]);
        }
        // Five standard deviations of a share are at most 0.0125.
        assert!((f64::from(explored) / f64::from(LISTS) - 0.4).abs() < 0.0125);
        for (document, counts) in shown.iter().enumerate() {
            for (position, count) in counts.iter().enumerate() {
                let share = f64::from(*count) / f64::from(LISTS);
                assert!(
                    (share - exploration.propensity(document, position, 4)).abs() < 0.0125,
                    "{document} at {position}: {share}"
                );
            }
        }
    }

    #[test]
    fn a_rate_that_is_no_probability_is_refused_and_short_lists_are_fine() {
        assert_eq!(Exploration::new(1.5, 10), Err(BadRate(1.5)));
        assert!(Exploration::new(f64::NAN, 10).is_err());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let always = Exploration::new(1.0, 10).unwrap();
        assert_eq!(
            always.explore::<u8>(&[], &mut rng),
            Explored { results: vec![], propensities: vec![], explored: true }
        );
        assert_eq!(always.explore(&[5], &mut rng).propensities, [1.0]);
    }
}
