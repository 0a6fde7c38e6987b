//! The control plane: takes runs, seats workers, keeps what they report and what they leave behind.
//!
//! [`run`] decides, and is pure. `driver` owns it and does what it says, one inbox in front. `sessions` and `service` turn the wire
//! into calls and back, `journal` and [`checkpoints`] are the disk, or `etcd`, where coordinators stand in for one another: [`standby`].
//! Workers never choose ranks, RPC handlers decide nothing, and the coordinator is on no step's path.

mod archive;
mod bystander;
pub mod checkpoints;
mod clock;
mod driver;
mod etcd;
mod figures;
mod history;
mod inbox;
mod journal;
pub mod kept;
mod nursery;
mod pool;
mod preparation;
pub mod refusal;
pub mod run;
mod service;
mod sessions;
pub mod standby;
mod state_folder;
mod submission;
pub mod tracking;
mod watch;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use proto::{
    Deadlines, WorkerId,
    v1::{self, runs_server::RunsServer, workers_server::WorkersServer},
};
use tokio::{
    net::TcpListener,
    sync::{broadcast, oneshot},
    task::JoinSet,
    time::timeout,
};
use tonic::transport::{Server, server::TcpIncoming};

pub use checkpoints::{CheckpointError, VerifiedCheckpoint, resolve_resume, resolve_start};
pub use clock::Timestamp;
pub use etcd::{EtcdError, EtcdStore};
pub use journal::JournalError;
pub use preparation::BuildManifest;
pub use refusal::failure_of;
pub use standby::Standby;
pub use state_folder::StateFolder;

use archive::Archive;
use clock::Clock;
use driver::{Driver, DriverState};
use history::History;
use inbox::{Call, Inbox};
use journal::Journal;
use nursery::Nursery;
use pool::Pool;
use run::Restored;
use service::{Front, Limits, MESSAGE_AT_MOST};
use sessions::Rhythm;
use standby::Lead;
use tracking::Tracker;
pub use tracking::{Leftover, Settled};

/// Events that may wait for the slowest watcher.
const EVENTS: usize = 1024;

