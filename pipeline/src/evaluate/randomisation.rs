//! Whether a mean difference could be chance: Fisher's randomisation test for pairs (Smucker, Allan & Carterette, CIKM 2007).
//!
//! If the two rankers were alike, each query's difference might as well have the other sign. The p-value is the share of random
//! sign patterns whose mean difference is at least as large as the one seen, in either direction; the pattern seen counts as one of
//! them, so that p is never 0 (Davison & Hinkley 1997).

use ranking::chance::finalise;

/// `differences` by query; NaN is left out. None where there is nothing to flip.
pub(super) fn p_value(differences: &[f64], rounds: usize, seed: u64) -> Option<f64> {
    let differences: Vec<f64> = differences.iter().copied().filter(|difference| !difference.is_nan()).collect();
    if differences.is_empty() {
        return None;
    }
    let seen = differences.iter().sum::<f64>().abs();
    // Sums of the same sizes in another order of signs differ by rounding: what differs by less is equal.
    let least = seen - 1e-9 * differences.iter().map(|difference| difference.abs()).sum::<f64>();
    let mut as_large = 0usize;
    for block in 0..rounds.div_ceil(64) {
        let mut sums = [0.0f64; 64];
        let key = finalise(seed ^ finalise(block as u64 + 1));
        for (query, difference) in differences.iter().enumerate() {
            let signs = finalise(key.wrapping_add((query as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let bits = difference.to_bits();
            for (round, sum) in sums.iter_mut().enumerate() {
                *sum += f64::from_bits(bits ^ (signs << (63 - round) & 1 << 63));
            }
        }
        as_large += sums[..(rounds - block * 64).min(64)].iter().filter(|sum| sum.abs() >= least).count();
    }
    Some((as_large + 1) as f64 / (rounds + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sign patterns of a few differences.
    fn exact(differences: &[f64]) -> f64 {
        let seen = differences.iter().sum::<f64>().abs();
        let patterns = 1u32 << differences.len();
        let sum = |pattern: u32| -> f64 {
            let signed =
                |(at, difference): (usize, &f64)| if pattern >> at & 1 == 1 { -difference } else { *difference };
            differences.iter().enumerate().map(signed).sum()
        };
        (0..patterns).filter(|pattern| sum(*pattern).abs() >= seen - 1e-12).count() as f64 / f64::from(patterns)
    }

    #[test]
    fn p_is_what_all_sign_patterns_give() {
        let cases: [&[f64]; 5] = [
            &[0.1, 0.2, 0.3, 0.05, 0.4, 0.1, 0.2, 0.3],
            &[0.1, -0.2, 0.3, -0.05, 0.4, 0.1, -0.2, 0.3],
            &[0.5, -0.5, 0.5, -0.5],
            &[0.1, 0.1, 0.1, 0.1, 0.1, -0.1],
            &[0.0, 0.0, 0.25],
        ];
        for differences in cases {
            let (expected, rounds) = (exact(differences), 40_000);
            let found = p_value(differences, rounds, 1).unwrap();
            let error = (expected * (1.0 - expected) / rounds as f64).sqrt();
            assert!((found - expected).abs() < 4.0 * error + 2.0 / rounds as f64, "{found} and not {expected}");
        }
        assert_eq!(p_value(&[f64::NAN], 100, 1), None);
        assert_eq!(p_value(&[0.0, 0.0], 100, 1), Some(1.0));
    }

    #[test]
    fn rounds_need_not_be_whole_blocks_and_p_is_never_0() {
        let differences: Vec<f64> = (0..60).map(|_| 1.0).collect();
        assert_eq!(p_value(&differences, 99, 5), Some(0.01));
    }
}
