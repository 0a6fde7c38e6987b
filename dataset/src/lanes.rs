//! Lanes: who reads what, and when, free of the world size.
//!
//! A dataset is cut into [`Block`]s; each epoch a seeded permutation deals the blocks to L lanes, balanced by size. The j-th of
//! lane i's n_i atoms has the key ((2j + 1) / 2n_i, i); the epoch is all atoms in key order, and step s of a global batch B takes
//! positions [sB, (s + 1)B). Rank r of W serves the lanes l with l mod W = r. How far each lane is at a position is counting
//! ([`Deal::taken`]): resuming seeks, it replays nothing, and nothing is padded, dropped or read twice.
//!
//! No IO here.

use std::{cmp::Reverse, collections::BinaryHeap};

use proto::v1;

use crate::seeded::{self, Stream};

/// What is never torn apart: a row for pointwise losses, a list for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atom {
    Row,
    List,
}

/// A run of whole atoms inside one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub file: u32,
    /// In the file.
    pub first_row: u64,
    pub rows: u64,
    /// In the dataset: atoms are numbered through all files.
    pub first_atom: u64,
    pub atoms: u64,
}

/// A dataset, cut.
#[derive(Clone, Debug)]
pub struct Blocks {
    pub atom: Atom,
    pub blocks: Vec<Block>,
    pub rows: u64,
    pub atoms: u64,
}

/// Blocks are small enough that every lane gets about this many, so that small datasets are mixed well too.
const BLOCKS_A_LANE: u64 = 4;

impl Blocks {
    /// Cuts at about `block_bytes` of decoded features, or finer where the dataset is small. A function of the manifest alone.
    pub fn cut(manifest: &v1::Manifest, atom: Atom, lanes: u32, block_bytes: u64) -> Self {
        let features = manifest.columns.as_ref().map_or(1, |columns| columns.features.len()).max(1) as u64;
        let by_size = block_bytes / (4 * features);
        let by_lanes = manifest.rows.div_ceil(BLOCKS_A_LANE * u64::from(lanes.max(1)));
        let target = by_size.min(by_lanes).max(1);
        let mut cut = Self { atom, blocks: Vec::new(), rows: 0, atoms: 0 };
        for (index, file) in manifest.files.iter().enumerate() {
            match atom {
                Atom::Row => cut.rows_of(index as u32, file, target),
                Atom::List => cut.lists_of(index as u32, file, target),
            }
        }
        cut
    }

    /// The blocks that a rank scans where order does not matter: b with b mod W = r.
    pub fn share(&self, rank: u32, world: u32) -> Vec<u32> {
        (rank..self.blocks.len() as u32).step_by(world as usize).collect()
    }

    fn rows_of(&mut self, file: u32, data: &v1::DataFile, target: u64) {
        let mut first_row = 0;
        for &rows in &data.row_group_rows {
            let pieces = rows.div_ceil(target);
            for piece in 0..pieces {
                let (start, end) = (rows * piece / pieces, rows * (piece + 1) / pieces);
                self.push(Block {
                    file,
                    first_row: first_row + start,
                    rows: end - start,
                    first_atom: self.atoms,
                    atoms: end - start,
                });
            }
            first_row += rows;
        }
    }

    fn lists_of(&mut self, file: u32, data: &v1::DataFile, target: u64) {
        let end = (data.row_group_rows.iter().sum::<u64>(), data.lists);
        let mut start = (0, 0);
        let mut mark = (0, 0);
        for (rows, lists) in data.mark_rows.iter().zip(&data.mark_lists) {
            mark = (mark.0 + rows, mark.1 + lists);
            if mark.0 - start.0 >= target {
                self.push_lists(file, start, mark);
                start = mark;
            }
        }
        self.push_lists(file, start, end);
    }

    fn push_lists(&mut self, file: u32, start: (u64, u64), end: (u64, u64)) {
        if end.0 > start.0 {
            let (rows, atoms) = (end.0 - start.0, end.1 - start.1);
            self.push(Block { file, first_row: start.0, rows, first_atom: self.atoms, atoms });
        }
    }

    fn push(&mut self, block: Block) {
        self.rows += block.rows;
        self.atoms += block.atoms;
        self.blocks.push(block);
    }
}

