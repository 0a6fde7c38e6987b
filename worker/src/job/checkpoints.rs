//! Checkpoints, from this side: rank 0 copies the state between steps, a thread writes it beside training, the coordinator
//! publishes what lies complete. And the way back, from a checkpoint's files into a job.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proto::{
    checkpoint::{CheckpointManifest, FileSum, MANIFEST, MODEL, MODULE, MetricValue, OPTIMIZER},
    spec::{Every, OptimizerKind},
    v1::{self, OrderKind, worker_message::Message},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tokio::sync::mpsc;

use super::{Job, JobError};
use crate::{fault::Fault, model::load, parameters::Entry};

/// Names of the optimizer's tensors: PyTorch's, and the parameter's.
fn state_names(kind: OptimizerKind) -> [&'static str; 2] {
    match kind {
        OptimizerKind::Adamw => ["exp_avg", "exp_avg_sq"],
        OptimizerKind::Sgd => ["momentum_buffer", ""],
    }
}

/// The thread that writes, and what it was given last.
pub(super) struct Writer {
    every: Every,
    initial: bool,
    last_saved: Option<u64>,
    last_time: Instant,
    sender: Option<SyncSender<Snapshot>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
}

/// A copy of the state between two steps.
struct Snapshot {
    manifest: CheckpointManifest,
    entries: Vec<Entry>,
    /// The file of a scripted module.
    module: Option<Arc<[u8]>>,
    values: Vec<f32>,
    normalization: [Vec<f32>; 2],
    optimizer: OptimizerKind,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Writer {
    /// `sender`: where staged checkpoints are announced. Only rank 0 has a thread.
    pub fn new(spec: &proto::spec::Checkpoint, seat: &v1::Seat, sender: mpsc::Sender<Message>) -> io::Result<Self> {
        let failure = Arc::new(Mutex::new(None));
        let mut this = Self {
            every: spec.every,
            initial: spec.initial,
            last_saved: None,
            last_time: Instant::now(),
            sender: None,
            thread: None,
            failure: Arc::clone(&failure),
        };
        if seat.rank == 0 {
            let staging = PathBuf::from(&seat.staging);
            // One waits while one is written: a third would wait for the disk, and training with it.
            let (give, take) = sync_channel::<Snapshot>(1);
            this.sender = Some(give);
            this.thread = Some(thread::Builder::new().name("checkpoints".into()).spawn(move || {
                for snapshot in take {
                    let step = snapshot.manifest.step;
                    let written = write(&staging, snapshot);
                    let message = match &written {
                        Ok(staged) => Message::Staged(staged.clone()),
                        Err(error) => Message::Warning(v1::Warning {
                            message: format!("the checkpoint of step {step} was not written: {error}"),
                        }),
                    };
                    *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                        written.err().map(|error| error.to_string());
                    // A closed channel: nobody is left to publish it.
                    let _ = sender.blocking_send(message);
                }
            })?);
        }
        Ok(this)
    }

    /// Rank 0's clock decides for all, by way of the reduced tail.
    pub fn is_due_by_time(&self) -> bool {
        matches!(self.every, Every::Time(every) if self.sender.is_some() && self.last_time.elapsed() >= every)
    }

    /// Waits until all that was given is written.
    fn finish(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn is_due(&self, step: u64, steps_per_epoch: u64) -> bool {
        match self.every {
            Every::Epochs(epochs) => step.is_multiple_of(steps_per_epoch * epochs.get()),
            Every::Steps(steps) => step.is_multiple_of(steps.get()),
            Every::Time(_) => false,
        }
    }
}

/// However a job ends, what was given to the thread is written and announced before its last word.
impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Job {
    pub(super) fn save_initial(&mut self) -> Result<(), JobError> {
        if self.step == 0 && self.writer.initial { self.save() } else { Ok(()) }
    }

    /// Saves where the schedule, an order or a new best asks for it. `self.step` steps are done.
    pub(super) fn save_if_due(&mut self, step: u64, order: Option<OrderKind>) -> Result<(), JobError> {
        let ordered = order == Some(OrderKind::Checkpoint);
        let best = std::mem::take(&mut self.improved);
        if ordered {
            self.shared.checkpoint.store(false, std::sync::atomic::Ordering::Relaxed);
        }
        if ordered || best || self.writer.is_due(step + 1, self.steps_per_epoch) { self.save() } else { Ok(()) }
    }

    /// Saves the state at the end, and waits until all that was saved is written.
    pub(super) fn save_last(&mut self) -> Result<(), JobError> {
        self.save()?;
        self.writer.finish();
        match self.writer.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            Some(error) => Err(JobError::failed(
                format!("the last checkpoint could not be written: {error}"),
                "free space in checkpoint.dir or choose another, and resume from the newest checkpoint with --resume",
            )),
            None => Ok(()),
        }
    }

    fn save(&mut self) -> Result<(), JobError> {
        if self.writer.last_saved == Some(self.step) {
            return Ok(());
        }
        self.writer.last_saved = Some(self.step);
        self.writer.last_time = Instant::now();
        let Some(sender) = &self.writer.sender else { return Ok(()) };
        let mut trainer = self.state.clone();
        trainer.epoch_hash = format!("{:032x}", self.epoch_hash);
        let train = self.seat.train.clone().unwrap_or_default();
        let metric = |metric: &v1::Metric| MetricValue {
            name: metric.name.clone(),
            value: metric.value,
            convention: metric.convention.clone(),
        };
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
            dataset_hash: train.hash,
            features: train.columns.unwrap_or_default().features,
            spec_toml: self.seat.spec_toml.clone(),
            metrics: self.metrics.iter().map(metric).collect(),
            trainer,
            files: Vec::new(),
            unix_micros: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64,
        };
        let copy = |tensor: &tch::Tensor| {
            let mut values = vec![0f32; tensor.numel()];
            tensor.copy_data(&mut values, tensor.numel());
            values
        };
        let snapshot = Snapshot {
            manifest,
            entries: self.network.parameters.entries.clone(),
            module: self.network.module_file().cloned(),
            values: copy(&self.network.parameters.values),
            normalization: [&self.network.normalization.mean, &self.network.normalization.scale].map(copy),
            optimizer: self.spec.optimizer.kind,
            first: self.optimizer.first.clone(),
            second: self.optimizer.second.clone(),
        };
        sender
            .send(snapshot)
            .map_err(|_| JobError::failed("the thread that writes checkpoints has died", "see its log"))
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
        self.writer.last_saved = Some(self.step);
        self.metrics = manifest.metrics.into_iter().map(reported).collect();
        Ok(())
    }
}

