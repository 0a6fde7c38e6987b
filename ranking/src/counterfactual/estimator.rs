//! Weighted rewards as they stream by, and the estimates that follow from their sums.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::{Conclusion, Doubt, Limits};
use crate::{clusters::Clusters, propensity::WeightHealth};

/// How often the intervals should hold the truth.
pub const LEVEL: f64 = 0.95;

/// What the self-normalised estimate divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelfNormalized {
    /// The mean of the importance weights, which is 1 in expectation: the estimate is of the same thing as IPS.
    ByWeights,
    /// The sum of 1 / propensity over rewarded results, which estimates how many results were wanted, seen or not: the estimate is of the gain of
    /// a wanted result (as in the weighted MRR of Wang et al., SIGIR 2016).
    ByWanted,
}

/// What one search or one action adds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// What was earned as it was logged.
    pub logged: f64,
    /// What the new ranker would have earned, by the weights as they are, and with none above the clip.
    pub ips: f64,
    pub clipped: f64,
    /// What [`SelfNormalized`] says.
    pub normalizer: f64,
}

/// Where the sums of a group stand.
const COUNT: usize = 0;
const LOGGED: usize = 1;
const IPS: usize = 2;
const CLIPPED: usize = 3;
const NORMALIZER: usize = 4;
type Sums = [f64; 5];

/// Sums of what streams by.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimator {
    clip: Option<f64>,
    by: SelfNormalized,
    samples: u64,
    sums: Clusters<5>,
    weights: WeightHealth,
    rewarded: WeightHealth,
    /// Rewards other than 0.
    rewards: u64,
    /// Samples that hold something which the logging policy never does.
    unsupported: u64,
}

/// A number and its interval at [`LEVEL`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Value {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// What is to be known of a kind of weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weights {
    pub rows: u64,
    /// Kish's effective sample size: how many rows of equal weight would say as much.
    pub effective: f64,
    pub largest: f64,
    /// The share of the largest in the sum of all.
    pub largest_share: f64,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimates {
    /// Searches or actions.
    pub samples: u64,
    /// What the logging ranker earned, a sample.
    pub logged: Value,
    /// What the new one would have earned, a sample.
    pub ips: Value,
    pub clipped: Option<Value>,
    /// None where nothing was weighed.
    pub snips: Option<Value>,
    /// What the logging ranker earned in the unit of `snips`.
    pub snips_logged: Option<Value>,
    /// New less logged, of the same samples.
    pub ips_difference: Value,
    pub clipped_difference: Option<Value>,
    pub snips_difference: Option<Value>,
    pub self_normalized: SelfNormalized,
    /// The mean importance weight, which should be 1; none where weights need not be 1 on average.
    pub mean_weight: Option<Value>,
    /// Of everything that was weighed.
    pub weights: Weights,
    /// Of what was rewarded, by weight times reward.
    pub rewarded: Weights,
    /// Rewards other than 0, whatever they weigh.
    pub rewards: u64,
    /// Rewards whose weight was above the clip.
    pub clipped_rows: u64,
    /// The share of samples that hold something which could never have been logged.
    pub unsupported: f64,
    /// What follows from the first of SNIPS and IPS that is in the unit of a sample; none where there are doubts.
    pub conclusion: Option<Conclusion>,
    pub doubts: Vec<Doubt>,
}

impl Estimator {
    /// `clip`: the largest weight of the clipped estimate.
    pub(super) fn new(clip: Option<f64>, by: SelfNormalized) -> Self {
        Self {
            clip,
            by,
            samples: 0,
            sums: Clusters::default(),
            weights: WeightHealth::default(),
            rewarded: WeightHealth::default(),
            rewards: 0,
            unsupported: 0,
        }
    }

    /// Weighs one reward of a sample; its weighted value, unclipped and clipped.
    pub(super) fn weigh(&mut self, weight: f64, reward: f64) -> (f64, f64) {
        self.weights.add(weight, None);
        self.rewards += u64::from(reward != 0.0);
        if reward != 0.0 && weight > 0.0 {
            self.rewarded.add(weight * reward.abs(), None);
            self.rewarded.clipped += u64::from(self.clip.is_some_and(|clip| weight > clip));
        }
        (weight * reward, self.clip.map_or(weight, |clip| weight.min(clip)) * reward)
    }

