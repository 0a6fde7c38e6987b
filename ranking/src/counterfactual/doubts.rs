//! When an estimate carries no conclusion, and why, in words.

use std::fmt;

use serde::Serialize;

use super::{Estimates, Value};

/// Bounds past which nothing is concluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Kish's effective sample size, of all weights and of the rewarded ones, is at least this.
    pub min_effective: f64,
    /// No rewarded row carries a larger share of the estimate.
    pub max_share: f64,
    /// The share of searches that hold something which could never have been logged; and how far the mean weight may be from 1.
    pub max_unsupported: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_effective: 100.0, max_share: 0.05, max_unsupported: 0.05 }
    }
}

/// Why nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "doubt")]
pub enum Doubt {
    /// A number that the conclusion hangs on is none.
    NotFinite {
        value: f64,
        low: f64,
        high: f64,
    },
    /// Nothing was earned in the log at all.
    NoRewards {
        samples: u64,
    },
    /// All weights together.
    FewEffective {
        effective: f64,
        rows: u64,
        needed: f64,
    },
    /// The weights of what was rewarded.
    FewEffectiveRewarded {
        effective: f64,
        rows: u64,
        needed: f64,
    },
    OneDecides {
        share: f64,
        most: f64,
    },
    Unsupported {
        share: f64,
        most: f64,
    },
    /// The mean weight is below 1: some of what the new policy does was never logged.
    WeightsMissing {
        mean: f64,
        low: f64,
        high: f64,
    },
    /// The mean weight is above 1: logged propensities are too small.
    WeightsTooLarge {
        mean: f64,
        low: f64,
        high: f64,
    },
    /// Searches that the scores know only in part, among those that they know.
    PartlyScored {
        share: f64,
        most: f64,
    },
}

/// What the difference between the rankers says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conclusion {
    Better,
    Worse,
    /// The interval of the difference holds 0.
    NotApart,
}

impl Conclusion {
    pub(super) fn of(difference: &Value) -> Self {
        match difference {
            Value { low, .. } if *low > 0.0 => Self::Better,
            Value { high, .. } if *high < 0.0 => Self::Worse,
            _ => Self::NotApart,
        }
    }
}

impl Limits {
    pub(super) fn doubts(&self, estimates: &Estimates) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        let (weights, rewarded) = (estimates.weights, estimates.rewarded);
        let (needed, most) = (self.min_effective, self.max_unsupported);
        let decisive = [Some(estimates.decisive()), estimates.mean_weight].into_iter().flatten();
        let finite = |Value { value, low, high }: &Value| value.is_finite() && low.is_finite() && high.is_finite();
        if let Some(Value { value, low, high }) = decisive.into_iter().find(|value| !finite(value)) {
            doubts.push(Doubt::NotFinite { value, low, high });
        }
        if estimates.rewards == 0 {
            doubts.push(Doubt::NoRewards { samples: estimates.samples });
        }
        if estimates.unsupported > most {
            doubts.push(Doubt::Unsupported { share: estimates.unsupported, most });
        }
        let explained = doubts.iter().any(|doubt| matches!(doubt, Doubt::Unsupported { .. }));
        match estimates.mean_weight {
            // What could not have been logged explains it already.
            Some(Value { high, .. }) if high < 1.0 - most && explained => {}
            Some(Value { value, low, high }) if high < 1.0 - most => {
                doubts.push(Doubt::WeightsMissing { mean: value, low, high });
            }
            Some(Value { value, low, high }) if low > 1.0 + most => {
                doubts.push(Doubt::WeightsTooLarge { mean: value, low, high });
            }
            _ => {}
        }
        // What is no number is within no bound.
        let below = |value: f64| value.is_nan() || value < needed;
        let earned = estimates.rewards > 0;
        if below(weights.effective) && (earned || weights.rows > 0) {
            doubts.push(Doubt::FewEffective { effective: weights.effective, rows: weights.rows, needed });
        } else if below(rewarded.effective) && earned {
            doubts.push(Doubt::FewEffectiveRewarded { effective: rewarded.effective, rows: rewarded.rows, needed });
        }
        if rewarded.largest_share.is_nan() || rewarded.largest_share > self.max_share {
            doubts.push(Doubt::OneDecides { share: rewarded.largest_share, most: self.max_share });
        }
        doubts
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotFinite { value, low, high } => write!(
                f,
                "the numbers are not finite, {value:.3e} ({low:.3e} to {high:.3e}): a weight or a reward is past all others, or there is but one \
                 unit"
            ),
            Self::NoRewards { samples } => {
                write!(f, "nothing was earned in any of {samples}, so there is nothing to weigh")
            }
            Self::FewEffective { effective, rows, needed } => write!(
                f,
                "{rows} weighed rows say as much as {effective:.1} of equal weight would, and a conclusion takes {needed}"
            ),
            Self::FewEffectiveRewarded { effective, rows, needed } => write!(
                f,
                "{rows} rewards count, and say as much as {effective:.1} of equal weight would; a conclusion takes {needed}"
            ),
            Self::OneDecides { share, most } => write!(
                f,
                "a single reward carries {:.1} % of the estimate, and {:.1} % is the most that one may",
                100.0 * share,
                100.0 * most
            ),
            Self::Unsupported { share, most } => write!(
                f,
                "in {:.1} % of the searches the new ranking could never have been logged, and {:.1} % is the most: what it would earn there \
                 is in no log",
                100.0 * share,
                100.0 * most
            ),
            Self::WeightsMissing { mean, low, high } => write!(
                f,
                "the weights are {mean:.3} on average ({low:.3} to {high:.3}) where 1 is expected: some of what the new policy does, the \
                 logging policy never did"
            ),
            Self::WeightsTooLarge { mean, low, high } => write!(
                f,
                "the weights are {mean:.3} on average ({low:.3} to {high:.3}) where 1 is expected: the logged probabilities are not those \
                 that things were done with"
            ),
            Self::PartlyScored { share, most } => write!(
                f,
                "{:.1} % of the scored searches have results without a score, and {:.1} % is the most: they were left out, and what is left is \
                 another kind of search",
                100.0 * share,
                100.0 * most
            ),
        }
    }
}

impl Doubt {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotFinite { .. } => {
                "see the smallest logged probabilities and the largest rewards: are they what was meant? an interval takes two units or more"
            }
            Self::NoRewards { .. } => {
                "are the reward and the dates those that were meant? name another one with `--reward`"
            }
            Self::FewEffective { .. } | Self::FewEffectiveRewarded { .. } | Self::OneDecides { .. } => {
                "log more exploration, or a longer window; a ranker nearer to the logging one needs less of it"
            }
            Self::Unsupported { .. } => {
                "log more exploration: shuffle deeper (`Exploration::new(rate, top_k)`), as deep as the new ranker reaches"
            }
            Self::WeightsMissing { .. } => {
                "log more exploration: give everything that the new policy does some probability"
            }
            Self::WeightsTooLarge { .. } => {
                "see how propensities are computed and logged; those of another policy or release do not fit"
            }
            Self::PartlyScored { .. } => "score every result that was shown",
        }
    }
}
