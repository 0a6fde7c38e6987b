//! Human judgments: rating tasks made, ratings pulled, one label a pair concluded.
//!
//! A [`Platform`] takes a [`RatingTask`] and gives ratings back: [`Files`] is JSONL that raters fill in, [`LabelStudio`] a server.
//! Whatever it was, ratings end as one JSONL format ([`ratings`]), which [`aggregate`] reads. What can be concluded from ratings is
//! [`ranking::judgments`]'s business.

mod aggregate;
mod files;
mod label_studio;
mod pairs;
pub mod ratings;
mod render;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use serde::Serialize;

use crate::PipelineError;

pub use aggregate::{
    AggregateOptions, AggregateReport, Alphas, Estimates, Method, RaterReport, Undecided, WhyUndecided, aggregate,
};
pub use files::Files;
pub use label_studio::{LabelStudio, Patience, Token};
pub use pairs::{PairToRate, read_pairs};
pub use ratings::RatingsWriter;

/// What raters are asked to do.
#[derive(Clone, Debug, PartialEq)]
pub struct RatingTask {
    pub title: String,
    /// Plain text, shown to raters with the scale.
    pub instructions: String,
    /// How many raters each pair should have.
    pub raters: u32,
    /// Each pair once.
    pub pairs: Vec<PairToRate>,
}

/// A rating task that exists.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Created {
    /// What [`Platform::pull`] asks for.
    pub task: String,
    pub pairs: u64,
    pub queries: u64,
    /// Where raters go, or what they fill in.
    pub place: String,
}

/// What was found where raters worked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pulled {
    /// Pairs of the task that were looked at.
    pub pairs: u64,
    /// Of these, pairs without a single rating.
    pub unrated: u64,
    pub ratings: u64,
    pub raters: u64,
    /// Pairs that a rater passed over: skipped, or a line without a grade.
    pub skipped: u64,
    /// Answers in which no grade can be read.
    pub unreadable: u64,
    /// Where the first few of these are.
    pub unreadable_at: Vec<String>,
}

/// A place where people rate.
#[async_trait]
pub trait Platform {
    /// Makes the whole task, or none.
    async fn create(&self, task: &RatingTask) -> Result<Created, PipelineError>;

    /// Writes all ratings of a task there are so far.
    async fn pull(&self, task: &str, into: &mut RatingsWriter) -> Result<Pulled, PipelineError>;
}

/// How many different queries pairs have.
fn queries<'a>(ids: impl Iterator<Item = &'a str>) -> u64 {
    ids.collect::<std::collections::HashSet<_>>().len() as u64
}
