//! Two rankings of the same queries, side by side.

use std::collections::HashMap;

use ranking::metrics::{Mean, Metric, Profile, Sum};
use serde::Serialize;

use super::{
    Bootstrap, EvaluateOptions, Interval, Rankings, Walked, bootstrap::Replicates, printable, randomisation, summary,
    walk,
};
use crate::PipelineError;

#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Intervals are those of the difference. Nothing is written by query.
    pub evaluate: EvaluateOptions,
    pub bootstrap: Bootstrap,
    /// Of the randomisation test.
    pub rounds: usize,
    /// Compare the queries that both have, where each has queries of its own.
    pub common: bool,
    /// How many queries to show that changed most, each way.
    pub top: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    pub a: String,
    pub b: String,
    /// Compared ones.
    pub queries: u64,
    pub only_in_a: u64,
    pub only_in_b: u64,
    pub profile: Profile,
    pub profile_is_whole: bool,
    pub convention_words: String,
    pub bootstrap: Bootstrap,
    pub rounds: usize,
    pub metrics: Vec<Compared>,
    pub notes: Vec<String>,
}

/// A metric of both, over the queries that count for it in both.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub name: Metric,
    pub queries: u64,
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// b - a.
    pub difference: Option<f64>,
    pub interval: Option<Interval>,
    /// Two-sided.
    pub p: Option<f64>,
    /// Queries where b is better, as good and worse.
    pub wins: u64,
    pub ties: u64,
    pub losses: u64,
    pub most_gained: Vec<Change>,
    pub most_lost: Vec<Change>,
    pub convention: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub query: String,
    pub a: f64,
    pub b: f64,
}

impl Change {
    pub fn by(&self) -> f64 {
        self.b - self.a
    }
}

/// Differences below it are rounding.
const EQUAL: f64 = 1e-12;

pub fn compare(a: &Rankings, b: &Rankings, options: &CompareOptions) -> Result<CompareReport, PipelineError> {
    let (a, b) = (Side::read(a, &options.evaluate)?, Side::read(b, &options.evaluate)?);
    let in_b: HashMap<&str, usize> = b.queries.iter().enumerate().map(|(at, query)| (query.as_str(), at)).collect();
    let pairs: Vec<(usize, usize)> =
        a.queries.iter().enumerate().filter_map(|(at, query)| Some((at, *in_b.get(query.as_str())?))).collect();
    let only_in_a = (a.queries.len() - pairs.len()) as u64;
    let only_in_b = (b.queries.len() - pairs.len()) as u64;
    if pairs.is_empty() {
        return Err(PipelineError::data(format!(
            "{} and {} have no query in common: one has `{}`, the other `{}`",
            a.walked.input,
            b.walked.input,
            printable(&a.queries[0]),
            printable(&b.queries[0])
        ))
        .with_hint("are they of the same queries, and are these written the same way?"));
    }
    if !options.common && only_in_a + only_in_b > 0 {
        return Err(not_the_same(&a, &b, &pairs));
    }

    let metrics = &options.evaluate.metrics;
    let width = metrics.len();
    let mut replicates = Replicates::new(options.bootstrap, width);
    let mut differences = vec![Vec::with_capacity(pairs.len()); width];
    let mut of_query = vec![0.0; width];
    for (in_a, in_b) in &pairs {
        let (values_a, values_b) = (a.values(*in_a, width), b.values(*in_b, width));
        for (at, difference) in of_query.iter_mut().enumerate() {
            let by = values_b[at] - values_a[at];
            *difference = if by.abs() < EQUAL { 0.0 } else { by };
            differences[at].push(*difference);
        }
        replicates.add(&a.queries[*in_a], &of_query);
    }
    let intervals = replicates.intervals();
    let compared = metrics.iter().enumerate().map(|(at, metric)| {
        let value = |side: &Side, query: usize| side.values(query, width)[at];
        compared(*metric, &differences[at], intervals[at], options, |pair| {
            let (in_a, in_b) = pairs[pair];
            Change { query: a.queries[in_a].clone(), a: value(&a, in_a), b: value(&b, in_b) }
        })
    });
    let metrics: Vec<Compared> = compared.collect();

    let mut notes = Vec::new();
    notes.extend(a.walked.notes.iter().map(|note| format!("A: {note}")));
    notes.extend(b.walked.notes.iter().map(|note| format!("B: {note}")));
    if only_in_a + only_in_b > 0 {
        notes.push(format!(
            "the {} queries that both have are compared; {only_in_a} are only in A, {only_in_b} only in B",
            pairs.len()
        ));
    }
    let others: Vec<&str> = pairs
        .iter()
        .filter(|(in_a, in_b)| a.labels[*in_a] != b.labels[*in_b])
        .map(|(in_a, _)| a.queries[*in_a].as_str())
        .collect();
    if let Some(first) = others.first() {
        notes.push(format!(
            "in {} queries (`{}` first) the labels of A and B differ: the difference is not the rankers' alone",
            others.len(),
            printable(first)
        ));
    }
    notes.extend(summary::not_of_the_profile(&options.evaluate));
    let EvaluateOptions { convention, profile, .. } = &options.evaluate;
    Ok(CompareReport {
        a: a.walked.input,
        b: b.walked.input,
        queries: pairs.len() as u64,
        only_in_a,
        only_in_b,
        profile: *profile,
        profile_is_whole: profile.convention() == *convention,
        convention_words: convention.sentence(&options.evaluate.metrics),
        bootstrap: options.bootstrap,
        rounds: options.rounds,
        metrics,
        notes,
    })
}

