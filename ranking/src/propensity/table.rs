//! Propensities by position, as a file that says where they come from.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// The propensity of positions past a table's end, as in the reference pipeline.
pub const PAST_END: f64 = 0.1;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Where a table's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The reference pipeline's `position_propensity`.
    Reference,
    /// The reference's Spark job, whose weights are rounded.
    ReferenceRounded,
    /// [`estimate::randomized`](super::estimate::Randomized).
    Randomized,
    /// [`estimate::pairs`](super::estimate::pairs()).
    Pairs,
    /// [`estimate::em`](super::estimate::em()).
    Em,
    /// Written by hand, or by another tool.
    Given,
}

impl Method {
    /// The word of the file and of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::ReferenceRounded => "reference-rounded",
            Self::Randomized => "randomized",
            Self::Pairs => "pairs",
            Self::Em => "em",
            Self::Given => "given",
        }
    }
}

/// The dates of the logs that were read, both included, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub from: NaiveDate,
    pub to: NaiveDate,
}

/// One position. What is known only of an estimate is absent from a table that was given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionPropensity {
    /// From 1.
    pub position: u32,
    /// In (0, 1].
    pub propensity: f64,
    /// A weight to use as it is, where it is not 1 / propensity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The interval at the table's level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Impressions at this position that the estimate rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impressions: Option<u64>,
    /// Clicks among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clicks: Option<u64>,
}

/// Propensities of the positions from 1 without gaps, and one for all that follow.
///
/// As a file: JSON such as
/// `{"version": 1, "method": "given", "positions": [{"position": 1, "propensity": 1.0}, {"position": 2, "propensity": 0.6}]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PropensityTable {
    version: u32,
    method: Method,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    /// How often the intervals should hold the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<f64>,
    /// The propensity of every position past the last.
    #[serde(default = "past_end")]
    past_end: f64,
    positions: Vec<PositionPropensity>,
}

fn past_end() -> f64 {
    PAST_END
}

/// Why a table is none.
#[derive(Debug, thiserror::Error)]
pub enum BadTable {
    #[error("this is no propensity table")]
    Json(#[source] serde_json::Error),
    #[error("the table is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("`positions` is empty")]
    Empty,
    #[error("positions[{index}] is position {found}, where {index} + 1 belongs: they count from 1 without gaps")]
    Gap { index: usize, found: u32 },
    #[error("position {position} has propensity {value}, which is not above 0 and at most 1")]
    Propensity { position: u32, value: f64 },
    #[error("`past_end` is {0}, which is not above 0 and at most 1")]
    PastEnd(f64),
    #[error("position {position} has weight {value}, which is not finite and above 0")]
    Weight { position: u32, value: f64 },
    #[error("position {position} has an interval from {low} to {high}, which does not hold its propensity {value}")]
    Interval { position: u32, low: f64, high: f64, value: f64 },
    #[error("`level` is {0}, which is not between 0 and 1")]
    Level(f64),
}

impl BadTable {
    /// What the owner of the file can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Propensity { value, .. } if *value == 0.0 => Some(
                "a position that nobody looks at has no weight: leave it and those below it out, so that `past_end` holds for them",
            ),
            Self::Json(_) => Some(
                r#"write {"version": 1, "method": "given", "positions": [{"position": 1, "propensity": 1.0}, …]}, or let `lockstep propensity estimate` write it"#,
            ),
            _ => None,
        }
    }
}

impl PropensityTable {
    /// The reference pipeline's table: 1.0, 0.65, 0.45, … 0.10 at position 10, and 0.1 below.
    pub fn reference() -> Self {
        let known = [1.0, 0.65, 0.45, 0.35, 0.28, 0.22, 0.18, 0.15, 0.12, 0.10];
        Self::new(
            Method::Reference,
            known.into_iter().enumerate().map(|(index, value)| given(index, value, None)).collect(),
        )
    }

