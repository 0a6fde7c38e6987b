//! Sums, broadcasts and gathers over all ranks of one generation.
//!
//! [`Collective`] is what the training loop sees. The engine for CPUs is [`ring`]; [`Solo`] is a world of one. Nothing here knows
//! what is summed, and nothing here decides what follows a loss: every call returns [`Lost`], and the group is then of no more use.

mod bytes;
mod handshake;
mod link;
mod meeting;
mod monitor;
mod rendezvous;
pub mod ring;
mod shm;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

/// One rank's place among all ranks of a generation. Every rank calls the same operations in the same order.
pub trait Collective: Send {
    fn rank(&self) -> usize;

    fn world(&self) -> usize;

    /// Sums both slices in place over all ranks, in one exchange. Every rank ends with the same bits (the payload of a NaN apart),
    /// and the order of addition follows from the world and the two lengths alone, so that a run repeats to the bit.
    ///
    /// # Errors
    /// A peer was lost, or the call was aborted; the slices then hold partial sums.
    fn all_reduce(&mut self, gradients: &mut [f32], tail: &mut [f64]) -> Result<(), Lost>;

    /// Overwrites `bytes`, of the same length on every rank, with the root's.
    ///
    /// # Errors
    /// A peer was lost, or the call was aborted; `bytes` is then partly overwritten.
    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), Lost>;

    /// Everyone's bytes, in rank order; lengths may differ. For small things: each rank sends to each other one.
    ///
    /// # Errors
    /// A peer was lost, or the call was aborted.
    fn gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Lost>;

    /// A handle for other threads: whoever waits inside a collective of this rank gets [`Lost`] at once.
    fn aborter(&self) -> Aborter;
}

/// Ends the collectives of one rank, from any thread. Harmless when they have ended already.
#[derive(Clone)]
pub struct Aborter(Arc<dyn Fn() + Send + Sync>);

impl Aborter {
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// The call in progress and every later one return [`Lost`]; the peers are told where the engine can.
    pub fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Aborter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aborter")
    }
}

/// The group is broken: a peer is gone, or someone gave up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Lost {
    /// The rank that is gone; none when this rank itself was aborted.
    pub peer: Option<usize>,
    pub reason: Reason,
    worker: String,
}

impl Lost {
    /// `worker` is the peer's name in the run, as in `w2:1`.
    pub fn peer(rank: usize, worker: impl Into<String>, reason: Reason) -> Self {
        Self { peer: Some(rank), reason, worker: worker.into() }
    }

    /// Somebody on this rank called [`Aborter::abort`].
    pub fn aborted() -> Self {
        Self { peer: None, reason: Reason::Aborted, worker: String::new() }
    }

    /// The name of whom it is about, where it is about someone.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    fn sentence(&self) -> String {
        match self.peer {
            Some(rank) => format!("lost {}: {}", title(&self.worker, rank), self.reason),
            None => format!("this rank's collectives ended: {}", self.reason),
        }
    }
}

/// How a peer appears in every message: `w2:1 (rank 1)`.
fn title(worker: &str, rank: usize) -> String {
    format!("{worker} (rank {rank})")
}

/// Why a peer is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("connection closed")]
    Closed,
    #[error("{kind}")]
    Io { kind: std::io::ErrorKind },
    #[error("it did not come within {waited:?}")]
    Missing { waited: std::time::Duration },
    #[error("it left the group")]
    Left,
    #[error("aborted")]
    Aborted,
    #[error("{by} reported it")]
    Reported { by: String },
    #[error("it gave this rank up")]
    GaveUp,
    #[error("it is in {theirs}, this rank in {ours}")]
    Disagrees { theirs: String, ours: String },
}

/// A world of one: every operation is done before it begins.
#[derive(Debug, Default)]
pub struct Solo {
    aborted: Arc<std::sync::atomic::AtomicBool>,
}

impl Solo {
    fn check(&self) -> Result<(), Lost> {
        match self.aborted.load(std::sync::atomic::Ordering::Acquire) {
            true => Err(Lost::aborted()),
            false => Ok(()),
        }
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _gradients: &mut [f32], _tail: &mut [f64]) -> Result<(), Lost> {
        self.check()
    }

    fn broadcast(&mut self, _bytes: &mut [u8], _root: usize) -> Result<(), Lost> {
        self.check()
    }

    fn gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.check().map(|()| vec![mine.to_vec()])
    }

    fn aborter(&self) -> Aborter {
        let aborted = Arc::clone(&self.aborted);
        Aborter::new(move || aborted.store(true, std::sync::atomic::Ordering::Release))
    }
}
