//! From a seat to a job that is ready to train: peers connected, model made, statistics taken, state resumed.

use std::{
    net::TcpListener,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
    time::Instant,
};

use dataset::{
    lanes::{self, Blocks},
    reader::{self, Batch, LaneReader, Plan},
    source::{ParquetSource, Source},
};
use proto::{
    checkpoint::TrainerState,
    spec::{self, Normalize},
    v1::{self, worker_message::Message},
};
use tch::Device;
use tokio::sync::mpsc;

use super::{
    Audit, Job, JobError, Reports, Shared, checkpoints::Writer, module, training::atom_of, validation::Evaluation,
};
use crate::{
    collective::{Collective, Solo, ring},
    loss::Objective,
    model::{Normalization, Statistics, load},
    optimizer::{Optimizer, Schedule},
};

impl Job {
    /// Fills a seat. `listener`: where this worker's peers find it.
    pub fn new(
        seat: v1::Seat,
        shared: Arc<Shared>,
        listener: &TcpListener,
        sender: mpsc::Sender<Message>,
    ) -> Result<Self, JobError> {
        let spec = spec::parse(&seat.spec_toml, &[]).map_err(|problems| {
            JobError::wrong_input(format!("the run's document has {problems}"), "`lockstep check` lists them")
        })?;
        let device = device(spec.cluster.device)?;
        tch::set_num_threads(seat.threads.max(1) as i32);
        let _no_graph = tch::no_grad_guard();
        let mut collective = connect(&seat, listener, &shared)?;
        shared.watch(collective.aborter());
        let train = seat.train.clone().unwrap_or_default();
        let (lane_count, block_bytes) = (spec.cluster.lanes, spec.data.block_bytes.as_u64());
        let blocks = Arc::new(Blocks::cut(&train, atom_of(spec.loss.kind), lane_count, block_bytes));
        let features = train.columns.as_ref().map_or(0, |columns| columns.features.len());
        let source: Arc<dyn Source> = Arc::new(ParquetSource::new(train, &blocks, spec.data.cache.as_u64()));
        let network = module::network(&spec, &seat, features, collective.as_mut(), device)?;
        let evaluations = Evaluation::of(&seat, &spec.data);
        let mut plan = Plan {
            blocks: Arc::clone(&blocks),
            features,
            lanes: lane_count,
            seed: spec.seed,
            rank: seat.rank,
            world: seat.world,
            batch: spec.training.batch,
            epochs: spec.training.epochs,
            epoch: 0,
            step: 0,
            read_ahead: spec.data.read_ahead.as_u64() as usize,
            readers: spec.data.readers,
        };
        let steps_per_epoch = blocks.atoms.div_ceil(spec.training.batch);
        let writer = Writer::new(&spec.checkpoint, &seat, sender.clone()).map_err(|error| {
            JobError::failed(format!("no thread to write checkpoints: {error}"), "look at ulimit -u")
        })?;
        let hash = Arc::new(OnceLock::new());
        let (cell, atoms) = (Arc::clone(&hash), blocks.atoms);
        // Summed up beside the first epoch; it depends on nothing but the number of atoms. Without a thread it is summed when needed.
        let summing = thread::Builder::new().name("audit".into());
        let _ = summing.spawn(move || {
            cell.get_or_init(|| lanes::expected_hash(atoms));
        });
        let mut job = Self {
            objective: Objective::new(spec.loss),
            optimizer: Optimizer::new(spec.optimizer, network.parameters.len()),
            schedule: Schedule::new(spec.schedule, spec.optimizer.learning_rate, spec.training.epochs, steps_per_epoch),
            audit: Audit { rows: blocks.rows, atoms: blocks.atoms, hash },
            data: LaneReader::open(Plan { epoch: plan.epochs, ..plan.clone() }, Arc::clone(&source)),
            reports: Reports::new(sender),
            batch: Batch::default(),
            state: TrainerState::default(),
            step: 0,
            metrics: Vec::new(),
            epoch_hash: 0,
            epoch_began: Instant::now(),
            nonfinite_in_a_row: 0,
            gradient_norm: 0.0,
            improved: false,
            piece_rows: piece_rows(network.units(), seat.threads as usize),
            scores: Vec::new(),
            gradient: Vec::new(),
            collective,
            network,
            evaluations,
            writer,
            steps_per_epoch,
            shared,
            seat,
            spec,
            device,
        };
        if !job.seat.resume_from.is_empty() {
            let folder = job.seat.resume_from.clone();
            job.resume(Path::new(&folder))?;
        } else if !job.seat.start_from.is_empty() {
            let folder = job.seat.start_from.clone();
            load::weights(&mut job.network, Path::new(&folder))?;
        } else if job.spec.model.normalize != Normalize::None {
            job.take_statistics(&source, &blocks)?;
        }
        plan.epoch = job.step / steps_per_epoch;
        plan.step = job.step % steps_per_epoch;
        job.data = LaneReader::open(plan, source);
        job.epoch_began = Instant::now();
        job.reports.restart_clock();
        Ok(job)
    }