    /// The weights of the reference's Spark job, which are the reference's propensities inverted and rounded: 1.0, 1.54, 2.22, … 10.0.
    pub fn reference_rounded() -> Self {
        let known = [1.0, 1.54, 2.22, 2.86, 3.57, 4.55, 5.56, 6.67, 8.33, 10.0];
        let positions = known.into_iter().enumerate().map(|(index, weight)| given(index, 1.0 / weight, Some(weight)));
        Self::new(Method::ReferenceRounded, positions.collect())
    }

    /// Of an estimate; values above 1 are for the caller to bring down before.
    pub fn estimated(
        method: Method,
        window: Option<Window>,
        level: f64,
        positions: Vec<PositionPropensity>,
    ) -> Result<Self, BadTable> {
        let table = Self { window, level: Some(level), ..Self::new(method, positions) };
        table.check().map(|()| table)
    }

    fn new(method: Method, positions: Vec<PositionPropensity>) -> Self {
        Self { version: VERSION, method, window: None, level: None, past_end: PAST_END, positions }
    }

    /// Reads a file's bytes and refuses what is not a table.
    pub fn from_json(bytes: &[u8]) -> Result<Self, BadTable> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(BadTable::Json)?;
        if version != VERSION {
            return Err(BadTable::Version(version));
        }
        let table: Self = serde_json::from_slice(bytes).map_err(BadTable::Json)?;
        table.check().map(|()| table)
    }

    /// What a file holds.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn check(&self) -> Result<(), BadTable> {
        let proper = |value: f64| value > 0.0 && value <= 1.0;
        if self.positions.is_empty() {
            return Err(BadTable::Empty);
        }
        for (index, entry) in self.positions.iter().enumerate() {
            let &PositionPropensity { position, propensity: value, .. } = entry;
            if position as usize != index + 1 {
                return Err(BadTable::Gap { index, found: position });
            }
            if !proper(value) {
                return Err(BadTable::Propensity { position, value });
            }
            if let Some(value) = entry.weight.filter(|weight| !weight.is_finite() || *weight <= 0.0) {
                return Err(BadTable::Weight { position, value });
            }
            let (low, high) = (entry.low.unwrap_or(value), entry.high.unwrap_or(value));
            if !(0.0 <= low && low <= value && value <= high && high <= 1.0) {
                return Err(BadTable::Interval { position, low, high, value });
            }
        }
        if !proper(self.past_end) {
            return Err(BadTable::PastEnd(self.past_end));
        }
        match self.level.filter(|level| !(0.0 < *level && *level < 1.0)) {
            Some(level) => Err(BadTable::Level(level)),
            None => Ok(()),
        }
    }

    pub fn method(&self) -> Method {
        self.method
    }

    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// How often the intervals should hold the truth, where there are intervals.
    pub fn level(&self) -> Option<f64> {
        self.level
    }

    /// The propensity of every position past the last.
    pub fn past_end(&self) -> f64 {
        self.past_end
    }

    /// From position 1 without gaps.
    pub fn positions(&self) -> &[PositionPropensity] {
        &self.positions
    }

    /// Of a position, which counts from 1; in (0, 1].
    pub fn propensity(&self, position: u32) -> f64 {
        self.entry(position).map_or(self.past_end, |entry| entry.propensity)
    }

    /// The inverse of the propensity, or the weight that the table has in its place.
    pub fn weight(&self, position: u32) -> f64 {
        let entry = self.entry(position);
        entry.and_then(|entry| entry.weight).unwrap_or_else(|| 1.0 / self.propensity(position))
    }

    fn entry(&self, position: u32) -> Option<&PositionPropensity> {
        let index = position.checked_sub(1)?;
        self.positions.get(index as usize)
    }
}

