//! The training thread, seen from the session: what it was given, what it says, and how it ended.

use std::{
    net::TcpListener,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use proto::{
    Deadlines,
    v1::{self, WorkerMessage, job_ended, worker_message::Message},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    collective::{Lost, Reason},
    job::{Job, JobError, Outcome, Published, Shared, Surroundings, training},
    model::RAISED,
};

/// Messages between the training thread and the session.
const QUEUE: usize = 256;

/// How long a checkpoint that is being written may hold up the word of a lost peer.
const GRACE: Duration = Duration::from_millis(250);
/// The same where nobody waits to go on.
const LONG_GRACE: Duration = Duration::from_secs(3600);

/// A job under way in one generation.
pub struct Running {
    pub run_id: String,
    pub generation: u64,
    pub rank: u32,
    pub staging: String,
    pub shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    done: oneshot::Receiver<Option<Box<Job>>>,
    /// Time at work and steps, as they were told last.
    told: (Duration, u64),
}

/// What a training thread has to say.
pub enum Word {
    Report(Box<Message>),
    /// It is over; what it leaves behind.
    Done(Option<Box<Job>>),
}

impl Running {
    /// Starts a thread for a seat. `kept`: the job that this worker has in memory, of whatever run.
    pub fn start(
        seat: v1::Seat,
        kept: Option<Box<Job>>,
        listener: Arc<TcpListener>,
        deadlines: Deadlines,
    ) -> std::io::Result<Self> {
        let kept_run = kept.as_ref().filter(|job| job.seat.run_id == seat.run_id);
        let published =
            kept_run.map_or_else(|| Arc::new(Published::default()), |job| Arc::clone(&job.shared.published));
        let shared = Arc::new(Shared::of_run(published));
        let (sender, messages) = mpsc::channel(QUEUE);
        let (hand_back, done) = oneshot::channel();
        let this = Self {
            run_id: seat.run_id.clone(),
            generation: seat.generation,
            rank: seat.rank,
            staging: seat.staging.clone(),
            shared: Arc::clone(&shared),
            messages,
            done,
            told: (Duration::ZERO, 0),
        };
        thread::Builder::new().name("train".into()).spawn(move || {
            let surroundings = Surroundings { shared, listener: &listener, sender, deadlines };
            let (ended, job) = work(seat, kept, &surroundings);
            // A closed channel: nobody waits for the verdict.
            let _ = surroundings.sender.blocking_send(Message::Ended(ended));
            let _ = hand_back.send(job);
        })?;
        Ok(this)
    }

    /// The next word; reports only where there is `room` for them.
    pub async fn word(&mut self, room: bool) -> Word {
        tokio::select! {
            biased;
            Some(message) = self.messages.recv(), if room => Word::Report(Box::new(message)),
            job = &mut self.done => Word::Done(job.ok().flatten()),
        }
    }

    /// What was said before the end and not heard yet.
    pub fn last_words(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).collect()
    }

    pub fn envelope(&self, message: Message) -> WorkerMessage {
        let (run_id, generation, rank) = (self.run_id.clone(), self.generation, self.rank);
        WorkerMessage { message: Some(message), run_id, generation, rank }
    }

    /// The seat, and how far the job is.
    pub fn holding(&self) -> v1::Holding {
        v1::Holding {
            run_id: self.run_id.clone(),
            generation: self.generation,
            step: self.shared.step.load(Ordering::Relaxed),
            epoch_closed: !self.shared.epoch_open.load(Ordering::Relaxed),
        }
    }

    pub fn heartbeat(&mut self) -> v1::Heartbeat {
        let (busy, steps) = self.shared.busy();
        let (time, count) = (busy.saturating_sub(self.told.0), steps - self.told.1);
        self.told = (busy, steps);
        v1::Heartbeat {
            step: self.shared.step.load(Ordering::Relaxed),
            system: None,
            waiting: self.shared.is_waiting(),
            pulse: self.shared.pulse(),
            step_seconds: if count == 0 { 0.0 } else { time.as_secs_f64() / count as f64 },
        }
    }
}

/// Fills a seat until its generation ends for this rank, however that comes about. Returns the job, unless it is of no more use.
fn work(seat: v1::Seat, kept: Option<Box<Job>>, surroundings: &Surroundings<'_>) -> (v1::JobEnded, Option<Box<Job>>) {
    // Where no one holds a state, everybody begins anew.
    let mut job = kept.filter(|job| job.seat.run_id == seat.run_id && seat.source.is_some());
    let attempt = panic::catch_unwind(AssertUnwindSafe(|| {
        let job = match &mut job {
            Some(job) => {
                job.reseat(seat, surroundings)?;
                job
            }
            none => none.insert(Box::new(Job::new(seat, surroundings)?)),
        };
        training::train(job)
    }));
    let mut lost_worker = String::new();
    let mut grace = LONG_GRACE;
    let outcome = match attempt {
        Ok(Ok(Outcome::Finished(why))) => job_ended::Outcome::Finished(why),
        Ok(Ok(Outcome::Ordered(order))) => {
            grace = GRACE;
            job_ended::Outcome::Ordered(order as i32)
        }
        Ok(Err(JobError::PeerLost(lost))) => {
            grace = GRACE;
            lost_worker = gone(&lost).to_owned();
            tracing::warn!(%lost, "the generation is over");
            job_ended::Outcome::PeerLost(if lost.peer.is_some() { lost.to_string() } else { "aborted".into() })
        }
        Ok(Err(JobError::Failed { message, hint, input_is_wrong })) => job_ended::Outcome::Failed(v1::Failure {
            message,
            causes: Vec::new(),
            hint: hint.unwrap_or_default(),
            input_is_wrong,
        }),
        Err(panic) => {
            // Whatever it was in the middle of, nobody can go on from that.
            job = None;
            job_ended::Outcome::Failed(panicked(&*panic))
        }
    };
    if let Some(job) = &mut job {
        job.let_go(grace);
    }
    let holding = job.as_ref().and_then(|job| job.holding());
    let step = surroundings.shared.step.load(Ordering::Relaxed);
    (v1::JobEnded { step, outcome: Some(outcome), holding, lost_worker }, job)
}

/// Who is gone for good, as far as a loss tells. A peer that ended its part, or was told to, is not.
fn gone(lost: &Lost) -> &str {
    match lost.reason {
        Reason::Closed | Reason::Io { .. } | Reason::Reported { .. } | Reason::Missing { .. } => lost.worker(),
        Reason::Left | Reason::Aborted | Reason::GaveUp | Reason::Disagrees { .. } => "",
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> v1::Failure {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    let (message, hint) = if words.starts_with(RAISED) {
        (words.to_owned(), "its code raised this on rows of the data: see model.path")
    } else {
        let message = format!("the training thread panicked: {words}");
        (message, "this is a fault of lockstep: please report it with the worker's log")
    };
    v1::Failure { message, causes: Vec::new(), hint: hint.into(), input_is_wrong: words.starts_with(RAISED) }
}
