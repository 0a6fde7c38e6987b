//! A coordinator on a free port with a dataset that is not there, and workers that say what a test tells them to.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coordinator::{BuildManifest, Config, Coordinator};
use proto::{
    Deadlines,
    checkpoint::{CheckpointManifest, FileSum, MANIFEST, MODEL, TrainerState},
    v1::{
        self, coordinator_message, job_ended, run_event, runs_client::RunsClient, worker_message,
        workers_client::WorkersClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

/// Longer than anything here takes on a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub fn manifest(lists: u64) -> v1::Manifest {
    v1::Manifest {
        root: "data".into(),
        rows: lists * 10,
        lists,
        hash: format!("hash-{lists}"),
        columns: Some(v1::Columns { features: vec!["f0".into(), "f1".into()], ..Default::default() }),
        ..Default::default()
    }
}

pub fn lists(lists: u64) -> Arc<BuildManifest> {
    Arc::new(move |_, _, _| Ok(manifest(lists)))
}

pub fn config() -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        // Wide: a busy machine must not look like a dead worker.
        deadlines: Deadlines { heartbeat: Duration::from_secs(5), ..Deadlines::default() },
        build_manifest: lists(100),
        ..Config::default()
    }
}

pub fn spec(dir: &Path, name: &str, workers: u32) -> String {
    format!(
        "name = \"{name}\"\n[data]\ntrain = \"data/train\"\nvalidation = \"data/validation\"\n[model]\nkind = \"mlp\"\n\
         hidden = [8]\n[training]\nepochs = 2\n[cluster]\nworkers = {workers}\njoin_timeout = \"30 s\"\n\
         [checkpoint]\ndir = \"{}\"\nkeep = 2\n",
        dir.display()
    )
}

pub struct Cluster {
    pub coordinator: Coordinator,
    pub runs: RunsClient<Channel>,
    pub workers: WorkersClient<Channel>,
    pub dir: tempfile::TempDir,
}

pub async fn cluster(config: Config) -> Cluster {
    let coordinator = Coordinator::start(config).await.unwrap();
    let (runs, workers) = clients(&coordinator).await;
    Cluster { coordinator, runs, workers, dir: tempfile::tempdir().unwrap() }
}

pub async fn clients(coordinator: &Coordinator) -> (RunsClient<Channel>, WorkersClient<Channel>) {
    clients_at(coordinator.address()).await
}

pub async fn clients_at(address: std::net::SocketAddr) -> (RunsClient<Channel>, WorkersClient<Channel>) {
    let uri = format!("http://{address}");
    let channel = Channel::from_shared(uri).unwrap().connect().await.unwrap();
    (RunsClient::new(channel.clone()), WorkersClient::new(channel))
}

impl Cluster {
    pub fn spec(&self, workers: u32) -> String {
        spec(self.dir.path(), "baseline", workers)
    }

    pub async fn submit(&mut self, spec_toml: String, resume_from: &str) -> Result<String, tonic::Status> {
        let request = v1::SubmitRequest { spec_toml, resume_from: resume_from.into(), origin: None };
        Ok(self.runs.submit(request).await?.into_inner().run_id)
    }

    pub async fn get(&mut self, run_id: &str) -> v1::RunStatus {
        let request = v1::GetRunRequest { run_id: run_id.into() };
        self.runs.get(request).await.unwrap().into_inner()
    }

    /// Watches until the run's end; what it saw, in order.
    pub async fn watch_to_the_end(&mut self, run: &str) -> (Vec<v1::RunEvent>, v1::Ended) {
        let mut events = self.watch(run, 0).await;
        let mut seen = Vec::new();
        loop {
            let event = within("the run's end", events.message()).await.unwrap().expect("an end before the stream's");
            seen.push(event.clone());
            if let Some(run_event::Event::Ended(ended)) = event.event {
                assert!(events.message().await.unwrap().is_none(), "nothing comes after the end");
                return (seen, ended);
            }
        }
    }

    pub async fn watch(&mut self, run: &str, after_sequence: u64) -> Streaming<v1::RunEvent> {
        self.runs.watch(v1::WatchRequest { run_id: run.into(), after_sequence }).await.unwrap().into_inner()
    }

