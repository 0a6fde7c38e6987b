//! The readers: [`LaneReader`] gives each step's share of a rank, read ahead on threads of its own; [`scan`] gives whole blocks
//! in order, for validation and statistics.
//!
//! Atoms are put into their epoch's order while a block is read, so that a step only copies runs of rows.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    lanes::{self, Atom, Blocks, Deal},
    manifest::DatasetError,
    source::{Decoded, Source},
};

/// One rank's share of one global batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Row-major, `rows() * features`.
    pub features: Vec<f32>,
    pub labels: Vec<f32>,
    /// 1 where the dataset has no weights.
    pub weights: Vec<f32>,
    /// First row of each list, and the number of rows at the end. Where atoms are rows: empty.
    pub starts: Vec<u32>,
    /// Numbers of the atoms in the dataset.
    pub atoms: Vec<u64>,
    /// Sum of [`lanes::atom_hash`] over the atoms.
    pub hash: u128,
}

impl Batch {
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Lists, 0 where atoms are rows.
    pub fn lists(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    fn clear(&mut self) {
        self.features.clear();
        self.labels.clear();
        self.weights.clear();
        self.starts.clear();
        self.atoms.clear();
        self.hash = 0;
    }
}

/// What a rank reads in a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub blocks: Arc<Blocks>,
    pub features: usize,
    pub lanes: u32,
    pub seed: u64,
    pub rank: u32,
    pub world: u32,
    /// Atoms of the global batch.
    pub batch: u64,
    pub epochs: u64,
    /// Where to begin.
    pub epoch: u64,
    pub step: u64,
    /// Bytes of decoded blocks that may wait.
    pub read_ahead: usize,
    pub readers: usize,
}

impl Plan {
    fn serves(&self, lane: usize) -> bool {
        lane as u32 % self.world == self.rank
    }
}

/// A block whose atoms are in the epoch's order.
struct Ready {
    features: Vec<f32>,
    labels: Vec<f32>,
    weights: Vec<f32>,
    /// As in [`Batch`]; empty where atoms are rows.
    starts: Vec<u32>,
    /// The atoms' numbers in the dataset, less the block's first.
    order: Vec<u32>,
    first_atom: u64,
}

/// Blocks that may wait, whatever their size.
const READ_AHEAD_BLOCKS: usize = 1024;

type Key = (u64, u32, u32); // epoch, lane, place in the lane

/// One block that a reading thread is to bring.
struct Errand {
    key: Key,
    block: u32,
    bytes: usize,
}

/// Hands out batches in order; reads ahead.
pub struct LaneReader {
    plan: Plan,
    deal: Deal,
    epoch: u64,
    /// Where the next step begins, for each lane.
    from: Vec<u64>,
    to: Vec<u64>,
    cursors: Vec<Option<Cursor>>,
    waiting: HashMap<Key, Ready>,
    incoming: Receiver<Result<(Errand, Ready), DatasetError>>,
    errands: Arc<Errands>,
}

/// The block under way on a lane.
struct Cursor {
    place: u32,
    ready: Ready,
}

impl LaneReader {
    pub fn open(plan: Plan, source: Arc<dyn Source>) -> Self {
        let deal = Deal::new(&plan.blocks, plan.lanes, plan.seed, plan.epoch);
        let mut from = Vec::new();
        deal.taken(plan.step * plan.batch, &mut from);
        let errands = Arc::new(Errands::new(plan.clone(), deal.clone(), from.clone()));
        // The budget in `Errands` bounds the memory before this bound is reached.
        let (send, incoming) = bounded(READ_AHEAD_BLOCKS);
        for index in 0..plan.readers.max(1) {
            let (errands, source, send, plan) = (Arc::clone(&errands), Arc::clone(&source), send.clone(), plan.clone());
            let reader = thread::Builder::new().name(format!("read-{index}"));
            if let Err(error) = reader.spawn(move || read_ahead(&plan, &errands, &*source, &send)) {
                tracing::error!(%error, "no thread to read data with");
            }
        }
        let cursors = (0..plan.lanes).map(|_| None).collect();
        let epoch = plan.epoch;
        Self { plan, deal, epoch, from, to: Vec::new(), cursors, waiting: HashMap::new(), incoming, errands }
    }

    pub fn steps_per_epoch(&self) -> u64 {
        self.deal.steps(self.plan.batch)
    }

