//! What a worker is at: the job under way, the one it keeps in memory, what it has to tell, and whether it is to leave.

use std::{
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proto::{
    Deadlines,
    v1::{self, CoordinatorMessage, OrderKind, WorkerMessage, coordinator_message, worker_message::Message},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{
    SessionError,
    line::Line,
    outbox::Outbox,
    running::{Running, Word},
};
use crate::{gauge::Gauge, job::Job};

/// There is no more to do: the process ends, and ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave;

pub struct Desk {
    listener: Arc<TcpListener>,
    deadlines: Deadlines,
    beat: Interval,
    gauge: Gauge,
    terminated: Signal,
    outbox: Outbox,
    connected: bool,
    running: Option<Running>,
    /// The job that a generation left behind.
    kept: Option<Box<Job>>,
    /// The seat to take when the job under way has ended.
    next: Option<v1::Seat>,
    /// Nobody wants to hear of the job under way any more, nor to go on from what it leaves behind.
    disowned: bool,
    /// The job under way is of no more use once it has ended.
    released: bool,
    /// When a worker that was told to go goes, come what may.
    drain: Option<Instant>,
    leaving: bool,
}

enum Event {
    Beat,
    Word(Word),
    Terminated,
    Overdue,
}

impl Desk {
    pub fn new(listener: Arc<TcpListener>) -> std::io::Result<Self> {
        let deadlines = Deadlines::default();
        Ok(Self {
            listener,
            beat: interval(deadlines.heartbeat),
            deadlines,
            gauge: Gauge::start(),
            terminated: signal(SignalKind::terminate())?,
            outbox: Outbox::default(),
            connected: false,
            running: None,
            kept: None,
            next: None,
            disowned: false,
            released: false,
            drain: None,
            leaving: false,
        })
    }

    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Whether there is nothing here that somebody may come back for.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.kept.is_none()
    }

    /// For a coordinator that comes back: the seat that this worker has, or had last.
    pub fn holding(&self) -> Option<v1::Holding> {
        if self.disowned {
            return None;
        }
        let kept = || {
            let job = self.kept.as_ref()?;
            Some(v1::Holding { generation: job.seat.generation, ..job.holding()? })
        };
        self.running.as_ref().map(Running::holding).or_else(kept)
    }

    pub fn welcome(&mut self, welcome: &v1::Welcome) {
        tracing::info!(worker = welcome.worker, "joined");
        self.deadlines.heartbeat = Duration::from_millis(welcome.heartbeat_millis.max(1));
        self.beat = interval(self.deadlines.heartbeat);
        self.beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }

    /// A coordinator was found after one was lost.
    pub fn welcome_back(&mut self, welcome: &v1::Welcome) {
        self.welcome(welcome);
        if welcome.carry_on {
            return self.outbox.send_again();
        }
        self.outbox.clear();
        self.forget();
        if let Some(running) = &self.running {
            running.shared.abort();
            self.disowned = true;
        }
        // A new coordinator has yet to hear of it.
        if self.drain.is_some() {
            self.say_drain();
        }
    }

    /// Works with a coordinator until the session breaks or there is no more to do.
    pub async fn attend(&mut self, line: Line) -> Result<Leave, SessionError> {
        self.connected = true;
        let ended = self.converse(line).await;
        self.connected = false;
        if !self.leaving {
            return ended;
        }
        // libtorch is at work on the training thread: the process does not end under it.
        while self.running.is_some() {
            let event = self.event().await;
            if self.meet(event).is_err() {
                break;
            }
        }
        Ok(Leave)
    }

    async fn converse(&mut self, mut line: Line) -> Result<Leave, SessionError> {
        let closed = |why: &str| SessionError::Closed(why.to_owned());
        loop {
            if self.leaving && self.running.is_none() && self.outbox.is_empty() {
                return Ok(Leave);
            }
            tokio::select! {
                biased;
                message = line.incoming.message() => match message {
                    Ok(Some(CoordinatorMessage { message: Some(message) })) => self.take(message)?,
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(closed("it ended")),
                    Err(status) => return Err(closed(status.message())),
                },
                room = line.outgoing.reserve(), if !self.outbox.is_empty() => {
                    let room = room.map_err(|_| closed("nothing can be sent"))?;
                    if let Some(message) = self.outbox.next(std::time::Instant::now()) {
                        room.send(message);
                    }
                }
                event = self.event() => match event {
                    // A full queue says more about the network than a heartbeat would.
                    Event::Beat => drop(line.outgoing.try_send(self.heartbeat())),
                    event => if self.meet(event).is_err() {
                        return Ok(Leave);
                    },
                },
            }
        }
    }

    /// Goes on without a coordinator for as long as something else takes.
    pub async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> Result<T, Leave> {
        tokio::pin!(something);
        loop {
            if self.drain.is_some() && self.is_idle() {
                return Err(Leave);
            }
            tokio::select! {
                biased;
                result = &mut something => return Ok(result),
                event = self.event() => self.meet(event)?,
            }
        }
    }

    async fn event(&mut self) -> Event {
        // Without a coordinator a job goes on all the same.
        let room = !self.connected || !self.outbox.is_full();
        let running = &mut self.running;
        let word = async {
            match running {
                Some(running) => running.word(room).await,
                None => std::future::pending().await,
            }
        };
        let drain = self.drain;
        let overdue = async move {
            match drain {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminated.recv() => Event::Terminated,
            _ = self.beat.tick() => Event::Beat,
            () = overdue => Event::Overdue,
            word = word => Event::Word(word),
        }
    }

    fn meet(&mut self, event: Event) -> Result<(), Leave> {
        match event {
            Event::Beat => {}
            Event::Word(Word::Report(message)) => self.tell(message),
            Event::Word(Word::Done(job)) => self.done(job),
            Event::Terminated => return self.told_to_go(),
            Event::Overdue if self.leaving => return Err(Leave),
            Event::Overdue => {
                tracing::warn!("nobody took over in time, leaving");
                self.leave();
                self.drain = Some(Instant::now() + self.deadlines.heartbeat);
            }
        }
        Ok(())
    }

    /// By whoever wants the machine back. The job goes on until others have taken over; told twice, nobody waits for that.
    pub fn told_to_go(&mut self) -> Result<(), Leave> {
        if self.drain.is_some() {
            return Err(Leave);
        }
        tracing::info!("told to go");
        self.drain = Some(Instant::now() + self.deadlines.drain);
        self.say_drain();
        Ok(())
    }

    fn say_drain(&mut self) {
        let drain = Message::Drain(v1::Drain { why: "told by SIGTERM".into() });
        self.tell_anyway(drain);
    }

    /// A report of the job under way.
    fn tell(&mut self, message: Message) {
        if !self.disowned {
            self.tell_anyway(message);
        }
    }

    fn tell_anyway(&mut self, message: Message) {
        let message = match &self.running {
            Some(running) => running.envelope(message),
            None => WorkerMessage { message: Some(message), ..WorkerMessage::default() },
        };
        self.outbox.push(message);
    }

    /// The training thread has ended.
    fn done(&mut self, job: Option<Box<Job>>) {
        let words = self.running.as_mut().map(Running::last_words).unwrap_or_default();
        words.into_iter().for_each(|word| self.tell(word));
        self.running = None;
        self.kept = job;
        let (disowned, released) = (std::mem::take(&mut self.disowned), std::mem::take(&mut self.released));
        if disowned || released {
            self.forget();
        }
        if let Some(seat) = self.next.take() {
            self.sit(seat);
        }
    }

    fn take(&mut self, message: coordinator_message::Message) -> Result<(), SessionError> {
        match message {
            coordinator_message::Message::Seat(seat) => match &self.running {
                Some(running) if running.run_id == seat.run_id && running.generation >= seat.generation => {
                    tracing::warn!(generation = seat.generation, "a seat of a generation that is over");
                }
                Some(running) => {
                    running.shared.abort();
                    self.next = Some(seat);
                }
                None => self.sit(seat),
            },
            coordinator_message::Message::Order(order) => self.order(&order),
            coordinator_message::Message::Dismiss(_) => self.leave(),
            coordinator_message::Message::Release(release) => self.release(&release.run_id),
            coordinator_message::Message::Published(published) => self.published(&published),
            coordinator_message::Message::Refused(v1::Refused { reason, hint }) => {
                return Err(SessionError::Refused { reason, hint });
            }
            coordinator_message::Message::Welcome(_) => {}
        }
        Ok(())
    }

    fn sit(&mut self, seat: v1::Seat) {
        self.outbox.forget_sent();
        match Running::start(seat, self.kept.take(), Arc::clone(&self.listener), self.deadlines) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                // The coordinator hears of it as of any worker that leaves.
                tracing::error!(%error, "no thread to train on");
                std::process::exit(1);
            }
        }
    }

    fn order(&self, order: &v1::Order) {
        let Some(job) = &self.running else { return };
        if (&job.run_id, job.generation) != (&order.run_id, order.generation) {
            return;
        }
        match order.kind() {
            OrderKind::Stop => job.shared.stop.store(true, Ordering::Relaxed),
            OrderKind::Yield => job.shared.give_way.store(true, Ordering::Relaxed),
            OrderKind::Checkpoint => job.shared.checkpoint.store(true, Ordering::Relaxed),
            OrderKind::Abort => job.shared.abort(),
            OrderKind::OrderUnspecified => {}
        }
    }

    /// What became of a checkpoint: the staging folder says of which run it is.
    fn published(&self, published: &v1::CheckpointPublished) {
        let of = |staging: &str| !staging.is_empty() && published.staged_path.starts_with(staging);
        let running = self.running.as_ref().filter(|job| of(&job.staging)).map(|job| &job.shared);
        let kept = self.kept.as_ref().filter(|job| of(&job.seat.staging)).map(|job| &job.shared);
        let Some(shared) = running.or(kept) else { return };
        match published.path.is_empty() {
            true => shared.published.refused(published.step),
            false => shared.published.done(published.step),
        }
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.next = None;
        if let Some(running) = &self.running {
            running.shared.abort();
        }
    }

    /// A job whose last word was heard may be about to be handed back.
    fn release(&mut self, run_id: &str) {
        self.released = self.running.as_ref().is_some_and(|running| running.run_id == run_id);
        if self.kept.as_ref().is_some_and(|job| job.seat.run_id == run_id) {
            self.forget();
        }
    }

    /// Gives up what is in memory. Not here: its last checkpoint may take a while to be written.
    fn forget(&mut self) {
        if let Some(job) = self.kept.take() {
            drop(tokio::task::spawn_blocking(move || drop(job)));
        }
    }

    fn heartbeat(&mut self) -> WorkerMessage {
        let system = self.gauge.read();
        let heartbeat = self.running.as_mut().map(Running::heartbeat).unwrap_or_default();
        let message = Message::Heartbeat(v1::Heartbeat { system, ..heartbeat });
        match &self.running {
            Some(running) => running.envelope(message),
            None => WorkerMessage { message: Some(message), ..WorkerMessage::default() },
        }
    }
}
