//! What the ranks agree on at each step: the small f64 tail that is reduced with the gradients, and what it says.

use std::{sync::atomic::Ordering, time::Instant};

use proto::v1::OrderKind;

use super::Job;
use crate::{collective::Lost, loss::Terms};

/// Numbers in the tail.
const LENGTH: usize = 12;
const LIMBS: usize = 4;

/// The reduced tail: the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreed {
    pub terms: Terms,
    pub rows: u64,
    pub lists: u64,
    pub atoms: u64,
    /// Some rank's loss was not finite.
    pub nonfinite: bool,
    /// Sum of the hashes of the atoms consumed.
    pub hash: u128,
    /// Someone wants a checkpoint of the state after this step.
    pub checkpoint: bool,
    /// All ranks end after this step.
    pub ends: Option<OrderKind>,
}

/// How a reduce ended.
#[derive(Debug)]
pub enum Reduced {
    ByAll(Agreed),
    PeerLost(Lost),
}

impl Job {
    /// Adds gradients and tails over all ranks, in one exchange.
    pub(super) fn reduce(&mut self, terms: Terms) -> Reduced {
        let asked = |flag: &std::sync::atomic::AtomicBool| f64::from(u8::from(flag.load(Ordering::Relaxed)));
        let finite = terms.loss.is_finite();
        let mut tail = [0.0; LENGTH];
        tail[0] = if finite { terms.loss } else { 0.0 };
        tail[1] = terms.denominator;
        tail[2] = self.batch.rows() as f64;
        tail[3] = self.batch.lists() as f64;
        tail[4] = f64::from(u8::from(!finite));
        tail[5] = asked(&self.shared.stop);
        tail[6] = asked(&self.shared.checkpoint) + f64::from(u8::from(self.checkpoints.is_due_by_time()));
        tail[7] = asked(&self.shared.give_way);
        split(self.batch.hash, &mut tail[8..]);
        let (_, gradients) = self.network.parameters.slices();
        let began = Instant::now();
        if let Err(lost) = self.collective.all_reduce(gradients, &mut tail) {
            return Reduced::PeerLost(lost);
        }
        self.reports.waited_for_peers(began.elapsed());
        self.confirmed();
        let ends = match (tail[5] > 0.0, tail[7] > 0.0) {
            (true, _) => Some(OrderKind::Stop),
            (false, true) => Some(OrderKind::Yield),
            (false, false) => None,
        };
        let (rows, lists) = (tail[2] as u64, tail[3] as u64);
        Reduced::ByAll(Agreed {
            terms: Terms { loss: tail[0], denominator: tail[1] },
            rows,
            lists,
            atoms: if self.spec.loss.kind.is_pointwise() { rows } else { lists },
            nonfinite: tail[4] > 0.0,
            hash: join(&tail[8..]),
            checkpoint: tail[6] > 0.0,
            ends,
        })
    }
}

impl Job {
    /// A collective has ended well. Every rank came to it with `self.step` steps applied, so those are never taken back: they may be
    /// told of and written down.
    pub(super) fn confirmed(&mut self) {
        self.reports.confirm(self.step);
        self.hand_over();
    }

    /// Makes sure that every rank has come as far as this one.
    pub(super) fn confirm(&mut self) -> Result<(), Lost> {
        if self.reports.confirmed() < self.step {
            self.collective.gather(&[])?;
            self.confirmed();
        }
        Ok(())
    }
}

/// 32 bits a number: exact in f64, and so is their sum over two million ranks.
fn split(hash: u128, limbs: &mut [f64]) {
    for (index, limb) in limbs.iter_mut().take(LIMBS).enumerate() {
        *limb = f64::from((hash >> (32 * index)) as u32);
    }
}

fn join(limbs: &[f64]) -> u128 {
    limbs.iter().take(LIMBS).enumerate().fold(0, |hash, (index, limb)| hash + ((*limb as u128) << (32 * index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_of_several_ranks_add_up_to_the_sum_of_their_hashes() {
        let hashes = [u128::from(u64::MAX) * 5000, 3, u128::from(u64::MAX) + 17];
        let mut sum = [0.0; LIMBS];
        for hash in hashes {
            let mut limbs = [0.0; LIMBS];
            split(hash, &mut limbs);
            sum.iter_mut().zip(limbs).for_each(|(sum, limb)| *sum += limb);
        }
        assert_eq!(join(&sum), hashes.iter().sum());
    }
}