    /// Fills `batch` with this rank's share of the next step, and moves on, into the next epoch after an epoch's last step.
    pub fn next(&mut self, epoch: u64, step: u64, batch: &mut Batch) -> Result<(), DatasetError> {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.deal = Deal::new(&self.plan.blocks, self.plan.lanes, self.plan.seed, epoch);
            self.cursors.iter_mut().for_each(|cursor| *cursor = None);
            self.from.clear();
            self.from.resize(self.plan.lanes as usize, 0);
        }
        self.deal.taken((step + 1) * self.plan.batch, &mut self.to);
        batch.clear();
        for lane in (self.plan.rank..self.plan.lanes).step_by(self.plan.world as usize) {
            let (from, to) = (self.from[lane as usize], self.to[lane as usize]);
            self.copy(lane, from, to, batch)?;
        }
        if self.plan.blocks.atom == Atom::List {
            batch.starts.push(batch.labels.len() as u32);
        }
        if self.plan.blocks.blocks.is_empty() || batch.weights.len() != batch.labels.len() {
            batch.weights.resize(batch.labels.len(), 1.0);
        }
        batch.hash = batch.atoms.iter().map(|atom| u128::from(lanes::atom_hash(*atom))).sum();
        std::mem::swap(&mut self.from, &mut self.to);
        Ok(())
    }

    fn copy(&mut self, lane: u32, mut from: u64, to: u64, batch: &mut Batch) -> Result<(), DatasetError> {
        while from < to {
            let starts = &self.deal.lanes[lane as usize].starts;
            let place = (starts.partition_point(|start| *start <= from) - 1) as u32;
            let (first, end) = (starts[place as usize], starts[place as usize + 1].min(to));
            self.turn_to(lane, place)?;
            let Some(cursor) = &self.cursors[lane as usize] else { break };
            cursor.ready.append((from - first) as usize, (end - first) as usize, self.plan.features, batch);
            from = end;
        }
        Ok(())
    }

    /// Makes `place` the lane's block under way, waiting for it where need be.
    fn turn_to(&mut self, lane: u32, place: u32) -> Result<(), DatasetError> {
        if self.cursors[lane as usize].as_ref().is_some_and(|cursor| cursor.place == place) {
            return Ok(());
        }
        self.cursors[lane as usize] = None;
        let key = (self.epoch, lane, place);
        let ready = loop {
            if let Some(ready) = self.waiting.remove(&key) {
                break ready;
            }
            match self.incoming.recv() {
                Ok(Ok((errand, ready))) => {
                    // Off the budget as soon as it is here: a batch may need more blocks at once than the budget allows.
                    self.errands.received(errand.bytes);
                    self.waiting.insert(errand.key, ready);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    return Err(DatasetError::new(
                        "".as_ref(),
                        "the reading threads ended before the epoch's data did",
                    ));
                }
            }
        };
        self.cursors[lane as usize] = Some(Cursor { place, ready });
        Ok(())
    }

    /// Bytes of decoded rows held now, by lanes and ahead of them.
    pub fn held_bytes(&self) -> usize {
        let here = self.cursors.iter().flatten().map(|cursor| &cursor.ready).chain(self.waiting.values());
        here.map(Ready::bytes).sum::<usize>() + self.errands.waiting_bytes()
    }

    /// Says where the rows of the step after (`epoch`, `step`) that this rank reads lie, for a person who looks for a bad one.
    pub fn provenance(&self) -> Vec<(u32, u64, u64)> {
        let place = |(lane, cursor): (usize, &Option<Cursor>)| {
            let block = self.deal.lanes[lane].blocks[cursor.as_ref()?.place as usize];
            let block = &self.plan.blocks.blocks[block as usize];
            Some((block.file, block.first_row, block.first_row + block.rows))
        };
        self.cursors.iter().enumerate().filter_map(place).collect()
    }
}

impl Drop for LaneReader {
    fn drop(&mut self) {
        self.errands.close();
    }
}

impl Ready {
    fn bytes(&self) -> usize {
        4 * (self.features.len() + self.labels.len() + self.weights.len() + self.starts.len() + self.order.len())
    }

    fn append(&self, from: usize, to: usize, width: usize, batch: &mut Batch) {
        let first = self.first_atom;
        batch.atoms.extend(self.order[from..to].iter().map(|index| first + u64::from(*index)));
        let rows = if self.starts.is_empty() {
            from..to
        } else {
            let rows = self.starts[from] as usize..self.starts[to] as usize;
            let before = batch.labels.len() as u32;
            batch.starts.extend(self.starts[from..to].iter().map(|start| start - rows.start as u32 + before));
            rows
        };
        batch.features.extend_from_slice(&self.features[rows.start * width..rows.end * width]);
        batch.labels.extend_from_slice(&self.labels[rows.clone()]);
        if !self.weights.is_empty() {
            batch.weights.extend_from_slice(&self.weights[rows]);
        }
    }

