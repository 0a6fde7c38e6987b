//! Losses of whole lists.

use ranking::metrics::{discount, gain};

use super::{List, Terms};

/// Space that lists share.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub order: Vec<u64>,
    pub discounts: Vec<f64>,
    pub ideal: Vec<f64>,
    /// Two numbers a row: gain and discount, or weighted gain and smooth rank.
    pub of_row: Vec<(f64, f64)>,
    slopes: Vec<f64>,
}

/// Cross entropy between the gains, as a distribution, and softmax(s); row i's part times w_i.
pub(super) fn listnet(list: List<'_>, scratch: &mut Scratch, gradient: &mut [f32]) -> Terms {
    scratch.of_row.clear();
    scratch.of_row.extend(list.labels.iter().map(|label| (gain(*label), 0.0)));
    let gains: f64 = scratch.of_row.iter().map(|row| row.0).sum();
    if gains <= 0.0 {
        return Terms::default();
    }
    let highest = f64::from(list.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut exponentials = 0.0;
    for (row, score) in scratch.of_row.iter_mut().zip(list.scores) {
        row.1 = (f64::from(*score) - highest).exp();
        exponentials += row.1;
    }
    let log_sum = highest + exponentials.ln();
    let (mut loss, mut mass) = (0.0, 0.0);
    for ((row, score), weight) in scratch.of_row.iter_mut().zip(list.scores).zip(list.weights) {
        row.0 *= f64::from(*weight) / gains;
        loss += row.0 * (log_sum - f64::from(*score));
        mass += row.0;
    }
    for (gradient, (target, exponential)) in gradient.iter_mut().zip(&scratch.of_row) {
        *gradient = (mass * exponential / exponentials - target) as f32;
    }
    Terms { loss, denominator: 1.0 }
}

/// 1 - Σ w g / log2(1 + π) / ideal, with the smooth rank π_i = 1 + Σ_{j ≠ i} logistic((s_j - s_i) / temperature).
pub(super) fn approx_ndcg(list: List<'_>, temperature: f64, scratch: &mut Scratch, gradient: &mut [f32]) -> Terms {
    let rows = list.labels.len();
    scratch.discounts.extend((scratch.discounts.len()..rows).map(discount));
    scratch.ideal.clear();
    scratch.ideal.extend(list.labels.iter().zip(list.weights).map(|(label, weight)| gain(*label) * f64::from(*weight)));
    scratch.of_row.clear();
    scratch.of_row.extend(scratch.ideal.iter().map(|gain| (*gain, 1.0)));
    scratch.ideal.sort_unstable_by(|a, b| b.total_cmp(a));
    let ideal: f64 = scratch.ideal.iter().zip(&scratch.discounts).map(|(gain, discount)| gain * discount).sum();
    if ideal <= 0.0 {
        return Terms::default();
    }
    let ahead = |i: usize, j: usize| {
        let x = (f64::from(list.scores[j]) - f64::from(list.scores[i])) / temperature;
        1.0 / (1.0 + (-x).exp())
    };
    for i in 0..rows {
        for j in i + 1..rows {
            let before = ahead(i, j);
            scratch.of_row[i].1 += before;
            scratch.of_row[j].1 += 1.0 - before;
        }
    }
    let dcg: f64 = scratch.of_row.iter().map(|(gain, rank)| gain / (1.0 + rank).log2()).sum();
    // d(term)/d(π_i): the derivative of -gain / log2(1 + π) / ideal.
    scratch.slopes.clear();
    scratch.slopes.extend(scratch.of_row.iter().map(|(gain, rank)| {
        let log = (1.0 + rank).ln();
        gain * std::f64::consts::LN_2 / (log * log * (1.0 + rank)) / ideal
    }));
    for i in 0..rows {
        for j in i + 1..rows {
            let before = ahead(i, j);
            let push = before * (1.0 - before) / temperature * (scratch.slopes[i] - scratch.slopes[j]);
            gradient[j] += push as f32;
            gradient[i] -= push as f32;
        }
    }
    Terms { loss: 1.0 - dcg / ideal, denominator: 1.0 }
}
