//! Losses of single rows.

use super::{Targets, Terms, softplus};

/// Σ w (s - y)² / Σ w.
pub(super) fn mse(scores: &[f32], targets: Targets<'_>, gradient: &mut [f32]) -> Terms {
    let mut terms = Terms::default();
    let rows = scores.iter().zip(targets.labels).zip(targets.weights);
    for (((score, label), weight), gradient) in rows.zip(gradient) {
        let difference = score - label;
        terms.loss += f64::from(weight * difference * difference);
        terms.denominator += f64::from(*weight);
        *gradient = 2.0 * weight * difference;
    }
    terms
}

/// Binary cross entropy of logits: Σ w (softplus(s) - y s) / Σ w.
pub(super) fn bce(scores: &[f32], targets: Targets<'_>, gradient: &mut [f32]) -> Terms {
    let mut terms = Terms::default();
    let rows = scores.iter().zip(targets.labels).zip(targets.weights);
    for (((score, label), weight), gradient) in rows.zip(gradient) {
        let (value, probability) = softplus(*score);
        terms.loss += f64::from(weight * (value - label * score));
        terms.denominator += f64::from(*weight);
        *gradient = weight * (probability - label);
    }
    terms
}
