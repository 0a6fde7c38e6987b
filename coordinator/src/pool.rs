//! Who is there to train: the workers of all sessions, what each is doing, and the queue to each. The driver owns it; nothing waits.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use proto::{
    Deadlines, Generation, RunId, WorkerId,
    v1::{self, coordinator_message},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Timestamp,
    refusal::{Refusal, RefusalKind},
};

/// What a session sends to its worker.
pub type Outbox = mpsc::Sender<Result<v1::CoordinatorMessage, tonic::Status>>;

/// Messages that a worker may leave unread before it counts as too slow.
pub const OUTBOX: usize = 64;

/// How long a worker may take to give up a job that its run no longer wants.
const FINISH_WITHIN: Duration = Duration::from_secs(30);

/// A step that takes so many times the median is an outlier.
const STRAGGLES_AT: f64 = 2.0;

/// Workers that left and are still listed.
const DEPARTED_KEPT: usize = 64;

pub struct Pool {
    workers: BTreeMap<WorkerId, Worker>,
    /// The newest life seen of each slot.
    lives: BTreeMap<u32, u32>,
    departed: VecDeque<v1::WorkerStatus>,
    deadlines: Deadlines,
}

struct Worker {
    about: v1::Join,
    outbox: Outbox,
    /// Dropped with the worker, which ends its session.
    _hang_up: oneshot::Sender<()>,
    state: State,
    step: u64,
    /// Mean time at work a step, in seconds; 0: not known.
    step_seconds: f64,
    heard: Timestamp,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    /// Given to a run that is not complete yet.
    Held(RunId),
    Seated(Place),
    /// Its job has ended, its run has not.
    Done(Place),
    /// Its run has ended, its job has not.
    Finishing {
        place: Place,
        since: Timestamp,
    },
}

/// A rank in a generation of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub run: RunId,
    pub generation: Generation,
    pub rank: u32,
    pub world: u32,
}

impl Pool {
    pub fn new(deadlines: Deadlines) -> Self {
        Self { workers: BTreeMap::new(), lives: BTreeMap::new(), departed: VecDeque::new(), deadlines }
    }

    /// Takes a worker in. A former life of its slot that is still listed is returned: it must be seen off. Who comes to a slot whose
    /// session is gone gets the next life, whatever it says: a process that was started again by hand does not know.
    pub fn join(
        &mut self,
        now: Timestamp,
        mut about: v1::Join,
        outbox: Outbox,
        hang_up: oneshot::Sender<()>,
    ) -> Result<(WorkerId, Option<WorkerId>), Refusal> {
        let mut id = WorkerId { slot: about.slot, life: about.life };
        if about.version != proto::VERSION {
            return Err(Refusal::new(
                RefusalKind::Conflict,
                format!("worker `{id}` is of version {}, the coordinator of {}", about.version, proto::VERSION),
                "install the same version of lockstep everywhere",
            ));
        }
        let former = self.workers.keys().find(|worker| worker.slot == id.slot).copied();
        let alive =
            former.and_then(|former| self.workers.get(&former)).is_some_and(|worker| !worker.outbox.is_closed());
        let last = self.lives.get(&id.slot).copied();
        if let Some(newest) = last.filter(|newest| alive && *newest >= id.life) {
            return Err(Refusal::new(
                RefusalKind::Conflict,
                format!("worker `{id}` cannot join: slot {} is in its life {newest} already", id.slot),
                "give each worker a slot of its own, and a restarted one a greater life",
            ));
        }
        id.life = id.life.max(last.unwrap_or(0).saturating_add(1));
        about.life = id.life;
        self.lives.insert(id.slot, id.life);
        let worker =
            Worker { about, outbox, _hang_up: hang_up, state: State::Idle, step: 0, step_seconds: 0.0, heard: now };
        self.workers.insert(id, worker);
        let heartbeat_millis = self.heartbeat_millis();
        let welcome = v1::Welcome { worker: id.to_string(), heartbeat_millis, ..v1::Welcome::default() };
        // Its queue is empty: there is room.
        let _ = self.send(id, coordinator_message::Message::Welcome(welcome));
        Ok((id, former))
    }

