//! Ranking metrics of one list at a time, in f64, under a convention that is stated; and sums over lists that no order can change.
//!
//! Tools differ in what they call ndcg or map, and values move by several points with it. So a [`Convention`] is a value of its own: gain,
//! ties, lists without relevant documents, what is relevant, what average precision divides by. [`Convention::default`] is that
//! of Lockstep's reference pipeline, a [`Profile`] names what another tool does, and [`Convention::words`] is what stands beside
//! every value. Reading files, means, intervals and tests of significance are not here.

mod convention;
mod evaluator;
mod metric;
mod order;
mod profile;
mod sum;
#[cfg(test)]
mod tests;
mod tied;

pub use convention::{
    Convention, Empty, Gain, LabelRange, MapDenominator, Negative, Precision, PrecisionDenominator, Ties,
};
pub use evaluator::Evaluator;
pub use metric::{Metric, UnknownMetric};
pub use order::{Score, rank};
pub use profile::{Profile, UnknownProfile};
pub use sum::{Mean, Sum};

/// The exponential gain of a label: `2^label - 1`.
#[inline]
pub fn gain(label: f32) -> f64 {
    f64::from(label).exp2() - 1.0
}

/// The discount of a rank counted from 0: `1 / log2(rank + 2)`.
#[inline]
pub fn discount(rank: usize) -> f64 {
    1.0 / ((rank + 2) as f64).log2()
}
