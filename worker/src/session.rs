//! A worker's session with its coordinator: joins, takes seats, carries messages both ways. Jobs run on a thread of their own;
//! nothing here trains, and nothing there waits for the network.

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use proto::v1::{
    self, OrderKind, WorkerMessage, coordinator_message, job_ended, worker_message::Message,
    workers_client::WorkersClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    gauge::Gauge,
    job::{Job, JobError, Outcome, Shared, training},
    model::RAISED,
};

/// Who this worker is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `http://host:port`.
    pub coordinator: String,
    pub slot: u32,
    pub life: u32,
}

/// Why a session ended otherwise than by a word from the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot reach the coordinator at {address}")]
    Unreachable { address: String, source: tonic::transport::Error },
    #[error("cannot listen for peers on {ip}")]
    Listen { ip: IpAddr, source: std::io::Error },
    #[error("refused by the coordinator: {reason}")]
    Refused { reason: String, hint: String },
    #[error("the coordinator closed the session: {0}")]
    Closed(String),
}

/// Messages that may wait for the network.
const QUEUE: usize = 256;

/// Works for a coordinator until it says that there is no more to do.
pub async fn serve(identity: Identity) -> Result<(), SessionError> {
    let address = identity.coordinator.clone();
    let mut client = WorkersClient::connect(address.clone())
        .await
        .map_err(|source| SessionError::Unreachable { address, source })?
        .max_decoding_message_size(1 << 28);
    let ip = local_ip(&identity.coordinator);
    let listener = TcpListener::bind((ip, 0)).map_err(|source| SessionError::Listen { ip, source })?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let peer_address = listener.local_addr().map_err(|source| SessionError::Listen { ip, source })?.to_string();
    let join = v1::Join {
        slot: identity.slot,
        life: identity.life,
        version: proto::VERSION.to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        device: "cpu".into(),
        peer_address,
        machine: machine(),
    };
    let _ = sender.send(WorkerMessage { message: Some(Message::Join(join)), ..Default::default() }).await;
    let mut incoming = client
        .session(ReceiverStream::new(receiver))
        .await
        .map_err(|status| SessionError::Closed(status.message().to_owned()))?
        .into_inner();
    let mut desk = Desk { sender, listener: Arc::new(listener), job: None, gauge: Gauge::start() };
    let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            _ = heartbeat.tick() => {
                desk.beat().await;
                continue;
            }
        };
        let message = match message {
            Ok(Some(message)) => message.message,
            Ok(None) => break desk.leave(SessionError::Closed("it ended".into())).await,
            Err(status) => break desk.leave(SessionError::Closed(status.message().to_owned())).await,
        };
        match message {
            Some(coordinator_message::Message::Welcome(welcome)) => {
                tracing::info!(worker = welcome.worker, "joined");
                heartbeat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_millis.max(1)));
            }
            Some(coordinator_message::Message::Refused(refused)) => {
                return Err(SessionError::Refused { reason: refused.reason, hint: refused.hint });
            }
            Some(coordinator_message::Message::Seat(seat)) => desk.sit(seat).await,
            Some(coordinator_message::Message::Order(order)) => desk.order(&order),
            Some(coordinator_message::Message::Dismiss(_)) => {
                desk.clear().await;
                return Ok(());
            }
            Some(coordinator_message::Message::Published(_)) | None => {}
        }
    }
}

/// The job under way, and the way to the coordinator.
struct Desk {
    sender: mpsc::Sender<WorkerMessage>,
    listener: Arc<TcpListener>,
    job: Option<Running>,
    gauge: Gauge,
}

struct Running {
    run_id: String,
    generation: u64,
    shared: Arc<Shared>,
    done: tokio::sync::oneshot::Receiver<()>,
}

impl Desk {
    async fn beat(&mut self) {
        let step = self.job.as_ref().map_or(0, |job| job.shared.step.load(Ordering::Relaxed));
        let (run_id, generation) =
            self.job.as_ref().map_or_else(Default::default, |job| (job.run_id.clone(), job.generation));
        let message = Some(Message::Heartbeat(v1::Heartbeat { step, system: self.gauge.read() }));
        // A full queue says more about the network than a heartbeat would.
        let _ = self.sender.try_send(WorkerMessage { message, run_id, generation, rank: 0 });
    }

