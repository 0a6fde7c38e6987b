//! What other threads ask of a job and may know of it: the session's thread on one side, the training thread on the other.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::JobError;
use crate::collective::{Aborter, Collective, Lost};

/// One generation of a job, as seen from outside.
#[derive(Debug, Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub give_way: AtomicBool,
    pub checkpoint: AtomicBool,
    pub abort: Arc<AtomicBool>,
    /// Steps completed.
    pub step: AtomicU64,
    /// The epoch that ends at `step` has yet to be closed.
    pub epoch_open: AtomicBool,
    /// The state in memory is whole: somebody could go on from it.
    pub whole: AtomicBool,
    /// What became of checkpoints. Of the run, not of the generation.
    pub published: Arc<Published>,
    /// Inside a collective.
    waiting: AtomicBool,
    /// Counts what the training thread has got done: steps, blocks.
    pulse: AtomicU64,
    /// Time at work, not waiting, in so many steps of this generation.
    busy_nanos: AtomicU64,
    busy_steps: AtomicU64,
    aborter: Mutex<Option<Aborter>>,
}

impl Shared {
    pub fn of_run(published: Arc<Published>) -> Self {
        Self { published, ..Self::default() }
    }

    /// Ends the job at once: whatever it waits for in a collective is let go.
    pub fn abort(&self) {
        self.abort.store(true, Ordering::SeqCst);
        if let Some(aborter) = &*self.aborter.lock().unwrap_or_else(PoisonError::into_inner) {
            aborter.abort();
        }
    }

    /// From here on an abort reaches this collective too.
    pub(super) fn watch(&self, aborter: Aborter) {
        // Stored before the flag is read: an abort in between finds the aborter, an abort before is seen in the flag.
        *self.aborter.lock().unwrap_or_else(PoisonError::into_inner) = Some(aborter.clone());
        if self.abort.load(Ordering::SeqCst) {
            aborter.abort();
        }
    }

    /// For work that waits in no collective: an error once the job is aborted.
    pub(super) fn go_on(&self) -> Result<(), JobError> {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        if self.abort.load(Ordering::Relaxed) { Err(Lost::aborted().into()) } else { Ok(()) }
    }

    /// Does what waits for peers.
    pub(super) fn wait<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.waiting.store(true, Ordering::Relaxed);
        let result = operation();
        self.waiting.store(false, Ordering::Relaxed);
        result
    }

    /// A step is done, which took so long without the wait for peers.
    pub(super) fn worked(&self, time: Duration) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        self.busy_steps.fetch_add(1, Ordering::Relaxed);
        self.busy_nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Time at work, and in how many steps.
    pub fn busy(&self) -> (Duration, u64) {
        let time = Duration::from_nanos(self.busy_nanos.load(Ordering::Relaxed));
        (time, self.busy_steps.load(Ordering::Relaxed))
    }
}

/// What the coordinator said of a run's checkpoints, newest first known. Steps are kept as one more than they are; 0 is none.
#[derive(Debug, Default)]
pub struct Published {
    newest: AtomicU64,
    refused: AtomicU64,
}

impl Published {
    /// `step`, and with it all before, needs no copy in memory any more.
    pub fn done(&self, step: u64) {
        self.newest.fetch_max(step + 1, Ordering::Relaxed);
    }

    /// What was staged of `step` is gone without having been published.
    pub fn refused(&self, step: u64) {
        self.refused.store(step + 1, Ordering::Relaxed);
    }

    pub(super) fn covers(&self, step: u64) -> bool {
        self.newest.load(Ordering::Relaxed) > step
    }

    pub(super) fn take_refused(&self) -> Option<u64> {
        if self.refused.load(Ordering::Relaxed) == 0 {
            None
        } else {
            self.refused.swap(0, Ordering::Relaxed).checked_sub(1)
        }
    }
}

/// A collective that shows, while it waits, that it does.
pub(super) struct Shown {
    collective: Box<dyn Collective>,
    shared: Arc<Shared>,
}

impl Shown {
    pub fn new(collective: Box<dyn Collective>, shared: &Arc<Shared>) -> Self {
        shared.watch(collective.aborter());
        Self { collective, shared: Arc::clone(shared) }
    }
}

impl Collective for Shown {
    fn rank(&self) -> usize {
        self.collective.rank()
    }

    fn world(&self) -> usize {
        self.collective.world()
    }

    fn all_reduce(&mut self, gradients: &mut [f32], tail: &mut [f64]) -> Result<(), Lost> {
        self.shared.wait(|| self.collective.all_reduce(gradients, tail))
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), Lost> {
        self.shared.wait(|| self.collective.broadcast(bytes, root))
    }

    fn gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.shared.wait(|| self.collective.gather(mine))
    }

    fn aborter(&self) -> Aborter {
        self.collective.aborter()
    }
}