    /// Watches until an event is as wanted.
    pub async fn until(&mut self, run: &str, what: &str, wanted: impl Fn(&run_event::Event) -> bool) {
        let mut events = self.watch(run, 0).await;
        within(what, async {
            loop {
                let event = events.message().await.unwrap().expect("the run ended before").event.unwrap();
                if wanted(&event) {
                    return;
                }
            }
        })
        .await;
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("baseline")
    }
}

/// The client side of one session.
pub struct FakeWorker {
    pub slot: u32,
    outgoing: mpsc::Sender<v1::WorkerMessage>,
    pub incoming: Streaming<v1::CoordinatorMessage>,
    pub seat: v1::Seat,
}

pub fn join_as(slot: u32, life: u32) -> v1::Join {
    v1::Join {
        slot,
        life,
        version: proto::VERSION.into(),
        host: "here".into(),
        pid: 4711,
        device: "cpu".into(),
        peer_address: format!("127.0.0.1:{}", 5000 + slot),
        machine: "machine".into(),
        holding: None,
    }
}

impl FakeWorker {
    /// Joins; the first answer is returned with it.
    pub async fn open(mut workers: WorkersClient<Channel>, join: v1::Join) -> (Self, coordinator_message::Message) {
        let (outgoing, messages) = mpsc::channel(16);
        let slot = join.slot;
        let message = Some(worker_message::Message::Join(join));
        outgoing.send(v1::WorkerMessage { message, ..Default::default() }).await.unwrap();
        let incoming = workers.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut worker = Self { slot, outgoing, incoming, seat: v1::Seat::default() };
        let answer = worker.next("an answer to join").await;
        (worker, answer)
    }

    pub async fn join(cluster: &Cluster, slot: u32) -> Self {
        let (worker, answer) = Self::open(cluster.workers.clone(), join_as(slot, 1)).await;
        assert!(matches!(answer, coordinator_message::Message::Welcome(_)), "{answer:?}");
        worker
    }

    pub async fn next(&mut self, what: &str) -> coordinator_message::Message {
        let message = within(what, self.incoming.message()).await.unwrap();
        message.expect("the session ended").message.unwrap()
    }

    pub async fn sit_down(&mut self) -> v1::Seat {
        match self.next("a seat").await {
            coordinator_message::Message::Seat(seat) => {
                self.seat = seat.clone();
                seat
            }
            // Of the run before.
            coordinator_message::Message::Release(_) => Box::pin(self.sit_down()).await,
            other => panic!("not a seat: {other:?}"),
        }
    }

    /// Leaves a coordinator that is gone for another, its seat in hand, after `step` steps.
    pub async fn find_again(self, workers: WorkersClient<Channel>, life: u32, step: u64) -> (Self, v1::Welcome) {
        let v1::Seat { run_id, generation, .. } = self.seat.clone();
        let holding = Some(v1::Holding { run_id, generation, step, epoch_closed: true });
        let (worker, answer) = Self::open(workers, v1::Join { holding, ..join_as(self.slot, life) }).await;
        let coordinator_message::Message::Welcome(welcome) = answer else { panic!("{answer:?}") };
        (Self { seat: self.seat, ..worker }, welcome)
    }

    pub async fn order(&mut self) -> v1::OrderKind {
        match self.next("an order").await {
            coordinator_message::Message::Order(order) => order.kind(),
            other => panic!("not an order: {other:?}"),
        }
    }

    pub async fn published(&mut self) -> v1::CheckpointPublished {
        match self.next("word of what was staged").await {
            coordinator_message::Message::Published(published) => published,
            other => panic!("not about a checkpoint: {other:?}"),
        }
    }

    pub async fn say(&self, message: worker_message::Message) {
        let v1::Seat { run_id, generation, rank, .. } = self.seat.clone();
        let message = v1::WorkerMessage { message: Some(message), run_id, generation, rank };
        self.outgoing.send(message).await.unwrap();
    }

    pub async fn progress(&self, step: u64) {
        self.window(0, step).await;
    }

