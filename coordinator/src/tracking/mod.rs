//! Telling an MLflow server of a run, beside keeping it. The journal is the spool: a courier a run reads events behind its cursor, sends their
//! points, and moves the cursor on. Nobody waits for a courier, the driver least of all; a server that is away is asked again, later and
//! later, and a coordinator that starts again goes on where the cursor is, also for runs that have ended.
//!
//! **Once.** Only events that are on disk are sent, so that nothing is sent that a crash could take back. What a lost answer leaves open is
//! sent again, and MLflow's database keeps a point (name, time, step, value) once: points carry the times of their events. A run is looked
//! for by its tag before one is made.
//!
//! [`parcel`], [`naming`], [`about`] and [`patience`] decide, and are pure; [`mlflow`] talks, `courier` carries, to `servers` that know nothing
//! of each other.

pub mod about;
pub(crate) mod board;
mod courier;
pub mod mlflow;
mod model;
pub mod naming;
mod parcel;
mod patience;
mod servers;

use std::{path::Path, sync::Arc, time::Duration};

use proto::{spec::Tracking, v1};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{inbox::Inbox, journal::Journal};
use board::Board;
use courier::Courier;
pub use mlflow::{Credentials, Mlflow, Trouble};
use servers::Servers;

/// Runs that are handed over at a time: as many as may be live, so that none is turned away.
const QUEUE: usize = 1024;

/// A checkpoint's folder in, an MLflow model's folder out (it does not exist yet). Blocking. Says in words why not.
pub type ExportModel = dyn Fn(&Path, &Path) -> Result<(), String> + Send + Sync;

/// What a coordinator's tracker needs to know.
#[derive(Clone, Default)]
pub struct Settings {
    pub credentials: Credentials,
    /// Absent: the checkpoint's own files alone are logged.
    pub export: Option<Arc<ExportModel>>,
}

/// How telling came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    pub left: Vec<Leftover>,
    /// Of runs that are done: what could not be told of them, in words.
    pub remarks: Vec<String>,
}

/// What is left to tell of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Leftover {
    pub run: String,
    pub url: String,
    pub points: u64,
    pub trouble: String,
}

/// The driver's end: says what is to be told, and what is safe to tell.
#[derive(Clone)]
pub struct Tracker {
    runs: mpsc::Sender<String>,
    /// Events up to this time are on disk.
    durable: watch::Sender<u64>,
    journal: Journal,
    pub board: Board,
}

impl Tracker {
    /// Takes up what earlier lives of this state folder left untold.
    pub fn start(
        keeper: &mut JoinSet<()>,
        inbox: Inbox,
        journal: Journal,
        tracked: Vec<(String, v1::Tracking)>,
        settings: Settings,
    ) -> Self {
        let (runs, taken) = mpsc::channel(QUEUE);
        let durable = watch::Sender::new(0);
        let board = Board::new();
        let office = Office {
            inbox,
            journal: journal.clone(),
            servers: Servers::new(settings.credentials),
            export: settings.export,
            durable: durable.subscribe(),
            board: board.clone(),
        };
        for (run, tracking) in tracked.into_iter().filter(|(_, tracking)| !tracking.done) {
            // More than fit are taken up when the coordinator is started again.
            if runs.try_send(run.clone()).is_ok() {
                board.open(&run, &tracking.url);
            }
        }
        keeper.spawn(office.employ(taken));
        Self { runs, durable, journal, board }
    }

    /// From now on this run is told. Its first record is in the journal, or will be before its first event.
    pub fn begin(&self, run: &str, tracking: &Tracking) {
        self.board.open(run, &tracking.mlflow);
        if self.runs.try_send(run.to_owned()).is_err() {
            self.board.done(run);
            tracing::error!(
                run,
                "too many runs are begun at once: this one is told when the coordinator is started again"
            );
        }
    }

    /// All events up to this time are on disk.
    pub fn durable(&self, unix_micros: u64) {
        self.durable.send_if_modified(|through| {
            let newer = unix_micros > *through;
            *through = unix_micros.max(*through);
            newer
        });
    }

    /// Waits while something goes through, but not longer than `patience` for the next thing. What is left then.
    pub async fn settle(&self, patience: Duration) -> Settled {
        let mut changes = self.board.changes();
        let nudge = self.board.nudge();
        let mut deadline = Instant::now() + patience;
        let mut delivered = self.deliveries();
        loop {
            let open = self.board.all();
            if open.values().all(|standing| standing.failed_after_nudge.is_some_and(|after| after >= nudge)) {
                break;
            }
            tokio::select! {
                _ = changes.changed() => {
                    let now = self.deliveries();
                    if now != delivered {
                        (delivered, deadline) = (now, Instant::now() + patience);
                    }
                }
                () = sleep_until(deadline) => break,
            }
        }
        let (open, journal) = (self.board.all(), self.journal.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let leftover = |(run, standing): (String, board::Standing)| {
                let waiting = journal.tracking(&run).ok().flatten();
                let points = waiting.map_or(0, |tracking| tracking.pending_points);
                Leftover { run, url: standing.url, points, trouble: standing.trouble }
            };
            open.into_iter().map(leftover).collect()
        });
        Settled { left: counted.await.unwrap_or_default(), remarks: self.board.take_remarks() }
    }

    fn deliveries(&self) -> (u64, usize) {
        let open = self.board.all();
        (open.values().map(|standing| standing.deliveries).sum(), open.len())
    }
}

/// Gives each run a courier.
struct Office {
    inbox: Inbox,
    journal: Journal,
    servers: Servers,
    export: Option<Arc<ExportModel>>,
    durable: watch::Receiver<u64>,
    board: Board,
}

impl Office {
    /// A courier that panics is logged, and its run told on after the next start: its cursor is in the journal.
    async fn employ(self, mut runs: mpsc::Receiver<String>) {
        let mut couriers = JoinSet::new();
        loop {
            tokio::select! {
                run = runs.recv() => match run {
                    Some(run) => drop(couriers.spawn(self.courier(run).deliver())),
                    None => break,
                },
                Some(ended) = couriers.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "courier panicked");
                    }
                }
            }
        }
    }

    fn courier(&self, run: String) -> Courier {
        Courier {
            run,
            inbox: self.inbox.clone(),
            journal: self.journal.clone(),
            servers: self.servers.clone(),
            export: self.export.clone(),
            durable: self.durable.clone(),
            nudges: self.board.nudges(),
            board: self.board.clone(),
        }
    }
}

/// How a run that has not arrived altogether stands: "120 points wait for http://…: connection refused, next try in 8 s".
pub fn tracking_words(tracking: &v1::Tracking, trouble: &str) -> String {
    let url = &tracking.url;
    match (tracking.pending_points, trouble) {
        (0, "") => format!("what happens is sent to {url}"),
        (0, why) => format!("it waits for {url}: {why}"),
        (1, "") => format!("a point is on its way to {url}"),
        (points, "") => format!("{points} points are on their way to {url}"),
        (1, why) => format!("a point waits for {url}: {why}"),
        (points, why) => format!("{points} points wait for {url}: {why}"),
    }
}

/// What the journal says of a run that was just submitted.
pub fn first_record(tracking: &Tracking) -> v1::Tracking {
    v1::Tracking {
        url: tracking.mlflow.trim_end_matches('/').to_owned(),
        experiment: tracking.experiment.clone(),
        standing: "nothing was sent yet".into(),
        ..v1::Tracking::default()
    }
}
