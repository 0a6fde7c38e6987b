//! From a topic into the lake, each event exactly once.
//!
//! What is in the lake decides where reading resumes: every partition has its own row of commits ([`Lake`]), each named for the first
//! offset that it covers and ending where the next one begins. They are put only where none is, so of two collectors at the same
//! offset one wins, and the other ends. The group's offsets are committed afterwards, and only for tools that show lag: nothing here
//! reads them. A crash leaves files that no commit lists; the next collector removes them.
//!
//! A topic is gathered into a lake in one of two ways ([`Mode`]), fixed by the first collector: all dates as they come, or date by date,
//! where each date has commits of its own and reads the topic for itself. Were both allowed, an event could be taken by either.

mod batch;
mod broker;
mod dead_letters;
mod offsets;
mod repeats;
mod report;
mod resume;
mod settings;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::NaiveDate;
use ranking::events::LogSchema;
use tokio::runtime::{Handle, Runtime};

use self::{broker::Broker, report::Positions, worker::Worker};
pub use self::{
    offsets::Tally,
    report::{CollectReport, Committed, Happening, Standing},
    settings::KafkaSettings,
};
use crate::{PipelineError, lake::Lake};

/// How often a standing is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// How often a following collector looks for new partitions and asks how far the topic is.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Things that happened and were not told yet.
const TOLD_LATER: usize = 1024;

/// Which events are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All, each to its date.
    All,
    /// Those of one date. The others are counted, and left to the runs of their dates.
    Date(NaiveDate),
}

impl Mode {
    /// What is put down in the lake.
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Date(_) => "by-date",
        }
    }

    /// Who writes the commits of a partition.
    fn source(self, topic: &str, partition: i32) -> String {
        match self {
            Self::All => format!("kafka/{topic}/all/p{partition:05}"),
            Self::Date(date) => format!("kafka/{topic}/date={date}/p{partition:05}"),
        }
    }
}

/// Options of [`collect`].
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    pub topic: String,
    /// A folder or `s3://bucket/prefix`.
    pub lake: String,
    pub mode: Mode,
    /// Go on until stopped; else up to what the topic held at the start.
    pub follow: bool,
    pub schema: LogSchema,
    pub settings: KafkaSettings,
    /// A commit is made once its files are together this large,
    pub roll_bytes: u64,
    /// or its first event was read this long ago.
    pub roll_every: Duration,
    /// What all open files together may take.
    pub memory: usize,
    pub threads: usize,
    /// How long a broker may be out of reach, at the start and, unless following, later.
    pub patience: Duration,
}

impl CollectOptions {
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>, lake: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            lake: lake.into(),
            mode: Mode::All,
            follow: false,
            schema: LogSchema::default(),
            settings: KafkaSettings::default(),
            roll_bytes: 128 << 20,
            roll_every: Duration::from_secs(300),
            memory: 512 << 20,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            patience: Duration::from_secs(30),
        }
    }
}

/// What the workers share.
struct Work<'a> {
    options: &'a CollectOptions,
    lake: Lake,
    handle: Handle,
    stop: &'a AtomicBool,
    positions: Mutex<Positions>,
    /// Files of this topic that were there before.
    leftovers: Vec<String>,
}

/// What a worker says.
enum Said {
    Committed(Box<Committed>),
    /// Something odd about a partition.
    Notice(String),
    /// No more will come from one worker.
    Ended(Result<(), PipelineError>),
}