    /// Takes a seat, leaving the one before.
    async fn sit(&mut self, seat: v1::Seat) {
        self.clear().await;
        let (shared, (finished, done)) = (Arc::new(Shared::default()), tokio::sync::oneshot::channel());
        self.job = Some(Running {
            run_id: seat.run_id.clone(),
            generation: seat.generation,
            shared: Arc::clone(&shared),
            done,
        });
        let (out, listener) = (self.sender.clone(), Arc::clone(&self.listener));
        let (reports, mut from_job) = mpsc::channel::<Message>(QUEUE);
        let envelope =
            WorkerMessage { message: None, run_id: seat.run_id.clone(), generation: seat.generation, rank: seat.rank };
        let job = thread::Builder::new().name("train".into());
        let spawned = job.spawn(move || {
            let ended = run(seat, &shared, &listener, reports.clone());
            // A closed channel: the session is over, and nobody waits for the verdict.
            let _ = reports.blocking_send(Message::Ended(ended));
        });
        if let Err(error) = spawned {
            // The coordinator hears of it as of any worker that leaves.
            tracing::error!(%error, "no thread to train on");
            std::process::exit(1);
        }
        tokio::spawn(async move {
            while let Some(message) = from_job.recv().await {
                if out.send(WorkerMessage { message: Some(message), ..envelope.clone() }).await.is_err() {
                    break;
                }
            }
            let _ = finished.send(());
        });
    }

    fn order(&self, order: &v1::Order) {
        let Some(job) = &self.job else { return };
        if (&job.run_id, job.generation) != (&order.run_id, order.generation) {
            return;
        }
        match order.kind() {
            OrderKind::Stop => job.shared.stop.store(true, Ordering::Relaxed),
            OrderKind::Checkpoint => job.shared.checkpoint.store(true, Ordering::Relaxed),
            OrderKind::Abort => job.shared.abort(),
            OrderKind::OrderUnspecified => {}
        }
    }

    /// Ends the job under way and waits until its last word is queued for the wire.
    async fn clear(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        job.shared.abort();
        // Its last checkpoint may take a while to be written; the coordinator must not think the worker dead meanwhile.
        let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = &mut job.done => return,
                _ = heartbeat.tick() => self.beat().await,
            }
        }
    }

    async fn leave(&mut self, why: SessionError) -> Result<(), SessionError> {
        self.clear().await;
        Err(why)
    }
}

/// Runs a job to its end, whatever that is.
fn run(seat: v1::Seat, shared: &Arc<Shared>, listener: &TcpListener, reports: mpsc::Sender<Message>) -> v1::JobEnded {
    let attempt = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut job = Job::new(seat, Arc::clone(shared), listener, reports)?;
        training::train(&mut job)
    }));
    let outcome = match attempt {
        Ok(Ok(Outcome::Finished(why))) => job_ended::Outcome::Finished(why),
        Ok(Ok(Outcome::Ordered)) => job_ended::Outcome::Ordered(OrderKind::Stop as i32),
        Ok(Err(JobError::PeerLost(lost))) => job_ended::Outcome::PeerLost(lost.to_string()),
        Ok(Err(JobError::Failed { message, hint, input_is_wrong })) => job_ended::Outcome::Failed(v1::Failure {
            message,
            causes: Vec::new(),
            hint: hint.unwrap_or_default(),
            input_is_wrong,
        }),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            let (message, hint) = if words.starts_with(RAISED) {
                (words.to_owned(), "its code raised this on rows of the data: see model.path")
            } else {
                let message = format!("the training thread panicked: {words}");
                (message, "this is a fault of lockstep: please report it with the worker's log")
            };
            job_ended::Outcome::Failed(v1::Failure {
                message,
                causes: Vec::new(),
                hint: hint.into(),
                input_is_wrong: words.starts_with(RAISED),
            })
        }
    };
    v1::JobEnded { step: shared.step.load(Ordering::Relaxed), outcome: Some(outcome) }
}

/// This machine's address as the coordinator would see it: a connected datagram socket knows it without a word on the wire.
fn local_ip(coordinator: &str) -> IpAddr {
    let host = coordinator.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let probe = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(host).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probe().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// Equal for processes that can share memory: this boot of this kernel.
fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
