//! Sums by group of users, from which the uncertainty of ratios follows.
//!
//! What one user does depends on what the same user did before, so a sample of searches holds fewer independent pieces than searches. Users
//! are dealt to groups by a hash of their id; groups are independent of each other whatever happens inside a user. With fewer users
//! than groups nearly every group is one user; with more, a group's sum stands for its users and the variance between groups is
//! still that between users, in memory that does not grow (Chamandy et al., "Estimating uncertainty for massive data streams",
//! 2012).

use crate::chance::{mix, poisson};

/// Groups of a sample. The standard error that they give is off by about 1 / √(2 · 4096), one part in ninety.
pub const GROUPS: usize = 4096;

/// `W` sums for each group.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters<const W: usize> {
    groups: Vec<[f64; W]>,
}

impl<const W: usize> Default for Clusters<W> {
    fn default() -> Self {
        Self { groups: vec![[0.0; W]; GROUPS] }
    }
}

impl<const W: usize> Clusters<W> {
    /// Takes in what a unit did. `unit` is any hash of its id.
    #[inline]
    pub fn add(&mut self, unit: u64, values: &[f64; W]) {
        let sums = &mut self.groups[group(unit)];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }

    pub fn totals(&self) -> [f64; W] {
        let mut totals = [0.0; W];
        for sums in &self.groups {
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        totals
    }

    /// Groups in which anything was counted.
    pub fn occupied(&self) -> usize {
        self.groups.iter().filter(|sums| sums.iter().any(|sum| *sum != 0.0)).count()
    }

    /// The standard error of a function of the totals that does not change when all are scaled alike (a ratio, a difference of
    /// ratios), from its gradient at the totals: the delta method over groups.
    pub fn standard_error(&self, gradient: &[f64; W]) -> f64 {
        let occupied = self.occupied();
        if occupied < 2 {
            return f64::INFINITY;
        }
        // Over all groups these sum to 0, for such a function.
        let influence = |sums: &[f64; W]| sums.iter().zip(gradient).map(|(sum, slope)| sum * slope).sum::<f64>();
        let squares: f64 = self.groups.iter().map(|sums| influence(sums).powi(2)).sum();
        (squares * occupied as f64 / (occupied - 1) as f64).sqrt()
    }

    /// The totals of one resample: each group counts as often as a Poisson variable of mean 1 says, which is what drawing groups with
    /// replacement tends to (Hanley & MacGibbon 2006). A function of `key`, the same on every machine.
    pub fn resampled(&self, key: u64) -> [f64; W] {
        let mut totals = [0.0; W];
        let occupied = self.groups.iter().enumerate().filter(|(_, sums)| sums.iter().any(|sum| *sum != 0.0));
        for (at, sums) in occupied {
            let times = f64::from(poisson(mix(key ^ mix(at as u64))));
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += times * sum);
        }
        totals
    }
}

fn group(unit: u64) -> usize {
    (mix(unit) % GROUPS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_of_a_mean_is_the_textbooks_and_the_bootstrap_agrees() {
        let mut clusters = Clusters::<2>::default();
        // Users are in groups of their own here: as many as there are, each found by search.
        let mut taken = [false; GROUPS];
        let units: Vec<u64> =
            (0u64..).filter(|unit| !std::mem::replace(&mut taken[group(*unit)], true)).take(500).collect();
        let values: Vec<f64> = units.iter().map(|unit| (mix(*unit) % 7) as f64).collect();
        units.iter().zip(&values).for_each(|(unit, value)| clusters.add(*unit, &[*value, 1.0]));
        let mean = values.iter().sum::<f64>() / 500.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 499.0;
        let expected = (variance / 500.0).sqrt();
        let found = clusters.standard_error(&[1.0 / 500.0, -mean / 500.0]);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        let means: Vec<f64> = (0..2000).map(|key| clusters.resampled(key)).map(|[sum, count]| sum / count).collect();
        let centre = means.iter().sum::<f64>() / 2000.0;
        let spread = (means.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / 1999.0).sqrt();
        assert!((spread / expected - 1.0).abs() < 0.06, "{spread} {expected}");
    }

    #[test]
    fn a_single_group_has_no_error_to_tell() {
        let mut one = Clusters::<1>::default();
        one.add(1, &[2.0]);
        assert_eq!(one.standard_error(&[1.0]), f64::INFINITY);
        one.add(2, &[3.0]);
        assert_eq!((one.totals(), one.occupied()), ([5.0], 2));
    }
}