/// One lane of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// Indices of its blocks, in reading order.
    pub blocks: Vec<u32>,
    /// Atoms before each block, and all of them at the end: one longer than `blocks`.
    pub starts: Vec<u64>,
}

impl Lane {
    pub fn atoms(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }
}

/// Which block goes to which lane in one epoch, and so the order of all atoms.
#[derive(Clone, Debug)]
pub struct Deal {
    pub lanes: Vec<Lane>,
    pub atoms: u64,
}

impl Deal {
    /// Deals shuffled blocks, each to the lane that has the fewest atoms so far.
    pub fn new(blocks: &Blocks, lanes: u32, seed: u64, epoch: u64) -> Self {
        let mut dealt = vec![Lane { blocks: Vec::new(), starts: vec![0] }; lanes as usize];
        let mut fewest: BinaryHeap<Reverse<(u64, u32)>> = (0..lanes).map(|lane| Reverse((0, lane))).collect();
        for index in Stream::new(&[seed, epoch, 0xdea1]).permutation(blocks.blocks.len() as u32) {
            let Some(Reverse((atoms, lane))) = fewest.pop() else { break };
            let atoms = atoms + blocks.blocks[index as usize].atoms;
            dealt[lane as usize].blocks.push(index);
            dealt[lane as usize].starts.push(atoms);
            fewest.push(Reverse((atoms, lane)));
        }
        let mut deal = Self { lanes: dealt, atoms: blocks.atoms };
        if std::env::var_os("LOCKSTEP_FAULT").is_some_and(|fault| fault == "deal-twice") {
            deal.deal_twice(blocks);
        }
        deal
    }

    /// A fault for tests to see the audit find: one block comes twice, another of its size never.
    fn deal_twice(&mut self, blocks: &Blocks) {
        let size = |block: u32| (blocks.blocks[block as usize].rows, blocks.blocks[block as usize].atoms);
        let mut all: Vec<(usize, usize)> = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            all.extend((0..lane.blocks.len()).map(|place| (index, place)));
        }
        let block = |(lane, place): (usize, usize)| self.lanes[lane].blocks[place];
        let twins = all.iter().enumerate().find_map(|(index, one)| {
            let other = all[index + 1..].iter().find(|other| size(block(**other)) == size(block(*one)))?;
            Some((*one, *other))
        });
        if let Some((one, other)) = twins {
            self.lanes[other.0].blocks[other.1] = block(one);
        }
    }

    /// Steps of an epoch at a global batch of `batch` atoms; only the last may be short.
    pub fn steps(&self, batch: u64) -> u64 {
        self.atoms.div_ceil(batch)
    }

    /// How many atoms of each lane lie before `position` in the epoch's order.
    pub fn taken(&self, position: u64, taken: &mut Vec<u64>) {
        taken.clear();
        if position >= self.atoms {
            taken.extend(self.lanes.iter().map(Lane::atoms));
            return;
        }
        // Atoms with key <= position / N: off by at most half a lane count from what is asked, then settled one atom at a time.
        let wide = u128::from(self.atoms) * u128::from(position) > u128::from(u64::MAX / 4);
        taken.extend(self.lanes.iter().map(|lane| {
            let (atoms, n, p) = (lane.atoms(), self.atoms, position);
            let within = if wide {
                let (atoms, n, p) = (u128::from(atoms), u128::from(n), u128::from(p));
                ((2 * atoms * p + n) / (2 * n)) as u64
            } else {
                (2 * atoms * p + n) / (2 * n)
            };
            within.min(atoms)
        }));
        let mut sum: u64 = taken.iter().sum();
        while sum < position {
            let next = (0..self.lanes.len())
                .filter(|&lane| taken[lane] < self.lanes[lane].atoms())
                .min_by(|&a, &b| self.compare(a, taken[a], b, taken[b]));
            let Some(lane) = next else { break };
            taken[lane] += 1;
            sum += 1;
        }
        while sum > position {
            let last = (0..self.lanes.len())
                .filter(|&lane| taken[lane] > 0)
                .max_by(|&a, &b| self.compare(a, taken[a] - 1, b, taken[b] - 1));
            let Some(lane) = last else { break };
            taken[lane] -= 1;
            sum -= 1;
        }
    }

    /// Orders atom `i` of lane `a` and atom `j` of lane `b` by their keys.
    pub fn compare(&self, a: usize, i: u64, b: usize, j: u64) -> std::cmp::Ordering {
        let left = u128::from(2 * i + 1) * u128::from(self.lanes[b].atoms());
        let right = u128::from(2 * j + 1) * u128::from(self.lanes[a].atoms());
        left.cmp(&right).then(a.cmp(&b))
    }
}

