//! The run's state machine: events in, effects out. No clock, no randomness, no IO: the driver brings the time and carries the
//! effects out. Reports keep the shape they have on the wire (they are figures to hand on, not to decide by); messages do not get here.

mod gathering;
#[cfg(test)]
mod schedules;
mod standing;
mod system;
#[cfg(test)]
mod tests;
mod training;

use std::{path::PathBuf, time::Duration};

use proto::{Generation, RunId, WorkerId, v1};

use crate::clock::Timestamp;
use gathering::Gathering;
pub use standing::Standing;
use training::Training;

/// What of the spec the core decides by.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: RunId,
    pub name: String,
    pub spec_toml: String,
    pub workers: u32,
    pub epochs: u64,
    pub join_timeout: Duration,
    /// The metric whose highest value makes a checkpoint the best one; absent: the lowest training loss does.
    pub best_by: Option<String>,
    pub origin: Option<v1::Origin>,
}

#[derive(Clone, Debug)]
pub enum Event {
    Submitted,
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
    Step(u64),
    Progress(v1::Progress),
    Epoch(v1::EpochEnded),
    Staged(Staged),
    Ended {
        step: u64,
        end: JobEnd,
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
    PeerLost(String),
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
        published: Option<String>,
    },
    /// Nothing more will be staged.
    RemoveStaging,
    Release {
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

enum Phase {
    Gathering(Gathering),
    Training(Box<Training>),
    Ended { verdict: Verdict, at: Timestamp },
}

/// One run, from its submission to its verdict.
pub struct Run {
    plan: Plan,
    created: Timestamp,
    generation: Generation,
    dataset_hash: String,
    /// Committed: the newest step that rank 0 has reported in this or an earlier generation.
    step: u64,
    resumed: bool,
    progress: Option<v1::Progress>,
    last_epoch: Option<v1::EpochEnded>,
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
            resumed: false,
            progress: None,
            last_epoch: None,
            best_score: None,
            best: None,
            last: None,
            phase: Phase::Gathering(Gathering::new(created)),
        }
    }

    /// Deterministic: the same history gives the same effects. What follows a `Persist` leaves only once that record is durable.
    pub fn on(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        if self.fences_off(&event) {
            return Vec::new();
        }
        let mut effects = Vec::new();
        match event {
            Event::Submitted => self.submitted(now, &mut effects),
            Event::Queued { behind } => self.queued(now, behind, &mut effects),
            Event::Prepared(prepared) => self.prepared(now, prepared, &mut effects),
            Event::Refused(failure) => self.end(now, Verdict::Failed(failure), &mut effects),
            Event::Offered { worker } => self.offered(now, worker, &mut effects),
            Event::TurnedAway { why, nobody_else_will_come } => {
                self.turned_away(now, why, nobody_else_will_come, &mut effects);
            }
            Event::Left { worker, cause } => self.left(now, worker, cause, &mut effects),
            Event::Report { worker, report, .. } => self.reported(now, worker, report, &mut effects),
            Event::Published { staged, outcome } => self.published(now, &staged, outcome, &mut effects),
            Event::Stop { now: at_once } => self.stop(now, at_once, &mut effects),
            Event::Warned(message) => effects.push(Effect::Emit(Notice::Warning(v1::Warning { message }))),
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
            (Phase::Training(training), Event::Report { worker, generation, .. }) => {
                *generation != self.generation || training.rank(*worker).is_none()
            }
            (Phase::Training(training), Event::Published { staged, .. }) => !training.publishes(staged),
            (Phase::Gathering(_), Event::Report { .. } | Event::Published { .. }) => true,
            (Phase::Training(_), Event::Submitted | Event::Prepared(_) | Event::Refused(_)) => true,
            _ => false,
        }
    }

    fn submitted(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        effects.push(self.record(now));
        effects.push(self.standing_notice(now));
        effects.push(Effect::Prepare);
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Gathering(_) => self.give_up_if_late(now, effects),
            Phase::Training(_) => self.conclude_if_due(now, effects),
            Phase::Ended { .. } => {}
        }
    }

    fn stop(&mut self, now: Timestamp, at_once: bool, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Gathering(_) => {
                self.end(now, Verdict::Stopped { reason: "stopped on request before it trained".into() }, effects);
            }
            Phase::Training(_) => self.stop_training(now, at_once, effects),
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
            Phase::Ended { .. } => return,
        };
        self.end(now, Verdict::Stopped { reason }, effects);
    }

    fn left(&mut self, now: Timestamp, worker: WorkerId, cause: Departure, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Gathering(_) => self.left_gathering(now, worker, &cause, effects),
            Phase::Training(_) => self.left_training(now, worker, cause, effects),
            Phase::Ended { .. } => {}
        }
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

    pub fn is_training(&self) -> bool {
        matches!(self.phase, Phase::Training(_))
    }

    pub fn is_gathering(&self) -> bool {
        matches!(self.phase, Phase::Gathering(_))
    }

    /// How many more workers it would take.
    pub fn wants(&self) -> usize {
        match &self.phase {
            Phase::Gathering(gathering) => (self.plan.workers as usize).saturating_sub(gathering.members.len()),
            _ => 0,
        }
    }

    pub fn behind(&self) -> Option<&RunId> {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.behind.as_ref(),
            _ => None,
        }
    }

    /// In rank order once seated.
    pub fn members(&self) -> Vec<WorkerId> {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.members.iter().copied().collect(),
            Phase::Training(training) => training.workers().collect(),
            Phase::Ended { .. } => Vec::new(),
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
            world: self.plan.workers,
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
        }
    }
}
