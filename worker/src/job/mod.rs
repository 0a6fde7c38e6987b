//! A job: a worker's part in a run, from the first rows read to the last checkpoint, over all the generations in which the worker has a
//! seat. [`Job`] holds what the loop in [`training`] works with.

mod agreement;
mod checkpoints;
mod module;
mod report;
mod setup;
mod shared;
mod snapshot;
mod state;
pub mod training;
mod validation;
mod writer;

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Instant,
};

use dataset::{
    lanes::Blocks,
    manifest::DatasetError,
    reader::{Batch, LaneReader},
    source::Source,
};
use proto::{
    checkpoint::TrainerState,
    spec::RunSpec,
    v1::{self, OrderKind},
};
use tch::Device;

pub use agreement::{Agreed, Reduced};
pub use setup::Surroundings;
pub use shared::{Published, Shared};

use crate::{
    collective::{Collective, Lost},
    fault::Fault,
    loss::{BadLabel, Objective},
    model::Network,
    optimizer::{Optimizer, Schedule},
};

/// How a job ended, when nothing went wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Why it ended well.
    Finished(String),
    /// An order was obeyed, by all ranks at this step.
    Ordered(OrderKind),
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
    /// None between two generations.
    data: Option<LaneReader>,
    pub batch: Batch,
    pub steps_per_epoch: u64,
    /// Steps completed since the start of the run.
    pub step: u64,
    pub state: TrainerState,
    reports: report::Reports,
    pub metrics: Vec<v1::Metric>,
    evaluations: Vec<validation::Evaluation>,
    checkpoints: checkpoints::Checkpoints,
    blocks: Arc<Blocks>,
    /// Holds what is decoded, where that is kept.
    source: Arc<dyn Source>,
    audit: Audit,
    /// Sum over the epoch under way.
    epoch_hash: u128,
    epoch_began: Instant,
    /// The epoch that ends at `step` has yet to be audited, validated and reported.
    epoch_open: bool,
    /// The state is complete: not in the middle of being received.
    whole: bool,
    /// The generation in which the state was computed.
    generation: u64,
    nonfinite_in_a_row: u64,
    /// Of the last step, before clipping.
    gradient_norm: f64,
    /// The epoch that just ended is the best so far.
    improved: bool,
    /// A checkpoint of the state after `step` was ordered.
    save_due: bool,
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

    /// What somebody could go on from.
    pub fn holding(&self) -> Option<v1::Holding> {
        self.whole.then(|| v1::Holding {
            run_id: self.seat.run_id.clone(),
            generation: self.generation,
            step: self.step,
            epoch_closed: !self.epoch_open,
        })
    }

    /// Tells other threads how far the job is.
    fn show(&self) {
        self.shared.step.store(self.step, Ordering::Relaxed);
        self.shared.epoch_open.store(self.epoch_open, Ordering::Relaxed);
        self.shared.whole.store(self.whole, Ordering::Relaxed);
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