    /// One pass over the training rows, each rank over its share of the blocks.
    fn take_statistics(&mut self, source: &Arc<dyn Source>, blocks: &Arc<Blocks>) -> Result<(), JobError> {
        let kind = self.spec.model.normalize;
        let features = self.network.normalization.mean.numel();
        let (rank, world) = (self.seat.rank, self.seat.world);
        let mine = blocks.share(rank, world);
        let mut packed = Vec::new();
        for read in reader::scan(Arc::clone(source), Arc::clone(blocks), mine) {
            let (_, decoded) = read?;
            self.shared.go_on()?;
            let rows = &decoded.rows.features[decoded.range.start * features..decoded.range.end * features];
            Statistics::of(kind, rows, features).pack(&mut packed);
        }
        let gathered = self.gather(&packed)?;
        let width = 1 + 2 * features;
        let of_block = |block: usize| {
            let from = block / world as usize * width;
            Statistics::unpack(&gathered[block % world as usize][from..from + width])
        };
        let merged = (0..blocks.blocks.len()).map(of_block).reduce(Statistics::merge);
        if let Some(statistics) = merged {
            self.network.normalization = Normalization::from_statistics(kind, statistics, self.device);
        }
        Ok(())
    }
}

fn device(wanted: spec::Device) -> Result<Device, JobError> {
    match wanted {
        spec::Device::Auto | spec::Device::Cpu => Ok(Device::Cpu),
        spec::Device::Cuda => Err(JobError::wrong_input(
            "cluster.device is \"cuda\", and this worker computes on CPUs only",
            "set cluster.device = \"cpu\" or leave it at \"auto\"",
        )),
    }
}

fn connect(seat: &v1::Seat, listener: &TcpListener, shared: &Shared) -> Result<Box<dyn Collective>, JobError> {
    if seat.world == 1 {
        return Ok(Box::new(Solo::default()));
    }
    let mut peers = Vec::new();
    for peer in &seat.peers {
        let address = peer.address.parse().map_err(|_| {
            JobError::failed(
                format!("worker `{}` gave `{}` as its address, which is none", peer.worker, peer.address),
                "are all workers of one version?",
            )
        })?;
        peers.push(ring::PeerAddress { worker: peer.worker.clone(), address, machine: peer.machine.clone() });
    }
    let group = ring::GroupId { run: seat.run_id.clone(), generation: seat.generation, secret: seat.secret };
    let options = ring::Options { cancelled: Arc::clone(&shared.abort), ..Default::default() };
    let ring = ring::connect(listener, seat.rank as usize, &peers, &group, &options)
        .map_err(|error| JobError::failed(error.to_string(), "can the workers' machines reach one another?"))?;
    Ok(Box::new(ring))
}

/// Activations of one piece, forward and backward, on a CPU: about a second-level cache a core.
const PIECE_BYTES: usize = 1 << 20;

fn piece_rows(units: usize, threads: usize) -> usize {
    (threads.max(1) * PIECE_BYTES / (4 * 2 * units.max(1))).max(256)
}