fn compared(
    metric: Metric,
    differences: &[f64],
    interval: Option<Interval>,
    options: &CompareOptions,
    change: impl Fn(usize) -> Change,
) -> Compared {
    let counted: Vec<usize> = (0..differences.len()).filter(|pair| !differences[*pair].is_nan()).collect();
    let (mut a, mut b, mut by) = (Mean::default(), Mean::default(), Sum::default());
    let (mut wins, mut losses) = (0, 0);
    for pair in &counted {
        let of = change(*pair);
        a.add(of.a);
        b.add(of.b);
        by.add(differences[*pair]);
        wins += u64::from(differences[*pair] > 0.0);
        losses += u64::from(differences[*pair] < 0.0);
    }
    let queries = counted.len() as u64;
    // Stable, so that equal changes stay in the order of the files.
    let (mut gained, mut lost) = (counted.clone(), counted);
    gained.retain(|pair| differences[*pair] > 0.0);
    gained.sort_by(|x, y| differences[*y].total_cmp(&differences[*x]));
    lost.retain(|pair| differences[*pair] < 0.0);
    lost.sort_by(|x, y| differences[*x].total_cmp(&differences[*y]));
    let some = |value: f64| (queries > 0).then_some(value);
    Compared {
        name: metric,
        queries,
        a: some(a.value()),
        b: some(b.value()),
        difference: some(by.mean(queries)),
        interval,
        p: randomisation::p_value(differences, options.rounds, options.bootstrap.seed),
        wins,
        ties: queries - wins - losses,
        losses,
        most_gained: gained.iter().take(options.top).map(|pair| change(*pair)).collect(),
        most_lost: lost.iter().take(options.top).map(|pair| change(*pair)).collect(),
        convention: options.evaluate.convention.words(metric),
    }
}

/// The values of every query of one ranking.
struct Side {
    walked: Walked,
    queries: Vec<String>,
    values: Vec<f64>,
    /// What labels a query's rows have, whatever their order, as far as hashes tell; 0 where judgments lie elsewhere.
    labels: Vec<u64>,
}

impl Side {
    fn read(rankings: &Rankings, options: &EvaluateOptions) -> Result<Self, PipelineError> {
        let (mut queries, mut values, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let shared = matches!(rankings, Rankings::Trec { .. });
        let walked = walk(rankings, options, &mut |judged| {
            queries.push(judged.query.to_string());
            values.extend_from_slice(judged.values);
            let hash = |label: &f32| ranking::chance::finalise(u64::from(label.to_bits()) + 1);
            let sum = judged.labels.iter().map(hash).fold(0u64, u64::wrapping_add);
            labels.push(if shared { 0 } else { sum });
            Ok(())
        })?;
        Ok(Self { walked, queries, values, labels })
    }

    fn values(&self, query: usize, width: usize) -> &[f64] {
        &self.values[query * width..(query + 1) * width]
    }
}

fn not_the_same(a: &Side, b: &Side, pairs: &[(usize, usize)]) -> PipelineError {
    let mut both = (vec![false; a.queries.len()], vec![false; b.queries.len()]);
    for (in_a, in_b) in pairs {
        (both.0[*in_a], both.1[*in_b]) = (true, true);
    }
    let only = |side: &Side, both: &[bool]| {
        let own: Vec<&str> =
            side.queries.iter().zip(both).filter(|(_, both)| !**both).map(|(query, _)| query.as_str()).collect();
        match own.first() {
            Some(first) => format!("{} only in {} (`{}` first)", own.len(), side.walked.input, printable(first)),
            None => format!("none only in {}", side.walked.input),
        }
    };
    let message =
        format!("the queries are not the same: {} in both, {}, {}", pairs.len(), only(a, &both.0), only(b, &both.1));
    PipelineError::data(message).with_hint("--common compares those that both have, and says so")
}