    /// Takes in a whole sample. `unit`: a hash of who it belongs to; samples of one unit may depend on each other.
    pub(super) fn add(&mut self, unit: u64, sample: Sample, supported: bool) {
        let Sample { logged, ips, clipped, normalizer } = sample;
        self.samples += 1;
        self.unsupported += u64::from(!supported);
        self.sums.add(unit, &[1.0, logged, ips, clipped, normalizer]);
    }

    /// The estimates; none before the first sample.
    pub fn estimates(&self, limits: &Limits) -> Option<Estimates> {
        let totals = self.sums.totals();
        if self.samples == 0 {
            return None;
        }
        let ratio = |above: usize, below: usize| Ratio::of(&totals, above, below);
        let value = |ratio: Ratio| self.value(ratio);
        let (logged, ips) = (ratio(LOGGED, COUNT)?, ratio(IPS, COUNT)?);
        let clipped = self.clip.and_then(|_| ratio(CLIPPED, COUNT));
        let snips = ratio(IPS, NORMALIZER);
        let snips_logged = match self.by {
            SelfNormalized::ByWeights => Some(logged),
            SelfNormalized::ByWanted => ratio(LOGGED, NORMALIZER),
        };
        let mean_weight = (self.by == SelfNormalized::ByWeights).then(|| ratio(NORMALIZER, COUNT)).flatten().map(value);
        let snips_difference = snips.zip(snips_logged).map(|(new, old)| value(new.less(&old)));
        let mut estimates = Estimates {
            samples: self.samples,
            logged: value(logged),
            ips: value(ips),
            clipped: clipped.map(value),
            snips: snips.map(value),
            snips_logged: snips_logged.map(value),
            ips_difference: value(ips.less(&logged)),
            clipped_difference: clipped.map(|clipped| value(clipped.less(&logged))),
            snips_difference,
            self_normalized: self.by,
            mean_weight,
            weights: Weights::of(&self.weights),
            rewarded: Weights::of(&self.rewarded),
            rewards: self.rewards,
            clipped_rows: self.rewarded.clipped,
            unsupported: self.unsupported as f64 / self.samples as f64,
            conclusion: None,
            doubts: Vec::new(),
        };
        estimates.doubts = limits.doubts(&estimates);
        estimates.conclusion = estimates.doubts.is_empty().then(|| Conclusion::of(&estimates.decisive()));
        Some(estimates)
    }

    fn value(&self, ratio: Ratio) -> Value {
        let freedom = self.sums.occupied().saturating_sub(1).max(1) as f64;
        let quantile =
            StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |law| law.inverse_cdf((1.0 + LEVEL) / 2.0));
        let half = quantile * self.sums.standard_error(&ratio.gradient);
        Value { value: ratio.value, low: ratio.value - half, high: ratio.value + half }
    }
}

impl Estimates {
    /// The difference that the conclusion is drawn from: SNIPS where it estimates what IPS does, with less variance.
    pub fn decisive(&self) -> Value {
        match (self.self_normalized, self.snips_difference) {
            (SelfNormalized::ByWeights, Some(difference)) => difference,
            _ => self.ips_difference,
        }
    }
}

impl Weights {
    fn of(health: &WeightHealth) -> Self {
        let share = health.largest / health.sum;
        // Sums past what a number holds: as far as can be told, one is all.
        let largest_share = if health.largest == 0.0 { 0.0 } else { share.min(1.0) };
        let effective = health.effective_rows();
        Self { rows: health.rows, effective, largest: health.largest, largest_share }
    }
}

/// A function of the sums, and how it moves with each.
#[derive(Clone, Copy)]
struct Ratio {
    value: f64,
    gradient: Sums,
}

impl Ratio {
    fn of(totals: &Sums, above: usize, below: usize) -> Option<Self> {
        let divisor = totals[below];
        if divisor <= 0.0 {
            return None;
        }
        let value = totals[above] / divisor;
        let mut gradient = [0.0; 5];
        gradient[above] += 1.0 / divisor;
        gradient[below] -= value / divisor;
        Some(Self { value, gradient })
    }

    fn less(mut self, other: &Self) -> Self {
        self.value -= other.value;
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(slope, other)| *slope -= other);
        self
    }
}
