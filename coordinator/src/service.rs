//! The gRPC services. Requests become calls to the driver, or reads of the journal; answers and refusals become messages. Nothing is
//! decided here, and generated types of requests go no further.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use proto::v1::{self, runs_server::Runs, workers_server::Workers};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    inbox::{Call, Inbox},
    journal::{Journal, JournalError},
    nursery::Nursery,
    pool::OUTBOX,
    refusal::{Refusal, RefusalKind},
    sessions::{self, Rhythm},
    submission::Submission,
    tracking::{board::Board, tracking_words},
    watch::{Events, Watch},
};

/// A manifest of many files may be some megabytes.
pub const MESSAGE_AT_MOST: usize = 64 << 20;

const SESSIONS_AT_MOST: usize = 4096;
const WATCHERS_AT_MOST: usize = 512;

/// Both services; clones share what is behind them.
#[derive(Clone)]
pub struct Front {
    pub inbox: Inbox,
    pub journal: Journal,
    pub events: broadcast::Sender<Arc<v1::RunEvent>>,
    pub nursery: Nursery,
    pub board: Board,
    pub rhythm: Rhythm,
    pub limits: Limits,
}

#[derive(Clone)]
pub struct Limits {
    sessions: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: Arc::new(Semaphore::new(SESSIONS_AT_MOST)),
            watchers: Arc::new(Semaphore::new(WATCHERS_AT_MOST)),
        }
    }
}

impl Front {
    async fn find(&self, run: String) -> Result<String, Refusal> {
        self.inbox.ask(|reply| Call::Find { run, reply }).await
    }

    /// Why nothing goes through at this moment is not in the journal.
    fn say_what_waits(&self, status: &mut v1::RunStatus) {
        let Some(tracking) = status.tracking.as_mut().filter(|tracking| !tracking.done) else { return };
        let trouble = self.board.standing(&status.run_id).map(|standing| standing.trouble);
        tracking.standing = tracking_words(tracking, &trouble.unwrap_or_default());
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let journal = self.journal.clone();
        match tokio::task::spawn_blocking(move || read(&journal)).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(Refusal::shutting_down()),
        }
    }

    /// A long-lived task of its own, as long as there is room for another.
    fn keep(
        &self,
        room: &Arc<Semaphore>,
        what: &str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Refusal> {
        let full = || {
            let hint = "close some that are not needed, then try again";
            Refusal::new(RefusalKind::Exhausted, format!("too many {what} at once"), hint)
        };
        let permit = Arc::clone(room).try_acquire_owned().map_err(|_| full())?;
        let started = self.nursery.spawn(async move {
            task.await;
            drop(permit);
        });
        if started { Ok(()) } else { Err(full()) }
    }
}

#[tonic::async_trait]
impl Runs for Front {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let v1::SubmitRequest { spec_toml, resume_from, origin } = request.into_inner();
        let checked = tokio::task::spawn_blocking(move || Submission::check(spec_toml, resume_from)).await;
        let checked = checked.unwrap_or_else(|_| Err(Refusal::shutting_down()))?;
        let submission = Box::new(Submission { origin, ..checked });
        let run = self.inbox.ask(|reply| Call::Submit { submission, reply }).await?;
        Ok(Response::new(v1::SubmitReply { run_id: run.to_string() }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::RunStatus>, Status> {
        let run = request.into_inner().run_id;
        let mut status = self.inbox.ask(|reply| Call::Get { run, reply }).await?;
        let run = status.run_id.clone();
        status.tracking = self.read(move |journal| journal.tracking(&run)).await?;
        self.say_what_waits(&mut status);
        Ok(Response::new(status))
    }

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsReply>, Status> {
        let mut runs = self.inbox.ask(|reply| Call::List { reply }).await?;
        let mut tracked: BTreeMap<_, _> = self.read(Journal::tracked).await?.into_iter().collect();
        for status in &mut runs {
            status.tracking = tracked.remove(&status.run_id);
            self.say_what_waits(status);
        }
        Ok(Response::new(v1::ListRunsReply { runs }))
    }

    async fn stop(&self, request: Request<v1::StopRunRequest>) -> Result<Response<v1::StopRunReply>, Status> {
        let v1::StopRunRequest { run_id: run, now } = request.into_inner();
        self.inbox.ask(|reply| Call::Stop { run, now, reply }).await?;
        Ok(Response::new(v1::StopRunReply {}))
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Events>, Status> {
        let v1::WatchRequest { run_id: run, after_sequence: after } = request.into_inner();
        let status = self.inbox.ask(|reply| Call::Get { run, reply }).await?;
        let (journal, events) = (self.journal.clone(), self.events.clone());
        let over = status.ended_unix_micros > 0;
        let (stream, task) = Watch { journal, events, run: status.run_id, after, over }.open();
        self.keep(&self.limits.watchers, "watchers", task)?;
        Ok(Response::new(stream))
    }

    async fn metrics(&self, request: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        let v1::MetricsRequest { run_id, names } = request.into_inner();
        let run = self.find(run_id).await?;
        let series = self.read(move |journal| journal.series(&run, &names)).await?;
        Ok(Response::new(v1::MetricsReply { series }))
    }

    async fn checkpoints(
        &self,
        request: Request<v1::CheckpointsRequest>,
    ) -> Result<Response<v1::CheckpointsReply>, Status> {
        let status = self.inbox.ask(|reply| Call::Get { run: request.into_inner().run_id, reply }).await?;
        let mut checkpoints = self.read(move |journal| journal.checkpoints(&status.run_id)).await?;
        // Each was recorded as it was published; which one is the best has moved on since.
        let best = status.best.map(|best| best.step);
        for checkpoint in &mut checkpoints {
            checkpoint.best = best == Some(checkpoint.step);
        }
        Ok(Response::new(v1::CheckpointsReply { checkpoints }))
    }
}

#[tonic::async_trait]
impl Workers for Front {
    async fn list(&self, _: Request<v1::ListWorkersRequest>) -> Result<Response<v1::ListWorkersReply>, Status> {
        let workers = self.inbox.ask(|reply| Call::Workers { reply }).await?;
        Ok(Response::new(v1::ListWorkersReply { workers }))
    }

    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let session = sessions::serve(self.inbox.clone(), self.rhythm, request.into_inner(), outbox);
        self.keep(&self.limits.sessions, "worker sessions", session)?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
