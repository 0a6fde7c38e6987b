//! Checkpoints, from this side: every rank copies the state between steps, rank 0's thread writes it beside training, the
//! coordinator publishes what lies complete. And the way back, from a checkpoint's files into a job.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proto::{
    checkpoint::{CheckpointManifest, MANIFEST, OPTIMIZER},
    spec::Every,
};
use safetensors::SafeTensors;

use super::{
    Job, JobError,
    snapshot::{self, Snapshot, reported, state_names},
    writer::Writer,
};
use crate::{fault::Fault, model::load};

/// When a copy is taken, and where it goes.
pub(super) struct Checkpoints {
    every: Every,
    initial: bool,
    /// Step of the newest copy.
    pub last_saved: Option<u64>,
    last_time: Instant,
    pub writer: Writer,
}

impl Checkpoints {
    pub fn new(spec: &proto::spec::Checkpoint) -> Self {
        Self {
            every: spec.every,
            initial: spec.initial,
            last_saved: None,
            last_time: Instant::now(),
            writer: Writer::new(),
        }
    }

    /// Rank 0's clock decides for all, by way of the reduced tail.
    pub fn is_due_by_time(&self) -> bool {
        matches!(self.every, Every::Time(every) if self.writer.writes() && self.last_time.elapsed() >= every)
    }

    fn is_due(&self, step: u64, steps_per_epoch: u64) -> bool {
        match self.every {
            _ if step == 0 => self.initial,
            Every::Epochs(epochs) => step.is_multiple_of(steps_per_epoch * epochs.get()),
            Every::Steps(steps) => step.is_multiple_of(steps.get()),
            Every::Time(_) => false,
        }
    }
}

impl Job {
    /// Saves where the schedule, an order or a new best asks for it. `self.step` steps are done.
    pub(super) fn save_if_due(&mut self) -> Result<(), JobError> {
        let best = std::mem::take(&mut self.improved);
        if std::mem::take(&mut self.save_due) {
            self.shared.checkpoint.store(false, std::sync::atomic::Ordering::Relaxed);
            self.save(best);
        } else if best || self.checkpoints.is_due(self.step, self.steps_per_epoch) {
            self.save(best);
        }
        Ok(())
    }

    /// Saves the state at the end, and waits until all that was saved is written.
    pub(super) fn save_last(&mut self) -> Result<(), JobError> {
        self.save(false);
        self.confirm()?;
        self.tell_all(self.step);
        let shared = &self.shared;
        self.checkpoints.writer.finish(self.step, || shared.go_on())?.map_err(|error| {
            JobError::failed(
                format!("the last checkpoint could not be written: {error}"),
                "free space in checkpoint.dir or choose another, and resume from the newest checkpoint with --resume",
            )
        })
    }

    /// Copies that all ranks are known to have come to go to be written, on the rank that does that.
    pub(super) fn hand_over(&mut self) {
        self.checkpoints.writer.hand_over(self.reports.confirmed(), &self.shared.published);
    }

    fn save(&mut self, best: bool) {
        if self.checkpoints.last_saved == Some(self.step) {
            return;
        }
        self.checkpoints.last_saved = Some(self.step);
        self.checkpoints.last_time = Instant::now();
        self.keep_copy(best);
        self.hand_over();
    }

    pub(super) fn keep_copy(&mut self, best: bool) {
        let mut trainer = self.state.clone();
        trainer.epoch_hash = format!("{:032x}", self.epoch_hash);
        let train = self.seat.train.as_ref();
        let columns = train.and_then(|train| train.columns.as_ref());
        let manifest = CheckpointManifest {
            format: 1,
            lockstep: proto::VERSION.to_owned(),
            run_id: self.seat.run_id.clone(),
            run_name: self.spec.name.clone(),
            generation: self.seat.generation,
            step: self.step,
            epoch: self.step / self.steps_per_epoch,
            step_in_epoch: self.step % self.steps_per_epoch,
            steps_per_epoch: self.steps_per_epoch,
            seed: self.spec.seed,
            lanes: self.spec.cluster.lanes,
            world: self.seat.world,
            dataset_hash: train.map_or_else(String::new, |train| train.hash.clone()),
            features: columns.map_or_else(Vec::new, |columns| columns.features.clone()),
            spec_toml: self.seat.spec_toml.clone(),
            metrics: self.metrics.iter().map(snapshot::kept).collect(),
            trainer,
            files: Vec::new(),
            unix_micros: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64,
        };
        let copy = |tensor: &tch::Tensor| {
            let mut values = vec![0f32; tensor.numel()];
            tensor.copy_data(&mut values, tensor.numel());
            values
        };
        let mut buffers = self.checkpoints.writer.buffers();
        buffers.fill(self.network.parameters.slices().0, &self.optimizer.first, &self.optimizer.second);
        let snapshot = Snapshot {
            manifest,
            entries: self.network.parameters.entries.clone(),
            module: self.network.module_file().cloned(),
            normalization: [&self.network.normalization.mean, &self.network.normalization.scale].map(copy),
            optimizer: self.spec.optimizer.kind,
            buffers,
        };
        self.checkpoints.writer.keep(snapshot, best);
    }

    /// Goes on from a checkpoint's files, which the coordinator has verified.
    pub(super) fn resume(&mut self, folder: &Path) -> Result<(), JobError> {
        let manifest: CheckpointManifest = read_json(&folder.join(MANIFEST))?;
        load::weights(&mut self.network, folder)?;
        let path = folder.join(OPTIMIZER);
        let bytes = fs::read(&path).map_err(|error| load::damaged(&path, &error))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| load::damaged(&path, &error))?;
        let names = state_names(self.spec.optimizer.kind);
        for entry in &self.network.parameters.entries {
            let range = entry.offset..entry.offset + entry.length;
            for (name, state) in names.iter().zip([&mut self.optimizer.first, &mut self.optimizer.second]) {
                if !state.is_empty() {
                    let name = format!("{name}.{}", entry.name);
                    load::tensor(&path, &tensors, &name, &entry.shape, &mut state[range.clone()])?;
                }
            }
        }
        if manifest.steps_per_epoch != self.steps_per_epoch {
            return Err(JobError::wrong_input(
                format!(
                    "`{}` has {} steps an epoch, this run has {}",
                    folder.display(),
                    manifest.steps_per_epoch,
                    self.steps_per_epoch
                ),
                "data, batch and loss must be the same to resume; to start anew from its weights set model.start_from",
            ));
        }
        self.step = manifest.step;
        self.optimizer.updates = manifest.trainer.updates;
        self.epoch_hash = u128::from_str_radix(&manifest.trainer.epoch_hash, 16).unwrap_or(0);
        self.state = manifest.trainer;
        self.checkpoints.last_saved = Some(self.step);
        self.metrics = manifest.metrics.into_iter().map(reported).collect();
        Ok(())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let bytes = fs::read(path).map_err(|error| load::damaged(path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| load::damaged(path, &error))
}
