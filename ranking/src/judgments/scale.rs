//! The scale of relevance, and the words for it: those of Lockstep's reference pipeline.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How well a document serves a query: 4 (perfect) down to 0 (bad).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct Grade(u8);

/// One grade as a rater sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub grade: Grade,
    pub label: &'static str,
    pub description: &'static str,
}

/// The five choices, the best first.
pub const SCALE: [Choice; 5] = [
    Choice { grade: Grade(4), label: "Perfect", description: "Exactly what user wants" },
    Choice { grade: Grade(3), label: "Excellent", description: "Highly relevant" },
    Choice { grade: Grade(2), label: "Good", description: "Relevant but not ideal" },
    Choice { grade: Grade(1), label: "Fair", description: "Marginally relevant" },
    Choice { grade: Grade(0), label: "Bad", description: "Not relevant" },
];

impl Grade {
    /// How many grades there are.
    pub const COUNT: usize = SCALE.len();

    /// `None` outside 0 to 4.
    pub fn new(value: u8) -> Option<Self> {
        (usize::from(value) < Self::COUNT).then_some(Self(value))
    }

    pub fn value(self) -> u8 {
        self.0
    }

    /// The choice with this grade.
    pub fn choice(self) -> &'static Choice {
        &SCALE[Self::COUNT - 1 - usize::from(self.0)]
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number that is no grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a grade, which is 0, 1, 2, 3 or 4")]
pub struct NoGrade(u8);

impl TryFrom<u8> for Grade {
    type Error = NoGrade;

    fn try_from(value: u8) -> Result<Self, NoGrade> {
        Self::new(value).ok_or(NoGrade(value))
    }
}

impl From<Grade> for u8 {
    fn from(grade: Grade) -> Self {
        grade.0
    }
}
