//! How often each document was shown at each position for each query, and clicked there.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{MAX_POSITIONS, finalise};

/// Cells that are kept unless told otherwise: a table of at most 2^23 entries, 210 MB.
pub const DEFAULT_LIMIT: usize = (1 << 23) / 8 * 7;

/// Impressions and clicks by query, document and position.
///
/// Memory is bounded: past the limit of cells half of the queries are let go, drawn by a hash of their id, and so again. Which queries
/// stay depends on their ids alone, so what is left is a fair sample of queries and does not depend on the order of the logs.
#[derive(Clone, Debug)]
pub struct Exposures {
    positions: usize,
    limit: usize,
    /// Queries stay whose hash is divisible by 2 to this power.
    halvings: u32,
    cells: HashMap<Key, Cell, BuildHasherDefault<OfHashes>>,
}

/// A query, and a document with its position in the low 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    query: u64,
    document: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cell {
    pub impressions: u32,
    pub clicks: u32,
}

/// One document of one query: index of the position (from 0) and counts, ascending.
pub(super) struct Pair<'a> {
    pub query: u64,
    pub cells: &'a [(usize, Cell)],
}

impl Exposures {
    /// Of the first so many positions, at most [`MAX_POSITIONS`], in at most so many cells.
    pub fn new(positions: usize, limit: usize) -> Self {
        Self { positions: positions.min(MAX_POSITIONS), limit: limit.max(1), halvings: 0, cells: HashMap::default() }
    }

    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The share of queries that are kept.
    pub fn share(&self) -> f64 {
        0.5f64.powi(self.halvings as i32)
    }

    /// Takes in one result: hashes of its query's and document's ids, its position from 1. Positions past the last are let go.
    pub fn add(&mut self, query: u64, document: u64, position: u32, clicked: bool) {
        if position == 0 || position as usize > self.positions || !kept(query, self.halvings) {
            return;
        }
        let document = document & !0xff | u64::from(position - 1);
        let cell = self.cells.entry(Key { query, document }).or_default();
        cell.impressions = cell.impressions.saturating_add(1);
        cell.clicks = cell.clicks.saturating_add(u32::from(clicked));
        self.keep_within_limit();
    }

    /// Takes in what another of as many positions has counted.
    pub fn merge(&mut self, other: &Self) {
        if other.halvings > self.halvings {
            self.halvings = other.halvings;
            self.drop_queries();
        }
        for (key, more) in &other.cells {
            if kept(key.query, self.halvings) {
                let cell = self.cells.entry(*key).or_default();
                cell.impressions = cell.impressions.saturating_add(more.impressions);
                cell.clicks = cell.clicks.saturating_add(more.clicks);
                self.keep_within_limit();
            }
        }
    }

    fn keep_within_limit(&mut self) {
        while self.cells.len() > self.limit && self.halvings < 63 {
            self.halvings += 1;
            self.drop_queries();
        }
    }

    fn drop_queries(&mut self) {
        let halvings = self.halvings;
        self.cells.retain(|key, _| kept(key.query, halvings));
    }

    /// Each document of each query, in the order of their hashes.
    pub(super) fn for_each_pair(&self, mut each: impl FnMut(Pair<'_>)) {
        let mut keys: Vec<Key> = self.cells.keys().copied().collect();
        keys.sort_unstable();
        let mut cells = Vec::new();
        for pair in keys.chunk_by(|a, b| a.query == b.query && a.document >> 8 == b.document >> 8) {
            cells.clear();
            cells.extend(pair.iter().map(|key| ((key.document & 0xff) as usize, self.cells[key])));
            each(Pair { query: pair[0].query, cells: &cells });
        }
    }
}

fn kept(query: u64, halvings: u32) -> bool {
    finalise(query).trailing_zeros() >= halvings
}

/// Keys are hashes already; this brings their two words together.
#[derive(Clone, Copy, Debug, Default)]
struct OfHashes(u64);

impl Hasher for OfHashes {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