/// How long a word to the driver may wait for room.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// How long a shutdown waits for each of: records, open calls, checkpoints under way.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where and how a coordinator runs.
#[derive(Clone)]
pub struct Config {
    /// Port 0: one that is free.
    pub listen: SocketAddr,
    /// Holds the journal, unless that is in etcd. Absent: a folder of its own, gone when the coordinator is.
    pub state_dir: Option<PathBuf>,
    /// How often workers show that they live, and all that follows from it.
    pub deadlines: Deadlines,
    /// How long a new session may take to say who it is.
    pub join_within: Duration,
    /// Workers are started by this process alone, which does not start them again: one that ends before its run begins, or is
    /// refused, fails the run at once instead of at `cluster.join_timeout`. A journal that cannot be written for 10 s ends the
    /// coordinator: nobody could reach it to free it.
    pub own_workers: bool,
    pub build_manifest: Arc<BuildManifest>,
    /// For runs that say `[tracking]`.
    pub tracking: tracking::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: proto::DEFAULT_ADDRESS.parse().unwrap_or_else(|_| (Ipv4Addr::LOCALHOST, 7070).into()),
            state_dir: None,
            deadlines: Deadlines::default(),
            join_within: Duration::from_secs(10),
            own_workers: false,
            build_manifest: Arc::new(dataset::manifest::build),
            tracking: tracking::Settings::default(),
        }
    }
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("address {address} is in use")]
    InUse { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot make a folder for the state")]
    StateFolder(#[source] io::Error),
    #[error(transparent)]
    Deadlines(#[from] proto::deadlines::Contradiction),
    /// Nobody has said how others reach it.
    #[error("a coordinator that listens on {0} does not know how others reach it")]
    Unreachable(SocketAddr),
    #[error("services cannot be described")]
    Reflection(#[source] tonic_reflection::server::Error),
}

impl StartError {
    pub fn hint(&self) -> &str {
        match self {
            Self::Deadlines(contradiction) => &contradiction.hint,
            Self::InUse { .. } => {
                "another coordinator may run there: talk to that one, or listen on another port (0: any)"
            }
            Self::Listen { .. } => "give an address of this machine, as `host:port`",
            Self::Journal(error) => error.hint(),
            Self::Unreachable(_) => "say so: `--advertise http://HOST:PORT`",
            Self::StateFolder(_) => "set a state folder, or make room where temporary files go",
            Self::Reflection(_) => "this is a fault of the build: install lockstep anew",
        }
    }
}

/// A running coordinator. Dropped without [`Coordinator::shutdown`] it ends at once, as if its process had died.
pub struct Coordinator {
    address: SocketAddr,
    handle: Handle,
    /// The driver and the server: neither ends by itself.
    core: JoinSet<Option<v1::Failure>>,
    /// Why it broke, once it has.
    fault: Option<v1::Failure>,
    archive: JoinSet<()>,
    tracker: Tracker,
    _tasks: JoinSet<()>,
    close: oneshot::Sender<()>,
    journal: CloseOnDrop,
    /// Of one that others stand by for.
    lead: Option<Lead>,
    /// Removed last.
    _private_state: Option<tempfile::TempDir>,
}

/// Connections may outlive the coordinator by a little; the state folder is free at once.
struct CloseOnDrop(Journal);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the process that starts workers tells the coordinator.
#[derive(Clone)]
pub struct Handle(Inbox);

impl Handle {
    /// A worker process has ended: `cause` ("killed by signal 9", "exited with status 1") explains what its session cannot. `successor`:
    /// another one is started in its place. Does not wait for a coordinator that has no ear for it.
    pub async fn worker_exited(&self, slot: u32, life: u32, cause: String, successor: bool) {
        let told = self.0.tell(Call::Exited { worker: WorkerId { slot, life }, why: cause, successor });
        if timeout(TELL_WITHIN, told).await.is_err() {
            tracing::warn!(slot, life, "driver is too busy to hear of a worker's end: its session will tell");
        }
    }
}

impl Coordinator {
    /// Listens before it returns. Runs that an earlier life of this state folder left unfinished are taken up again: their workers trained
    /// on and will find this one. Those whose workers it started itself are listed as interrupted.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.deadlines.check()?;
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let private = match config.state_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(StartError::StateFolder)?),
        };
        let folder = private.as_ref().map(|private| private.path().to_owned()).or(config.state_dir).unwrap_or_default();
        let opening = tokio::task::spawn_blocking(move || {
            // Workers that this process starts end with it: nobody is left to go on.
            Opened::new(Journal::open(&folder)?, !config.own_workers)
        });
        let opened = opening.await.map_err(|error| StartError::StateFolder(io::Error::other(error)))??;
        let config = Config { state_dir: None, ..config };
        Self::serve(config, listener, address, opened, private, None).await
    }

    async fn serve(
        config: Config,
        listener: TcpListener,
        address: SocketAddr,
        opened: Opened,
        private: Option<tempfile::TempDir>,
        lead: Option<Lead>,
    ) -> Result<Self, StartError> {
        let Opened { journal, clock, history, restored, tracked } = opened;
        let mut tasks = JoinSet::new();
        let mut archive = JoinSet::new();
        let mut core = JoinSet::new();
        let (inbox, calls) = Inbox::new();
        let (events, _) = broadcast::channel(EVENTS);
        let nursery = Nursery::start(&mut tasks);
        let tracker = Tracker::start(&mut tasks, inbox.clone(), journal.clone(), tracked, config.tracking);
        let driver = Driver {
            clock,
            inbox: inbox.clone(),
            journal: journal.clone(),
            history,
            pool: Pool::new(config.deadlines),
            archive: Archive::start(&mut archive, inbox.clone()),
            tracker: tracker.clone(),
            nursery: nursery.clone(),
            events: events.clone(),
            build_manifest: config.build_manifest,
            own_workers: config.own_workers,
            deadlines: config.deadlines,
            state: DriverState::restoring(restored),
        };
        core.spawn(driver.drive(calls, config.deadlines.tick()));

        let close_on_drop = CloseOnDrop(journal.clone());
        let rhythm = Rhythm { join_within: config.join_within, deadlines: config.deadlines };
        let limits = Limits::default();
        let board = tracker.board.clone();
        let front = Front { inbox: inbox.clone(), journal, events, nursery, board, rhythm, limits };
        let (close, closed) = oneshot::channel();
        let server = serve(front, listener, closed).await?;
        core.spawn(async {
            server.await;
            None
        });
        tracing::info!(%address, "coordinator listens");
        let handle = Handle(inbox);
        Ok(Self {
            address,
            handle,
            core,
            fault: None,
            archive,
            tracker,
            _tasks: tasks,
            close,
            journal: close_on_drop,
            lead,
            _private_state: private,
        })
    }

    /// Where it listens, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// See [`Handle::worker_exited`].
    pub async fn worker_exited(&self, slot: u32, life: u32, cause: String, successor: bool) {
        self.handle.worker_exited(slot, life, cause, successor).await;
    }

    /// Returns only if the coordinator broke, or leads no more: it does not end by itself.
    pub async fn broken(&mut self) {
        let deposed = async {
            match &mut self.lead {
                Some(lead) => lead.lost().await,
                None => std::future::pending().await,
            }
        };
        let fault = tokio::select! {
            ended = self.core.join_next() => ended.and_then(Result::ok).flatten(),
            () = deposed => None,
        };
        let deposed = self.deposed().map(|why| self.journal.0.failure(&JournalError::Deposed(why.to_owned())));
        self.fault = self.fault.take().or(deposed).or(fault);
    }

    /// Why another may lead by now, if that is how it broke.
    pub fn deposed(&self) -> Option<&str> {
        self.journal.0.deposed()
    }

    /// Ends as if the process had died, and stands by; `None` of one that has its journal for itself.
    pub fn stand_by(self) -> Option<Standby> {
        self.lead.map(Lead::stand_by)
    }

    /// Why it broke, once [`Coordinator::broken`] has returned; absent: a fault of the program.
    pub fn fault(&self) -> Option<&v1::Failure> {
        self.fault.as_ref()
    }

    /// Lets trackers have what they have not yet, as long as something goes through within `patience`. What is left then stays in the
    /// journal, and goes out when a coordinator of this state folder runs again.
    pub async fn settle_tracking(&self, patience: Duration) -> Settled {
        self.tracker.settle(patience).await
    }

    /// Stops what still runs (resumable from its checkpoints), dismisses the workers, and ends once records and checkpoints are on disk.
    pub async fn shutdown(self) {
        self.end(false).await;
    }

    /// Ends once records and checkpoints are on disk, and leaves the runs to their workers, who train on: whoever leads next takes them
    /// up, or a coordinator that is started on this state folder.
    pub async fn hand_over(self) {
        self.end(true).await;
    }

    async fn end(mut self, runs_go_on: bool) {
        let asked = self.handle.0.ask(|reply| Call::ShutDown { runs_go_on, reply });
        if timeout(FAREWELL, asked).await.is_err() {
            tracing::error!("driver does not answer, records may be lost");
        }
        let _ = self.close.send(());
        if timeout(FAREWELL, async { while self.core.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("clients still hold their connections, closing them");
        }
        self.core.shutdown().await;
        if timeout(FAREWELL, async { while self.archive.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("a checkpoint is still being published, leaving it");
        }
        if let Some(lead) = self.lead {
            lead.resign().await;
        }
        tracing::info!("coordinator ended");
    }
}

/// A journal, and what it tells of earlier lives.
struct Opened {
    journal: Journal,
    clock: Clock,
    history: History,
    restored: Vec<Restored>,
    tracked: Vec<(String, v1::Tracking)>,
}

impl Opened {
    /// Blocking.
    fn new(journal: Journal, go_on: bool) -> Result<Self, JournalError> {
        let clock = Clock::start();
        let (history, restored) = History::load(&journal, clock.now(), go_on)?;
        let tracked = journal.tracked()?;
        Ok(Self { journal, clock, history, restored, tracked })
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { address, source },
        _ => StartError::Listen { address, source },
    })
}

async fn serve(
    front: Front,
    listener: TcpListener,
    closed: oneshot::Receiver<()>,
) -> Result<impl Future<Output = ()> + Send + use<>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunsServer<Front>>().await;
    health.set_serving::<WorkersServer<Front>>().await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let runs = RunsServer::new(front.clone());
    let workers = WorkersServer::new(front);
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(health_service)
        .add_service(describe().build_v1().map_err(StartError::Reflection)?)
        // What most clients in other languages still ask for.
        .add_service(describe().build_v1alpha().map_err(StartError::Reflection)?)
        .add_service(runs.max_decoding_message_size(MESSAGE_AT_MOST).max_encoding_message_size(MESSAGE_AT_MOST))
        .add_service(workers.max_decoding_message_size(MESSAGE_AT_MOST).max_encoding_message_size(MESSAGE_AT_MOST));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        let until = async {
            let _ = closed.await;
        };
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, until).await {
            tracing::error!(%error, "server ended");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::Submission;

    #[tokio::test]
    async fn a_coordinator_of_its_own_workers_gives_up_on_a_journal_that_cannot_be_written() {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let mut coordinator =
            Coordinator::start(Config { listen, own_workers: true, ..Config::default() }).await.unwrap();
        coordinator.journal.0.close();
        let dir = tempfile::tempdir().unwrap();
        let spec = format!(
            "name = \"baseline\"\n[data]\ntrain = \"/data\"\n[model]\nkind = \"linear\"\n[checkpoint]\ndir = \"{}\"\n",
            dir.path().display()
        );
        let submission = Box::new(Submission::check(spec, String::new()).unwrap());
        let handle = coordinator.handle();
        handle.0.ask(|reply| Call::Submit { submission, reply }).await.unwrap_err();
        coordinator.broken().await;
        let fault = coordinator.fault().unwrap();
        assert!(
            fault.message.starts_with("the journal `") && fault.message.ends_with("journal.redb` cannot be written")
        );
        assert_eq!(fault.causes, ["journal is closed"]);
        assert!(fault.hint.contains("--state"));
        // Nobody listens any more; nobody waits.
        handle.worker_exited(1, 1, "exited".into(), false).await;
        coordinator.shutdown().await;
    }
}
