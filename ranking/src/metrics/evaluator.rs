//! Values of one list.

use std::{mem, num::NonZeroUsize};

use super::{
    Convention, Empty, Gain, MapDenominator, Metric, Precision, PrecisionDenominator, Score, Ties, discount, gain,
    order::{Scratch, descending},
    tied,
};

/// Evaluates lists, keeping its scratch space between them.
///
/// Labels must be within [`Convention::labels`] and scores not NaN: whoever reads them knows file and row, and refuses them there.
#[derive(Debug)]
pub struct Evaluator {
    metrics: Vec<Metric>,
    convention: Convention,
    /// Which sums are needed, and over how many ranks at most.
    gain_ranks: usize,
    relevance: bool,
    graded: bool,
    gains: [f64; WHOLE],
    discounts: Vec<f64>,
    keys: Scratch,
    rounded: Vec<f32>,
    /// Labels by rank.
    ranked: Vec<f32>,
    /// Where groups of equal score end, where ties are averaged and there are any.
    groups: Vec<usize>,
    best: Vec<f32>,
    /// dcg over the first so many ranks, of this order and of the ideal one; how many of them are relevant; the sum of their precisions.
    dcg: Vec<f64>,
    ideal: Vec<f64>,
    found: Vec<f64>,
    precisions: Vec<f64>,
    relevant: usize,
    /// The group of the first relevant document: how many documents are above it, in it, and relevant in it.
    first: Option<(usize, usize, usize)>,
    satisfy: Vec<f64>,
    means: Vec<f64>,
}

/// So many whole labels, from 0, have their gains in a table.
const WHOLE: usize = 32;

impl Evaluator {
    pub fn new(metrics: &[Metric], convention: Convention) -> Self {
        let gains = std::array::from_fn(|label| match convention.gain {
            Gain::Exponential => gain(label as f32),
            Gain::Linear => label as f64,
        });
        let ranks = |metric: &Metric| convention.cut(*metric).map_or(usize::MAX, NonZeroUsize::get);
        Self {
            gain_ranks: metrics.iter().filter(|metric| metric.is_of_gains()).map(ranks).max().unwrap_or(0),
            relevance: metrics.iter().any(|metric| metric.is_of_relevance()),
            graded: metrics.iter().any(|metric| matches!(metric, Metric::Err(_))),
            metrics: metrics.to_vec(),
            convention,
            gains,
            discounts: Vec::new(),
            keys: Scratch::default(),
            rounded: Vec::new(),
            ranked: Vec::new(),
            groups: Vec::new(),
            best: Vec::new(),
            dcg: Vec::new(),
            ideal: Vec::new(),
            found: Vec::new(),
            precisions: Vec::new(),
            relevant: 0,
            first: None,
            satisfy: Vec::new(),
            means: Vec::new(),
        }
    }

    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    pub fn convention(&self) -> &Convention {
        &self.convention
    }

    /// One value a metric, for one list; NaN where the convention skips it. `labels` and `scores` are of one length, `values` has
    /// room for all metrics.
    pub fn list<S: Score>(&mut self, labels: &[f32], scores: &[S], values: &mut [f64]) {
        self.list_and_unretrieved(labels, scores, &[], values);
    }

    /// As [`list`](Self::list), where documents with these further labels were judged for the query but are not in the list: they
    /// count wherever all relevant documents do.
    pub fn list_and_unretrieved<S: Score>(
        &mut self,
        labels: &[f32],
        scores: &[S],
        unretrieved: &[f32],
        values: &mut [f64],
    ) {
        assert_eq!(labels.len(), scores.len(), "a label for each score");
        if self.convention.precision == Precision::Single {
            let mut rounded = mem::take(&mut self.rounded);
            rounded.clear();
            rounded.extend(scores.iter().map(|score| score.single()));
            self.rank(labels, &rounded);
            self.rounded = rounded;
        } else {
            self.rank(labels, scores);
        }
        if self.gain_ranks > 0 {
            self.sum_gains(unretrieved);
        }
        if self.relevance {
            self.count_relevant(unretrieved);
        }
        if self.graded {
            let all = 2f64.powi(self.convention.largest_grade.into());
            self.satisfy.clear();
            self.satisfy.extend(self.ranked.iter().map(|label| gain(label.max(0.0)) / all));
        }
        for (at, metric) in self.metrics.iter().enumerate() {
            let cut = self.convention.cut(*metric).map(NonZeroUsize::get);
            values[at] = match metric {
                Metric::Ndcg(_) => self.ndcg(cut),
                Metric::Dcg(_) => self.or_skipped(self.ideal.last() == Some(&0.0), up_to(&self.dcg, cut)),
                Metric::Map(_) => self.average_precision(cut),
                Metric::Mrr(_) => self.reciprocal_rank(cut),
                Metric::Precision(_) => self.precision(cut),
                Metric::Recall(_) => self.recall(cut),
                Metric::Err(_) => {
                    let none = |labels: &[f32]| labels.iter().all(|label| *label <= 0.0);
                    let empty = none(&self.ranked) && none(unretrieved);
                    let value = expected_reciprocal_rank(&self.satisfy, &self.groups, cut, &mut self.means);
                    self.or_skipped(empty, value)
                }
            };
        }
    }

