//! The classes behind the votes of raters who err, each in a way of their own.

use super::{Outcome, Votes};

/// When expectation maximisation ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmOptions {
    pub max_iterations: usize,
    /// Ends once an iteration raises the log-likelihood by less than this share of it.
    pub tolerance: f64,
}

impl Default for EmOptions {
    fn default() -> Self {
        Self { max_iterations: 1000, tolerance: 1e-10 }
    }
}

/// The model of Dawid and Skene, fitted: an item has one true class, and a rater says `l` where `j` is true with a probability of
/// their own, independently of all else.
///
/// Source: Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 28
/// (1979). It starts, as theirs, from each item's shares of votes (their equation 3.1), and estimates by maximum likelihood
/// without smoothing: a class that nothing speaks for after the first step has probability 0 for good, and with few votes a rater
/// the probabilities of classes are surer than they should be. Votes may be missing, and a rater may have several on one item.
#[derive(Clone, Debug, PartialEq)]
pub struct DawidSkene {
    /// `posterior[i][j]`: how probable class `j` is for item `i`. All 0 for an item without votes.
    pub posterior: Vec<Vec<f64>>,
    /// How frequent each class is.
    pub priors: Vec<f64>,
    /// `confusion[r][j][l]`: how probably rater `r` says `l` where `j` is true; `None` where they have no vote on such an item.
    pub confusion: Vec<Vec<Option<Vec<f64>>>>,
    pub log_likelihood: f64,
    pub iterations: usize,
    /// Whether the tolerance was reached; else the iterations ran out.
    pub converged: bool,
}

impl DawidSkene {
    /// Deterministic: the same votes in the same order give the same estimates to the bit.
    pub fn fit(votes: &Votes, options: EmOptions) -> Self {
        let mut fit = Self {
            posterior: (0..votes.items().len()).map(|item| shares(&votes.counts(item))).collect(),
            priors: vec![0.0; votes.classes()],
            confusion: vec![vec![None; votes.classes()]; votes.raters()],
            log_likelihood: f64::NEG_INFINITY,
            iterations: 0,
            converged: votes.items().iter().all(Vec::is_empty),
        };
        while !fit.converged && fit.iterations < options.max_iterations {
            fit.maximise(votes);
            let log_likelihood = fit.expect(votes);
            fit.converged = (log_likelihood - fit.log_likelihood).abs() <= options.tolerance * log_likelihood.abs();
            fit.log_likelihood = log_likelihood;
            fit.iterations += 1;
        }
        fit
    }

    /// The most probable class of each item, if it is at least `min_probability` probable; `agreement` is that probability.
    pub fn outcomes(&self, min_probability: f64) -> Vec<Outcome> {
        let outcome = |posterior: &Vec<f64>| Outcome::of(posterior, posterior.iter().sum(), min_probability);
        self.posterior.iter().map(outcome).collect()
    }

    /// How probably a rater says what is true, for an item drawn by the priors; classes without evidence are left out.
    pub fn accuracy(&self, rater: usize) -> Option<f64> {
        let rows = self.confusion[rater].iter().zip(&self.priors).enumerate();
        let (mut right, mut weight) = (0.0, 0.0);
        for (class, (row, prior)) in rows {
            if let Some(row) = row {
                right += prior * row[class];
                weight += prior;
            }
        }
        (weight > 0.0).then(|| right / weight)
    }

    /// Priors and error rates from the classes as they are thought to be (the paper's equations 2.3 and 2.4).
    fn maximise(&mut self, votes: &Votes) {
        let classes = votes.classes();
        let mut priors = vec![0.0; classes];
        let mut said = vec![vec![vec![0.0; classes]; classes]; votes.raters()];
        for (on_item, posterior) in votes.items().iter().zip(&self.posterior) {
            for (class, probability) in posterior.iter().enumerate() {
                priors[class] += probability;
                for vote in on_item {
                    said[vote.rater][class][vote.class] += probability;
                }
            }
        }
        let all: f64 = priors.iter().sum();
        self.priors = priors.into_iter().map(|prior| prior / all).collect();
        let normalise = |row: Vec<f64>| {
            let all: f64 = row.iter().sum();
            (all > 0.0).then(|| row.into_iter().map(|weight| weight / all).collect())
        };
        self.confusion = said.into_iter().map(|rows| rows.into_iter().map(normalise).collect()).collect();
    }

    /// The classes' probabilities from priors and error rates (equation 2.5); the log-likelihood of all votes (2.7).
    fn expect(&mut self, votes: &Votes) -> f64 {
        let mut log_likelihood = 0.0;
        for (on_item, posterior) in votes.items().iter().zip(&mut self.posterior) {
            if on_item.is_empty() {
                continue;
            }
            // Logarithms, for the product of many votes is smaller than any float.
            for (class, log) in posterior.iter_mut().enumerate() {
                let said = |rater: usize, class: usize, says: usize| match &self.confusion[rater][class] {
                    Some(row) => row[says].ln(),
                    None => f64::NEG_INFINITY,
                };
                *log = self.priors[class].ln();
                *log += on_item.iter().map(|vote| said(vote.rater, class, vote.class)).sum::<f64>();
            }
            let largest = posterior.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = posterior.iter().map(|log| (log - largest).exp()).sum();
            log_likelihood += largest + sum.ln();
            posterior.iter_mut().for_each(|log| *log = (*log - largest).exp() / sum);
        }
        log_likelihood
    }
}

fn shares(counts: &[usize]) -> Vec<f64> {
    let all: usize = counts.iter().sum();
    counts.iter().map(|count| *count as f64 / all.max(1) as f64).collect()
}