    /// Takes in a worker that has kept its seat while its coordinator was away.
    pub fn rejoin(
        &mut self,
        now: Timestamp,
        about: v1::Join,
        outbox: Outbox,
        hang_up: oneshot::Sender<()>,
        place: Place,
    ) -> WorkerId {
        let id = WorkerId { slot: about.slot, life: about.life };
        let newest = self.lives.entry(id.slot).or_default();
        *newest = id.life.max(*newest);
        let step = about.holding.as_ref().map_or(0, |holding| holding.step);
        let state = State::Seated(place);
        let worker = Worker { about, outbox, _hang_up: hang_up, state, step, step_seconds: 0.0, heard: now };
        self.workers.insert(id, worker);
        let heartbeat_millis = self.heartbeat_millis();
        let welcome = v1::Welcome { worker: id.to_string(), heartbeat_millis, carry_on: true };
        // Its queue is empty: there is room.
        let _ = self.send(id, coordinator_message::Message::Welcome(welcome));
        id
    }

    fn heartbeat_millis(&self) -> u64 {
        u64::try_from(self.deadlines.heartbeat.as_millis()).unwrap_or(u64::MAX)
    }

    /// Queues a message, or says why this worker cannot be reached any more.
    pub fn send(&self, id: WorkerId, message: coordinator_message::Message) -> Result<(), String> {
        let Some(worker) = self.workers.get(&id) else { return Ok(()) };
        let message = v1::CoordinatorMessage { message: Some(message) };
        worker.outbox.try_send(Ok(message)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => format!("too slow: {OUTBOX} messages wait to be read by it"),
            mpsc::error::TrySendError::Closed(_) => "session closed".to_owned(),
        })
    }

    /// Forgets a worker; its session ends. `false` where it was gone already.
    pub fn leave(&mut self, id: WorkerId, why: &str) -> bool {
        let Some(worker) = self.workers.remove(&id) else { return false };
        if self.departed.len() == DEPARTED_KEPT {
            self.departed.pop_front();
        }
        let status = v1::WorkerStatus { state: format!("left: {why}"), ..worker.status(id) };
        self.departed.push_back(status);
        true
    }

    /// A process's exit explains more than the silence that was noticed first.
    pub fn explain_departure(&mut self, id: WorkerId, why: &str) {
        let name = id.to_string();
        if let Some(departed) = self.departed.iter_mut().find(|departed| departed.worker == name) {
            departed.state = format!("left: {why}");
        }
    }

    pub fn heard(&mut self, now: Timestamp, id: WorkerId, step: Option<u64>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.heard = now;
            worker.step = step.unwrap_or(worker.step);
        }
    }

    /// How long a step takes it; 0 says nothing.
    pub fn pace(&mut self, id: WorkerId, step_seconds: f64) {
        if let Some(worker) = self.workers.get_mut(&id)
            && step_seconds > 0.0
        {
            worker.step_seconds = step_seconds;
        }
    }

    /// The run that a worker was given to.
    pub fn run_of(&self, id: WorkerId) -> Option<RunId> {
        self.workers.get(&id)?.state.run().cloned()
    }

    /// By slot.
    pub fn idle(&self) -> Vec<WorkerId> {
        let idle = self.workers.iter().filter(|(_, worker)| matches!(worker.state, State::Idle));
        idle.map(|(id, _)| *id).collect()
    }

    pub fn hold(&mut self, id: WorkerId, run: &RunId) {
        self.set(id, State::Held(run.clone()));
    }

    pub fn seat(&mut self, id: WorkerId, place: Place) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.step = 0;
        }
        self.set(id, State::Seated(place));
    }

    /// The worker said that it works no more for this generation of this run.
    pub fn job_ended(&mut self, id: WorkerId, run: &RunId, generation: Generation) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let same = |place: &Place| place.run == *run && place.generation == generation;
        worker.state = match std::mem::replace(&mut worker.state, State::Idle) {
            State::Seated(place) if same(&place) => State::Done(place),
            State::Finishing { place, .. } if same(&place) => State::Idle,
            state => state,
        };
    }

    /// The run has no more use for it: idle, or as soon as it has given up its job.
    pub fn release(&mut self, now: Timestamp, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.state = match std::mem::replace(&mut worker.state, State::Idle) {
            State::Seated(place) => State::Finishing { place, since: now },
            State::Finishing { place, since } => State::Finishing { place, since },
            State::Idle | State::Held(_) | State::Done(_) => State::Idle,
        };
    }

    fn set(&mut self, id: WorkerId, state: State) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.state = state;
        }
    }

    /// Those who cannot be reached or do not let go of a job, and why.
    pub fn lost(&self, now: Timestamp) -> Vec<(WorkerId, String)> {
        let lost = self.workers.iter().filter_map(|(id, worker)| match &worker.state {
            _ if worker.outbox.is_closed() => Some((*id, "session closed".to_owned())),
            State::Finishing { place, since } if now.since(*since) > FINISH_WITHIN => {
                let seconds = FINISH_WITHIN.as_secs();
                Some((*id, format!("it did not give up its job for run `{}` within {seconds} s", place.run)))
            }
            _ => None,
        });
        lost.collect()
    }

    pub fn everyone(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }

    pub fn about(&self, id: WorkerId) -> Option<&v1::Join> {
        self.workers.get(&id).map(|worker| &worker.about)
    }

    /// Those who are here by slot, then the newest of those who left.
    pub fn statuses(&self, now: Timestamp) -> Vec<v1::WorkerStatus> {
        let mut all = self.statuses_where(now, |_| true);
        all.extend(self.departed.iter().rev().cloned());
        all
    }

    /// Those of one run.
    pub fn statuses_of(&self, now: Timestamp, run: &RunId) -> Vec<v1::WorkerStatus> {
        self.statuses_where(now, |worker| worker.state.run() == Some(run))
    }

    /// With what only shows beside the clock and the others: silence, and steps that take longer than theirs.
    fn statuses_where(&self, now: Timestamp, wanted: impl Fn(&Worker) -> bool) -> Vec<v1::WorkerStatus> {
        let usual = self.usual_steps(&wanted);
        let of = |(id, worker): (&WorkerId, &Worker)| {
            let mut status = worker.status(*id);
            let silent = now.since(worker.heard);
            let usual = worker.at_work().and_then(|place| usual.get(&(&place.run, place.generation)).copied());
            if silent > self.deadlines.suspect() {
                status.state = format!("suspect: no heartbeat for {:.1} s ({})", silent.as_secs_f64(), status.state);
            } else if let Some(usual) = usual.filter(|usual| worker.step_seconds > STRAGGLES_AT * usual) {
                let (own, usual) = (worker.step_seconds * 1e3, usual * 1e3);
                status.state = format!("{}, straggling: {own:.1} ms a step, the median is {usual:.1} ms", status.state);
            }
            status
        };
        self.workers.iter().filter(|(_, worker)| wanted(worker)).map(of).collect()
    }

    /// The median of what a step takes the members of each generation; of two it is the faster one.
    fn usual_steps(&self, wanted: &impl Fn(&Worker) -> bool) -> BTreeMap<(&RunId, Generation), f64> {
        let mut paces: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for worker in self.workers.values().filter(|worker| wanted(worker) && worker.step_seconds > 0.0) {
            if let Some(place) = worker.at_work() {
                paces.entry((&place.run, place.generation)).or_default().push(worker.step_seconds);
            }
        }
        let median = |mut paces: Vec<f64>| {
            paces.sort_unstable_by(f64::total_cmp);
            paces[(paces.len() - 1) / 2]
        };
        paces.into_iter().map(|(place, paces)| (place, median(paces))).collect()
    }
}