    /// Puts the labels in the order of the scores, and finds groups of equal scores where these are averaged.
    fn rank<S: Score>(&mut self, labels: &[f32], scores: &[S]) {
        let keys = S::scratch(&mut self.keys);
        keys.clear();
        keys.extend(scores.iter().enumerate().map(|(row, score)| score.key(row)));
        keys.sort_unstable();
        self.ranked.clear();
        self.ranked.extend(keys.iter().map(|key| labels[S::row(*key)]));
        self.groups.clear();
        if self.convention.ties == Ties::Averaged && keys.windows(2).any(|pair| S::tied(pair[0], pair[1])) {
            let ends = keys.windows(2).enumerate().filter(|(_, pair)| !S::tied(pair[0], pair[1]));
            self.groups.extend(ends.map(|(at, _)| at + 1));
            self.groups.push(keys.len());
        }
    }

    fn sum_gains(&mut self, unretrieved: &[f32]) {
        let longest = self.ranked.len() + unretrieved.len();
        self.discounts.extend((self.discounts.len()..longest.min(self.gain_ranks)).map(discount));
        let ranks = self.gain_ranks;
        let gains = Gains { table: &self.gains, gain: self.convention.gain };

        let sums = running(&mut self.dcg);
        let mut sum = 0.0;
        if self.groups.is_empty() {
            sums.extend(self.ranked.iter().take(ranks).zip(&self.discounts).map(|(label, discount)| {
                sum += gains.of(*label) * discount;
                sum
            }));
        } else {
            for group in groups(&self.groups).take_while(|group| group.start < ranks) {
                let mean =
                    self.ranked[group.clone()].iter().map(|label| gains.of(*label)).sum::<f64>() / group.len() as f64;
                sums.extend(self.discounts[group.start..group.end.min(ranks)].iter().map(|discount| {
                    sum += mean * discount;
                    sum
                }));
            }
        }

        self.best.clear();
        best_first(self.ranked.iter().chain(unretrieved).copied(), &mut self.best);
        let sums = running(&mut self.ideal);
        let mut sum = 0.0;
        sums.extend(self.best.iter().take(ranks).zip(&self.discounts).map(|(label, discount)| {
            sum += gains.of(*label) * discount;
            sum
        }));
    }

    fn count_relevant(&mut self, unretrieved: &[f32]) {
        let at_least = self.convention.relevant_at;
        let found = running(&mut self.found);
        let precisions = running(&mut self.precisions);
        let (mut above, mut sum) = (0usize, 0.0);
        self.first = None;
        if self.groups.is_empty() {
            for (rank, label) in self.ranked.iter().enumerate() {
                if *label >= at_least {
                    above += 1;
                    sum += above as f64 / (rank + 1) as f64;
                    self.first.get_or_insert((rank, 1, 1));
                }
                found.push(above as f64);
                precisions.push(sum);
            }
        } else {
            for group in groups(&self.groups) {
                let (before, size) = (group.start, group.len());
                let relevant = self.ranked[group].iter().filter(|label| **label >= at_least).count();
                if relevant > 0 {
                    self.first.get_or_insert((before, size, relevant));
                }
                for at in 0..size {
                    sum += tied::precision_of_relevant(before, at, above, size, relevant);
                    precisions.push(sum);
                    found.push(above as f64 + relevant as f64 * (at + 1) as f64 / size as f64);
                }
                above += relevant;
            }
        }
        self.relevant = above + unretrieved.iter().filter(|label| **label >= at_least).count();
    }

    /// What an empty list counts where the metric has no answer for it.
    fn empty(&self) -> f64 {
        match self.convention.empty {
            Empty::Zero => 0.0,
            Empty::One => 1.0,
            Empty::Skip => f64::NAN,
        }
    }

