//! Counting lists and labels while rows stream by.

use std::collections::BTreeMap;

use arrow::array::Array;
use dataset::writer::{Runs, Seen};
use serde::{Deserialize, Serialize};

/// More different labels than this are counted together.
const MAX_LABELS: usize = 64;

/// How many rows have a label; `label` is none for the rows of all labels past the first 64 met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelCount {
    pub label: Option<f32>,
    pub rows: u64,
}

/// `0 54.9 %, 1 20.1 %, …`
pub(crate) fn spell_labels(labels: &[LabelCount]) -> String {
    let all: u64 = labels.iter().map(|count| count.rows).sum();
    let spell = |count: &LabelCount| {
        let share = 100.0 * count.rows as f64 / all.max(1) as f64;
        match count.label {
            Some(label) => format!("{label} {share:.1} %"),
            None => format!("others {share:.1} %"),
        }
    };
    labels.iter().map(spell).collect::<Vec<_>>().join(", ")
}

/// Rows by label.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    /// Label and rows; few, so that looking through them beats hashing.
    counts: Vec<(f32, u64)>,
    others: u64,
}

impl Labels {
    pub fn add(&mut self, labels: &[f32]) {
        for &label in labels {
            // -0 is 0.
            let label = label + 0.0;
            match self.counts.iter_mut().find(|(known, _)| known.to_bits() == label.to_bits()) {
                Some((_, rows)) => *rows += 1,
                None => self.add_new(label),
            }
        }
    }

    fn add_new(&mut self, label: f32) {
        if self.counts.len() < MAX_LABELS {
            self.counts.push((label, 1));
        } else {
            self.others += 1;
        }
    }

    /// Ascending.
    pub fn counts(&self) -> Vec<LabelCount> {
        let mut known = self.counts.clone();
        known.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut counts: Vec<LabelCount> =
            known.into_iter().map(|(label, rows)| LabelCount { label: Some(label), rows }).collect();
        if self.others > 0 {
            counts.push(LabelCount { label: None, rows: self.others });
        }
        counts
    }

    pub fn any_below_zero(&self) -> bool {
        self.counts.iter().any(|&(label, _)| label < 0.0)
    }
}

/// Lists: how many, how long, and how many say nothing about order.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    runs: Runs,
    starts: Vec<usize>,
    open: Option<Open>,
    pub count: u64,
    /// Lists of at least two rows whose labels are all equal.
    pub single_label: u64,
    pub single_row: u64,
    /// How many lists have a length.
    lengths: BTreeMap<u64, u64>,
}

/// The list that the last row belongs to.
#[derive(Clone, Copy, Debug)]
struct Open {
    rows: u64,
    first: f32,
    differ: bool,
}

impl Lists {
    /// Takes in rows; returns where lists start among them.
    pub fn add(&mut self, ids: &dyn Array, labels: &[f32]) -> &[usize] {
        let mut starts = std::mem::take(&mut self.starts);
        self.runs.starts(ids, &mut starts);
        let mut from = 0;
        for to in starts.iter().copied().chain([labels.len()]) {
            self.extend(&labels[from..to]);
            if to < labels.len() {
                self.close();
                self.open = Some(Open { rows: 0, first: labels[to], differ: false });
            }
            from = to;
        }
        self.starts = starts;
        &self.starts
    }

    fn extend(&mut self, labels: &[f32]) {
        if let Some(open) = &mut self.open {
            open.rows += labels.len() as u64;
            open.differ |= labels.iter().any(|&label| label != open.first);
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.count += 1;
            self.single_row += u64::from(open.rows == 1);
            self.single_label += u64::from(open.rows > 1 && !open.differ);
            *self.lengths.entry(open.rows).or_default() += 1;
        }
    }

    /// After the last row.
    pub fn finish(&mut self) {
        self.close();
    }

    /// Smallest, median, largest and mean length.
    pub fn lengths(&self) -> (u64, u64, u64, f64) {
        let rows: u64 = self.lengths.iter().map(|(length, lists)| length * lists).sum();
        let mut before = 0;
        let median = self.lengths.iter().find(|(_, lists)| {
            before += **lists;
            2 * before >= self.count
        });
        (
            self.lengths.keys().next().copied().unwrap_or(0),
            median.map_or(0, |(length, _)| *length),
            self.lengths.keys().next_back().copied().unwrap_or(0),
            rows as f64 / self.count.max(1) as f64,
        )
    }

    /// What an importer says about them.
    pub fn warnings(&self, labels: &Labels) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.single_label > 0 {
            warnings.push(format!(
                "{} of {} lists have a single label: ranking losses learn nothing from them",
                self.single_label, self.count
            ));
        }
        if self.single_row > 0 {
            warnings.push(format!("{} of {} lists have one row", self.single_row, self.count));
        }
        if labels.any_below_zero() {
            warnings.push("some labels are below 0: ranking losses and NDCG expect grades from 0".into());
        }
        warnings
    }
}

/// How many different ids there are, in any order.
#[derive(Debug, Default)]
pub(crate) struct Distinct {
    runs: Runs,
    starts: Vec<usize>,
    seen: Seen,
    pub count: u64,
    /// Runs of an id that had one before.
    pub again: u64,
}

impl Distinct {
    /// Takes in rows; `each` is told where runs start among them, and whether the id is new.
    pub fn add(&mut self, ids: &dyn Array, mut each: impl FnMut(usize, bool)) {
        self.runs.starts(ids, &mut self.starts);
        for &row in &self.starts {
            let new = self.seen.insert(ids, row);
            self.count += u64::from(new);
            self.again += u64::from(!new);
            each(row, new);
        }
    }
}
