//! Propensities and relevances together, by maximum likelihood.

use super::{
    Estimate, Exposures, Insufficient, MIN_CLICKS, PositionEstimate,
    conditional::{Place, Strata, group},
};
use crate::propensity::Method;

/// The position-based model with one relevance for each document of each query, as "regression EM" has it with a regression in the
/// place of the table (Wang et al., "Position Bias Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018).
///
/// The alternation of expected relevances γ = Σ_k c_k / Σ_k n_k θ_k, given propensities, and propensities
/// θ_k = Σ c_k / Σ n_k γ, given relevances, climbs to the maximum of [`conditional`](super::conditional) with a stratum a document; that is
/// found by Newton's method here, since alternating crawls where documents seldom move. A document that was never clicked, or that
/// never moved, can be given a relevance that explains it whatever the propensities are, and has no say. It uses all positions of a document
/// at once, and so gets more from the same logs than [`pairs`](super::pairs()). Intervals: a bootstrap over queries, of so many `replicates`, drawn by `seed`.
pub fn em(exposures: &Exposures, replicates: usize, seed: u64) -> Result<Estimate, Insufficient> {
    let moved = Moved::of(exposures)?;
    let mut strata = Strata::new(exposures.positions());
    exposures.for_each_pair(|pair| {
        let place = |(position, cell): &(usize, super::exposures::Cell)| Place {
            position: *position,
            exposure: f64::from(cell.impressions),
            clicks: f64::from(cell.clicks),
        };
        strata.push(group(pair.query), pair.cells.iter().map(place));
    });
    estimate(Method::Em, &moved, &strata, replicates, seed)
}

/// What was shown and clicked at each position, of clicked documents that were shown at two at least.
#[derive(Debug)]
pub(super) struct Moved {
    places: Vec<(u64, u64)>,
    queries: u64,
}

impl Moved {
    /// Refuses logs in which too few clicked documents moved.
    pub fn of(exposures: &Exposures) -> Result<Self, Insufficient> {
        let (mut places, mut queries, mut pairs, mut last) = (vec![(0, 0); exposures.positions()], 0, 0, None);
        exposures.for_each_pair(|pair| {
            pairs += 1;
            if pair.cells.len() < 2 || pair.cells.iter().all(|(_, cell)| cell.clicks == 0) {
                return;
            }
            for (position, cell) in pair.cells {
                places[*position].0 += u64::from(cell.impressions);
                places[*position].1 += u64::from(cell.clicks);
            }
            queries += u64::from(last != Some(pair.query));
            last = Some(pair.query);
        });
        if queries == 0 {
            return Err(Insufficient::NothingMoved { pairs, positions: exposures.positions() });
        }
        match places.iter().zip(1..).find(|((_, clicks), _)| *clicks < MIN_CLICKS) {
            Some((&(impressions, clicks), position)) => Err(Insufficient::FewClicks { position, impressions, clicks }),
            None => Ok(Self { places, queries }),
        }
    }
}

pub(super) fn estimate(
    method: Method,
    moved: &Moved,
    strata: &Strata,
    replicates: usize,
    seed: u64,
) -> Result<Estimate, Insufficient> {
    let fit = strata.fit(replicates, seed)?;
    let all = fit.log_theta.iter().zip(&fit.half_width).zip(&moved.places).zip(1..);
    let positions = all.map(|(((log, half), &(impressions, clicks)), position)| PositionEstimate {
        position,
        ratio: log.exp(),
        low: (log - half).exp(),
        high: (log + half).exp(),
        impressions,
        clicks,
    });
    Ok(Estimate { method, positions: positions.collect(), units: moved.queries })
}
