//! Means over all orders of tied documents, exactly.
//!
//! A group is the documents of one score: `before` documents stand above it, and each order of its own is as likely as another. Orders of
//! different groups are independent. Expected gains and counts of relevant documents are linear, so that a group's mean at each of its
//! ranks is all they need; what follows is not linear.

/// P(relevant) · E[precision | relevant] at rank `before + at` (both counted from 0), for a group of `size` documents, `relevant` of them
/// relevant, with `found` relevant documents above.
#[inline]
pub(super) fn precision_of_relevant(before: usize, at: usize, found: usize, size: usize, relevant: usize) -> f64 {
    if relevant == 0 {
        return 0.0;
    }
    // Of the documents above within the group, each is one of the other relevant ones with this probability.
    let other = if size > 1 { (relevant - 1) as f64 / (size - 1) as f64 } else { 0.0 };
    let above = found as f64 + 1.0 + at as f64 * other;
    relevant as f64 / size as f64 * above / (before + at + 1) as f64
}

/// The expected reciprocal rank of the first relevant document, which is in this group.
pub(super) fn reciprocal_rank(before: usize, size: usize, relevant: usize, ranks: usize) -> f64 {
    let (mut none_yet, mut expected) = (1.0, 0.0);
    for at in 0..=size - relevant {
        if before + at >= ranks {
            break;
        }
        let left = (size - at) as f64;
        expected += none_yet * relevant as f64 / left / (before + at + 1) as f64;
        none_yet *= (left - relevant as f64) / left;
    }
    expected
}

/// Expected reciprocal rank of a group whose documents satisfy with these probabilities, and the chance that none of them does.
///
/// E[Π over a random j-subset of (1 - R)] is the elementary symmetric mean S_j; the chance to stop at the j-th is S_j - S_(j+1).
/// S_j of m documents is a convex mix of S_j and S_(j-1) of m - 1 of them, so nothing is lost in rounding.
pub(super) fn cascade(before: usize, satisfy: &[f64], ranks: usize, means: &mut Vec<f64>) -> (f64, f64) {
    let size = satisfy.len();
    means.clear();
    means.resize(size + 1, 0.0);
    means[0] = 1.0;
    for (m, satisfied) in satisfy.iter().enumerate().map(|(at, satisfied)| (at + 1, satisfied)) {
        for j in (1..=m).rev() {
            let share = j as f64 / m as f64;
            means[j] = (1.0 - share) * means[j] + share * (1.0 - satisfied) * means[j - 1];
        }
    }
    let stops = means.windows(2).enumerate().take_while(|(at, _)| before + at < ranks);
    let expected = stops.map(|(at, pair)| (pair[0] - pair[1]) / (before + at + 1) as f64).sum();
    (expected, means[size])
}
