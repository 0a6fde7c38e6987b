//! One class an item by majority, with a minimum of agreement.

use serde::Serialize;

use super::Votes;

/// What the votes on an item come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// One class, and the share of the votes that it has.
    Accepted { class: usize, agreement: f64 },
    /// Several classes have the most votes (or the highest probability), each this share.
    Tie { agreement: f64 },
    /// The leading class has less than the minimum.
    UnderAgreement { class: usize, agreement: f64 },
    /// No votes at all.
    Unrated,
}

impl Outcome {
    /// Judges a weight a class, of which `total` are all: the heaviest wins, unless it is not alone or too light.
    pub(crate) fn of(weights: &[f64], total: f64, min_agreement: f64) -> Self {
        let mut best = 0;
        for class in 1..weights.len() {
            if weights[class] > weights[best] {
                best = class;
            }
        }
        // Probabilities that are equal by symmetry may differ by how they were rounded.
        let ties = weights.iter().filter(|weight| **weight >= weights[best] * (1.0 - 1e-9)).count();
        if total == 0.0 {
            return Self::Unrated;
        }
        let agreement = weights[best] / total;
        match (ties, agreement >= min_agreement) {
            (2.., _) => Self::Tie { agreement },
            (_, true) => Self::Accepted { class: best, agreement },
            (_, false) => Self::UnderAgreement { class: best, agreement },
        }
    }

    /// The class, where it is accepted.
    pub fn accepted(self) -> Option<usize> {
        match self {
            Self::Accepted { class, .. } => Some(class),
            _ => None,
        }
    }
}

/// The most frequent class of each item, if its share of the votes is at least `min_agreement`.
///
/// As Lockstep's reference pipeline does, but for ties: there the class that came first wins, here nobody does. Every vote counts,
/// also a rater's second on the same item.
pub fn majority(votes: &Votes, min_agreement: f64) -> Vec<Outcome> {
    let outcome = |item: usize| {
        let counts = votes.counts(item);
        let total: usize = counts.iter().sum();
        let weights: Vec<f64> = counts.iter().map(|count| *count as f64).collect();
        Outcome::of(&weights, total as f64, min_agreement)
    };
    (0..votes.items().len()).map(outcome).collect()
}
