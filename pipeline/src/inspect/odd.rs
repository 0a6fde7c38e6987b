//! What is odd about a dataset, in sentences, the gravest first.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use xxhash_rust::xxh3::xxh3_64;

use super::{Gathered, statistics::Place};
use crate::reader::TrainingReader;

/// Names listed in a sentence before it says how many more there are.
const NAMED: usize = 5;

/// Documents that a list names twice.
#[derive(Default)]
pub(super) struct Duplicates {
    list: Vec<u64>,
    lists: u64,
    first: Option<Place>,
    begins: Place,
}

impl Duplicates {
    /// `starts`: where lists start among these rows.
    pub fn add(&mut self, documents: &ArrayRef, starts: &[usize], file: usize, row: u64) {
        let ints = documents.as_primitive_opt::<Int64Type>();
        let texts = documents.as_string_opt::<i32>();
        let mut next = starts.iter().copied().peekable();
        for index in 0..documents.len() {
            if next.next_if_eq(&index).is_some() {
                self.close();
                self.begins = (file, row + index as u64);
            }
            match (ints, texts) {
                _ if documents.is_null(index) => {}
                (Some(ids), _) => self.list.push(ids.value(index) as u64),
                (_, Some(ids)) => self.list.push(xxh3_64(ids.value(index).as_bytes())),
                _ => {}
            }
        }
    }

    /// After each list.
    pub fn close(&mut self) {
        self.list.sort_unstable();
        if self.list.windows(2).any(|pair| pair[0] == pair[1]) {
            self.lists += 1;
            self.first.get_or_insert(self.begins);
        }
        self.list.clear();
    }
}

pub(super) fn sentences(reader: &TrainingReader, gathered: &Gathered) -> Vec<String> {
    let place = |(file, row): Place| format!("`{}` row {row}", reader.files()[file].path.display());
    let lists = &gathered.lists;
    let group = &reader.schema().columns()[reader.schema().group()].name;
    let mut odd = Vec::new();
    let mut say = |sentence: String| odd.push(sentence);

    if lists.count == 0 {
        say("there is no row".into());
        return odd;
    }
    for (name, statistics) in gathered.numbers(reader.schema()) {
        if let Some(first) = statistics.first_nonfinite {
            say(format!("`{name}` is nan or infinite {}, first at {}", times(statistics.nonfinite), place(first)));
        }
        if let Some(first) = statistics.first_null {
            say(format!("`{name}` is missing {}, first at {}", times(statistics.nulls), place(first)));
        }
    }
    for (name, nulls) in &gathered.null_ids {
        say(format!("`{name}` is missing {}", times(*nulls)));
    }
    if let Some(first) = gathered.first_scattered {
        let again = gathered.scattered;
        say(format!(
            "the rows of a list do not follow each other: `{group}` comes back {}, first at {}",
            times(again),
            place(first)
        ));
    }
    if let Some(first) = gathered.first_torn {
        say(format!("a list holds several queries, first at {}", place(first)));
    }
    if let Some(duplicates) = &gathered.duplicates
        && let Some(first) = duplicates.first
    {
        say(format!(
            "{} name a document twice, first the one at {}",
            of_lists(duplicates.lists, lists.count),
            place(first)
        ));
    }
    if let Some(weights) = &gathered.weights {
        match weights.constant() {
            Some(0.0) => say("the weights are 0 everywhere: no row would count".into()),
            Some(value) if value != 1.0 => say(format!("the weights are {value} everywhere")),
            _ => {}
        }
        if weights.below_zero > 0 {
            say(format!("the weights are below 0 {}", times(weights.below_zero)));
        }
    }
    if let Some(value) = gathered.label.constant() {
        say(format!("the label is {value} everywhere: there is nothing to learn"));
    } else if lists.single_label > 0 {
        say(format!(
            "{} have a single label: useless for pairwise and listwise losses",
            of_lists(lists.single_label, lists.count)
        ));
    }
    if gathered.label.below_zero > 0 {
        say(format!("the label is below 0 {}: NDCG expects grades from 0", times(gathered.label.below_zero)));
    }
    if lists.single_row > 0 {
        say(format!("{} have one document: nothing to rank", of_lists(lists.single_row, lists.count)));
    }
    let constant: Vec<&str> = gathered
        .features
        .iter()
        .filter(|(_, statistics)| statistics.constant().is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    match constant.as_slice() {
        [] => {}
        [one] => say(format!("feature `{one}` is constant: it says nothing")),
        many => say(format!("{} features are constant and say nothing: {}", many.len(), enumerate(many))),
    }
    if let Some(said) = gathered.footer_lists.filter(|&said| said != lists.count) {
        say(format!(
            "the footers count {said} lists, the rows hold {}: the files were changed by other software",
            lists.count
        ));
    }
    odd
}

fn times(count: u64) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

fn of_lists(count: u64, all: u64) -> String {
    format!("{count} of {all} lists ({:.1} %)", 100.0 * count as f64 / all as f64)
}

fn enumerate(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
