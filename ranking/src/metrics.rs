//! Ranking metrics of one list at a time, in f64; means over lists are the caller's to take, in an order it fixes.
//!
//! Conventions differ between tools and move values by several points, so the one used is part of every value
//! ([`Metric::convention`]). This module follows Lockstep's reference pipeline: gain `2^label - 1`, discount `1 / log2(rank + 1)`,
//! ties stay in row order, a list without relevant documents counts 0, relevant means `label >= 1`, and average precision
//! divides by all relevant documents of the list, shown or not.

use std::{cmp::Reverse, fmt, num::NonZeroUsize, str::FromStr};

use serde::{Deserialize, Serialize};

/// A metric of a ranked list, higher is better, in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Metric {
    /// Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002), over the first so many ranks or all.
    Ndcg(Option<NonZeroUsize>),
    /// Mean average precision.
    Map,
    /// Mean reciprocal rank of the first relevant document.
    Mrr,
}

impl Metric {
    /// What a validation reports: ndcg@1, ndcg@5, ndcg@10, map, mrr.
    pub const REPORTED: [Self; 5] = [Self::ndcg_at(1), Self::ndcg_at(5), Self::ndcg_at(10), Self::Map, Self::Mrr];

    const fn ndcg_at(k: usize) -> Self {
        Self::Ndcg(NonZeroUsize::new(k))
    }

    /// The convention, to be shown beside the value.
    pub fn convention(self) -> &'static str {
        match self {
            Self::Ndcg(_) => {
                "gain 2^label-1, discount 1/log2(rank+1), ties in row order, lists without relevant documents count 0"
            }
            Self::Map => {
                "relevant: label >= 1, divided by all relevant, ties in row order, lists without relevant documents count 0"
            }
            Self::Mrr => "relevant: label >= 1, ties in row order, lists without relevant documents count 0",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ndcg(Some(k)) => write!(f, "ndcg@{k}"),
            Self::Ndcg(None) => f.write_str("ndcg"),
            Self::Map => f.write_str("map"),
            Self::Mrr => f.write_str("mrr"),
        }
    }
}

/// A word that is no metric's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a metric: known are ndcg, ndcg@k, map and mrr")]
pub struct UnknownMetric(String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        match text {
            "ndcg" => Ok(Self::Ndcg(None)),
            "map" => Ok(Self::Map),
            "mrr" => Ok(Self::Mrr),
            _ => match text.strip_prefix("ndcg@").map(str::parse) {
                Some(Ok(k)) => Ok(Self::Ndcg(Some(k))),
                _ => Err(UnknownMetric(text.to_owned())),
            },
        }
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.to_string()
    }
}

impl TryFrom<String> for Metric {
    type Error = UnknownMetric;

    fn try_from(text: String) -> Result<Self, UnknownMetric> {
        text.parse()
    }
}

/// The gain of a label: `2^label - 1`.
#[inline]
pub fn gain(label: f32) -> f64 {
    f64::from(label).exp2() - 1.0
}

/// The discount of a rank counted from 0: `1 / log2(rank + 2)`.
#[inline]
pub fn discount(rank: usize) -> f64 {
    1.0 / ((rank + 2) as f64).log2()
}

