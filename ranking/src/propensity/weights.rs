//! Weights of rows from propensities, and whether they are healthy.

use serde::{Deserialize, Serialize};

use super::PropensityTable;

/// Which rows are weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightKind {
    /// None: every row weighs 1.
    #[default]
    None,
    /// Every row, clicked or not, by the inverse of its propensity, as the reference pipeline does.
    Ipw,
    /// Only clicked rows; the others weigh 1. A click then stands for all who would have clicked had they looked, which makes
    /// the expected sum of clicks that of relevance (Joachims, Swaminathan & Schnabel, WSDM 2017).
    IpwClicks,
}

/// How rows are weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weighting {
    pub kind: WeightKind,
    /// No weight is larger than this: a little bias for much less variance (Strehl et al. 2010).
    pub clip: Option<f64>,
    /// Divide the weighed rows' weights by their mean (after clipping), one constant for all the data, so that they weigh 1
    /// on average (Swaminathan & Joachims, NIPS 2015).
    pub self_normalize: bool,
    /// Where a result was logged with its own exact propensity, invert that one instead of the table's.
    pub logged: bool,
}

/// An option that no weight can be made with.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "weights are clipped at {0}: it must be a finite number of at least 1, which is the weight of a result that everybody looks at"
)]
pub struct BadWeighting(pub f64);

impl Weighting {
    pub fn check(&self) -> Result<(), BadWeighting> {
        match self.clip.filter(|clip| !clip.is_finite() || *clip < 1.0) {
            Some(clip) => Err(BadWeighting(clip)),
            None => Ok(()),
        }
    }

    /// Whether a row gets a weight from a propensity at all.
    pub fn weighs(&self, clicked: bool) -> bool {
        match self.kind {
            WeightKind::None => false,
            WeightKind::Ipw => true,
            WeightKind::IpwClicks => clicked,
        }
    }

    /// The weight of a row before clipping. `logged`: the result's own propensity, in (0, 1].
    pub fn unclipped(&self, table: &PropensityTable, position: u32, clicked: bool, logged: Option<f64>) -> f64 {
        match logged.filter(|_| self.logged) {
            _ if !self.weighs(clicked) => 1.0,
            Some(propensity) => 1.0 / propensity,
            None => table.weight(position),
        }
    }

    /// The weight of a row, clipped; with self-normalisation still to be divided by [`WeightHealth::mean`].
    pub fn weight(&self, table: &PropensityTable, position: u32, clicked: bool, logged: Option<f64>) -> f64 {
        let weight = self.unclipped(table, position, clicked, logged);
        self.clip.map_or(weight, |clip| weight.min(clip))
    }

    /// What the weights of weighed rows are divided by, once all have been seen.
    pub fn divisor(&self, health: &WeightHealth) -> f64 {
        if self.self_normalize && health.rows > 0 { health.mean() } else { 1.0 }
    }
}

/// What is to be known of the weights of the rows that are weighed; merges in any order up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightHealth {
    /// Rows that are weighed.
    pub rows: u64,
    /// Of these, rows whose weight was larger than the clip.
    pub clipped: u64,
    /// The largest weight, after clipping.
    pub largest: f64,
    /// Sum of the weights, after clipping, and of their squares.
    pub sum: f64,
    pub sum_of_squares: f64,
}