    /// Puts a block's atoms into the order of its epoch.
    fn arrange(decoded: &Decoded, order: Vec<u32>, first_atom: u64, width: usize, atom: Atom) -> Self {
        let rows = &decoded.rows;
        let count = decoded.range.len();
        let mut ready = Self {
            features: Vec::with_capacity(count * width),
            labels: Vec::with_capacity(count),
            weights: Vec::with_capacity(if rows.weights.is_empty() { 0 } else { count }),
            starts: Vec::new(),
            order,
            first_atom,
        };
        let order = &ready.order;
        match atom {
            Atom::Row => {
                let features = &rows.features[decoded.range.start * width..decoded.range.end * width];
                gather_rows(features, order, width, &mut ready.features);
                let gather = |from: &[f32], to: &mut Vec<f32>| {
                    to.extend(order.iter().map(|index| from[*index as usize]));
                };
                gather(&rows.labels[decoded.range.clone()], &mut ready.labels);
                if !rows.weights.is_empty() {
                    gather(&rows.weights[decoded.range.clone()], &mut ready.weights);
                }
            }
            Atom::List => {
                ready.starts.reserve_exact(order.len() + 1);
                for index in order {
                    let list = decoded.atoms.start + *index as usize;
                    let list = rows.starts[list] as usize..rows.starts[list + 1] as usize;
                    ready.starts.push(ready.labels.len() as u32);
                    ready.features.extend_from_slice(&rows.features[list.start * width..list.end * width]);
                    ready.labels.extend_from_slice(&rows.labels[list.clone()]);
                    if !rows.weights.is_empty() {
                        ready.weights.extend_from_slice(&rows.weights[list]);
                    }
                }
                ready.starts.push(ready.labels.len() as u32);
            }
        }
        ready
    }
}

/// Rows in another order. Narrow common widths are spelled out, so that a row's copy is a few moves and no call.
fn gather_rows(features: &[f32], order: &[u32], width: usize, out: &mut Vec<f32>) {
    fn fixed<const W: usize>(features: &[f32], order: &[u32], out: &mut Vec<f32>) {
        let (rows, _) = features.as_chunks::<W>();
        order.iter().for_each(|index| out.extend_from_slice(&rows[*index as usize]));
    }
    match width {
        4 => fixed::<4>(features, order, out),
        8 => fixed::<8>(features, order, out),
        10 => fixed::<10>(features, order, out),
        16 => fixed::<16>(features, order, out),
        _ => order.iter().for_each(|index| {
            let row = *index as usize * width;
            out.extend_from_slice(&features[row..row + width]);
        }),
    }
}

/// The blocks of a rank in the order in which they are needed, handed to reading threads within a budget of bytes.
struct Errands {
    plan: Plan,
    state: Mutex<ErrandState>,
    changed: Condvar,
}

struct ErrandState {
    epoch: u64,
    queue: VecDeque<Errand>,
    waiting_bytes: usize,
    closed: bool,
}