/// A score's bits so that a greater score is a smaller key; equal scores have equal keys (so has -0 with 0).
#[inline]
fn descending(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// Ranks rows by descending score, ties in row order, into `order`. NaN scores have no place in it: refuse them before.
pub fn rank(scores: &[f32], order: &mut Vec<u64>) {
    order.clear();
    order.extend(scores.iter().enumerate().map(|(row, score)| u64::from(descending(*score)) << 32 | row as u64));
    order.sort_unstable();
    order.iter_mut().for_each(|key| *key &= 0xffff_ffff);
}

/// Evaluates lists, keeping its scratch space between them.
#[derive(Debug)]
pub struct Evaluator {
    metrics: Vec<Metric>,
    order: Vec<u64>,
    ideal: Vec<f32>,
    discounts: Vec<f64>,
}

impl Evaluator {
    pub fn new(metrics: &[Metric]) -> Self {
        Self { metrics: metrics.to_vec(), order: Vec::new(), ideal: Vec::new(), discounts: Vec::new() }
    }

    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// One value a metric, for one list. `labels` and `scores` are of one length; scores must not be NaN.
    pub fn list(&mut self, labels: &[f32], scores: &[f32], values: &mut [f64]) {
        rank(scores, &mut self.order);
        self.discounts.extend((self.discounts.len()..labels.len()).map(discount));
        self.ideal.clear();
        for (metric, value) in self.metrics.iter().zip(values) {
            let ranked = self.order.iter().map(|row| labels[*row as usize]);
            *value = match metric {
                Metric::Ndcg(k) => {
                    if self.ideal.is_empty() {
                        self.ideal.extend_from_slice(labels);
                        self.ideal.sort_unstable_by_key(|label| Reverse(ordered(*label)));
                    }
                    let k = k.map_or(labels.len(), NonZeroUsize::get);
                    let dcg = |ranked: &mut dyn Iterator<Item = f32>| -> f64 {
                        ranked.take(k).zip(&self.discounts).map(|(label, discount)| gain(label) * discount).sum()
                    };
                    let ideal = dcg(&mut self.ideal.iter().copied());
                    if ideal > 0.0 { dcg(&mut { ranked }) / ideal } else { 0.0 }
                }
                Metric::Map => {
                    let (mut relevant, mut precisions) = (0usize, 0.0);
                    for (rank, label) in ranked.enumerate() {
                        if label >= 1.0 {
                            relevant += 1;
                            precisions += relevant as f64 / (rank + 1) as f64;
                        }
                    }
                    if relevant > 0 { precisions / relevant as f64 } else { 0.0 }
                }
                Metric::Mrr => {
                    let first = { ranked }.position(|label| label >= 1.0);
                    first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
                }
            };
        }
    }
}

/// A finite label as an integer of the same order.
#[inline]
fn ordered(label: f32) -> u32 {
    !descending(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(labels: &[f32], scores: &[f32]) -> Vec<f64> {
        let mut evaluator = Evaluator::new(&Metric::REPORTED);
        let mut values = vec![0.0; 5];
        evaluator.list(labels, scores, &mut values);
        values
    }

    #[test]
    fn a_list_worked_out_by_hand() {
        // Ranked: labels 0, 3, 1, 0.
        let found = values(&[3.0, 0.0, 0.0, 1.0], &[0.5, 0.9, -1.0, 0.1]);
        let ndcg = (7.0 / 3f64.log2() + 1.0 / 2.0) / (7.0 + 1.0 / 3f64.log2());
        for (value, expected) in found.iter().zip([0.0, ndcg, ndcg, (1.0 / 2.0 + 2.0 / 3.0) / 2.0, 0.5]) {
            assert!((value - expected).abs() < 1e-12, "{found:?}");
        }
    }

    #[test]
    fn ties_stay_in_row_order() {
        assert_eq!(values(&[1.0, 0.0], &[0.0, -0.0])[4], 1.0);
        assert_eq!(values(&[0.0, 1.0], &[0.0, 0.0])[4], 0.5);
    }

    #[test]
    fn a_list_without_relevant_documents_counts_nothing() {
        assert_eq!(values(&[0.0, 0.0], &[1.0, 2.0]), [0.0; 5]);
    }

    #[test]
    fn names_are_read_back() {
        for metric in Metric::REPORTED.into_iter().chain([Metric::Ndcg(None)]) {
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        assert!("ndcg@0".parse::<Metric>().is_err());
        assert!("auc".parse::<Metric>().is_err());
    }

    proptest! {
        #[test]
        fn the_best_order_scores_one_and_every_value_lies_in_zero_to_one(
            rows in prop::collection::vec((0u8..5, -10f32..10.0), 1..30),
        ) {
            let labels: Vec<f32> = rows.iter().map(|row| f32::from(row.0)).collect();
            let scores: Vec<f32> = rows.iter().map(|row| row.1).collect();
            prop_assert!(values(&labels, &scores).iter().all(|value| (0.0..=1.0 + 1e-12).contains(value)));
            let perfect = values(&labels, &labels);
            let expected = if labels.iter().any(|label| *label >= 1.0) { 1.0 } else { 0.0 };
            prop_assert!(perfect.iter().all(|value| (value - expected).abs() < 1e-12));
        }

        #[test]
        fn ranking_agrees_with_a_stable_sort(scores in prop::collection::vec(-3i8..3, 0..40)) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut order = Vec::new();
            rank(&scores, &mut order);
            let mut expected: Vec<u64> = (0..scores.len() as u64).collect();
            expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
            prop_assert_eq!(order, expected);
        }
    }
}