fn given(index: usize, propensity: f64, weight: Option<f64>) -> PositionPropensity {
    PositionPropensity {
        position: index as u32 + 1,
        propensity,
        weight,
        low: None,
        high: None,
        impressions: None,
        clicks: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_inverts_its_propensities_and_has_a_tenth_past_its_end() {
        let table = PropensityTable::reference();
        assert_eq!(table.propensity(1), 1.0);
        assert_eq!(table.weight(2), 1.0 / 0.65);
        assert_eq!((table.propensity(10), table.propensity(11), table.propensity(4000)), (0.10, 0.1, 0.1));
        assert_eq!(table.weight(11), 10.0);
    }

    #[test]
    fn the_rounded_weights_are_to_the_bit_those_of_the_spark_job() {
        let table = PropensityTable::reference_rounded();
        let weights: Vec<f64> = (1..=12).map(|position| table.weight(position)).collect();
        assert_eq!(weights, [1.0, 1.54, 2.22, 2.86, 3.57, 4.55, 5.56, 6.67, 8.33, 10.0, 10.0, 10.0]);
    }

    #[test]
    fn a_table_is_read_back_as_it_was_written() {
        let from = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
        let to = NaiveDate::from_ymd_opt(2026, 1, 31).unwrap();
        let entry = PositionPropensity {
            low: Some(0.3),
            high: Some(0.5),
            impressions: Some(1000),
            clicks: Some(41),
            ..given(1, 1.0 / 3.0, None)
        };
        let first = PositionPropensity { low: Some(1.0), high: Some(1.0), ..given(0, 1.0, None) };
        let table =
            PropensityTable::estimated(Method::Em, Some(Window { from, to }), 0.95, vec![first, entry]).unwrap();
        for table in [table, PropensityTable::reference(), PropensityTable::reference_rounded()] {
            assert_eq!(PropensityTable::from_json(&table.to_json()).unwrap(), table);
        }
    }

    #[test]
    fn a_table_written_by_hand_is_short() {
        let text = r#"{"version": 1, "method": "given", "positions": [{"position": 1, "propensity": 1}, {"position": 2, "propensity": 0.5}]}"#;
        let table = PropensityTable::from_json(text.as_bytes()).unwrap();
        assert_eq!((table.weight(1), table.weight(2), table.weight(3)), (1.0, 2.0, 10.0));
    }

    #[test]
    fn each_refusal_names_the_position() {
        let refused = |positions: &str, rest: &str| {
            let text = format!(r#"{{"version": 1, "method": "given", "positions": [{positions}] {rest}}}"#);
            PropensityTable::from_json(text.as_bytes()).unwrap_err()
        };
        let first = r#"{"position": 1, "propensity": 1.0}"#;
        let zero = refused(&format!(r#"{first}, {{"position": 2, "propensity": 0}}"#), "");
        assert_eq!(zero.to_string(), "position 2 has propensity 0, which is not above 0 and at most 1");
        assert!(zero.hint().unwrap().contains("leave it"));
        assert_eq!(
            refused(&format!(r#"{first}, {{"position": 3, "propensity": 0.5}}"#), "").to_string(),
            "positions[1] is position 3, where 1 + 1 belongs: they count from 1 without gaps"
        );
        assert!(
            refused(r#"{"position": 1, "propensity": 1.5}"#, "")
                .to_string()
                .starts_with("position 1 has propensity 1.5")
        );
        assert!(refused(r#"{"position": 1, "propensity": 0.5, "low": 0.6}"#, "").to_string().contains("does not hold"));
        assert!(refused(r#"{"position": 1, "propensity": 0.5, "weight": 0}"#, "").to_string().contains("weight 0"));
        assert_eq!(refused("", "").to_string(), "`positions` is empty");
        assert!(refused(first, r#", "past_end": 0"#).to_string().starts_with("`past_end` is 0"));
        assert!(matches!(refused(first, r#", "comment": 3"#), BadTable::Json(_)));
        let later = PropensityTable::from_json(br#"{"version": 2, "positions": {}}"#).unwrap_err();
        assert_eq!(later.to_string(), "the table is of version 2, and this program reads version 1");
    }
}
