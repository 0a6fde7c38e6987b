//! Scoring: rows in, a number a row out, which follows from the model and the row alone.
//!
//! Kernels add in another order for another number of rows or threads, and a validation on three workers would differ in its last
//! digits from one on two. So a network only ever sees pieces of one shape, in memory of one alignment, each computed by one thread
//! and filled up with zeros where rows run out; what is computed side by side is whole pieces. Where a row lies, among which others,
//! and how many work at it makes no difference then: validation, `lockstep score` and `lockstep evaluate --model` agree to the bit.

pub mod command;
pub mod stream;

use std::{panic, thread};

use tch::{Device, Kind, Tensor};

use crate::{memory, model::Network};

/// Activations of a piece: they stay in a core's cache.
const PIECE_BYTES: usize = 512 << 10;
/// Rows of a piece are a multiple of this, whatever the width of a kernel's tile.
const TILE: usize = 64;
const MOST_ROWS: usize = 512;

/// Scores on the thread that holds it; made by [`on_threads`].
#[derive(Debug)]
pub struct Scorer {
    network: Network,
    /// [rows, features], zeros past what was filled last.
    piece: Tensor,
    rows: usize,
    features: usize,
}

impl Scorer {
    fn new(network: Network) -> Self {
        let (rows, features) = (piece_rows(&network), network.features());
        let piece = Tensor::zeros([rows as i64, features as i64], (Kind::Float, Device::Cpu));
        Self { network, piece, rows, features }
    }

    /// Rows of a piece.
    pub fn piece_rows(&self) -> usize {
        self.rows
    }

    /// Scores of row-major features.
    pub fn score(&mut self, features: &[f32], scores: &mut [f32]) {
        assert_eq!(features.len(), scores.len() * self.features, "features of each row");
        let pieces = features.chunks(self.rows * self.features);
        for (features, scores) in pieces.zip(scores.chunks_mut(self.rows)) {
            self.piece(scores, |piece| piece.copy_from_slice(features));
        }
    }

    /// Scores of one piece at most: `fill` writes the features of so many rows, row-major.
    pub fn piece(&mut self, scores: &mut [f32], fill: impl FnOnce(&mut [f32])) {
        let (rows, end) = (scores.len(), scores.len() * self.features);
        let numbers = memory::slice(&mut self.piece);
        fill(&mut numbers[..end]);
        numbers[end..].fill(0.0);
        self.network.score(&self.piece).copy_data(scores, rows);
    }
}

/// Follows from the model alone.
fn piece_rows(network: &Network) -> usize {
    let rows = PIECE_BYTES / (size_of::<f32>() * network.units().max(1));
    (rows / TILE * TILE).clamp(TILE, MOST_ROWS)
}

/// Runs `work` on so many threads, each with a scorer of its own, and `meanwhile` on the caller's; what each gave. The caller's own
/// number of threads in libtorch stays what it is.
pub fn on_threads<T: Send, R>(
    network: &Network,
    threads: usize,
    work: impl Fn(&mut Scorer) -> T + Sync,
    meanwhile: impl FnOnce() -> R,
) -> (Vec<T>, R) {
    // libtorch keeps the number for the calling thread, and once more for threads that have not computed yet: the latter is put back.
    let before = tch::get_num_threads();
    let work = &work;
    let (results, beside) = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1))
            .map(|_| {
                let network = network.replica();
                scope.spawn(move || {
                    tch::set_num_threads(1);
                    let _no_graph = tch::no_grad_guard();
                    work(&mut Scorer::new(network))
                })
            })
            .collect();
        let beside = meanwhile();
        (threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>(), beside)
    });
    tch::set_num_threads(before);
    let results = results.into_iter().map(|result| result.unwrap_or_else(|panic| panic::resume_unwind(panic)));
    (results.collect(), beside)
}

#[cfg(test)]
mod tests;
