//! Losses of pairs of rows of a list, the first preferred to the second.

use ranking::metrics::{discount, gain, rank};

use super::{List, Terms, listwise::Scratch, softplus};

/// Σ over pairs of w_i softplus(-σ (s_i - s_j)) / Σ over pairs of w_i.
pub(super) fn ranknet(list: List<'_>, sigma: f32, gradient: &mut [f32]) -> Terms {
    pairs(list, sigma, gradient, |_, _| 1.0)
}

/// RankNet's terms, each times |ΔNDCG| of swapping the pair in the current ranking; a constant for the gradient. With `truncation`
/// pairs wholly below that rank gain nothing, and the ideal is the truncated one.
pub(super) fn lambdarank(
    list: List<'_>,
    sigma: f32,
    truncation: Option<usize>,
    scratch: &mut Scratch,
    gradient: &mut [f32],
) -> Terms {
    let rows = list.labels.len();
    let depth = truncation.unwrap_or(rows).min(rows);
    rank(list.scores, &mut scratch.order);
    scratch.discounts.extend((scratch.discounts.len()..rows).map(discount));
    scratch.of_row.clear();
    scratch.of_row.resize(rows, (0.0, 0.0));
    for (position, row) in scratch.order.iter().enumerate() {
        // Past the truncation ranks are worth nothing, so a pair wholly below it has ΔNDCG 0.
        let discount = if position < depth { scratch.discounts[position] } else { 0.0 };
        scratch.of_row[*row as usize] = (gain(list.labels[*row as usize]), discount);
    }
    scratch.ideal.clear();
    scratch.ideal.extend(scratch.of_row.iter().map(|row| row.0));
    scratch.ideal.sort_unstable_by(|a, b| b.total_cmp(a));
    let ideal: f64 =
        scratch.ideal[..depth].iter().zip(&scratch.discounts).map(|(gain, discount)| gain * discount).sum();
    let of_row = &scratch.of_row;
    pairs(list, sigma, gradient, |i, j| {
        let ((gain_i, discount_i), (gain_j, discount_j)) = (of_row[i], of_row[j]);
        ((gain_i - gain_j).abs() * (discount_i - discount_j).abs() / ideal) as f32
    })
}

/// Every pair with y_i > y_j, its term times `factor(i, j)`.
fn pairs(list: List<'_>, sigma: f32, gradient: &mut [f32], factor: impl Fn(usize, usize) -> f32) -> Terms {
    let mut terms = Terms::default();
    for (i, label) in list.labels.iter().enumerate() {
        let weight = list.weights[i];
        let (mut loss, mut preferred, mut pull) = (0.0f32, 0u32, 0.0f32);
        for (j, other) in list.labels.iter().enumerate() {
            if other >= label {
                continue;
            }
            preferred += 1;
            let factor = factor(i, j);
            let (value, slope) = softplus(-sigma * (list.scores[i] - list.scores[j]));
            loss += factor * value;
            let force = weight * factor * sigma * slope;
            pull += force;
            gradient[j] += force;
        }
        gradient[i] -= pull;
        terms.loss += f64::from(weight) * f64::from(loss);
        terms.denominator += f64::from(weight) * f64::from(preferred);
    }
    terms
}