/// A checkpoint's metric, as reports carry it.
fn reported(metric: MetricValue) -> v1::Metric {
    v1::Metric { name: metric.name, value: metric.value, convention: metric.convention }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let bytes = fs::read(path).map_err(|error| load::damaged(path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| load::damaged(path, &error))
}

/// Writes a checkpoint's folder under `staging`; complete when it returns, or gone.
fn write(staging: &Path, snapshot: Snapshot) -> io::Result<v1::CheckpointStaged> {
    let folder = staging.join(format!("step-{:08}", snapshot.manifest.step));
    let written = write_files(&folder, snapshot);
    if written.is_err() {
        // What the disk was too full for is of no use to anyone.
        let _ = fs::remove_dir_all(&folder);
    }
    written
}

fn write_files(folder: &Path, snapshot: Snapshot) -> io::Result<v1::CheckpointStaged> {
    let Snapshot { mut manifest, entries, module, values, normalization, optimizer, first, second } = snapshot;
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let features = normalization[0].len();
    let mut model = vec![
        ("normalize.mean".to_owned(), view(&normalization[0], &[features as i64])?),
        ("normalize.scale".to_owned(), view(&normalization[1], &[features as i64])?),
    ];
    let mut state = Vec::new();
    for entry in &entries {
        let range = entry.offset..entry.offset + entry.length;
        model.push((entry.name.clone(), view(&values[range.clone()], &entry.shape)?));
        for (name, values) in state_names(optimizer).iter().zip([&first, &second]) {
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
    if let Some(module) = module {
        keep(MODULE, &module)?;
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

fn view<'a>(values: &'a [f32], shape: &[i64]) -> io::Result<TensorView<'a>> {
    let shape = shape.iter().map(|length| *length as usize).collect();
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).map_err(io::Error::other)
}

fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
