//! The state of a job on its way from the rank that holds the newest one to those that lack it: through memory, not by way of a disk.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::{
    checkpoint::{MetricValue, TrainerState},
    v1,
};
use serde::{Deserialize, Serialize};

use super::{
    Job, JobError,
    report::{Record, WORDS},
    snapshot::{kept, reported},
};
use crate::collective::{Collective, Lost};

/// All of it that is no row of numbers.
#[derive(Serialize, Deserialize)]
struct Small {
    step: u64,
    trainer: TrainerState,
    metrics: Vec<MetricValue>,
    epoch_open: bool,
    epoch_seconds: f64,
    improved: bool,
    save_due: bool,
    last_saved: Option<u64>,
    nonfinite_in_a_row: u64,
    /// Encoded [`v1::EpochEnded`]s.
    epochs: Vec<Vec<u8>>,
    /// How many follow.
    records: usize,
}

impl Job {
    /// Takes part in the broadcast of the state of the rank `root`, and takes it over unless this rank `holds` the same. The coordinator
    /// knows of steps up to `reported`: records of later ones travel along.
    pub(super) fn exchange(&mut self, root: usize, holds: bool, reported: u64) -> Result<(), JobError> {
        let mine = self.collective.rank() == root;
        let mut records: Vec<[u64; WORDS]> =
            if mine { self.reports.since(reported).map(Record::to_words).collect() } else { Vec::new() };
        let small = if mine { serde_json::to_vec(&self.small(records.len())).unwrap_or_default() } else { Vec::new() };
        let small = broadcast(&mut *self.collective, small, root)?;
        let small: Small = serde_json::from_slice(&small).map_err(|error| {
            JobError::failed(format!("the state from rank {root} cannot be read: {error}"), "please report this")
        })?;
        self.whole &= holds;
        self.show();
        records.resize(small.records, [0; WORDS]);
        let [mut mean, mut scale] =
            [&self.network.normalization.mean, &self.network.normalization.scale].map(|tensor| {
                let mut numbers = vec![0f32; tensor.numel()];
                tensor.copy_data(&mut numbers, tensor.numel());
                numbers
            });
        self.collective.broadcast(bytemuck::cast_slice_mut(records.as_flattened_mut()), root)?;
        // Whoever holds the same state gets the same bits.
        let (values, _) = self.network.parameters.slices();
        for numbers in [values, &mut self.optimizer.first, &mut self.optimizer.second, &mut mean, &mut scale] {
            self.collective.broadcast(bytemuck::cast_slice_mut(numbers), root)?;
        }
        if !holds {
            self.network.normalization.set(&mean, &scale);
            self.adopt(small, records.into_iter().map(Record::from_words));
        }
        Ok(())
    }

    fn small(&self, records: usize) -> Small {
        let mut trainer = self.state.clone();
        trainer.epoch_hash = format!("{:032x}", self.epoch_hash);
        Small {
            step: self.step,
            trainer,
            metrics: self.metrics.iter().map(kept).collect(),
            epoch_open: self.epoch_open,
            epoch_seconds: self.epoch_began.elapsed().as_secs_f64(),
            improved: self.improved,
            save_due: self.save_due,
            last_saved: self.checkpoints.last_saved,
            nonfinite_in_a_row: self.nonfinite_in_a_row,
            epochs: self.reports.epochs.iter().map(v1::EpochEnded::encode_to_vec).collect(),
            records,
        }
    }

    fn adopt(&mut self, small: Small, records: impl ExactSizeIterator<Item = Record>) {
        self.step = small.step;
        self.optimizer.updates = small.trainer.updates;
        self.epoch_hash = u128::from_str_radix(&small.trainer.epoch_hash, 16).unwrap_or(0);
        self.state = small.trainer;
        self.metrics = small.metrics.into_iter().map(reported).collect();
        self.epoch_open = small.epoch_open;
        let elapsed = Duration::try_from_secs_f64(small.epoch_seconds).unwrap_or_default();
        self.epoch_began = Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now);
        (self.improved, self.save_due) = (small.improved, small.save_due);
        self.checkpoints.last_saved = small.last_saved;
        self.nonfinite_in_a_row = small.nonfinite_in_a_row;
        self.reports.epochs = small.epochs.iter().filter_map(|bytes| v1::EpochEnded::decode(&bytes[..]).ok()).collect();
        self.reports.replace(small.step, records);
        self.whole = true;
        // A copy that the others have of this very step, this rank must have too: it may come to write it.
        if small.last_saved == Some(self.step) && !self.shared.published.covers(self.step) {
            let ended = (self.step / self.steps_per_epoch).checked_sub(1);
            let best =
                self.step.is_multiple_of(self.steps_per_epoch) && ended.is_some() && self.state.best_epoch == ended;
            self.keep_copy(best);
        }
    }
}

/// The root's bytes, of any length, on every rank.
pub(super) fn broadcast(
    collective: &mut (impl Collective + ?Sized),
    mine: Vec<u8>,
    root: usize,
) -> Result<Vec<u8>, Lost> {
    let mut length = (mine.len() as u64).to_le_bytes();
    collective.broadcast(&mut length, root)?;
    let mut bytes = mine;
    bytes.resize(u64::from_le_bytes(length) as usize, 0);
    collective.broadcast(&mut bytes, root)?;
    Ok(bytes)
}
