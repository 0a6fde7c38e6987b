//! What raters said, with names ([`Ratings`]) and without ([`Votes`]).

use std::collections::HashMap;

use serde::Serialize;

use super::Grade;

/// What is judged: a document as the answer to a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pair {
    pub query_id: String,
    pub document_id: String,
}

/// One rater's class for one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// From 0, below [`Votes::raters`].
    pub rater: usize,
    /// From 0, below [`Votes::classes`].
    pub class: usize,
}

/// Items with the votes on each. A rater may have missed an item, or voted on it more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Votes {
    classes: usize,
    raters: usize,
    items: Vec<Vec<Vote>>,
}

impl Votes {
    /// No items yet, votes of classes `0..classes`.
    ///
    /// # Panics
    /// Without a class.
    pub fn new(classes: usize) -> Self {
        assert!(classes > 0, "votes need a class to vote for");
        Self { classes, raters: 0, items: Vec::new() }
    }

    /// Adds a vote on an item; items and raters that were not heard of before are counted in.
    ///
    /// # Panics
    /// With a class outside of those there are.
    pub fn push(&mut self, item: usize, vote: Vote) {
        assert!(vote.class < self.classes, "class {} of {}", vote.class, self.classes);
        self.raters = self.raters.max(vote.rater + 1);
        if self.items.len() <= item {
            self.items.resize_with(item + 1, Vec::new);
        }
        self.items[item].push(vote);
    }

    pub fn classes(&self) -> usize {
        self.classes
    }

    pub fn raters(&self) -> usize {
        self.raters
    }

    pub fn items(&self) -> &[Vec<Vote>] {
        &self.items
    }

    /// How many votes each class has of one item.
    pub fn counts(&self, item: usize) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for vote in &self.items[item] {
            counts[vote.class] += 1;
        }
        counts
    }

    /// Votes beyond a rater's first on the same item.
    pub fn repeated(&self) -> usize {
        self.items.iter().map(|votes| votes.len() - distinct_raters(votes)).sum()
    }
}

/// How many raters voted on an item.
pub(crate) fn distinct_raters(votes: &[Vote]) -> usize {
    let mut raters: Vec<usize> = votes.iter().map(|vote| vote.rater).collect();
    raters.sort_unstable();
    raters.dedup();
    raters.len()
}

/// Grades of query-document pairs, in the order in which pairs and raters were first seen.
#[derive(Clone, Debug)]
pub struct Ratings {
    pairs: Vec<Pair>,
    raters: Vec<String>,
    votes: Votes,
    pair_numbers: HashMap<Pair, usize>,
    rater_numbers: HashMap<String, usize>,
}

impl Default for Ratings {
    fn default() -> Self {
        Self {
            pairs: Vec::new(),
            raters: Vec::new(),
            votes: Votes::new(Grade::COUNT),
            pair_numbers: HashMap::new(),
            rater_numbers: HashMap::new(),
        }
    }
}

impl Ratings {
    pub fn push(&mut self, pair: Pair, rater: &str, grade: Grade) {
        let item = *self.pair_numbers.entry(pair).or_insert_with_key(|pair| {
            self.pairs.push(pair.clone());
            self.pairs.len() - 1
        });
        let number = match self.rater_numbers.get(rater) {
            Some(number) => *number,
            None => {
                self.raters.push(rater.to_owned());
                self.rater_numbers.insert(rater.to_owned(), self.raters.len() - 1);
                self.raters.len() - 1
            }
        };
        self.votes.push(item, Vote { rater: number, class: usize::from(grade.value()) });
    }

    /// Item `i` of [`votes`](Self::votes) is pair `i`.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Rater `r` of [`votes`](Self::votes) has name `r`.
    pub fn raters(&self) -> &[String] {
        &self.raters
    }

    /// Classes are grades.
    pub fn votes(&self) -> &Votes {
        &self.votes
    }

    pub fn len(&self) -> usize {
        self.votes.items.iter().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}
