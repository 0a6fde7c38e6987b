//! Propensities from documents that moved, position against position.

use super::{
    Estimate, Exposures, Insufficient,
    conditional::{GROUPS, Place, Strata, group},
    em::{Moved, estimate},
};
use crate::propensity::Method;

/// Intervention harvesting: where the same document was shown for the same query at positions k and k', by two rankers, a ranker that
/// changed, or exploration, it was as relevant here as there, so its click rates compare the positions (Agarwal et al., "Estimating
/// Position Bias without Intrusive Interventions", WSDM 2019; their AllPairs).
///
/// Every pair of positions gives two sums over the documents shown at both, of the rate at k and of the rate at k', each document
/// weighed by n n' / (n + n'), the Mantel-Haenszel weight: proportional to the inverse variance of the difference of rates that few clicks
/// have. (With the paper's equal weights a document shown once counts like one that was shown a thousand times.) The sums stand
/// as θ_k : θ_k'; all pairs of positions together are fitted by [`conditional`](super::conditional), whose objective for two
/// positions is AllPairs' with relevance at its best value, and Bradley-Terry's. Intervals: a bootstrap over queries, of so many
/// `replicates`, drawn by `seed`.
pub fn pairs(exposures: &Exposures, replicates: usize, seed: u64) -> Result<Estimate, Insufficient> {
    let n = exposures.positions();
    let moved = Moved::of(exposures)?;
    // For each group, position and other position: clicks at the first, weighed.
    let mut sums = vec![0.0; GROUPS * n * n];
    exposures.for_each_pair(|pair| {
        let sums = &mut sums[group(pair.query) * n * n..][..n * n];
        for (k, here) in pair.cells {
            for (other, there) in pair.cells.iter().filter(|(other, _)| other != k) {
                let (here_shown, there_shown) = (f64::from(here.impressions), f64::from(there.impressions));
                sums[k * n + other] += f64::from(here.clicks) * there_shown / (here_shown + there_shown);
            }
        }
    });
    let mut strata = Strata::new(n);
    for (group, sums) in sums.chunks_exact(n * n).enumerate() {
        for k in 0..n {
            for other in k + 1..n {
                let place = |position, clicks| Place { position, exposure: 1.0, clicks };
                strata.push(group, [place(k, sums[k * n + other]), place(other, sums[other * n + k])]);
            }
        }
    }
    estimate(Method::Pairs, &moved, &strata, replicates, seed)
}
