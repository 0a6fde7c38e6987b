//! What lies beside the tensors of a checkpoint: `manifest.json`. Shape only; workers write it, the coordinator publishes and verifies.
//!
//! A checkpoint is a folder `<checkpoint.dir>/<run name>/step-00000500/` with `model.safetensors` (weights, and the
//! normalisation's `normalize.mean` and `normalize.scale`), `optimizer.safetensors` and `manifest.json`, written last. Of a
//! `torchscript` model it also holds the file that was trained, as `module.pt`: code, buffers and first values.

use serde::{Deserialize, Serialize};

pub const MANIFEST: &str = "manifest.json";
pub const MODEL: &str = "model.safetensors";
pub const OPTIMIZER: &str = "optimizer.safetensors";
pub const MODULE: &str = "module.pt";

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// 1.
    pub format: u32,
    pub lockstep: String,
    pub run_id: String,
    pub run_name: String,
    pub generation: u64,
    /// Steps completed since the start of the run; the checkpoint is the state after them.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Steps completed in the epoch under way.
    pub step_in_epoch: u64,
    pub steps_per_epoch: u64,
    pub seed: u64,
    pub lanes: u32,
    pub world: u32,
    pub dataset_hash: String,
    pub features: Vec<String>,
    /// The run's document, as it was submitted.
    pub spec_toml: String,
    /// Of the newest validation, if any.
    pub metrics: Vec<MetricValue>,
    pub trainer: TrainerState,
    pub files: Vec<FileSum>,
    pub unix_micros: u64,
}

/// What a run must remember beside tensors to go on as if it had never stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Updates applied (steps less the skipped ones).
    pub updates: u64,
    pub skipped_nonfinite: u64,
    pub skipped_empty: u64,
    /// Best value of the early-stopping metric so far (ndcg@10 where none is set), and its epoch.
    pub best: Option<f64>,
    pub best_epoch: Option<u64>,
    pub epochs_without_improvement: u64,
    /// Sums over the epoch under way.
    pub epoch_loss: f64,
    pub epoch_denominator: f64,
    pub epoch_rows: u64,
    pub epoch_lists: u64,
    pub epoch_atoms: u64,
    /// 128-bit sum of the consumed atoms' hashes, in hex.
    pub epoch_hash: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    pub name: String,
    pub value: f64,
    pub convention: String,
}

/// A file of the checkpoint and what it must hash to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    pub name: String,
    pub bytes: u64,
    /// Hex.
    pub blake3: String,
}
