//! Whether the arms have the users that they were meant to have.

use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF as _};

/// A p-value below this is a mismatch. Strict, because every test is checked and a false alarm throws one away (Fabijan et al., "Diagnosing sample ratio
/// mismatch in online controlled experiments", KDD 2019).
pub const MISMATCH_BELOW: f64 = 0.001;

/// Pearson's chi-square test of the users of the arms against the planned split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatioCheck {
    pub chi_square: f64,
    /// How likely a fair division is at least as far from the plan.
    pub p_value: f64,
    /// The division is not the planned one: something loses users of one arm more than of another, and no comparison is fair.
    pub mismatch: bool,
}

impl RatioCheck {
    /// `planned`: shares that sum to 1, one an arm, at least two.
    pub fn of(users: &[u64], planned: &[f64]) -> Self {
        let all = users.iter().sum::<u64>() as f64;
        let terms =
            users.iter().zip(planned).map(|(&users, share)| (users as f64 - share * all).powi(2) / (share * all));
        let chi_square: f64 = terms.sum();
        let freedom = users.len().saturating_sub(1).max(1) as f64;
        let p_value = ChiSquared::new(freedom).map_or(f64::NAN, |law| law.sf(chi_square));
        Self { chi_square, p_value, mismatch: p_value < MISMATCH_BELOW }
    }
}