/// Gathers a topic. Setting `stop` makes it commit what it has and end; blocks, so give it a thread of its own.
pub fn collect(
    options: &CollectOptions,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Happening<'_>),
) -> Result<CollectReport, PipelineError> {
    let begun = Instant::now();
    options.schema.check().map_err(|error| {
        PipelineError::options(error.to_string())
            .with_hint("log each feature once, under a name that no field of a result has")
    })?;
    let runtime = runtime()?;
    let lake = Lake::open(&options.lake)?;
    let broker = Broker::connect(options, stop)?;
    let partitions = broker.partitions()?;
    runtime.block_on(settle_mode(&lake, options))?;
    let mark = format!("kafka-{}-", options.topic);
    let swept = runtime.block_on(lake.sweep())?;
    let ours = |name: &String| name.rsplit('/').next().is_some_and(|name| name.starts_with(&mark));
    let leftovers = swept.files.into_iter().filter(ours).collect();
    let positions = Mutex::new(Positions::default());
    let work = Work { options, lake, handle: runtime.handle().clone(), stop, positions, leftovers };
    let mut report = CollectReport::new(options, partitions.len());
    tell(Happening::Started { partitions: partitions.len() });
    let outcome = std::thread::scope(|scope| {
        let (says, said) = sync_channel(TOLD_LATER);
        let start = |partitions: Vec<i32>, says: &SyncSender<Said>| {
            let (work, says) = (&work, says.clone());
            let thread = std::thread::Builder::new().name(format!("collect-{}", partitions[0]));
            let run = move || {
                let ended = Worker::new(work, says.clone()).and_then(|worker| worker.run(&partitions));
                // A broken channel: nobody listens any more.
                let _ = says.send(Said::Ended(ended));
            };
            let thread = thread.spawn_scoped(scope, run);
            thread.map(drop).map_err(|error| PipelineError::options("cannot start a thread").because(error))
        };
        let shares = shares(&partitions, options.threads);
        let mut workers = shares.len();
        let mut outcome = shares.into_iter().try_for_each(|share| start(share, &says));
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
            return outcome;
        }
        let mut known: BTreeSet<i32> = partitions.into_iter().collect();
        let mut looked = Instant::now();
        while workers > 0 {
            match hear(&said) {
                Some(Said::Committed(committed)) => {
                    report.add(&committed);
                    tell(Happening::Committed(&committed));
                }
                Some(Said::Notice(words)) => {
                    report.notices.push(words);
                    tell(Happening::Notice(report.notices.last().map_or("", String::as_str)));
                }
                Some(Said::Ended(ended)) => {
                    workers -= 1;
                    if let Err(error) = ended {
                        // The others commit what they have, and end.
                        stop.store(true, Ordering::Relaxed);
                        outcome = outcome.and(Err(error));
                    }
                }
                None => {
                    let standing = work.positions.lock().map(|positions| positions.standing(begun.elapsed()));
                    if let Ok(standing) = standing {
                        tell(Happening::Progress(&standing));
                    }
                }
            }
            if options.follow && looked.elapsed() > LOOK_EVERY && !stop.load(Ordering::Relaxed) {
                looked = Instant::now();
                let new = look(&broker, &work, &mut known);
                if !new.is_empty() {
                    report.partitions = known.len();
                    workers += usize::from(start(new, &says).is_ok());
                }
            }
        }
        outcome
    });
    report.seconds = begun.elapsed().as_secs_f64();
    report.stopped = stop.load(Ordering::Relaxed);
    if let Ok(positions) = work.positions.lock() {
        report.lag = positions.standing(begun.elapsed()).lag;
    }
    outcome.map(|()| report)
}

fn hear(said: &Receiver<Said>) -> Option<Said> {
    said.recv_timeout(SHOW_EVERY).ok()
}

/// Asks how far the topic is; returns the partitions that it did not have before.
fn look(broker: &Broker, work: &Work<'_>, known: &mut BTreeSet<i32>) -> Vec<i32> {
    // A broker that is away is the workers' to notice.
    let Ok(partitions) = broker.partitions_now() else { return Vec::new() };
    let highs: BTreeMap<i32, i64> =
        partitions.iter().filter_map(|&partition| Some((partition, broker.watermarks(partition).ok()?.high))).collect();
    if let Ok(mut positions) = work.positions.lock() {
        positions.note_highs(&highs);
    }
    partitions.into_iter().filter(|&partition| known.insert(partition)).collect()
}

/// Deals the partitions to at most so many threads.
fn shares(partitions: &[i32], threads: usize) -> Vec<Vec<i32>> {
    let threads = threads.clamp(1, partitions.len().max(1));
    let mut shares = vec![Vec::new(); threads];
    for (at, &partition) in partitions.iter().enumerate() {
        shares[at % threads].push(partition);
    }
    shares.retain(|share| !share.is_empty());
    shares
}

/// The first collector of a topic fixes how it is gathered into this lake.
async fn settle_mode(lake: &Lake, options: &CollectOptions) -> Result<(), PipelineError> {
    // Hidden from those who look for commits.
    let place = format!("_commits/kafka/{}/_mode.json", options.topic);
    let word = options.mode.word();
    let token = format!("{:016x}", rand::random::<u64>());
    let mode = serde_json::json!({ "mode": word, "token": token });
    if lake.store().put_new(&place, Bytes::from(mode.to_string())).await? {
        return Ok(());
    }
    let there = lake.store().get(&place).await?.unwrap_or_default();
    let there = serde_json::from_slice::<serde_json::Value>(&there).unwrap_or_default();
    match there["mode"].as_str() {
        Some(known) if known == word => Ok(()),
        Some("all") => Err(PipelineError::options(format!(
            "topic `{}` is gathered into this lake for all dates at once",
            options.topic
        ))
        .with_hint("leave out --date, or name another lake: an event must not be taken twice")),
        Some("by-date") => {
            Err(PipelineError::options(format!("topic `{}` is gathered into this lake date by date", options.topic))
                .with_hint("give --date, or name another lake: an event must not be taken twice"))
        }
        _ => Err(PipelineError::data(format!("`{}` cannot be read", lake.store().display(&place)))
            .with_hint("it says in which way the topic is gathered: was it changed by hand?")),
    }
}

fn runtime() -> Result<Runtime, PipelineError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| PipelineError::options("cannot start threads").because(error))
}

#[cfg(test)]
mod tests;
