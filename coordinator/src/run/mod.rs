//! The run's state machine: events in, effects out. No clock, no randomness, no IO: the driver brings the time and carries the
//! effects out. Reports keep the shape they have on the wire (they are figures to hand on, not to decide by); messages do not get here.

mod gathering;
mod publishing;
mod recovering;
#[cfg(test)]
mod schedules;
mod standing;
mod system;
#[cfg(test)]
mod tests;
mod training;

use std::{path::PathBuf, time::Duration};

use proto::{Deadlines, Generation, RunId, WorkerId, v1};

use crate::clock::Timestamp;
use gathering::Gathering;
use publishing::Publishing;
use recovering::Recovering;
pub use standing::Standing;
use training::{Stopping, Training};

/// What of the spec the core decides by.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: RunId,
    pub name: String,
    pub spec_toml: String,
    /// So many the run begins with; with fewer than `least` it waits, more than `most` are not let in.
    pub workers: u32,
    pub least: u32,
    pub most: u32,
    pub epochs: u64,
    pub join_timeout: Duration,
    pub deadlines: Deadlines,
    /// The metric whose highest value makes a checkpoint the best one; absent: the lowest training loss does.
    pub best_by: Option<String>,
    pub origin: Option<v1::Origin>,
    pub resume_from: String,
}

#[derive(Clone, Debug)]
pub enum Event {
    Submitted,
    /// The coordinator is back, and has read the run from its journal.
    Restored,
    /// A member has found the coordinator again, still in its seat.
    Returned {
        worker: WorkerId,
        step: u64,
    },
    /// An earlier run comes first (or no longer does): until then nobody is late.
    Queued {
        behind: Option<RunId>,
    },
    /// Manifests are built, checkpoints verified.
    Prepared(Prepared),
    /// The dataset, or a checkpoint to start from, cannot be used.
    Refused(v1::Failure),
    /// An idle worker was given to this run.
    Offered {
        worker: WorkerId,
    },
    /// A worker that might have come will not.
    TurnedAway {
        why: String,
        nobody_else_will_come: bool,
    },
    Left {
        worker: WorkerId,
        cause: Departure,
    },
    /// A member wants to leave, as soon as it can hand over.
    Drain {
        worker: WorkerId,
    },
    Report {
        worker: WorkerId,
        generation: Generation,
        report: Report,
    },
    Published {
        staged: PathBuf,
        outcome: Result<Publication, String>,
    },
    Stop {
        now: bool,
    },
    /// Something beside the run is not as it should be (or is again).
    Warned(String),
    /// The coordinator is going away.
    ShutDown,
    Tick,
}

/// What preparation found out.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub dataset_hash: String,
    /// Steps that the checkpoint resumed from had completed; absent: a fresh start.
    pub resumed_at: Option<u64>,
    /// The best checkpoint that an earlier life of the run has left, and its score; higher is better.
    pub best: Option<v1::Checkpoint>,
    pub best_score: Option<f64>,
    pub warnings: Vec<String>,
}

/// What a journal keeps of a run that was live.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    pub status: v1::RunStatus,
    pub last: Option<v1::Checkpoint>,
    /// The newest step whose progress is durable, and how many epochs are.
    pub reported: u64,
    pub epochs_told: u64,
    /// Of the newest event.
    pub sequence: u64,
}

/// Why a worker left, and how much that says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub why: String,
    /// The process's own end ("killed by signal 9"), not merely silence.
    pub told: bool,
}

/// What a seated worker says about its job.
#[derive(Clone, Debug)]
pub enum Report {
    /// `waiting`: inside a collective, for its peers. `pulse`: another one whenever it has got on.
    Step {
        step: u64,
        waiting: bool,
        pulse: u64,
    },
    Progress(v1::Progress),
    Epoch(v1::EpochEnded),
    Staged(Staged),
    Ended {
        step: u64,
        end: JobEnd,
        /// The state that it keeps in memory.
        holding: Option<Holding>,
    },
    Warning(String),
    /// What its process takes of the machine since its last heartbeat.
    System(v1::SystemUse),
}