impl WeightHealth {
    /// Takes in a weighed row by its weight before clipping.
    pub fn add(&mut self, unclipped: f64, clip: Option<f64>) {
        let weight = clip.map_or(unclipped, |clip| unclipped.min(clip));
        self.rows += 1;
        self.clipped += u64::from(weight < unclipped);
        self.largest = self.largest.max(weight);
        self.sum += weight;
        self.sum_of_squares += weight * weight;
    }

    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.clipped += other.clipped;
        self.largest = self.largest.max(other.largest);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
    }

    /// 0 without rows.
    pub fn mean(&self) -> f64 {
        self.sum / (self.rows.max(1)) as f64
    }

    /// The share of weighed rows that were clipped.
    pub fn clipped_share(&self) -> f64 {
        self.clipped as f64 / (self.rows.max(1)) as f64
    }

    /// How many rows of equal weight would say as much: (Σ w)² / Σ w² (Kish 1965). The same before and after self-normalisation.
    pub fn effective_rows(&self) -> f64 {
        let kish = self.sum * self.sum / self.sum_of_squares;
        if kish.is_finite() {
            return kish;
        }
        // No weights at all; or squares past what a number holds, where Σ w² is at least that of the largest.
        let bound = (self.sum / self.largest).powi(2);
        if bound.is_nan() { 0.0 } else { bound.min(self.rows as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(weighting: Weighting) -> Vec<f64> {
        let table = PropensityTable::reference();
        let rows =
            [(1, true, None), (2, true, Some(0.25)), (2, false, Some(0.5)), (11, false, None), (10, true, Some(0.01))];
        rows.into_iter()
            .map(|(position, clicked, logged)| weighting.weight(&table, position, clicked, logged))
            .collect()
    }

    #[test]
    fn each_kind_weighs_its_rows() {
        let of = |kind| weights(Weighting { kind, ..Weighting::default() });
        assert_eq!(of(WeightKind::None), [1.0; 5]);
        assert_eq!(of(WeightKind::Ipw), [1.0, 1.0 / 0.65, 1.0 / 0.65, 10.0, 10.0]);
        assert_eq!(of(WeightKind::IpwClicks), [1.0, 1.0 / 0.65, 1.0, 1.0, 10.0]);
    }

    #[test]
    fn logged_propensities_stand_in_where_they_are_and_clipping_comes_last() {
        let weighting = Weighting { kind: WeightKind::Ipw, logged: true, clip: Some(8.0), ..Weighting::default() };
        assert_eq!(weights(weighting), [1.0, 4.0, 2.0, 8.0, 8.0]);
        assert!(weighting.check().is_ok());
        assert!(
            Weighting { clip: Some(0.5), ..weighting }
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("weights are clipped at 0.5")
        );
        assert!(Weighting { clip: Some(f64::NAN), ..weighting }.check().is_err());
    }

    #[test]
    fn health_is_that_of_the_clipped_weights_and_merges() {
        let mut health = WeightHealth::default();
        [1.0, 1.0, 4.0].iter().for_each(|weight| health.add(*weight, Some(2.0)));
        let mut rest = WeightHealth::default();
        rest.add(2.0, Some(2.0));
        health.merge(&rest);
        assert_eq!((health.rows, health.clipped, health.largest), (4, 1, 2.0));
        assert_eq!((health.mean(), health.clipped_share(), health.effective_rows()), (1.5, 0.25, 3.6));
        assert_eq!(WeightHealth::default().effective_rows(), 0.0);
        // One weight whose square is past what a number holds says as much as one row.
        let mut huge = WeightHealth::default();
        [1.0, 1.0, 1e200].iter().for_each(|weight| huge.add(*weight, None));
        assert_eq!(huge.effective_rows(), 1.0);
    }

    #[test]
    fn self_normalised_weights_are_one_on_average() {
        let weighting = Weighting { kind: WeightKind::IpwClicks, self_normalize: true, ..Weighting::default() };
        let table = PropensityTable::reference();
        let mut health = WeightHealth::default();
        let clicked = [1, 2, 2, 5, 9];
        clicked
            .iter()
            .for_each(|position| health.add(weighting.unclipped(&table, *position, true, None), weighting.clip));
        let divisor = weighting.divisor(&health);
        let sum: f64 = clicked.iter().map(|position| weighting.weight(&table, *position, true, None) / divisor).sum();
        assert!((sum / 5.0 - 1.0).abs() < 1e-12);
        assert_eq!(Weighting { self_normalize: false, ..weighting }.divisor(&health), 1.0);
    }
}
