//! The one way to the driver: everything that happens arrives here, in order, and waits where the driver is behind.

use proto::{Generation, RunId, WorkerId, v1};
use tokio::sync::{mpsc, oneshot};

use crate::{
    pool::Outbox,
    preparation::Preparation,
    refusal::Refusal,
    run::{Publication, Report},
    submission::Submission,
};

/// Calls that may wait for the driver.
const INBOX: usize = 256;

pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

pub enum Call {
    Submit {
        submission: Box<Submission>,
        reply: Reply<RunId>,
    },
    Get {
        run: String,
        reply: Reply<v1::RunStatus>,
    },
    List {
        reply: Reply<Vec<v1::RunStatus>>,
    },
    Stop {
        run: String,
        now: bool,
        reply: Reply<()>,
    },
    /// Which run is meant: the newest where the name is empty.
    Find {
        run: String,
        reply: Reply<String>,
    },
    Workers {
        reply: Reply<Vec<v1::WorkerStatus>>,
    },
    Join {
        about: v1::Join,
        outbox: Outbox,
        hang_up: oneshot::Sender<()>,
        reply: Reply<WorkerId>,
    },
    Heartbeat {
        worker: WorkerId,
        run: String,
        generation: Generation,
        beat: v1::Heartbeat,
    },
    /// It wants to leave.
    Drain {
        worker: WorkerId,
        why: String,
    },
    Report {
        worker: WorkerId,
        run: String,
        generation: Generation,
        report: Report,
    },
    Left {
        worker: WorkerId,
        why: String,
    },
    /// The process itself has ended.
    Exited {
        worker: WorkerId,
        why: String,
        /// Whoever started it starts another in its place.
        successor: bool,
    },
    Prepared {
        run: RunId,
        outcome: Result<Box<Preparation>, v1::Failure>,
    },
    Published {
        run: RunId,
        staged: std::path::PathBuf,
        outcome: Result<Publication, String>,
    },
    /// So much of a run has reached its tracker; answered once that is recorded.
    Tracked {
        run: String,
        tracking: Box<v1::Tracking>,
        reply: Reply<()>,
    },
    /// Something that those who watch the run should know.
    Warn {
        run: String,
        message: String,
    },
    /// `runs_go_on`: another coordinator of this state folder will take them up; else they are stopped, and workers dismissed.
    ShutDown {
        runs_go_on: bool,
        reply: Reply<()>,
    },
}

#[derive(Clone)]
pub struct Inbox(mpsc::Sender<Call>);

impl Inbox {
    pub fn new() -> (Self, mpsc::Receiver<Call>) {
        let (sender, receiver) = mpsc::channel(INBOX);
        (Self(sender), receiver)
    }

    /// Waits for room. What is sent to a driver that is gone is nobody's business any more.
    pub async fn tell(&self, call: Call) {
        let _ = self.0.send(call).await;
    }

    pub async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.tell(call(reply)).await;
        answer.await.unwrap_or_else(|_| Err(Refusal::shutting_down()))
    }
}
