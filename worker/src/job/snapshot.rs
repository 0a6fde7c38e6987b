//! A copy of the state between two steps, and how it becomes a checkpoint's folder.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use proto::{
    checkpoint::{CheckpointManifest, FileSum, MANIFEST, MODEL, MODULE, MetricValue, OPTIMIZER},
    spec::OptimizerKind,
    v1,
};
use safetensors::{Dtype, tensor::TensorView};

use crate::parameters::Entry;

/// All that a checkpoint holds.
pub(super) struct Snapshot {
    pub manifest: CheckpointManifest,
    pub entries: Vec<Entry>,
    /// The file of a scripted module.
    pub module: Option<Arc<[u8]>>,
    pub normalization: [Vec<f32>; 2],
    pub optimizer: OptimizerKind,
    pub buffers: Buffers,
}

/// The large part, whose memory serves one snapshot after the other.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Buffers {
    pub fn fill(&mut self, values: &[f32], first: &[f32], second: &[f32]) {
        for (to, from) in [(&mut self.values, values), (&mut self.first, first), (&mut self.second, second)] {
            to.clear();
            to.extend_from_slice(from);
        }
    }
}

/// Names of the optimizer's tensors: PyTorch's, and the parameter's.
pub(super) fn state_names(kind: OptimizerKind) -> [&'static str; 2] {
    match kind {
        OptimizerKind::Adamw => ["exp_avg", "exp_avg_sq"],
        OptimizerKind::Sgd => ["momentum_buffer", ""],
    }
}

/// A metric, as reports carry it.
pub(super) fn reported(metric: MetricValue) -> v1::Metric {
    v1::Metric { name: metric.name, value: metric.value, convention: metric.convention }
}

/// A metric, as checkpoints keep it.
pub(super) fn kept(metric: &v1::Metric) -> MetricValue {
    MetricValue { name: metric.name.clone(), value: metric.value, convention: metric.convention.clone() }
}

impl Snapshot {
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Writes the checkpoint's folder, which is complete when this returns, or gone.
    pub fn write(&self, folder: &Path) -> io::Result<v1::CheckpointStaged> {
        let written = self.write_files(folder);
        if written.is_err() {
            // What the disk was too full for is of no use to anyone.
            let _ = fs::remove_dir_all(folder);
        }
        written
    }

    fn write_files(&self, folder: &Path) -> io::Result<v1::CheckpointStaged> {
        let Self { entries, normalization, buffers: Buffers { values, first, second }, .. } = self;
        let mut manifest = self.manifest.clone();
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let features = normalization[0].len();
        let mut model = vec![
            ("normalize.mean".to_owned(), view(&normalization[0], &[features as i64])?),
            ("normalize.scale".to_owned(), view(&normalization[1], &[features as i64])?),
        ];
        let mut state = Vec::new();
        for entry in entries {
            let range = entry.offset..entry.offset + entry.length;
            model.push((entry.name.clone(), view(&values[range.clone()], &entry.shape)?));
            for (name, values) in state_names(self.optimizer).iter().zip([first, second]) {
                if !values.is_empty() {
                    state.push((format!("{name}.{}", entry.name), view(&values[range.clone()], &entry.shape)?));
                }
            }
        }
        let mut keep = |name: &str, bytes: &[u8]| {
            store(&folder.join(name), bytes)?;
            let blake3 = blake3::hash(bytes).to_hex().to_string();
            manifest.files.push(FileSum { name: name.to_owned(), bytes: bytes.len() as u64, blake3 });
            io::Result::Ok(())
        };
        for (name, tensors) in [(MODEL, model), (OPTIMIZER, state)] {
            keep(name, &safetensors::serialize(tensors, None).map_err(io::Error::other)?)?;
        }
        if let Some(module) = &self.module {
            keep(MODULE, module)?;
        }
        store(&folder.join(MANIFEST), &serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?)?;
        File::open(folder)?.sync_all()?;
        Ok(v1::CheckpointStaged {
            staged_path: folder.to_string_lossy().into_owned(),
            checkpoint: Some(v1::Checkpoint {
                path: String::new(),
                step: manifest.step,
                epoch: manifest.epoch,
                step_in_epoch: manifest.step_in_epoch,
                unix_micros: manifest.unix_micros,
                bytes: manifest.files.iter().map(|file| file.bytes).sum(),
                metrics: manifest.metrics.into_iter().map(reported).collect(),
                best: false,
            }),
        })
    }
}

fn view<'a>(values: &'a [f32], shape: &[i64]) -> io::Result<TensorView<'a>> {
    let shape = shape.iter().map(|length| *length as usize).collect();
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).map_err(io::Error::other)
}

fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