impl State {
    fn run(&self) -> Option<&RunId> {
        match self {
            Self::Idle => None,
            Self::Held(run) => Some(run),
            Self::Seated(place) | Self::Done(place) | Self::Finishing { place, .. } => Some(&place.run),
        }
    }
}

impl Worker {
    fn at_work(&self) -> Option<&Place> {
        if let State::Seated(place) = &self.state { Some(place) } else { None }
    }

    fn status(&self, id: WorkerId) -> v1::WorkerStatus {
        let (state, run, place) = match &self.state {
            State::Idle => ("idle", String::new(), None),
            State::Held(run) => ("waiting for its run to be complete", run.to_string(), None),
            State::Seated(place) => ("training", place.run.to_string(), Some(place)),
            State::Done(place) => ("done, its run is not", place.run.to_string(), Some(place)),
            State::Finishing { place, .. } => ("giving up its job", place.run.to_string(), Some(place)),
        };
        v1::WorkerStatus {
            worker: id.to_string(),
            host: self.about.host.clone(),
            pid: self.about.pid,
            device: self.about.device.clone(),
            state: state.to_owned(),
            run_id: run,
            rank: place.map_or(0, |place| place.rank),
            world: place.map_or(0, |place| place.world),
            step: self.step,
            last_heartbeat_unix_micros: self.heard.unix_micros(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(pool: &mut Pool, slot: u32) -> (WorkerId, mpsc::Receiver<Result<v1::CoordinatorMessage, tonic::Status>>) {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let about = v1::Join { slot, life: 1, version: proto::VERSION.into(), ..Default::default() };
        let (worker, former) = pool.join(Timestamp(0), about, outbox, oneshot::channel().0).unwrap();
        assert_eq!(former, None);
        (worker, messages)
    }

    #[test]
    fn a_restarted_worker_gets_the_next_life_and_a_second_one_is_refused_while_the_first_lives() {
        let mut pool = Pool::new(Deadlines::default());
        let (first, messages) = join(&mut pool, 1);
        let about = || v1::Join { slot: 1, life: 1, version: proto::VERSION.into(), ..Default::default() };
        let refused = pool.join(Timestamp(0), about(), mpsc::channel(OUTBOX).0, oneshot::channel().0).unwrap_err();
        assert_eq!(refused.message, "worker `w1:1` cannot join: slot 1 is in its life 1 already");
        // Its session is closed, though nobody has noticed.
        drop(messages);
        let (outbox, mut messages) = mpsc::channel(OUTBOX);
        let (second, former) = pool.join(Timestamp(0), about(), outbox, oneshot::channel().0).unwrap();
        assert_eq!((second, former), (WorkerId { slot: 1, life: 2 }, Some(first)));
        let Some(coordinator_message::Message::Welcome(welcome)) = messages.try_recv().unwrap().unwrap().message else {
            panic!("no welcome")
        };
        assert_eq!(welcome.worker, "w1:2");
        pool.leave(first, "replaced");
        pool.leave(second, "gone");
        assert_eq!(join(&mut pool, 1).0, WorkerId { slot: 1, life: 3 });
    }

    #[test]
    fn a_worker_that_does_not_read_is_too_slow_and_one_that_is_gone_is_lost() {
        let mut pool = Pool::new(Deadlines::default());
        let (worker, messages) = join(&mut pool, 1);
        let dismiss = || coordinator_message::Message::Dismiss(v1::Dismiss {});
        // The welcome is the first.
        for _ in 1..OUTBOX {
            pool.send(worker, dismiss()).unwrap();
        }
        assert_eq!(pool.send(worker, dismiss()).unwrap_err(), "too slow: 64 messages wait to be read by it");
        drop(messages);
        assert_eq!(pool.lost(Timestamp(0)), [(worker, "session closed".to_owned())]);
    }

    #[test]
    fn a_released_worker_is_idle_only_once_its_job_has_ended() {
        let mut pool = Pool::new(Deadlines::default());
        let (worker, _messages) = join(&mut pool, 1);
        let place = Place { run: RunId::new(1, 1), generation: Generation(1), rank: 0, world: 1 };
        pool.seat(worker, place.clone());
        pool.release(Timestamp(0), worker);
        assert!(pool.idle().is_empty());
        pool.job_ended(worker, &place.run, Generation(2));
        assert!(pool.idle().is_empty(), "another generation's end is not this one's");
        assert_eq!(pool.lost(Timestamp(31_000_000)).len(), 1, "it is not waited for for ever");
        pool.job_ended(worker, &place.run, Generation(1));
        assert_eq!(pool.idle(), [worker]);

        pool.seat(worker, place.clone());
        pool.job_ended(worker, &place.run, Generation(1));
        assert!(pool.idle().is_empty(), "its run may still need to know it");
        pool.release(Timestamp(0), worker);
        assert_eq!(pool.idle(), [worker]);
    }
}
