//! A run small enough for a test, and the ranks that train it.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, Float32Array, RecordBatch, UInt64Array},
    datatypes::{DataType, Field, Schema},
};
use dataset::{manifest, seeded::Stream};
use parquet::arrow::ArrowWriter;
use proto::{
    Deadlines,
    v1::{self, Holding, job_ended::Outcome, worker_message::Message},
};
use tempfile::TempDir;

use crate::{
    job::{Job, Shared},
    session::running::{Running, Word},
};

/// Of the run: long enough that a fault set by a step hits before its end, also on a busy machine.
pub const EPOCH: u64 = 480;
pub const STEPS: u64 = 4 * EPOCH;

const LISTS_A_STEP: u64 = 2;
const LISTS: u64 = EPOCH * LISTS_A_STEP;
const ROWS_A_LIST: u64 = 5;
pub const ROWS_A_STEP: u64 = LISTS_A_STEP * ROWS_A_LIST;
pub const ROWS: u64 = LISTS * ROWS_A_LIST;

/// What a run is, and where.
pub struct Run {
    pub folder: TempDir,
    spec_toml: String,
    train: v1::Manifest,
    validation: v1::Manifest,
    pub generation: AtomicU64,
}

/// A worker.
pub struct Rank {
    pub name: String,
    pub listener: Arc<TcpListener>,
    pub kept: Option<Box<Job>>,
    running: Option<Running>,
    pub heard: Vec<Message>,
}

/// Who goes on from what.
#[derive(Default)]
pub struct Standing {
    pub source: Option<u32>,
    pub lacking: Vec<u32>,
    pub first_step: u64,
    pub reported_step: u64,
}

impl Run {
    /// Four epochs. `validation`: lists to validate with.
    pub fn new(validation: u64, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (train, valid) = (folder.path().join("train.parquet"), folder.path().join("validation.parquet"));
        write(&train, LISTS, 1);
        write(&valid, validation, 2);
        let spec_toml = format!(
            "name = \"elastic\"\nseed = 7\n[data]\ntrain = {train:?}\nvalidation = {valid:?}\nblock_bytes = \"64 KiB\"\n\
             [model]\nkind = \"mlp\"\nhidden = [8]\ndropout = 0.1\nnormalize = \"standard\"\n[loss]\nkind = \"listnet\"\n\
             [training]\nepochs = 4\nbatch = {LISTS_A_STEP}\n[cluster]\nworkers = 2\nlanes = 16\n{settings}\n"
        );
        let spec = proto::spec::parse(&spec_toml, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        let build = |path: &Path| manifest::build(path, &spec.data, true).unwrap();
        let (train, validation) = (build(&train), build(&valid));
        Self { folder, spec_toml, train, validation, generation: AtomicU64::new(0) }
    }

    /// Seats these workers, in this order, in a new generation.
    pub fn seat(&self, standing: &Standing, ranks: &mut [&mut Rank]) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let peers: Vec<v1::Peer> = ranks.iter().enumerate().map(|(rank, worker)| worker.as_peer(rank as u32)).collect();
        for (rank, worker) in ranks.iter_mut().enumerate() {
            worker.sit(self.seat_of(rank as u32, generation, &peers, standing));
        }
    }

    pub fn seat_of(&self, rank: u32, generation: u64, peers: &[v1::Peer], standing: &Standing) -> v1::Seat {
        v1::Seat {
            run_id: "r-elastic".into(),
            generation,
            rank,
            world: peers.len() as u32,
            spec_toml: self.spec_toml.clone(),
            peers: peers.to_vec(),
            train: Some(self.train.clone()),
            validation: Some(self.validation.clone()),
            threads: 1,
            staging: self.folder.path().join("staging").to_string_lossy().into_owned(),
            secret: 0x5eed,
            first_step: standing.first_step,
            source: standing.source,
            lacking: standing.lacking.clone(),
            reported_step: standing.reported_step,
            ..v1::Seat::default()
        }
    }

    /// The weights that the run ends with when nothing happens to its two workers, and what they told.
    pub fn undisturbed(&self) -> (Vec<u32>, Vec<Message>) {
        let (mut one, mut other) = (Rank::new("a:1"), Rank::new("b:1"));
        self.seat(&Standing::default(), &mut [&mut one, &mut other]);
        for rank in [&mut one, &mut other] {
            let ended = rank.end();
            assert_eq!(ended.outcome, Some(Outcome::Finished("all 4 epochs done".into())));
        }
        assert_eq!(one.weights(), other.weights());
        (one.weights(), one.heard)
    }
}

