//! The readers: [`LaneReader`] gives each step's share of a rank, read ahead on threads of its own; [`scan`] gives whole blocks
//! in order, for validation and statistics.
//!
//! Atoms are put into their epoch's order while a block is read, so that a step only copies runs of rows.

mod errands;

use std::{
    collections::HashMap,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use errands::{Errand, Errands, Key};

use crate::{
    lanes::{self, Atom, Block, Blocks, Deal},
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
        batch.weights.resize(batch.labels.len(), 1.0);
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

    /// The blocks under way, as (file, first row, end): where to look for what spoiled a step.
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

fn read_ahead(
    plan: &Plan,
    errands: &Errands,
    source: &dyn Source,
    send: &Sender<Result<(Errand, Ready), DatasetError>>,
) {
    while let Some(errand) = errands.next() {
        let block = &plan.blocks.blocks[errand.block as usize];
        let read = guarded(source, block).map(|decoded| {
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

/// A decoder that panics over a malformed page has found bad input, like one that returns an error.
fn guarded(source: &dyn Source, block: &Block) -> Result<Decoded, DatasetError> {
    panic::catch_unwind(AssertUnwindSafe(|| source.read(block))).unwrap_or_else(|_| {
        let (file, end) = (block.file, block.first_row + block.rows);
        let message = format!("file {file} of the dataset, rows {}..{end}: its pages are malformed", block.first_row);
        Err(DatasetError::new("".as_ref(), message).hint("`lockstep inspect` reads every value: write the file anew"))
    })
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
            let read = guarded(&*source, &blocks.blocks[index as usize]).map(|decoded| (index, decoded));
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
mod tests;
