//! Actions that were logged with their probability, one a row: the general off-policy estimate, of a bandit as of whole lists.

use super::{Estimates, Estimator, Limits, SelfNormalized, estimator::Sample};

/// What was done, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Action {
    /// Finite.
    pub reward: f64,
    /// The probability, in (0, 1], with which the logging policy did what it did.
    pub propensity: f64,
    /// The probability, in \[0, 1\], with which the new policy would do the same.
    pub target: f64,
}

/// A row that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BadAction {
    #[error("the reward is {0}, which is not finite")]
    Reward(f64),
    #[error("the propensity is {0}, which is not above 0 and at most 1")]
    Propensity(f64),
    #[error("the target probability is {0}, which is not between 0 and 1")]
    Target(f64),
    #[error("the weight, {target} / {propensity:e}, is past what a number holds")]
    Weight { target: f64, propensity: f64 },
}

/// Estimates the mean reward of the new policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Actions(Estimator);

impl Actions {
    /// `clip`: the largest weight of the clipped estimate.
    pub fn new(clip: Option<f64>) -> Self {
        Self(Estimator::new(clip, SelfNormalized::ByWeights))
    }

    /// `unit`: a hash of who it was, or of the row where rows are independent.
    pub fn add(&mut self, unit: u64, action: Action) -> Result<(), BadAction> {
        let Action { reward, propensity, target } = action;
        if !reward.is_finite() {
            return Err(BadAction::Reward(reward));
        }
        if !(propensity > 0.0 && propensity <= 1.0) {
            return Err(BadAction::Propensity(propensity));
        }
        if !(0.0..=1.0).contains(&target) {
            return Err(BadAction::Target(target));
        }
        let weight = target / propensity;
        if !weight.is_finite() {
            return Err(BadAction::Weight { target, propensity });
        }
        let (ips, clipped) = self.0.weigh(weight, reward);
        self.0.add(unit, Sample { logged: reward, ips, clipped, normalizer: weight }, true);
        Ok(())
    }

    /// None before the first action.
    pub fn estimates(&self, limits: &Limits) -> Option<Estimates> {
        self.0.estimates(limits)
    }
}
