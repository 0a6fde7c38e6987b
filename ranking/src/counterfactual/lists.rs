//! Lists that were shown, and where a new ranker would have put their documents.
//!
//! The new ranker orders what was shown; a document that was not shown has no click that could tell of it.

use serde::Serialize;

use super::{Estimates, Estimator, Limits, SelfNormalized, estimator::Sample};
use crate::propensity::PropensityTable;

/// A result that was shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// Where it stood, and where the new ranker puts it; from 1.
    pub logged: u32,
    pub new: u32,
    /// What it earned: 1 for a click, say. Finite.
    pub reward: f64,
    /// The probability with which it was shown where it was, in (0, 1], where it was logged.
    pub propensity: Option<f64>,
}

/// Where the new ranker puts each result, among the positions that the results had: by score, descending; of equals the one that stood
/// higher stays higher. Positions are distinct, scores are not NaN; -0 and 0 are equal.
pub fn new_positions(positions: &[u32], scores: &[f64]) -> Vec<u32> {
    let mut places = positions.to_vec();
    places.sort_unstable();
    let mut order: Vec<usize> = (0..positions.len()).collect();
    // Adding 0 makes one of the two zeros.
    let score = |at: usize| scores[at] + 0.0;
    order.sort_unstable_by(|&a, &b| score(b).total_cmp(&score(a)).then(positions[a].cmp(&positions[b])));
    let mut new = vec![0; positions.len()];
    order.iter().zip(places).for_each(|(&at, place)| new[at] = place);
    new
}

/// What a reward is worth at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gain {
    /// Its examination: the estimate is of rewards (clicks, say) a search.
    #[default]
    Clicks,
    /// 1 / log2(1 + position): the estimate is of the DCG of what is wanted, whether it was seen or not.
    Dcg,
}

/// Weighs rewards by how often positions are looked at: P(reward at k) = θ_k γ, so a reward at the logged position k is worth
/// gain(new position) / θ_k.
#[derive(Clone, Debug, PartialEq)]
pub struct ByExamination {
    estimator: Estimator,
    table: PropensityTable,
    gain: Gain,
}

impl ByExamination {
    pub fn new(clip: Option<f64>, table: PropensityTable, gain: Gain) -> Self {
        Self { estimator: Estimator::new(clip, SelfNormalized::ByWanted), table, gain }
    }

    fn gain(&self, position: u32) -> f64 {
        match self.gain {
            Gain::Clicks => self.table.propensity(position),
            Gain::Dcg => 1.0 / f64::from(position).ln_1p() * std::f64::consts::LN_2,
        }
    }

    /// Takes in one search. `unit`: a hash of who searched.
    pub fn add(&mut self, unit: u64, results: &[Moved]) {
        let mut sample = Sample::default();
        for result in results.iter().filter(|result| result.reward != 0.0) {
            let inverse = 1.0 / self.table.propensity(result.logged);
            sample.logged += self.gain(result.logged) * inverse * result.reward;
            let (ips, clipped) = self.estimator.weigh(self.gain(result.new) * inverse, result.reward);
            sample.ips += ips;
            sample.clipped += clipped;
            sample.normalizer += inverse * result.reward;
        }
        self.estimator.add(unit, sample, true);
    }

    /// None before the first search.
    pub fn estimates(&self, limits: &Limits) -> Option<Estimates> {
        self.estimator.estimates(limits)
    }
}

/// Weighs rewards by the probability with which a document was shown where the new ranker puts it, if that is where it was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ByPlacement {
    estimator: Estimator,
}

/// A result whose propensity cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BadPropensity {
    #[error("the result at position {position} has no logged propensity")]
    Missing { position: u32 },
    #[error("the result at position {position} has propensity {value}, which is not above 0 and at most 1")]
    Improper { position: u32, value: f64 },
    #[error("the result at position {position} has propensity {value:e}, and 1 over that is past what a number holds")]
    Tiny { position: u32, value: f64 },
}

impl ByPlacement {
    pub fn new(clip: Option<f64>) -> Self {
        Self { estimator: Estimator::new(clip, SelfNormalized::ByWeights) }
    }

    /// Takes in one search with results. `unit`: a hash of who searched.
    ///
    /// What was certain to stand where it stood could stand nowhere else; documents that chance moved were moved among the positions
    /// of such documents, as [`Exploration`](crate::propensity::Exploration) does.
    pub fn add(&mut self, unit: u64, results: &[Moved]) -> Result<(), BadPropensity> {
        let propensity = |result: &Moved| match result.propensity {
            None => Err(BadPropensity::Missing { position: result.logged }),
            Some(value) if value > 0.0 && value <= 1.0 && (1.0 / value).is_finite() => Ok(value),
            Some(value) if value > 0.0 && value <= 1.0 => Err(BadPropensity::Tiny { position: result.logged, value }),
            Some(value) => Err(BadPropensity::Improper { position: result.logged, value }),
        };
        results.iter().try_for_each(|result| propensity(result).map(drop))?;
        let chance = results.iter().filter(|result| result.propensity.is_some_and(|propensity| propensity < 1.0));
        let mut moved_by_chance: Vec<u32> = chance.map(|result| result.logged).collect();
        moved_by_chance.sort_unstable();
        let by_chance = |position: u32| moved_by_chance.binary_search(&position).is_ok();
        let mut sample = Sample::default();
        let mut supported = true;
        for result in results {
            let stayed = result.new == result.logged;
            let weight = if stayed { 1.0 / propensity(result)? } else { 0.0 };
            supported &= stayed || by_chance(result.logged) && by_chance(result.new);
            let (ips, clipped) = self.estimator.weigh(weight, result.reward);
            sample.logged += result.reward;
            sample.ips += ips;
            sample.clipped += clipped;
            sample.normalizer += weight / results.len() as f64;
        }
        self.estimator.add(unit, sample, supported);
        Ok(())
    }

    /// None before the first search.
    pub fn estimates(&self, limits: &Limits) -> Option<Estimates> {
        self.estimator.estimates(limits)
    }
}
