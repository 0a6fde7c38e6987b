//! The position-based model given how many clicks there were: relevance drops out, propensities stay.
//!
//! A stratum is something of one relevance γ that was shown n_k times at position k and clicked c_k times. Given its clicks Σ c, each
//! fell to position k with probability n_k θ_k / Σ_j n_j θ_j, where γ no longer appears, so
//!
//! > maximise Σ over strata of Σ_k c_k log(n_k θ_k / Σ_j n_j θ_j),  θ_1 = 1
//!
//! which is concave in log θ, and what is left of the Poisson likelihood when each stratum's γ takes its best value, Σ c / Σ n θ.
//! Its derivative is c_k - Σ c · n_k θ_k / Σ n θ: at the true θ this has mean 0 in every stratum alone, for clicks that are yes or no as
//! well, and however few impressions a stratum has (Wooldridge, "Distribution-free estimation of some nonlinear panel data models",
//! J. Econometrics 1999). The likelihood of yes-or-no clicks with a γ each does not have that property: with two impressions a
//! stratum its maximum stays away from the truth however many strata there are (Neyman & Scott 1948).
//!
//! Intervals come from a bootstrap over queries, whose clicks may depend on each other in any way. Queries are dealt to groups by hash;
//! a replicate weighs each group by a Poisson(1) count and takes one Newton step from the estimate, which is as good as maximising
//! anew (Andrews, Econometrica 2002) and keeps nothing but a derivative and a Hessian a group. The standard deviation of log θ over the replicates
//! times a quantile of Student's t, for few groups, is half the interval.

use std::ops::Range;

use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::{Insufficient, LEVEL, MIN_QUERIES, finalise};
use crate::chance::poisson;

/// Groups of queries that the bootstrap draws from.
pub(super) const GROUPS: usize = 1024;

/// The group of a query.
pub(super) fn group(query: u64) -> usize {
    (finalise(query) >> 32) as usize % GROUPS
}

/// Strata, one after the other.
#[derive(Debug)]
pub(super) struct Strata {
    positions: usize,
    /// Where each stratum's places end, and its group.
    ends: Vec<(usize, usize)>,
    places: Vec<Place>,
}

/// What a stratum has at one position, an index from 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub position: usize,
    /// May be a fraction, as may clicks; only ratios within a stratum matter.
    pub exposure: f64,
    pub clicks: f64,
}

/// Logarithms of θ, and half their intervals; both 0 at position 1.
#[derive(Debug)]
pub(super) struct Fit {
    pub log_theta: Vec<f64>,
    pub half_width: Vec<f64>,
}

/// A symmetric matrix and a vector of the parameters log θ_2, log θ_3, …, as one row: derivative, then Hessian (negated).
#[derive(Clone, Debug)]
struct Slopes {
    parameters: usize,
    values: Vec<f64>,
}

impl Strata {
    pub fn new(positions: usize) -> Self {
        Self { positions, ends: Vec::new(), places: Vec::new() }
    }

    /// Exposures must be above 0; a stratum without clicks, or at one position, says nothing and is let go.
    pub fn push(&mut self, group: usize, places: impl IntoIterator<Item = Place>) {
        let start = self.places.len();
        self.places.extend(places);
        let places = &self.places[start..];
        if places.len() > 1 && places.iter().any(|place| place.clicks > 0.0) {
            self.ends.push((self.places.len(), group));
        } else {
            self.places.truncate(start);
        }
    }