/// The order of a block's atoms in an epoch.
pub fn order(seed: u64, epoch: u64, block: u32, atoms: u32) -> Vec<u32> {
    Stream::new(&[seed, epoch, u64::from(block), 0xb10c]).permutation(atoms)
}

/// The audit's hash of an atom, by its number in the dataset.
#[inline]
pub fn atom_hash(atom: u64) -> u64 {
    seeded::mix(atom ^ 0x0a0d_17a0_0d17_a0d1)
}

/// What an epoch's audit must find: the sum of all atoms' hashes.
pub fn expected_hash(atoms: u64) -> u128 {
    (0..atoms).map(|atom| u128::from(atom_hash(atom))).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(sizes: &[u64]) -> Blocks {
        let mut cut = Blocks { atom: Atom::Row, blocks: Vec::new(), rows: 0, atoms: 0 };
        for &atoms in sizes {
            cut.push(Block { file: 0, first_row: cut.rows, rows: atoms, first_atom: cut.atoms, atoms });
        }
        cut
    }

    /// The definition, spelled out: all (key, lane) pairs, sorted.
    fn merged(deal: &Deal) -> Vec<(usize, u64)> {
        let mut all: Vec<(usize, u64)> =
            (0..deal.lanes.len()).flat_map(|lane| (0..deal.lanes[lane].atoms()).map(move |j| (lane, j))).collect();
        all.sort_by(|a, b| deal.compare(a.0, a.1, b.0, b.1));
        all
    }

    proptest! {
        #[test]
        fn counting_agrees_with_sorting_every_atom_by_its_key(
            sizes in prop::collection::vec(1u64..40, 0..40), lanes in 1u32..20, seed: u64, epoch in 0u64..5,
        ) {
            let deal = Deal::new(&blocks(&sizes), lanes, seed, epoch);
            let all = merged(&deal);
            let mut taken = Vec::new();
            for position in 0..=all.len() {
                let mut counted = vec![0; lanes as usize];
                all[..position].iter().for_each(|(lane, _)| counted[*lane] += 1);
                deal.taken(position as u64, &mut taken);
                prop_assert_eq!(&taken, &counted);
            }
        }

        #[test]
        fn every_block_is_dealt_once_and_lanes_are_balanced(
            sizes in prop::collection::vec(1u64..40, 1..200), lanes in 1u32..20, seed: u64,
        ) {
            let cut = blocks(&sizes);
            let deal = Deal::new(&cut, lanes, seed, 0);
            let mut seen: Vec<u32> = deal.lanes.iter().flat_map(|lane| lane.blocks.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..sizes.len() as u32).collect::<Vec<_>>());
            let loads: Vec<u64> = deal.lanes.iter().map(Lane::atoms).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 40);
        }
    }

    #[test]
    fn another_epoch_and_another_seed_deal_otherwise() {
        let cut = blocks(&[5; 100]);
        let first = Deal::new(&cut, 8, 1, 0);
        for other in [Deal::new(&cut, 8, 1, 1), Deal::new(&cut, 8, 2, 0)] {
            assert_ne!(first.lanes[0].blocks, other.lanes[0].blocks);
        }
    }

    #[test]
    fn lists_are_cut_at_marks_and_nowhere_else() {
        let file = v1::DataFile {
            row_group_rows: vec![70, 30],
            lists: 10,
            mark_rows: vec![0, 30, 30, 30],
            mark_lists: vec![0, 3, 3, 3],
            ..Default::default()
        };
        let manifest = v1::Manifest { rows: 100, lists: 10, files: vec![file], ..Default::default() };
        let cut = Blocks::cut(&manifest, Atom::List, 1, 4 * 40);
        let found: Vec<_> = cut.blocks.iter().map(|b| (b.first_row, b.rows, b.first_atom, b.atoms)).collect();
        assert_eq!(found, [(0, 30, 0, 3), (30, 30, 3, 3), (60, 30, 6, 3), (90, 10, 9, 1)]);
    }
}