impl Rank {
    pub fn new(name: &str) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        Self { name: name.into(), listener, kept: None, running: None, heard: Vec::new() }
    }

    pub fn as_peer(&self, rank: u32) -> v1::Peer {
        let address = self.listener.local_addr().unwrap().to_string();
        v1::Peer { rank, worker: self.name.clone(), address, machine: "m".into() }
    }

    pub fn sit(&mut self, seat: v1::Seat) {
        let deadlines = Deadlines { heartbeat: Duration::from_millis(500), ..Deadlines::default() };
        let listener = Arc::clone(&self.listener);
        self.running = Some(Running::start(seat, self.kept.take(), listener, deadlines).unwrap());
    }

    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.running.as_ref().unwrap().shared)
    }

    /// Looks, as often as it can, until something is so.
    pub fn watch(&self, is_so: impl Fn(&Shared) -> bool) {
        let (shared, began) = (self.shared(), Instant::now());
        while !is_so(&shared) && shared.step.load(Ordering::Relaxed) < STEPS {
            assert!(began.elapsed() < Duration::from_secs(60), "{shared:?}");
            std::thread::yield_now();
        }
    }

    /// Cut off in the middle of whatever it does: its peers see its connections end.
    pub fn cut_off(&mut self) -> v1::JobEnded {
        self.shared().abort();
        self.end()
    }

    /// Waits for the end of its generation.
    pub fn end(&mut self) -> v1::JobEnded {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut running = self.running.take().unwrap();
        self.kept = loop {
            match runtime.block_on(running.word(true)) {
                Word::Report(message) => self.heard.push(message),
                Word::Done(job) => break job,
            }
        };
        self.heard.extend(running.last_words());
        match self.heard.pop() {
            Some(Message::Ended(ended)) => ended,
            other => panic!("the last word was {other:?}"),
        }
    }

    pub fn weights(&self) -> Vec<u32> {
        let values = &self.kept.as_ref().unwrap().network.parameters.values;
        let mut weights = vec![0f32; values.numel()];
        values.copy_data(&mut weights, values.numel());
        weights.into_iter().map(f32::to_bits).collect()
    }

    pub fn holding(&self) -> Holding {
        self.kept.as_ref().unwrap().holding().unwrap()
    }
}

pub fn progress(heard: &[Message]) -> Vec<v1::Progress> {
    heard
        .iter()
        .filter_map(|message| if let Message::Progress(window) = message { Some(*window) } else { None })
        .collect()
}

pub fn epochs(heard: &[Message]) -> Vec<v1::EpochEnded> {
    let epoch = |message: &Message| if let Message::Epoch(epoch) = message { Some(epoch.clone()) } else { None };
    heard.iter().filter_map(epoch).collect()
}

pub fn staged(heard: &[Message]) -> Vec<(u64, String)> {
    let staged = |message: &Message| {
        let Message::Staged(staged) = message else { return None };
        Some((staged.checkpoint.as_ref()?.step, staged.staged_path.clone()))
    };
    heard.iter().filter_map(staged).collect()
}

/// What a coordinator has of a run's steps in the end: windows that follow each other without a gap or an overlap, those of each epoch
/// adding up to all of it. `told`: per generation, what was told in it, and the step that the next one began at.
pub fn assert_each_row_once(told: &[(&[Message], u64)], steps: u64) {
    let mut windows: Vec<v1::Progress> = Vec::new();
    for (heard, next) in told {
        windows.extend(progress(heard).into_iter().filter(|window| window.step <= *next));
    }
    let mut at = 0;
    let mut of_epoch = [(0, 0, 0u128); 4];
    for window in &windows {
        assert_eq!(window.first_step, at, "{windows:#?}");
        assert_eq!(window.first_step / EPOCH, (window.step - 1) / EPOCH, "a window spans epochs: {window:?}");
        at = window.step;
        let sums = &mut of_epoch[window.epoch as usize];
        sums.0 += window.rows;
        sums.1 += window.atoms;
        sums.2 += u128::from(window.hash_high) << 64 | u128::from(window.hash_low);
    }
    assert_eq!(at, steps);
    let whole = (ROWS, LISTS, dataset::lanes::expected_hash(LISTS));
    for (epoch, sums) in of_epoch.iter().take((steps / EPOCH) as usize).enumerate() {
        assert_eq!(*sums, whole, "epoch {epoch}");
    }
}

fn write(path: &Path, lists: u64, seed: u64) {
    let mut random = Stream::new(&[seed]);
    let rows = lists * ROWS_A_LIST;
    let mut column = || -> ArrayRef { Arc::new((0..rows).map(|_| random.unit() as f32).collect::<Float32Array>()) };
    let (price, rating) = (column(), column());
    let labels: Float32Array = (0..rows).map(|_| (random.unit() * 4.0).floor() as f32).collect();
    let lists: UInt64Array = (0..rows).map(|row| row / ROWS_A_LIST).collect();
    let schema = Arc::new(Schema::new(vec![
        Field::new("query_id", DataType::UInt64, false),
        Field::new("label", DataType::Float32, false),
        Field::new("price", DataType::Float32, false),
        Field::new("rating", DataType::Float32, false),
    ]));
    let columns: Vec<ArrayRef> = vec![Arc::new(lists), Arc::new(labels), price, rating];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