    fn strata(&self) -> impl Iterator<Item = (&[Place], usize)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, &(end, group))| (&self.places[Range { start, end }], group))
    }

    /// The maximum, with intervals from so many replicates.
    pub fn fit(&self, replicates: usize, seed: u64) -> Result<Fit, Insufficient> {
        self.check_connected()?;
        let log_theta = self.maximise();
        let groups = self.slopes_by_group(&log_theta);
        if groups.len() < MIN_QUERIES {
            return Err(Insufficient::FewQueries { queries: groups.len() });
        }
        let half_width = self.half_widths(&groups, replicates, seed)?;
        Ok(Fit { log_theta, half_width })
    }

    /// A finite maximum exists, and only one, where every position can be reached from position 1 and back, going from a
    /// position with clicks to the others of its stratum (Ford 1957).
    fn check_connected(&self) -> Result<(), Insufficient> {
        let n = self.positions;
        let mut leads = vec![false; n * n];
        for (places, _) in self.strata() {
            for from in places.iter().filter(|place| place.clicks > 0.0) {
                places.iter().for_each(|to| leads[from.position * n + to.position] = true);
            }
        }
        let reached = |step: &dyn Fn(usize, usize) -> bool| {
            let (mut seen, mut open) = (vec![false; n], vec![0]);
            seen[0] = true;
            while let Some(from) = open.pop() {
                for (to, seen) in seen.iter_mut().enumerate() {
                    if !*seen && step(from, to) {
                        *seen = true;
                        open.push(to);
                    }
                }
            }
            seen
        };
        let (there, back) = (reached(&|from, to| leads[from * n + to]), reached(&|from, to| leads[to * n + from]));
        match (0..n).find(|position| !there[*position] || !back[*position]) {
            Some(position) => Err(Insufficient::Unconnected { position: position as u32 + 1 }),
            None => Ok(()),
        }
    }

    /// Newton's method; a step that does not climb is halved, so that a concave function's only maximum is found from anywhere.
    fn maximise(&self) -> Vec<f64> {
        let mut log_theta = vec![0.0; self.positions];
        let mut height = self.height(&log_theta);
        for _ in 0..200 {
            let mut slopes = Slopes::new(self.positions);
            self.strata().for_each(|(places, _)| slopes.add(places, &log_theta));
            let Some(mut step) = slopes.newton_step() else { break };
            // Far from the maximum the quadratic is a poor guide.
            let longest = step.iter().fold(0.0f64, |longest, part| longest.max(part.abs()));
            if longest > 2.0 {
                step.iter_mut().for_each(|part| *part *= 2.0 / longest);
            }
            if longest < 1e-10 {
                break;
            }
            let mut share = 1.0;
            let next = loop {
                let next: Vec<f64> = log_theta.iter().zip(&step).map(|(at, part)| at + share * part).collect();
                let reached = self.height(&next);
                if reached > height {
                    height = reached;
                    break Some(next);
                }
                share /= 2.0;
                if share < 1e-6 {
                    break None;
                }
            };
            match next {
                Some(next) => log_theta = next,
                // Not to be told from the maximum in f64.
                None => break,
            }
        }
        log_theta
    }

    fn height(&self, log_theta: &[f64]) -> f64 {
        let of = |places: &[Place]| {
            let sum: f64 = places.iter().map(|place| place.exposure * log_theta[place.position].exp()).sum();
            places.iter().map(|place| place.clicks * (log_theta[place.position] - sum.ln())).sum::<f64>()
        };
        self.strata().map(|(places, _)| of(places)).sum()
    }

    /// Of the groups that hold a stratum.
    fn slopes_by_group(&self, log_theta: &[f64]) -> Vec<Slopes> {
        let mut groups: Vec<Option<Slopes>> = vec![None; GROUPS];
        for (places, group) in self.strata() {
            groups[group].get_or_insert_with(|| Slopes::new(self.positions)).add(places, log_theta);
        }
        groups.into_iter().flatten().collect()
    }

    fn half_widths(&self, groups: &[Slopes], replicates: usize, seed: u64) -> Result<Vec<f64>, Insufficient> {
        let mut squares = vec![0.0; self.positions];
        let (mut sums, mut drawn) = (squares.clone(), 0usize);
        for replicate in 0..replicates {
            let key = finalise(seed ^ finalise(replicate as u64 + 1));
            let mut slopes = Slopes::new(self.positions);
            for (index, group) in groups.iter().enumerate() {
                let count = f64::from(poisson(finalise(key.wrapping_add(index as u64))));
                slopes.values.iter_mut().zip(&group.values).for_each(|(sum, value)| *sum += count * value);
            }
            if let Some(step) = slopes.newton_step() {
                drawn += 1;
                for ((sum, square), part) in sums.iter_mut().zip(&mut squares).zip(step) {
                    *sum += part;
                    *square += part * part;
                }
            }
        }
        // A replicate without a maximum has lost what ties a position to the others; that must be rare.
        if drawn < 2 || drawn * 100 < replicates * 95 {
            return Err(Insufficient::FewQueries { queries: groups.len() });
        }
        let freedom = (groups.len() - 1) as f64;
        let deviations = StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |t| t.inverse_cdf((1.0 + LEVEL) / 2.0));
        let drawn = drawn as f64;
        let deviation = |(sum, square): (f64, f64)| ((square - sum * sum / drawn) / (drawn - 1.0)).max(0.0).sqrt();
        Ok(sums.into_iter().zip(squares).map(|both| deviations * deviation(both)).collect())
    }
}