#[derive(Clone, Debug, PartialEq)]
pub enum JobEnd {
    Finished(String),
    Ordered(Order),
    Failed(v1::Failure),
    PeerLost {
        words: String,
        /// Who, where that is known.
        peer: Option<WorkerId>,
    },
}

/// A state of the run in a worker's memory. The greater one is the newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Steps applied.
    pub step: u64,
    /// The epoch that ends there is audited, validated and reported.
    pub epoch_closed: bool,
}

/// What a generation goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// What the run was submitted with: nothing, weights, or a checkpoint to resume.
    Submitted,
    /// The state of one of its ranks, sent to those who lack it.
    Memory { source: u32, lacking: Vec<u32> },
    /// A checkpoint that this run has published: nobody who held a newer state is left.
    Checkpoint(String),
}

/// A checkpoint that lies complete where only the coordinator looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Staged {
    pub path: PathBuf,
    pub checkpoint: v1::Checkpoint,
}

/// A checkpoint that everybody may see.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    pub checkpoint: v1::Checkpoint,
    /// Steps whose folders had to go.
    pub pruned: Vec<u64>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Stop,
    Checkpoint,
    Abort,
    /// Stop after the same step, state in hand: another seat follows.
    Yield,
}

/// What the driver is to do. Those behind a `Persist` are carried out only once it is durable.
#[derive(Clone, Debug)]
pub enum Effect {
    Persist(Record),
    /// Journaled with its number, then shown to who watches.
    Emit(Notice),
    /// Build the manifests, verify the checkpoints to start from.
    Prepare,
    /// All at once; a worker's place in the list is its rank.
    Seat {
        generation: Generation,
        members: Vec<WorkerId>,
        start: Start,
        /// Steps completed where the generation begins, and those of them whose progress is known.
        first_step: u64,
        reported_step: u64,
        /// No step is to be taken: the run stops here.
        save_only: bool,
    },
    Order {
        worker: WorkerId,
        generation: Generation,
        order: Order,
    },
    Publish {
        staged: Staged,
        best: bool,
    },
    /// Tells the worker what became of what it staged; no path: not published.
    Answer {
        worker: WorkerId,
        staged: PathBuf,
        step: u64,
        published: Option<String>,
    },
    /// Nothing more will be staged.
    RemoveStaging,
    Release {
        worker: WorkerId,
    },
    /// It does not let go of a generation that is over, or holds up the one at work: its session ends.
    Expel {
        worker: WorkerId,
        why: String,
    },
    /// It has handed over and may leave.
    Dismiss {
        worker: WorkerId,
    },
}

#[derive(Clone, Debug)]
pub enum Record {
    Run(Box<v1::RunStatus>),
    Checkpoint(v1::Checkpoint),
    Pruned { step: u64 },
}

/// What watchers are told.
pub type Notice = v1::run_event::Event;

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    Succeeded { reason: String },
    Stopped { reason: String },
    Failed(v1::Failure),
}

impl Verdict {
    pub fn phase(&self) -> v1::Phase {
        match self {
            Self::Succeeded { .. } => v1::Phase::Succeeded,
            Self::Stopped { .. } => v1::Phase::Stopped,
            Self::Failed(_) => v1::Phase::Failed,
        }
    }
}

pub(crate) const RESUME_HINT: &str = "resume with `lockstep train run.toml --resume`";

