//! From a seat to a job that is ready to train: peers connected, model made, and the state that it goes on from at hand. The first seat
//! makes a job; later ones of the same run move it on.

use std::{
    net::TcpListener,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use dataset::{
    lanes::{self, Blocks},
    reader::{self, Batch, LaneReader, Plan},
    source::{ParquetSource, Source},
};
use proto::{
    Deadlines,
    checkpoint::TrainerState,
    spec::{self, Normalize},
    v1::{self, worker_message::Message},
};
use tch::Device;
use tokio::sync::mpsc;

use super::{
    Audit, Job, JobError,
    checkpoints::Checkpoints,
    module,
    report::{Known, Reports},
    shared::{Shared, Shown},
    training::atom_of,
    validation::Evaluation,
};
use crate::{
    collective::{
        Lost, Reason, Solo,
        ring::{self, ConnectError},
    },
    loss::Objective,
    model::{Normalization, Statistics, load},
    optimizer::{Optimizer, Schedule},
};

/// What a worker lends its job for one generation.
pub struct Surroundings<'a> {
    pub shared: Arc<Shared>,
    /// Where this worker's peers find it.
    pub listener: &'a TcpListener,
    pub sender: mpsc::Sender<Message>,
    pub deadlines: Deadlines,
}

impl Job {
    /// Fills a seat: with a fresh state, with that of a checkpoint, or with what a peer holds in memory.
    pub fn new(seat: v1::Seat, surroundings: &Surroundings<'_>) -> Result<Self, JobError> {
        let spec = spec::parse(&seat.spec_toml, &[]).map_err(|problems| {
            JobError::wrong_input(format!("the run's document has {problems}"), "`lockstep check` lists them")
        })?;
        let device = device(spec.cluster.device)?;
        let root = source(&seat, false)?;
        tch::set_num_threads(seat.threads.max(1) as i32);
        let _no_graph = tch::no_grad_guard();
        let mut collective = connect(&seat, surroundings)?;
        let train = seat.train.clone().unwrap_or_default();
        let (lane_count, block_bytes) = (spec.cluster.lanes, spec.data.block_bytes.as_u64());
        let blocks = Arc::new(Blocks::cut(&train, atom_of(spec.loss.kind), lane_count, block_bytes));
        let features = train.columns.as_ref().map_or(0, |columns| columns.features.len());
        let source: Arc<dyn Source> = Arc::new(ParquetSource::new(train, &blocks, spec.data.cache.as_u64()));
        let network = match root {
            Some(root) => module::joined(&spec, features, &mut collective, root, device)?,
            None => module::network(&spec, &seat, features, &mut collective, device)?,
        };
        let evaluations = Evaluation::of(&seat, &spec.data);
        let steps_per_epoch = blocks.atoms.div_ceil(spec.training.batch);
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
            data: None,
            reports: Reports::new(),
            batch: Batch::default(),
            state: TrainerState::default(),
            step: 0,
            metrics: Vec::new(),
            epoch_hash: 0,
            epoch_began: Instant::now(),
            epoch_open: false,
            whole: false,
            generation: seat.generation,
            nonfinite_in_a_row: 0,
            gradient_norm: 0.0,
            improved: false,
            save_due: false,
            piece_rows: piece_rows(network.units(), seat.threads as usize),
            scores: Vec::new(),
            gradient: Vec::new(),
            checkpoints: Checkpoints::new(&spec.checkpoint),
            shared: Arc::clone(&surroundings.shared),
            collective: Box::new(collective),
            blocks,
            source,
            network,
            evaluations,
            steps_per_epoch,
            seat,
            spec,
            device,
        };
        if let Some(root) = root {
            job.exchange(root, false, job.seat.reported_step)?;
        } else if !job.seat.resume_from.is_empty() {
            let folder = job.seat.resume_from.clone();
            job.resume(Path::new(&folder))?;
        } else if !job.seat.start_from.is_empty() {
            let folder = job.seat.start_from.clone();
            load::weights(&mut job.network, Path::new(&folder))?;
        } else if job.spec.model.normalize != Normalize::None {
            job.take_statistics()?;
        }
        job.take_up(surroundings)?;
        Ok(job)
    }

    /// Goes on in another generation of the same run, from the state in memory or, where a peer's is newer, from that one. Data that was
    /// decoded, and copies that are not published yet, stay.
    pub fn reseat(&mut self, seat: v1::Seat, surroundings: &Surroundings<'_>) -> Result<(), JobError> {
        let root = source(&seat, self.whole)?.unwrap_or_default();
        tch::set_num_threads(seat.threads.max(1) as i32);
        let _no_graph = tch::no_grad_guard();
        self.shared = Arc::clone(&surroundings.shared);
        self.seat = seat;
        self.show();
        self.collective = Box::new(connect(&self.seat, surroundings)?);
        if !self.seat.lacking.is_empty() {
            module::offered(&self.network, &mut *self.collective, root)?;
            let holds = !self.seat.lacking.contains(&self.seat.rank);
            self.exchange(root, holds, self.seat.reported_step)?;
        }
        self.piece_rows = piece_rows(self.network.units(), self.seat.threads as usize);
        for evaluation in &mut self.evaluations {
            evaluation.deal(self.seat.world, &self.spec.data);
        }
        self.take_up(surroundings)
    }

    /// Opens what belongs to one generation: the data from where the state is, the way out for reports, the folder for checkpoints.
    fn take_up(&mut self, surroundings: &Surroundings<'_>) -> Result<(), JobError> {
        let shared_out = self.seat.source.is_some();
        if shared_out && self.step != self.seat.first_step {
            return Err(JobError::failed(
                format!(
                    "generation {} begins at step {}, and this worker was to hold that state: it holds the one of step {}",
                    self.seat.generation, self.seat.first_step, self.step
                ),
                "this is a fault of lockstep: please report it with the logs of the coordinator and of this worker",
            ));
        }
        self.whole = true;
        self.generation = self.seat.generation;
        self.show();
        self.data = Some(LaneReader::open(self.plan(), Arc::clone(&self.source)));
        // Whoever lacked the state may have yet to receive it: the first collective will tell.
        let confirmed = if self.seat.lacking.is_empty() { self.step } else { self.seat.reported_step };
        let reported = if shared_out { self.seat.reported_step } else { self.step };
        self.reports.open(surroundings.sender.clone(), Known { step: self.step, confirmed, reported });
        self.checkpoints.writer.open(&self.seat, surroundings.sender.clone()).map_err(|error| {
            JobError::failed(format!("no thread to write checkpoints: {error}"), "look at ulimit -u")
        })?;
        self.hand_over();
        Ok(())
    }

    /// Lets go of what belongs to one generation; the state stays. `grace`: how long what is being written may hold up the last word.
    pub fn let_go(&mut self, grace: Duration) {
        self.collective = Box::new(Solo::default());
        self.data = None;
        self.reports.close();
        self.checkpoints.writer.close(grace);
    }

    fn plan(&self) -> Plan {
        Plan {
            blocks: Arc::clone(&self.blocks),
            features: self.network.features(),
            lanes: self.spec.cluster.lanes,
            seed: self.spec.seed,
            rank: self.seat.rank,
            world: self.seat.world,
            batch: self.spec.training.batch,
            epochs: self.spec.training.epochs,
            epoch: self.step / self.steps_per_epoch,
            step: self.step % self.steps_per_epoch,
            read_ahead: self.spec.data.read_ahead.as_u64() as usize,
            readers: self.spec.data.readers,
        }
    }

    /// One pass over the training rows, each rank over its share of the blocks.
    fn take_statistics(&mut self) -> Result<(), JobError> {
        let (source, blocks) = (Arc::clone(&self.source), Arc::clone(&self.blocks));
        let kind = self.spec.model.normalize;
        let features = self.network.normalization.mean.numel();
        let (rank, world) = (self.seat.rank, self.seat.world);
        let mine = blocks.share(rank, world);
        let mut packed = Vec::new();
        for read in reader::scan(source, Arc::clone(&blocks), mine) {
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

/// The rank that everybody goes on from, where that is one's state in memory. An error where this worker was to have that state.
fn source(seat: &v1::Seat, whole: bool) -> Result<Option<usize>, JobError> {
    let Some(source) = seat.source else { return Ok(None) };
    if !whole && !seat.lacking.contains(&seat.rank) {
        return Err(JobError::failed(
            format!("generation {} counts on a state that this worker does not hold", seat.generation),
            "this is a fault of lockstep: please report it with the logs of the coordinator and of this worker",
        ));
    }
    Ok(Some(source as usize))
}

fn connect(seat: &v1::Seat, surroundings: &Surroundings<'_>) -> Result<Shown, JobError> {
    let shared = &surroundings.shared;
    if seat.world == 1 {
        return Ok(Shown::new(Box::new(Solo::default()), shared));
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
    let options = ring::Options {
        rendezvous: surroundings.deadlines.rendezvous(),
        silence: surroundings.deadlines.unacknowledged(),
        cancelled: Arc::clone(&shared.abort),
        ..Default::default()
    };
    let ring = shared.wait(|| ring::connect(surroundings.listener, seat.rank as usize, &peers, &group, &options));
    match ring {
        Ok(ring) => Ok(Shown::new(Box::new(ring), shared)),
        Err(ConnectError::Cancelled { .. }) => Err(Lost::aborted().into()),
        // There is a state to go on from without whoever is missing.
        Err(ConnectError::Missing { ranks, waited, .. }) if seat.source.is_some() => {
            let rank = ranks[0];
            Err(Lost::peer(rank, &seat.peers[rank].worker, Reason::Missing { waited }).into())
        }
        Err(error) => Err(JobError::failed(error.to_string(), "can the workers' machines reach one another?")),
    }
}

/// Activations of one piece, forward and backward, on a CPU: about a second-level cache a core.
const PIECE_BYTES: usize = 1 << 20;

fn piece_rows(units: usize, threads: usize) -> usize {
    (threads.max(1) * PIECE_BYTES / (4 * 2 * units.max(1))).max(256)
}