impl Errands {
    fn new(plan: Plan, deal: Deal, from: Vec<u64>) -> Self {
        let epoch = plan.epoch;
        let this = Self {
            plan,
            state: Mutex::new(ErrandState { epoch, queue: VecDeque::new(), waiting_bytes: 0, closed: false }),
            changed: Condvar::new(),
        };
        let queue = this.queue(epoch, &deal, &from);
        this.lock().queue = queue;
        this
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ErrandState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn block_bytes(&self, block: u32) -> usize {
        self.plan.blocks.blocks[block as usize].rows as usize * 4 * (self.plan.features + 3)
    }

    /// What is left of an epoch, by the key of each block's first atom.
    fn queue(&self, epoch: u64, deal: &Deal, from: &[u64]) -> VecDeque<Errand> {
        let mut errands: Vec<(usize, u64, Errand)> = Vec::new();
        for (index, lane) in deal.lanes.iter().enumerate().filter(|(lane, _)| self.plan.serves(*lane)) {
            for (place, block) in lane.blocks.iter().enumerate() {
                if lane.starts[place + 1] > from[index] {
                    let key = (epoch, index as u32, place as u32);
                    let errand = Errand { key, block: *block, bytes: self.block_bytes(*block) };
                    errands.push((index, lane.starts[place].max(from[index]), errand));
                }
            }
        }
        errands.sort_by(|a, b| deal.compare(a.0, a.1, b.0, b.1));
        errands.into_iter().map(|(_, _, errand)| errand).collect()
    }

    /// The next block to read, as soon as the budget allows; `None` when there is no more.
    fn next(&self) -> Option<Errand> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let Some(errand) = state.queue.front() else {
                let epoch = state.epoch + 1;
                if epoch >= self.plan.epochs {
                    return None;
                }
                let deal = Deal::new(&self.plan.blocks, self.plan.lanes, self.plan.seed, epoch);
                state.queue = self.queue(epoch, &deal, &vec![0; self.plan.lanes as usize]);
                state.epoch = epoch;
                if state.queue.is_empty() {
                    return None;
                }
                continue;
            };
            let bytes = errand.bytes;
            if state.waiting_bytes == 0 || state.waiting_bytes + bytes <= self.plan.read_ahead {
                state.waiting_bytes += bytes;
                return state.queue.pop_front();
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn received(&self, bytes: usize) {
        let mut state = self.lock();
        state.waiting_bytes -= bytes;
        drop(state);
        self.changed.notify_all();
    }

    fn waiting_bytes(&self) -> usize {
        self.lock().waiting_bytes
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

fn read_ahead(
    plan: &Plan,
    errands: &Errands,
    source: &dyn Source,
    send: &Sender<Result<(Errand, Ready), DatasetError>>,
) {
    while let Some(errand) = errands.next() {
        let block = &plan.blocks.blocks[errand.block as usize];
        let read = source.read(block).map(|decoded| {
            let order = lanes::order(plan.seed, errand.key.0, errand.block, block.atoms as u32);
            let ready = Ready::arrange(&decoded, order, block.first_atom, plan.features, plan.blocks.atom);
            (errand, ready)
        });
        let failed = read.is_err();
        if send.send(read).is_err() || failed {
            return;
        }
    }
}

/// Whole blocks, in the order given, one read ahead: for validation and statistics.
pub fn scan(
    source: Arc<dyn Source>,
    blocks: Arc<Blocks>,
    which: Vec<u32>,
) -> impl Iterator<Item = Result<(u32, Decoded), DatasetError>> {
    let (send, incoming) = bounded(1);
    let reader = thread::Builder::new().name("scan".into()).spawn(move || {
        for index in which {
            let read = source.read(&blocks.blocks[index as usize]).map(|decoded| (index, decoded));
            let failed = read.is_err();
            if send.send(read).is_err() || failed {
                return;
            }
        }
    });
    if let Err(error) = reader {
        tracing::error!(%error, "no thread to read data with");
    }
    incoming.into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{lanes::Block, source::Rows};

    /// Rows whose every value tells which row it is.
    struct Counting;

    impl Source for Counting {
        fn read(&self, block: &Block) -> Result<Decoded, DatasetError> {
            let rows = block.first_row..block.first_row + block.rows;
            let lists = block.atoms != block.rows;
            let rows = Rows {
                features: rows.clone().flat_map(|row| [row as f32, -(row as f32)]).collect(),
                labels: rows.clone().map(|row| row as f32).collect(),
                weights: Vec::new(),
                starts: if lists { (0..=block.atoms as u32).map(|list| list * 3).collect() } else { Vec::new() },
            };
            let (range, atoms) = (0..rows.rows(), 0..block.atoms as usize);
            Ok(Decoded { rows: Arc::new(rows), range, atoms })
        }
    }

    fn blocks(sizes: &[u64], atom: Atom) -> Arc<Blocks> {
        let mut cut = Blocks { atom, blocks: Vec::new(), rows: 0, atoms: 0 };
        for &atoms in sizes {
            let rows = if atom == Atom::List { 3 * atoms } else { atoms };
            cut.blocks.push(Block { file: 0, first_row: cut.rows, rows, first_atom: cut.atoms, atoms });
            cut.rows += rows;
            cut.atoms += atoms;
        }
        Arc::new(cut)
    }

    fn plan(blocks: &Arc<Blocks>, rank: u32, world: u32, batch: u64) -> Plan {
        Plan {
            blocks: Arc::clone(blocks),
            features: 2,
            lanes: 8,
            seed: 17,
            rank,
            world,
            batch,
            epochs: 3,
            epoch: 0,
            step: 0,
            read_ahead: 300,
            readers: 2,
        }
    }

    /// The atoms of each global batch from (epoch, step) on, over all ranks.
    fn batches(plan: &Plan, world: u32) -> Vec<HashSet<u64>> {
        let mut readers: Vec<LaneReader> =
            (0..world).map(|rank| LaneReader::open(Plan { rank, world, ..plan.clone() }, Arc::new(Counting))).collect();
        let steps = readers[0].steps_per_epoch();
        let (mut found, mut batch) = (Vec::new(), Batch::default());
        for (epoch, step) in (plan.epoch..plan.epochs).flat_map(|epoch| (0..steps).map(move |step| (epoch, step))) {
            if (epoch, step) < (plan.epoch, plan.step) {
                continue;
            }
            let mut atoms = HashSet::new();
            for reader in &mut readers {
                reader.next(epoch, step, &mut batch).unwrap();
                assert_eq!(batch.rows(), batch.weights.len());
                for atom in &batch.atoms {
                    assert!(atoms.insert(*atom), "atom {atom} came twice in epoch {epoch}, step {step}");
                }
                for (row, label) in batch.features.chunks(2).zip(&batch.labels) {
                    assert_eq!(row, [*label, -label]);
                }
            }
            found.push(atoms);
        }
        found
    }

    #[test]
    fn the_batches_are_the_same_for_every_world_size_and_every_row_comes_once_an_epoch() {
        let sizes = [7, 1, 12, 9, 30, 4, 4, 4, 21, 8, 15, 2];
        for atom in [Atom::Row, Atom::List] {
            let blocks = blocks(&sizes, atom);
            let alone = batches(&plan(&blocks, 0, 1, 10), 1);
            for world in [2, 3, 5] {
                assert_eq!(batches(&plan(&blocks, 0, 1, 10), world), alone, "world {world}");
            }
            let steps = blocks.atoms.div_ceil(10) as usize;
            for epoch in alone.chunks(steps) {
                let seen: HashSet<u64> = epoch.iter().flatten().copied().collect();
                assert_eq!(seen.len() as u64, blocks.atoms);
                assert!(epoch[..steps - 1].iter().all(|batch| batch.len() == 10));
            }
            assert_ne!(alone[0], alone[steps], "epochs must not repeat their order");
        }
    }

    #[test]
    fn starting_in_the_middle_gives_what_would_have_come_there() {
        let blocks = blocks(&[7, 1, 12, 9, 30, 4, 21, 8], Atom::List);
        let whole = batches(&plan(&blocks, 0, 1, 4), 2);
        let steps = blocks.atoms.div_ceil(4) as usize;
        let rest = batches(&Plan { epoch: 1, step: 5, ..plan(&blocks, 0, 1, 4) }, 3);
        assert_eq!(rest, whole[steps + 5..]);
    }

    #[test]
    fn a_batch_of_the_whole_dataset_needs_more_blocks_than_the_budget_and_still_comes() {
        let blocks = blocks(&[50; 40], Atom::Row);
        let all = batches(&Plan { read_ahead: 1, ..plan(&blocks, 0, 1, 2000) }, 2);
        assert!(all.iter().all(|batch| batch.len() == 2000));
    }

    #[test]
    fn the_sum_of_the_hashes_that_batches_carry_is_what_the_audit_expects() {
        let blocks = blocks(&[7, 1, 12, 9], Atom::List);
        let (mut reader, mut batch) = (LaneReader::open(plan(&blocks, 0, 1, 4), Arc::new(Counting)), Batch::default());
        let sum: u128 = (0..reader.steps_per_epoch())
            .map(|step| {
                reader.next(0, step, &mut batch).unwrap();
                batch.hash
            })
            .sum();
        assert_eq!(sum, lanes::expected_hash(blocks.atoms));
    }

    #[test]
    fn dealing_a_block_to_two_lanes_is_caught_by_the_audit() {
        let blocks = blocks(&[7, 1, 12, 9], Atom::Row);
        let mut deal = Deal::new(&blocks, 8, 17, 0);
        let given = |deal: &Deal| -> u128 {
            let atoms = |block: &u32| {
                let block = &blocks.blocks[*block as usize];
                (block.first_atom..block.first_atom + block.atoms)
                    .map(|atom| u128::from(lanes::atom_hash(atom)))
                    .sum::<u128>()
            };
            deal.lanes.iter().flat_map(|lane| &lane.blocks).map(atoms).sum()
        };
        assert_eq!(given(&deal), lanes::expected_hash(blocks.atoms));
        let (full, other) = (deal.lanes.iter().position(|lane| lane.blocks == [0]).unwrap(), 1);
        let other = deal.lanes.iter().position(|lane| lane.blocks == [other]).unwrap();
        deal.lanes[other].blocks = deal.lanes[full].blocks.clone();
        assert_ne!(given(&deal), lanes::expected_hash(blocks.atoms));
    }
}
