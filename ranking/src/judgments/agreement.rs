//! How far raters agree beyond chance.
//!
//! Both coefficients are 1 for full agreement and 0 for what chance would give. A rater's second vote on an item counts as one
//! more vote: where many were repeated, the agreement of raters with themselves is part of the value.

use serde::Serialize;

use super::Votes;

/// Fleiss' kappa and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kappa {
    /// `None` where all votes are of one class: agreement and chance cannot be told apart.
    pub kappa: Option<f64>,
    /// The share of pairs of votes on an item that agree, as a mean over items.
    pub observed: f64,
    /// The same if votes were drawn by chance.
    pub expected: f64,
    /// Items with at least two votes: only they can show agreement.
    pub items: usize,
    /// Whether these all have the same number of votes, as Fleiss assumes.
    pub equal_raters: bool,
}

/// Fleiss' kappa over all items with at least two votes; `None` where there are none.
///
/// Source: Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971). That asks for the same
/// number of votes on every item. Where it differs, the observed agreement stays the mean over items and the chance of a class the
/// mean over items of its share of their votes (Gwet, "Handbook of Inter-Rater Reliability", 4th edition, 2014, chapter 2, here
/// over the items with at least two votes), which is Fleiss' kappa where the numbers are equal.
pub fn fleiss_kappa(votes: &Votes) -> Option<Kappa> {
    let mut items = 0usize;
    let mut observed = 0.0;
    let mut shares = vec![0.0; votes.classes()];
    let mut sizes = (usize::MAX, 0);
    for (item, on_item) in votes.items().iter().enumerate() {
        let n = on_item.len();
        if n < 2 {
            continue;
        }
        items += 1;
        sizes = (sizes.0.min(n), sizes.1.max(n));
        let counts = votes.counts(item);
        let agreeing: usize = counts.iter().map(|count| count * count.saturating_sub(1)).sum();
        observed += agreeing as f64 / (n * (n - 1)) as f64;
        for (share, count) in shares.iter_mut().zip(counts) {
            *share += count as f64 / n as f64;
        }
    }
    if items == 0 {
        return None;
    }
    let observed = observed / items as f64;
    let expected: f64 = shares.iter().map(|share| (share / items as f64).powi(2)).sum();
    let one_class = shares.iter().filter(|share| **share > 0.0).count() < 2;
    let kappa = (!one_class).then(|| (observed - expected) / (1.0 - expected));
    Some(Kappa { kappa, observed, expected, items, equal_raters: sizes.0 == sizes.1 })
}

/// How different two classes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Equal or not.
    Nominal,
    /// By how many votes lie between them.
    Ordinal,
    /// By the square of the distance of their numbers.
    Interval,
}

/// Krippendorff's alpha and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alpha {
    /// `None` where all votes that count are of one class.
    pub alpha: Option<f64>,
    /// Votes on items that have at least two.
    pub values: usize,
}

/// Krippendorff's alpha; items with fewer than two votes do not count. `None` where no item has two.
///
/// Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", University of Pennsylvania, 2011. Any number of votes an item.
pub fn krippendorff_alpha(votes: &Votes, difference: Difference) -> Option<Alpha> {
    let classes = votes.classes();
    let mut coincidences = vec![vec![0.0; classes]; classes];
    let mut values = 0;
    for (item, on_item) in votes.items().iter().enumerate() {
        let n = on_item.len();
        if n < 2 {
            continue;
        }
        values += n;
        let counts = votes.counts(item);
        for (c, row) in coincidences.iter_mut().enumerate() {
            for (k, coincidence) in row.iter_mut().enumerate() {
                let pairs = counts[c] * if c == k { counts[k].saturating_sub(1) } else { counts[k] };
                *coincidence += pairs as f64 / (n - 1) as f64;
            }
        }
    }
    if values == 0 {
        return None;
    }
    let totals: Vec<f64> = coincidences.iter().map(|row| row.iter().sum()).collect();
    let squared = |c: usize, k: usize| match difference {
        Difference::Nominal => f64::from(u8::from(c != k)),
        Difference::Ordinal => {
            let (low, high) = (c.min(k), c.max(k));
            (totals[low..=high].iter().sum::<f64>() - (totals[c] + totals[k]) / 2.0).powi(2)
        }
        Difference::Interval => (c as f64 - k as f64).powi(2),
    };
    let (mut observed, mut expected) = (0.0, 0.0);
    for c in 0..classes {
        for k in (0..classes).filter(|k| *k != c) {
            let squared = squared(c, k);
            observed += coincidences[c][k] * squared;
            expected += totals[c] * totals[k] * squared;
        }
    }
    let alpha = (expected > 0.0).then(|| 1.0 - (values - 1) as f64 * observed / expected);
    Some(Alpha { alpha, values })
}
