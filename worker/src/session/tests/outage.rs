//! A worker outlives its coordinator, which is a server of the test's own here.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use proto::v1::{
    CheckpointPublished, CoordinatorMessage, Dismiss, EpochEnded, Join, ListWorkersReply, ListWorkersRequest, Order,
    OrderKind, Peer, Progress, Refused, Release, Welcome, WorkerMessage, coordinator_message,
    job_ended::Outcome,
    worker_message::Message,
    workers_server::{Workers, WorkersServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

use super::ranks::{Run, STEPS, Standing, assert_each_row_once, epochs};
use crate::session::{
    Identity, SessionError,
    desk::{Desk, Leave},
    serve,
};

/// A coordinator that hands its sessions to the test.
struct Service {
    sessions: mpsc::Sender<(Streaming<WorkerMessage>, Answers)>,
}

type Answers = mpsc::Sender<Result<CoordinatorMessage, Status>>;

#[tonic::async_trait]
impl Workers for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn list(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersReply>, Status> {
        Err(Status::unimplemented("only sessions here"))
    }

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        let _ = self.sessions.send((request.into_inner(), answers)).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One life of a coordinator.
struct Coordinator {
    address: SocketAddr,
    sessions: mpsc::Receiver<(Streaming<WorkerMessage>, Answers)>,
    server: JoinHandle<()>,
}

/// One worker's session with it.
struct Session {
    incoming: Streaming<WorkerMessage>,
    answers: Answers,
}

impl Coordinator {
    async fn start(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener: TcpListener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(4);
        let server = tokio::spawn(async move {
            let service = WorkersServer::new(Service { sessions: sender });
            let router = tonic::transport::Server::builder().add_service(service);
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, sessions, server }
    }

    async fn session(&mut self, carry_on: bool) -> (Session, Join) {
        let (mut incoming, answers) = self.sessions.recv().await.unwrap();
        let first = incoming.message().await.unwrap().unwrap().message;
        let Some(Message::Join(join)) = first else { panic!("{first:?}") };
        let session = Session { incoming, answers };
        let welcome = Welcome { worker: "w1:1".into(), heartbeat_millis: 20, carry_on };
        session.say(coordinator_message::Message::Welcome(welcome)).await;
        (session, join)
    }

    /// As a killed process would: no word, connections closed.
    async fn kill(self, session: Session) {
        self.server.abort();
        let _ = self.server.await;
        drop(session);
    }
}

impl Session {
    async fn say(&self, message: coordinator_message::Message) {
        self.answers.send(Ok(CoordinatorMessage { message: Some(message) })).await.unwrap();
    }

    /// Adds what is told to `heard`, until something is.
    async fn until(&mut self, heard: &mut Vec<Message>, is_it: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.incoming.message().await.unwrap().unwrap().message.unwrap();
            if !matches!(message, Message::Heartbeat(_)) {
                heard.push(message.clone());
            }
            if is_it(&message) {
                return message;
            }
        }
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn worker(coordinator: &Coordinator) -> JoinHandle<Result<(), SessionError>> {
    let coordinator = format!("http://{}", coordinator.address);
    tokio::task::spawn_local(serve(Identity { coordinator, slot: 1, life: 1 }))
}

fn seat(run: &Run, join: &Join, generation: u64, standing: &Standing) -> coordinator_message::Message {
    let peer = Peer { rank: 0, worker: "w1:1".into(), address: join.peer_address.clone(), machine: "m".into() };
    coordinator_message::Message::Seat(run.seat_of(0, generation, &[peer], standing))
}

fn has_ended(message: &Message) -> bool {
    matches!(message, Message::Ended(_))
}

/// What a coordinator keeps of what it hears: it drops what it knows.
fn known(heard: Vec<Message>) -> Vec<Message> {
    let (mut step, mut epochs, mut kept) = (0, 0, Vec::new());
    for message in heard {
        match &message {
            Message::Progress(Progress { step: to, .. }) if *to <= step => continue,
            Message::Epoch(EpochEnded { epoch, .. }) if *epoch < epochs => continue,
            Message::Progress(window) => step = window.step,
            Message::Epoch(epoch) => epochs = epoch.epoch + 1,
            _ => {}
        }
        kept.push(message);
    }
    kept
}

fn in_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(Duration::from_secs(60), test).await };
    tokio::task::LocalSet::new().block_on(&runtime, test).unwrap();
}

#[test]
fn a_worker_trains_on_while_its_coordinator_is_away_and_tells_everything_once_it_is_back() {
    in_time(async {
        let run = Run::new(40, "");
        let mut first = Coordinator::start(anywhere()).await;
        let worker = worker(&first);
        let (mut session, join) = first.session(false).await;
        assert_eq!(join.holding, None);
        session.say(seat(&run, &join, 1, &Standing::default())).await;
        let mut heard = Vec::new();
        session.until(&mut heard, |message| matches!(message, Message::Progress(_))).await;
        let address = first.address;
        first.kill(session).await;

        let mut second = Coordinator::start(address).await;
        let (mut session, join) = second.session(true).await;
        let holding = join.holding.unwrap();
        assert_eq!((holding.run_id.as_str(), holding.generation), ("r-elastic", 1));
        let ended = session.until(&mut heard, has_ended).await;
        let Message::Ended(ended) = ended else { panic!() };
        assert_eq!(ended.outcome, Some(Outcome::Finished("all 4 epochs done".into())));
        let heard = known(heard);
        assert_each_row_once(&[(&heard, STEPS)], STEPS);
        assert_eq!(epochs(&heard).len(), 4);
        session.say(coordinator_message::Message::Dismiss(Dismiss {})).await;
        worker.await.unwrap().unwrap();
    });
}

#[test]
fn what_the_coordinator_may_have_missed_is_told_again_even_the_end() {
    in_time(async {
        let run = Run::new(40, "");
        let mut first = Coordinator::start(anywhere()).await;
        let worker = worker(&first);
        let (mut session, join) = first.session(false).await;
        session.say(seat(&run, &join, 1, &Standing::default())).await;
        session.until(&mut Vec::new(), has_ended).await;
        // All of it arrived, and nothing of it was written down.
        let address = first.address;
        first.kill(session).await;
        let mut second = Coordinator::start(address).await;
        let (mut session, join) = second.session(true).await;
        assert_eq!(join.holding.map(|holding| (holding.step, holding.epoch_closed)), Some((STEPS, true)));
        let mut heard = Vec::new();
        session.until(&mut heard, has_ended).await;
        assert_each_row_once(&[(&heard, STEPS)], STEPS);
        assert_eq!(epochs(&heard).len(), 4);
        session.say(coordinator_message::Message::Dismiss(Dismiss {})).await;
        worker.await.unwrap().unwrap();
    });
}

#[test]
fn a_seat_that_is_its_own_no_more_is_given_up_and_another_taken() {
    in_time(async {
        let run = Run::new(40, "");
        let mut first = Coordinator::start(anywhere()).await;
        let worker = worker(&first);
        let (mut session, join) = first.session(false).await;
        session.say(seat(&run, &join, 1, &Standing::default())).await;
        session.until(&mut Vec::new(), |message| matches!(message, Message::Progress(_))).await;
        let address = first.address;
        first.kill(session).await;
        let mut second = Coordinator::start(address).await;
        let (mut session, join) = second.session(false).await;
        assert!(join.holding.is_some());
        let mut heard = Vec::new();
        session.say(seat(&run, &join, 7, &Standing::default())).await;
        let Message::Ended(ended) = session.until(&mut heard, has_ended).await else { panic!() };
        assert_eq!(ended.holding.map(|holding| (holding.generation, holding.step)), Some((7, STEPS)));
        // Nothing of the former seat is told, and the new one began at the beginning.
        assert_each_row_once(&[(&heard, STEPS)], STEPS);
        session.say(coordinator_message::Message::Dismiss(Dismiss {})).await;
        worker.await.unwrap().unwrap();
    });
}

#[test]
fn orders_are_obeyed_and_what_is_kept_is_released() {
    in_time(async {
        let run = Run::new(40, "[checkpoint]\nevery = \"50 steps\"");
        let mut coordinator = Coordinator::start(anywhere()).await;
        let worker = worker(&coordinator);
        let (mut session, join) = coordinator.session(false).await;
        session.say(seat(&run, &join, 1, &Standing::default())).await;
        let order = |kind: OrderKind| {
            let order = Order { run_id: "r-elastic".into(), generation: 1, kind: kind as i32 };
            coordinator_message::Message::Order(order)
        };
        session.until(&mut Vec::new(), |message| matches!(message, Message::Staged(_))).await;
        session.say(order(OrderKind::Yield)).await;
        let Message::Ended(ended) = session.until(&mut Vec::new(), has_ended).await else { panic!() };
        assert_eq!(ended.outcome, Some(Outcome::Ordered(OrderKind::Yield as i32)));
        let at = ended.holding.unwrap().step;
        assert!(at < STEPS);
        let staged_path = run.folder.path().join("staging/step-00000050-w1.1").to_string_lossy().into_owned();
        let published = CheckpointPublished { staged_path, path: "somewhere".into(), step: STEPS };
        session.say(coordinator_message::Message::Published(published)).await;
        session.say(coordinator_message::Message::Release(Release { run_id: "r-elastic".into() })).await;
        // What was released cannot be counted on.
        let standing = Standing { source: Some(0), first_step: at, ..Standing::default() };
        session.say(seat(&run, &join, 2, &standing)).await;
        let Message::Ended(ended) = session.until(&mut Vec::new(), has_ended).await else { panic!() };
        let Some(Outcome::Failed(failure)) = ended.outcome else { panic!("{ended:?}") };
        assert!(failure.message.contains("does not hold"), "{}", failure.message);
        session.say(coordinator_message::Message::Dismiss(Dismiss {})).await;
        worker.await.unwrap().unwrap();
    });
}

#[test]
fn heartbeats_tell_how_a_step_goes_and_come_whatever_the_training_thread_does() {
    in_time(async {
        let run = Run::new(40, "");
        let mut coordinator = Coordinator::start(anywhere()).await;
        let worker = worker(&coordinator);
        let (mut session, join) = coordinator.session(false).await;
        // A peer that never comes: the training thread waits for it.
        let peer = |rank: u32, address: &str| Peer {
            rank,
            worker: format!("w{rank}:1"),
            address: address.to_owned(),
            machine: "m".into(),
        };
        let absent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = [peer(0, &join.peer_address), peer(1, &absent.local_addr().unwrap().to_string())];
        let alone = run.seat_of(0, 1, &peers, &Standing::default());
        session.say(coordinator_message::Message::Seat(alone)).await;
        let waits = |message: &Message| matches!(message, Message::Heartbeat(beat) if beat.waiting);
        for _ in 0..3 {
            session.until(&mut Vec::new(), waits).await;
        }
        // A new seat ends the wait for the one before.
        session.say(seat(&run, &join, 2, &Standing::default())).await;
        let steps = |message: &Message| matches!(message, Message::Heartbeat(beat) if beat.step_seconds > 0.0 && beat.step > 0 && !beat.waiting);
        session.until(&mut Vec::new(), steps).await;
        session.say(coordinator_message::Message::Dismiss(Dismiss {})).await;
        worker.await.unwrap().unwrap();
    });
}

#[test]
fn who_is_refused_after_an_outage_leaves() {
    in_time(async {
        let mut first = Coordinator::start(anywhere()).await;
        let worker = worker(&first);
        let (session, _) = first.session(false).await;
        let address = first.address;
        first.kill(session).await;
        let mut second = Coordinator::start(address).await;
        let (_incoming, answers) = second.sessions.recv().await.unwrap();
        let refused = Refused { reason: "w1:2 has its place".into(), hint: String::new() };
        let message = Some(coordinator_message::Message::Refused(refused));
        answers.send(Ok(CoordinatorMessage { message })).await.unwrap();
        let error = worker.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "refused by the coordinator: w1:2 has its place");
    });
}

#[test]
fn a_worker_that_is_told_to_go_goes_at_once_where_it_has_nothing_to_hand_over_and_nobody_to_tell() {
    in_time(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut desk = Desk::new(std::sync::Arc::new(listener)).unwrap();
        desk.told_to_go().unwrap();
        assert_eq!(desk.meanwhile(std::future::pending::<()>()).await, Err(Leave));
        // Told twice: whatever it does.
        assert_eq!(desk.told_to_go(), Err(Leave));
    });
}