    /// A value that empty lists have too, unless they are skipped.
    fn or_skipped(&self, empty: bool, value: f64) -> f64 {
        if empty && self.convention.empty == Empty::Skip { f64::NAN } else { value }
    }

    fn ndcg(&self, cut: Option<usize>) -> f64 {
        let ideal = up_to(&self.ideal, cut);
        if ideal > 0.0 { up_to(&self.dcg, cut) / ideal } else { self.empty() }
    }

    fn average_precision(&self, cut: Option<usize>) -> f64 {
        let denominator = match self.convention.map_denominator {
            MapDenominator::Relevant => self.relevant,
            MapDenominator::RelevantWithinCut => self.relevant.min(cut.unwrap_or(usize::MAX)),
        };
        if denominator == 0 { self.empty() } else { up_to(&self.precisions, cut) / denominator as f64 }
    }

    fn reciprocal_rank(&self, cut: Option<usize>) -> f64 {
        match self.first {
            Some((before, size, relevant)) => tied::reciprocal_rank(before, size, relevant, cut.unwrap_or(usize::MAX)),
            None if self.relevant > 0 => 0.0,
            None => self.empty(),
        }
    }

    fn precision(&self, cut: Option<usize>) -> f64 {
        let length = self.ranked.len();
        let ranks = match self.convention.precision_denominator {
            PrecisionDenominator::Cut => cut.unwrap_or(length),
            PrecisionDenominator::CutOrLength => cut.map_or(length, |cut| cut.min(length)),
        };
        let value = if ranks == 0 { 0.0 } else { up_to(&self.found, cut) / ranks as f64 };
        self.or_skipped(self.relevant == 0, value)
    }

    fn recall(&self, cut: Option<usize>) -> f64 {
        if self.relevant == 0 { self.empty() } else { up_to(&self.found, cut) / self.relevant as f64 }
    }
}

/// What labels are worth. Below 0 is worth nothing, where it is not refused.
struct Gains<'a> {
    /// Of whole labels.
    table: &'a [f64; WHOLE],
    gain: Gain,
}

impl Gains<'_> {
    #[inline]
    fn of(&self, label: f32) -> f64 {
        // Below 0 the cast saturates to 0.
        let whole = label as usize;
        if whole < WHOLE && whole as f32 == label {
            return self.table[whole];
        }
        let label = label.max(0.0);
        match self.gain {
            Gain::Exponential => gain(label),
            Gain::Linear => f64::from(label),
        }
    }
}

/// Running sums, emptied but for the 0 of no ranks.
fn running(sums: &mut Vec<f64>) -> &mut Vec<f64> {
    sums.clear();
    sums.push(0.0);
    sums
}

/// The sum over the first so many ranks, or all there are.
#[inline]
fn up_to(sums: &[f64], cut: Option<usize>) -> f64 {
    let all = sums.len() - 1;
    sums[cut.map_or(all, |cut| cut.min(all))]
}

fn groups(ends: &[usize]) -> impl Iterator<Item = std::ops::Range<usize>> {
    ends.iter().scan(0, |start, end| Some(mem::replace(start, *end)..*end))
}

/// Labels by descending size. Small whole ones, as they mostly are, are counted instead of sorted.
fn best_first(labels: impl Iterator<Item = f32> + Clone, best: &mut Vec<f32>) {
    let mut counts = [0u32; WHOLE];
    let all_small = labels.clone().all(|label| {
        let whole = label as usize;
        let small = whole < WHOLE && whole as f32 == label;
        if small {
            counts[whole] += 1;
        }
        small
    });
    if all_small {
        for (label, count) in counts.iter().enumerate().rev() {
            best.extend(std::iter::repeat_n(label as f32, *count as usize));
        }
    } else {
        best.extend(labels);
        best.sort_unstable_by_key(|label| descending(*label));
    }
}

fn expected_reciprocal_rank(satisfy: &[f64], ends: &[usize], cut: Option<usize>, means: &mut Vec<f64>) -> f64 {
    let ranks = cut.unwrap_or(usize::MAX);
    let (mut unsatisfied, mut expected) = (1.0, 0.0);
    if ends.is_empty() {
        for (rank, satisfied) in satisfy.iter().take(ranks).enumerate() {
            expected += unsatisfied * satisfied / (rank + 1) as f64;
            unsatisfied *= 1.0 - satisfied;
        }
        return expected;
    }
    for group in groups(ends).take_while(|group| group.start < ranks) {
        let (of_group, none) = tied::cascade(group.start, &satisfy[group], ranks, means);
        expected += unsatisfied * of_group;
        unsatisfied *= none;
    }
    expected
}