    /// Steps of (first_step, step].
    pub async fn window(&self, first_step: u64, step: u64) {
        let progress = v1::Progress {
            generation: self.seat.generation,
            epochs: 2,
            step,
            loss: 1.0 / step as f64,
            rows: 100,
            seconds: 0.5,
            first_step,
            ..Default::default()
        };
        self.say(worker_message::Message::Progress(progress)).await;
    }

    pub async fn epoch(&self, epoch: u64, step: u64, ndcg: f64) {
        let ended = v1::EpochEnded {
            epoch,
            epochs: 2,
            step,
            train_loss: 0.5,
            validation: vec![metric(ndcg)],
            ..Default::default()
        };
        self.say(worker_message::Message::Epoch(ended)).await;
    }

    /// Its state is kept.
    pub async fn end(&self, step: u64, outcome: job_ended::Outcome) {
        let v1::Seat { run_id, generation, .. } = self.seat.clone();
        let holding = Some(v1::Holding { run_id, generation, step, epoch_closed: true });
        let ended = v1::JobEnded { step, outcome: Some(outcome), holding, ..v1::JobEnded::default() };
        self.say(worker_message::Message::Ended(ended)).await;
    }

    pub async fn finish(&self, step: u64) {
        self.end(step, job_ended::Outcome::Finished("all 2 epochs".into())).await;
    }

    /// Writes a checkpoint where the seat says and reports it.
    pub async fn stage(&self, step: u64, ndcg: f64) -> PathBuf {
        let path = PathBuf::from(&self.seat.staging).join(format!("step-{step}"));
        write_checkpoint(&path, &self.seat.run_id, &self.seat.spec_toml, step, Some(ndcg));
        self.report_staged(&path, step).await;
        path
    }

    pub async fn report_staged(&self, path: &Path, step: u64) {
        let checkpoint = Some(v1::Checkpoint { step, ..Default::default() });
        let staged = v1::CheckpointStaged { staged_path: path.to_string_lossy().into_owned(), checkpoint };
        // What the core ranks by is in the report; what is published is what the folder says.
        let staged = v1::CheckpointStaged {
            checkpoint: staged.checkpoint.map(|checkpoint| v1::Checkpoint { metrics: metrics_of(path), ..checkpoint }),
            ..staged
        };
        self.say(worker_message::Message::Staged(staged)).await;
    }
}

fn metrics_of(path: &Path) -> Vec<v1::Metric> {
    let text = std::fs::read(path.join(MANIFEST)).unwrap_or_default();
    let manifest = serde_json::from_slice::<CheckpointManifest>(&text);
    let metrics = manifest.map(|manifest| manifest.metrics).unwrap_or_default().into_iter();
    metrics.map(|m| v1::Metric { name: m.name, value: m.value, convention: m.convention }).collect()
}

pub fn metric(value: f64) -> v1::Metric {
    v1::Metric { name: "ndcg@10".into(), value, convention: "gain 2^label - 1".into() }
}

/// A checkpoint with one small file.
pub fn write_checkpoint(path: &Path, run: &str, spec_toml: &str, step: u64, ndcg: Option<f64>) {
    std::fs::create_dir_all(path).unwrap();
    let weights = vec![step as u8; 1000];
    std::fs::write(path.join(MODEL), &weights).unwrap();
    let metrics = ndcg.map(metric).into_iter();
    let metrics =
        metrics.map(|m| proto::checkpoint::MetricValue { name: m.name, value: m.value, convention: m.convention });
    let manifest = CheckpointManifest {
        format: 1,
        lockstep: proto::VERSION.into(),
        run_id: run.into(),
        run_name: "baseline".into(),
        generation: 1,
        step,
        epoch: 0,
        step_in_epoch: step,
        steps_per_epoch: 100,
        seed: 0,
        lanes: 64,
        world: 2,
        dataset_hash: "hash-100".into(),
        features: vec!["f0".into(), "f1".into()],
        spec_toml: spec_toml.into(),
        metrics: metrics.collect(),
        trainer: TrainerState { best: ndcg, ..Default::default() },
        files: vec![FileSum { name: MODEL.into(), bytes: 1000, blake3: blake3::hash(&weights).to_hex().to_string() }],
        unix_micros: 1_000_000 + step,
    };
    std::fs::write(path.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
}
