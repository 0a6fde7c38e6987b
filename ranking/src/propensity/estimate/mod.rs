//! Estimating propensities from one's own logs.
//!
//! Three ways, by what the logs hold; each takes statistics that merge, reads no clock and no file, and states intervals that hold
//! the truth in [`LEVEL`] of all windows when clicks follow the position-based model:
//!
//! | method | needs | source |
//! | --- | --- | --- |
//! | [`Randomized`] | lists whose first results were shuffled uniformly | Wang et al., SIGIR 2016; Joachims et al., WSDM 2017 |
//! | [`pairs()`] | documents that were shown at several positions for the same query | Agarwal et al., WSDM 2019 |
//! | [`em()`] | the same | Wang et al., WSDM 2018 |
//!
//! Propensities are known up to a factor only: all are ratios to position 1, whose own is 1 by definition.

mod conditional;
mod em;
mod exposures;
mod pairs;
mod randomized;
#[cfg(test)]
mod tests;

pub use self::{
    em::em,
    exposures::{DEFAULT_LIMIT, Exposures},
    pairs::pairs,
    randomized::Randomized,
};

use super::{BadTable, Method, PositionPropensity, PropensityTable, Window};
use crate::chance::finalise;

/// How often the stated intervals hold the truth.
pub const LEVEL: f64 = 0.95;

/// Fewer clicks than this at a position leave the distribution of its logarithm too far from normal for an interval.
pub const MIN_CLICKS: u64 = 10;

/// Fewer queries than this say nothing about how queries differ.
pub const MIN_QUERIES: usize = 20;

/// How many positions an estimator can be asked for.
pub const MAX_POSITIONS: usize = 100;

/// A position's share of looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionEstimate {
    /// From 1.
    pub position: u32,
    /// Looks at this position for each look at position 1; may exceed 1.
    pub ratio: f64,
    /// Where the ratio lies at [`LEVEL`].
    pub low: f64,
    pub high: f64,
    /// What the ratio rests on.
    pub impressions: u64,
    pub clicks: u64,
}

/// An estimate of positions 1 to some K.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub method: Method,
    pub positions: Vec<PositionEstimate>,
    /// Lists ([`Randomized`]) or queries (the others) that it rests on.
    pub units: u64,
}

impl Estimate {
    /// As a table of weights takes it: a ratio above 1 is brought down to 1.
    pub fn table(&self, window: Option<Window>) -> Result<PropensityTable, BadTable> {
        let positions = self.positions.iter().map(|estimate| PositionPropensity {
            position: estimate.position,
            propensity: estimate.ratio.min(1.0),
            weight: None,
            low: Some(estimate.low.min(1.0)),
            high: Some(estimate.high.min(1.0)),
            impressions: Some(estimate.impressions),
            clicks: Some(estimate.clicks),
        });
        PropensityTable::estimated(self.method, window, LEVEL, positions.collect())
    }

    /// What a reader of the numbers should know.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for estimate in self.positions.iter().filter(|estimate| estimate.ratio > 1.0) {
            let PositionEstimate { position, ratio, low, high, .. } = estimate;
            let likely = if *low > 1.0 { ": it is looked at more than position 1" } else { "" };
            warnings.push(format!(
                "position {position} came out at {ratio:.3} ({low:.3} to {high:.3}){likely}; it was brought down to 1"
            ));
        }
        warnings
    }
}

/// Why logs give no estimate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Insufficient {
    #[error("none of {lists} lists was explored")]
    NothingExplored { lists: u64 },
    #[error("none of {pairs} query-document pairs was clicked and shown at two of the first {positions} positions")]
    NothingMoved { pairs: u64, positions: usize },
    #[error(
        "position {position} has {clicks} usable clicks in {impressions} usable impressions, and an interval takes {MIN_CLICKS}"
    )]
    FewClicks { position: u32, impressions: u64, clicks: u64 },
    #[error(
        "position {position} cannot be compared with position 1: no chain of clicked documents that moved leads from one to the other and back"
    )]
    Unconnected { position: u32 },
    #[error("{queries} queries have clicked documents that moved, and intervals over queries take {MIN_QUERIES}")]
    FewQueries { queries: usize },
}

impl Insufficient {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NothingExplored { .. } => "show some lists with their first results shuffled (`ranking::propensity::Exploration`) and log `explored: true` with them; \
                without such lists `--method pairs` or `em` may do"
                .into(),
            Self::NothingMoved { .. } => "one ranker that never changes cannot tell position from relevance: log a second ranker, or explored lists".into(),
            Self::FewClicks { position, .. } | Self::Unconnected { position } if *position > 2 => {
                format!("take a longer window, or stop above it with `--positions {}`", position - 1)
            }
            Self::FewClicks { .. } | Self::Unconnected { .. } | Self::FewQueries { .. } => "take a longer window".into(),
        }
    }
}