impl Slopes {
    fn new(positions: usize) -> Self {
        let parameters = positions - 1;
        Self { parameters, values: vec![0.0; parameters * (parameters + 1)] }
    }

    fn add(&mut self, places: &[Place], log_theta: &[f64]) {
        let m = self.parameters;
        let look = |place: &Place| place.exposure * log_theta[place.position].exp();
        let (mut looks, mut clicks) = (0.0, 0.0);
        for place in places {
            looks += look(place);
            clicks += place.clicks;
        }
        let (derivative, hessian) = self.values.split_at_mut(m);
        for a in places.iter().filter(|place| place.position > 0) {
            let share = look(a) / looks;
            derivative[a.position - 1] += a.clicks - clicks * share;
            let row = &mut hessian[(a.position - 1) * m..][..m];
            row[a.position - 1] += clicks * share;
            for b in places.iter().filter(|place| place.position > 0) {
                row[b.position - 1] -= clicks * share * look(b) / looks;
            }
        }
    }

    /// Of log θ from position 1, where it is 0; none where the Hessian is singular.
    fn newton_step(&self) -> Option<Vec<f64>> {
        let (derivative, hessian) = self.values.split_at(self.parameters);
        let mut step = vec![0.0];
        step.extend(solve(hessian, derivative)?);
        Some(step)
    }
}

/// Solves A x = b for a symmetric positive definite A, in rows, by Cholesky's factors; none where A is not that.
fn solve(a: &[f64], b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i == j {
                if rest.is_nan() || rest <= 1e-12 * a[i * n + i].abs() {
                    return None;
                }
                l[i * n + i] = rest.sqrt();
            } else {
                l[i * n + j] = rest / l[j * n + j];
            }
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
        x[i] = (x[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
        x[i] = (x[i] - dot) / l[i * n + i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_of_equations_is_solved_and_a_singular_one_is_not() {
        let x = solve(&[4.0, 2.0, 2.0, 3.0], &[10.0, 9.0]).unwrap();
        assert!((x[0] - 1.5).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12, "{x:?}");
        assert_eq!(solve(&[1.0, 1.0, 1.0, 1.0], &[1.0, 1.0]), None);
    }

    #[test]
    fn counts_have_the_mean_and_variance_of_poisson_one() {
        let counts: Vec<f64> = (0..100_000).map(|index| f64::from(poisson(finalise(index)))).collect();
        let mean = counts.iter().sum::<f64>() / 1e5;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 1e5;
        // Five standard deviations: 0.016 of the mean, 0.027 of the variance.
        assert!((mean - 1.0).abs() < 0.016 && (variance - 1.0).abs() < 0.027, "{mean} {variance}");
    }
}
