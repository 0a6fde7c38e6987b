//! A job: one seat filled, from the first rows read to the last checkpoint. [`Job`] holds what the loop in [`training`] works with.

mod agreement;
mod checkpoints;
mod module;
mod report;
mod setup;
pub mod training;
mod validation;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use dataset::{
    manifest::DatasetError,
    reader::{Batch, LaneReader},
};
use proto::{checkpoint::TrainerState, spec::RunSpec, v1};
use tch::Device;

pub use agreement::{Agreed, Reduced};
pub use report::Reports;

use crate::{
    collective::{Aborter, Collective, Lost},
    fault::Fault,
    loss::{BadLabel, Objective},
    model::Network,
    optimizer::{Optimizer, Schedule},
};

/// What other threads ask of a job and may know of it.
#[derive(Debug, Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub checkpoint: AtomicBool,
    pub abort: Arc<AtomicBool>,
    /// Steps completed.
    pub step: AtomicU64,
    aborter: std::sync::Mutex<Option<Aborter>>,
}

impl Shared {
    /// Ends the job at once: whatever it waits for in a collective is let go.
    pub fn abort(&self) {
        self.abort.store(true, Ordering::SeqCst);
        if let Some(aborter) = &*self.aborter.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            aborter.abort();
        }
    }

    /// From here on an abort reaches this collective too.
    fn watch(&self, aborter: Aborter) {
        // Stored before the flag is read: an abort in between finds the aborter, an abort before is seen in the flag.
        *self.aborter.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(aborter.clone());
        if self.abort.load(Ordering::SeqCst) {
            aborter.abort();
        }
    }

    /// For work that waits in no collective: an error once the job is aborted.
    fn go_on(&self) -> Result<(), JobError> {
        if self.abort.load(Ordering::Relaxed) { Err(Lost::aborted().into()) } else { Ok(()) }
    }
}

/// How a job ended, when nothing went wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Why it ended well.
    Finished(String),
    /// An order was obeyed, by all ranks at this step.
    Ordered,
}

/// Why a job did not end well.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    PeerLost(#[from] Lost),
    #[error("{message}")]
    Failed { message: String, hint: Option<String>, input_is_wrong: bool },
}

impl JobError {
    fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: Some(hint.into()), input_is_wrong: false }
    }

    fn wrong_input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: Some(hint.into()), input_is_wrong: true }
    }
}

impl From<DatasetError> for JobError {
    fn from(error: DatasetError) -> Self {
        Self::Failed { message: error.message, hint: error.hint, input_is_wrong: true }
    }
}

impl From<Fault> for JobError {
    fn from(fault: Fault) -> Self {
        Self::Failed { message: fault.message, hint: fault.hint, input_is_wrong: fault.input_is_wrong }
    }
}

impl From<BadLabel> for JobError {
    fn from(error: BadLabel) -> Self {
        Self::wrong_input(error.to_string(), "choose another loss, or other labels")
    }
}

/// Where a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub step_in_epoch: u64,
    pub ends_epoch: bool,
}

/// Everything one rank trains with.
pub struct Job {
    pub spec: RunSpec,
    pub seat: v1::Seat,
    pub shared: Arc<Shared>,
    pub collective: Box<dyn Collective>,
    pub network: Network,
    pub objective: Objective,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub data: LaneReader,
    pub batch: Batch,
    pub steps_per_epoch: u64,
    /// Steps completed since the start of the run.
    pub step: u64,
    pub state: TrainerState,
    pub reports: Reports,
    pub metrics: Vec<v1::Metric>,
    evaluations: Vec<validation::Evaluation>,
    writer: checkpoints::Writer,
    audit: Audit,
    /// Sum over the epoch under way.
    epoch_hash: u128,
    epoch_began: Instant,
    nonfinite_in_a_row: u64,
    /// Of the last step, before clipping.
    gradient_norm: f64,
    /// The epoch that just ended is the best so far.
    improved: bool,
    /// A share of more rows than this is worked off in pieces, so that a piece's activations stay in a core's cache.
    piece_rows: usize,
    scores: Vec<f32>,
    gradient: Vec<f32>,
    device: Device,
}

/// What every epoch must have counted in the end. The hash is summed up beside the first epoch.
#[derive(Debug)]
struct Audit {
    rows: u64,
    atoms: u64,
    hash: Arc<OnceLock<u128>>,
}

impl Job {
    pub fn total_steps(&self) -> u64 {
        self.spec.training.epochs * self.steps_per_epoch
    }

    /// Every rank's numbers, in rank order.
    fn gather(&mut self, mine: &[f64]) -> Result<Vec<Vec<f64>>, Lost> {
        let gathered = self.collective.gather(bytemuck::cast_slice(mine))?;
        Ok(gathered.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect())
    }

    pub fn position(&self, step: u64) -> Position {
        let step_in_epoch = step % self.steps_per_epoch;
        Position {
            epoch: step / self.steps_per_epoch,
            step_in_epoch,
            ends_epoch: step_in_epoch + 1 == self.steps_per_epoch,
        }
    }
}