/// What a checkpoint is worth by a metric: higher is better, and one without the metric cannot be compared.
pub(crate) fn metric_score<'a>(name: &str, mut metrics: impl Iterator<Item = (&'a str, f64)>) -> Option<f64> {
    metrics.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn warning(message: String) -> Effect {
    Effect::Emit(Notice::Warning(v1::Warning { message }))
}

fn resumable(message: String) -> v1::Failure {
    v1::Failure { message, causes: Vec::new(), hint: RESUME_HINT.into(), input_is_wrong: false }
}

enum Phase {
    Gathering(Gathering),
    Training(Box<Training>),
    Recovering(Box<Recovering>),
    Ended { verdict: Verdict, at: Timestamp },
}

/// One run, from its submission to its verdict.
pub struct Run {
    plan: Plan,
    created: Timestamp,
    generation: Generation,
    dataset_hash: String,
    /// Committed: the newest step that is known to be applied by all, in this or an earlier generation.
    step: u64,
    /// The end of the newest window of progress.
    reported: u64,
    /// Where the checkpoint that the run was submitted with stands.
    resumed_at: Option<u64>,
    /// Generations that began because a member was lost; and how many of them in a row committed nothing.
    recoveries: u32,
    barren: u32,
    /// Whoever starts workers has said that no other will come.
    alone: Option<String>,
    /// Members that wait to be let go.
    draining: Vec<WorkerId>,
    stopping: Option<Stopping>,
    /// Members that are gone and that nobody was told of yet: a moment later there may be more to say than that a session broke.
    lost: Vec<(Timestamp, v1::Lost)>,
    publishing: Publishing,
    /// Manifests are built; a coordinator that came back has to build them anew, and may find that it cannot.
    prepared: Result<bool, v1::Failure>,
    progress: Option<v1::Progress>,
    last_epoch: Option<v1::EpochEnded>,
    /// So many from the first on have been told.
    epochs_told: u64,
    best_score: Option<f64>,
    best: Option<v1::Checkpoint>,
    last: Option<v1::Checkpoint>,
    phase: Phase,
}

impl Run {
    pub fn new(plan: Plan, created: Timestamp) -> Self {
        Self {
            plan,
            created,
            generation: Generation::default(),
            dataset_hash: String::new(),
            step: 0,
            reported: 0,
            resumed_at: None,
            recoveries: 0,
            barren: 0,
            alone: None,
            draining: Vec::new(),
            stopping: None,
            lost: Vec::new(),
            publishing: Publishing::default(),
            prepared: Ok(false),
            progress: None,
            last_epoch: None,
            epochs_told: 0,
            best_score: None,
            best: None,
            last: None,
            phase: Phase::Gathering(Gathering::new(created)),
        }
    }

    /// As a journal has it. What its members have done meanwhile they will say.
    pub fn restored(plan: Plan, now: Timestamp, kept: Restored) -> Self {
        let Restored { status, last, reported, epochs_told, .. } = kept;
        let members: Vec<WorkerId> = status.members.iter().filter_map(|member| member.parse().ok()).collect();
        let mut run = Self::new(plan, Timestamp(status.created_unix_micros));
        run.generation = Generation(status.generation);
        run.dataset_hash = status.dataset_hash;
        run.step = status.step.max(reported);
        run.reported = reported;
        run.recoveries = status.recoveries;
        run.progress = status.progress;
        run.last_epoch = status.last_epoch;
        run.epochs_told = epochs_told;
        run.stopping = status.stopping.then(|| Stopping::to_save(now));
        run.best_score = status.best.as_ref().and_then(|best| run.score(best));
        run.best = status.best;
        run.last = last;
        run.phase = match v1::Phase::try_from(status.phase) {
            Ok(v1::Phase::Training) => Phase::Training(Box::new(Training::away(&members, now, run.step))),
            Ok(v1::Phase::Recovering) => Phase::Recovering(Box::new(Recovering::away(&members, now, run.step))),
            _ => Phase::Gathering(Gathering::new(now)),
        };
        run
    }

    /// Whether a worker that says that it holds a seat of that generation still does.
    pub fn awaits(&self, worker: WorkerId, generation: Generation) -> bool {
        self.is_away(worker) && generation == self.generation
    }

    fn is_away(&self, worker: WorkerId) -> bool {
        match &self.phase {
            Phase::Training(training) => training.is_away(worker),
            Phase::Recovering(recovering) => recovering.is_away(worker),
            Phase::Gathering(_) | Phase::Ended { .. } => false,
        }
    }

    pub fn created_millis(&self) -> u64 {
        self.created.unix_micros() / 1000
    }

    /// Progress that is known, and so many epochs.
    #[cfg(test)]
    fn told(&self) -> (u64, u64) {
        (self.reported, self.epochs_told)
    }

    /// Deterministic: the same history gives the same effects. What follows a `Persist` leaves only once that record is durable.
    pub fn on(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        if self.fences_off(&event) {
            return Vec::new();
        }
        let mut effects = Vec::new();
        match event {
            Event::Submitted | Event::Restored => self.submitted(now, &mut effects),
            Event::Returned { worker, step } if matches!(self.phase, Phase::Recovering(_)) => {
                self.returned_recovering(worker, step, &mut effects);
            }
            Event::Returned { worker, step } => self.returned(now, worker, step, &mut effects),
            Event::Queued { behind } => self.queued(now, behind, &mut effects),
            Event::Prepared(prepared) => self.prepared(now, prepared, &mut effects),
            Event::Refused(failure) => self.refused(now, failure, &mut effects),
            Event::Offered { worker } => self.offered(now, worker, &mut effects),
            Event::TurnedAway { why, nobody_else_will_come } => {
                self.turned_away(now, why, nobody_else_will_come, &mut effects);
            }
            Event::Left { worker, cause } => self.left(now, worker, cause, &mut effects),
            Event::Drain { worker } => self.drain(now, worker, &mut effects),
            Event::Report { worker, report, .. } => self.reported(now, worker, report, &mut effects),
            Event::Published { outcome, .. } => self.published(now, outcome, &mut effects),
            Event::Stop { now: at_once } => self.stop(now, at_once, &mut effects),
            Event::Warned(message) => effects.push(warning(message)),
            Event::ShutDown => self.shut_down(now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    /// Events of another time: about a phase that is over, or from a worker or a generation that this run does not have.
    fn fences_off(&self, event: &Event) -> bool {
        match (&self.phase, event) {
            (_, Event::Offered { .. }) => false,
            (Phase::Ended { .. }, _) => true,
            (Phase::Gathering(_), Event::Report { .. } | Event::Published { .. }) => true,
            (Phase::Gathering(_), _) => false,
            // Said to a coordinator that is no more: it will be said again.
            (_, Event::Report { worker, .. }) if self.is_away(*worker) => true,
            // What was staged was committed before: it counts, whichever generation its author has got to.
            (_, Event::Report { worker, report: Report::Staged(_), .. }) => !self.has(*worker),
            (_, Event::Report { worker, generation, .. }) => *generation != self.generation || !self.has(*worker),
            (_, Event::Published { staged, .. }) => !self.publishing.is_of(staged),
            (_, Event::Submitted) => true,
            (_, Event::Prepared(_) | Event::Refused(_)) => self.prepared != Ok(false),
            _ => false,
        }
    }

    fn submitted(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        effects.push(self.record(now));
        effects.push(self.standing_notice(now));
        effects.push(Effect::Prepare);
    }

    fn refused(&mut self, now: Timestamp, failure: v1::Failure, effects: &mut Vec<Effect>) {
        if self.is_gathering() {
            return self.end(now, Verdict::Failed(failure), effects);
        }
        // It trains, and needs nothing for that. It will if it loses somebody.
        effects.push(warning(format!("{}: the run trains on, and ends where it loses a member", failure.message)));
        self.prepared = Err(failure);
        self.go_on_if_possible(now, effects);
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let moment = self.plan.deadlines.heartbeat / 2;
        if self.lost.first().is_some_and(|(since, _)| now.since(*since) >= moment) {
            self.tell_of_the_lost(effects);
        }
        match &self.phase {
            Phase::Gathering(_) => self.give_up_if_late(now, effects),
            Phase::Training(_) => {
                self.miss_the_absent(now, effects);
                self.find_stuck(now, effects);
                self.conclude_if_due(now, effects);
            }
            Phase::Recovering(_) => self.go_on_if_possible(now, effects),
            Phase::Ended { .. } => {}
        }
    }

    fn stop(&mut self, now: Timestamp, at_once: bool, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Gathering(_) => {
                self.end(now, Verdict::Stopped { reason: "stopped on request before it trained".into() }, effects);
            }
            Phase::Training(_) => self.stop_training(now, at_once, effects),
            Phase::Recovering(_) => self.stop_recovering(now, at_once, effects),
            Phase::Ended { .. } => {}
        }
    }

    fn shut_down(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let reason = match &self.phase {
            Phase::Gathering(_) => "the coordinator was shut down before the run trained".to_owned(),
            Phase::Training(training) => {
                effects.extend(training.orders(self.generation, Order::Abort));
                format!("the coordinator was shut down at step {}", self.step)
            }
            Phase::Recovering(_) => format!("the coordinator was shut down at step {}, as nothing trained", self.step),
            Phase::Ended { .. } => return,
        };
        self.end(now, Verdict::Stopped { reason }, effects);
    }

    fn left(&mut self, now: Timestamp, worker: WorkerId, cause: Departure, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Gathering(_) => self.left_gathering(now, worker, &cause, effects),
            Phase::Training(_) => self.left_training(now, worker, cause, effects),
            Phase::Recovering(_) => self.left_recovering(now, worker, cause, effects),
            Phase::Ended { .. } => {}
        }
    }

    fn drain(&mut self, now: Timestamp, worker: WorkerId, effects: &mut Vec<Effect>) {
        if self.draining.contains(&worker) || !self.has(worker) {
            return;
        }
        self.draining.push(worker);
        match &self.phase {
            Phase::Gathering(_) => {
                self.left_gathering(now, worker, &Departure { why: "it was told to go".into(), told: true }, effects);
                effects.push(Effect::Dismiss { worker });
            }
            Phase::Training(_) => self.change_world(now, effects),
            Phase::Recovering(_) => self.go_on_if_possible(now, effects),
            Phase::Ended { .. } => {}
        }
    }

    /// A member is gone. Its process's own end is told at once, mere silence a moment later, if nobody explains it before.
    fn lose(&mut self, now: Timestamp, worker: WorkerId, step: u64, cause: &Departure, effects: &mut Vec<Effect>) {
        let (worker, generation, why) = (worker.to_string(), self.generation.0, cause.why.clone());
        self.lost.push((now, v1::Lost { worker, generation, step, why }));
        if cause.told {
            self.tell_of_the_lost(effects);
        }
    }

    fn tell_of_the_lost(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(self.lost.drain(..).map(|(_, lost)| Effect::Emit(Notice::Lost(lost))));
    }

    /// The one way to end. Final.
    fn end(&mut self, now: Timestamp, verdict: Verdict, effects: &mut Vec<Effect>) {
        let members = self.members();
        let (failure, reason) = match &verdict {
            Verdict::Succeeded { reason } | Verdict::Stopped { reason } => (None, reason.clone()),
            Verdict::Failed(failure) => (Some(failure.clone()), failure.message.clone()),
        };
        let ended = v1::Ended {
            phase: verdict.phase().into(),
            failure,
            best: self.best.clone(),
            last: self.last.clone(),
            reason,
        };
        self.phase = Phase::Ended { verdict, at: now };
        self.tell_of_the_lost(effects);
        effects.push(self.record(now));
        effects.push(self.standing_notice(now));
        effects.push(Effect::Emit(Notice::Ended(ended)));
        effects.push(Effect::RemoveStaging);
        effects.extend(members.into_iter().map(|worker| Effect::Release { worker }));
    }

    fn record(&self, now: Timestamp) -> Effect {
        Effect::Persist(Record::Run(Box::new(self.status(now))))
    }

    fn standing_notice(&self, now: Timestamp) -> Effect {
        let standing = self.standing(now);
        Effect::Emit(Notice::Standing(v1::Standing { phase: standing.phase.into(), words: standing.words }))
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn best(&self) -> Option<&v1::Checkpoint> {
        self.best.as_ref()
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// It has begun and not ended, also while it stands still for a moment.
    pub fn is_training(&self) -> bool {
        matches!(self.phase, Phase::Training(_) | Phase::Recovering(_))
    }

    pub fn is_gathering(&self) -> bool {
        matches!(self.phase, Phase::Gathering(_))
    }

    /// How many more workers it would take.
    pub fn wants(&self) -> usize {
        match &self.phase {
            Phase::Gathering(gathering) => (self.plan.workers as usize).saturating_sub(gathering.members.len()),
            Phase::Training(training) if training.may_grow() && self.stopping.is_none() => {
                (self.plan.most as usize).saturating_sub(training.world_to_be())
            }
            Phase::Recovering(recovering) if self.stopping.is_none() => {
                (self.plan.most as usize).saturating_sub(recovering.world_to_be(&self.draining))
            }
            _ => 0,
        }
    }

    pub fn behind(&self) -> Option<&RunId> {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.behind.as_ref(),
            _ => None,
        }
    }

    /// In rank order once seated, then those who wait to be let in.
    pub fn members(&self) -> Vec<WorkerId> {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.members.iter().copied().collect(),
            Phase::Training(training) => training.workers().chain(training.joiners.iter().copied()).collect(),
            Phase::Recovering(recovering) => recovering.workers().collect(),
            Phase::Ended { .. } => Vec::new(),
        }
    }

    /// Whether it is one of [`members`](Self::members). Asked for every report.
    fn has(&self, worker: WorkerId) -> bool {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.members.contains(&worker),
            Phase::Training(training) => training.rank(worker).is_some() || training.joiners.contains(&worker),
            Phase::Recovering(recovering) => recovering.workers().any(|member| member == worker),
            Phase::Ended { .. } => false,
        }
    }

    /// In rank order.
    fn seated(&self) -> Vec<WorkerId> {
        match &self.phase {
            Phase::Training(training) => training.workers().collect(),
            Phase::Recovering(recovering) => recovering.survivors().collect(),
            Phase::Gathering(_) | Phase::Ended { .. } => Vec::new(),
        }
    }

    /// All but what only the pool knows about its workers.
    pub fn status(&self, now: Timestamp) -> v1::RunStatus {
        let standing = self.standing(now);
        let (ended, failure) = match &self.phase {
            Phase::Ended { verdict: Verdict::Failed(failure), at } => (at.unix_micros(), Some(failure.clone())),
            Phase::Ended { at, .. } => (at.unix_micros(), None),
            _ => (0, None),
        };
        v1::RunStatus {
            run_id: self.plan.id.to_string(),
            name: self.plan.name.clone(),
            phase: standing.phase.into(),
            standing: standing.words,
            generation: self.generation.0,
            world: self.world(),
            created_unix_micros: self.created.unix_micros(),
            ended_unix_micros: ended,
            progress: self.progress,
            last_epoch: self.last_epoch.clone(),
            best: self.best.clone(),
            failure,
            workers: Vec::new(),
            dataset_hash: self.dataset_hash.clone(),
            spec_toml: self.plan.spec_toml.clone(),
            origin: self.plan.origin.clone(),
            tracking: None,
            min_workers: self.plan.least,
            max_workers: self.plan.most,
            members: self.seated().iter().map(WorkerId::to_string).collect(),
            step: self.step,
            recoveries: self.recoveries,
            resume_from: self.plan.resume_from.clone(),
            stopping: self.stopping.as_ref().is_some_and(|stopping| !stopping.hands_over && stopping.failure.is_none()),
        }
    }

    /// Ranks of the generation at work, or so many as it will begin with.
    fn world(&self) -> u32 {
        match &self.phase {
            Phase::Training(training) => u32::try_from(training.world()).unwrap_or(u32::MAX),
            _ => self.plan.workers,
        }
    }
}
