//! What a rank's reading threads are to bring, in the order in which it is needed, within a budget of bytes.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard},
};

use super::Plan;
use crate::lanes::Deal;

pub(super) type Key = (u64, u32, u32); // epoch, lane, place in the lane

/// One block that a reading thread is to bring.
pub(super) struct Errand {
    pub key: Key,
    pub block: u32,
    pub bytes: usize,
}

/// The blocks of a rank in the order in which they are needed, handed to reading threads within a budget of bytes.
pub(super) struct Errands {
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
    pub fn new(plan: Plan, deal: Deal, from: Vec<u64>) -> Self {
        let epoch = plan.epoch;
        let this = Self {
            plan,
            state: Mutex::new(ErrandState { epoch, queue: VecDeque::new(), waiting_bytes: 0, closed: false }),
            changed: Condvar::new(),
        };
        // A reader opened past the last epoch has nothing to read.
        let queue = if epoch < this.plan.epochs { this.queue(epoch, &deal, &from) } else { VecDeque::new() };
        this.lock().queue = queue;
        this
    }

    fn lock(&self) -> MutexGuard<'_, ErrandState> {
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
    pub fn next(&self) -> Option<Errand> {
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

    pub fn received(&self, bytes: usize) {
        let mut state = self.lock();
        state.waiting_bytes -= bytes;
        drop(state);
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
