//! A generation at work: reports in, checkpoints out, and how it comes to its end. A member lost in mid-training ends the run.

use std::{collections::VecDeque, path::Path, time::Duration};

use proto::{Generation, WorkerId, v1};

use super::{
    Departure, Effect, JobEnd, Notice, Order, Phase, Publication, RESUME_HINT, Record, Report, Run, Staged, Verdict,
    metric_score, system::SystemWindow,
};
use crate::clock::Timestamp;

/// How long a failing or aborted generation is waited for: members say how they ended, and a process's exit status may still explain
/// a session that merely closed. Work is not at stake any more.
const GRACE: Duration = Duration::from_secs(3);

/// How long a failing generation is waited for where rank 0 lives and may still be writing a checkpoint.
const WRITER_GRACE: Duration = Duration::from_secs(10);

/// Checkpoints waiting to be published, beyond which disks are plainly too slow and the oldest is dropped with a warning.
const STAGED_AT_MOST: usize = 8;

pub(super) struct Training {
    members: Vec<Member>,
    pub seated: Timestamp,
    publishing: Option<Publishing>,
    staged: VecDeque<(WorkerId, Staged)>,
    /// Of the newest staged one, where it could not be published.
    unpublished: Option<Unpublished>,
    pub stopping: Option<Stopping>,
    pub ending: Option<Ending>,
}

struct Member {
    worker: WorkerId,
    step: u64,
    system: SystemWindow,
    end: Option<MemberEnd>,
}

#[derive(Clone, PartialEq, Eq)]
enum MemberEnd {
    Finished(String),
    Stopped,
    /// Aborted, failed or bereft of a peer: the run's cause says more.
    Broken,
    Left,
}

struct Publishing {
    worker: WorkerId,
    staged: Staged,
    score: Option<f64>,
    best: bool,
}

struct Unpublished {
    step: u64,
    why: String,
}

pub(super) struct Stopping {
    pub at_once: bool,
    since: Timestamp,
}

/// The run has failed; what remains is to hear the others out.
pub(super) struct Ending {
    pub since: Timestamp,
    pub failure: v1::Failure,
    worker: WorkerId,
    weight: Weight,
}

/// How much a cause explains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// A peer was seen to be gone: there must be a reason for that.
    Consequence,
    /// A session closed or fell silent.
    Silence,
    Told,
}

impl Training {
    pub fn new(members: &[WorkerId], seated: Timestamp, step: u64) -> Self {
        let members = members
            .iter()
            .map(|&worker| Member { worker, step, system: SystemWindow::new(seated), end: None })
            .collect();
        Self {
            members,
            seated,
            publishing: None,
            staged: VecDeque::new(),
            unpublished: None,
            stopping: None,
            ending: None,
        }
    }

    pub fn rank(&self, worker: WorkerId) -> Option<usize> {
        self.members.iter().position(|member| member.worker == worker)
    }

    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.members.iter().map(|member| member.worker)
    }

    pub fn world(&self) -> usize {
        self.members.len()
    }

    pub fn still_at_work(&self) -> usize {
        self.members.iter().filter(|member| member.end.is_none()).count()
    }

    pub fn all_ended(&self) -> bool {
        self.still_at_work() == 0
    }

    /// Rank 0 writes the checkpoints: until it has said how it ended, or is gone, one may be under way.
    fn may_be_writing(&self) -> bool {
        self.members.first().is_some_and(|member| member.end.is_none())
    }

    pub fn publishes(&self, path: &Path) -> bool {
        self.publishing.as_ref().is_some_and(|publishing| publishing.staged.path == path)
    }

    /// To everyone who is still at work.
    pub fn orders(&self, generation: Generation, order: Order) -> Vec<Effect> {
        let at_work = self.members.iter().filter(|member| member.end.is_none());
        at_work.map(|member| Effect::Order { worker: member.worker, generation, order }).collect()
    }

    fn member(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.worker == worker)
    }
}

impl Run {
    fn training(&mut self) -> Option<&mut Training> {
        match &mut self.phase {
            Phase::Training(training) => Some(training),
            _ => None,
        }
    }

    pub(super) fn reported(&mut self, now: Timestamp, worker: WorkerId, report: Report, effects: &mut Vec<Effect>) {
        let Some(training) = self.training() else { return };
        // What every rank knows is taken from one of them, or windows would count twice.
        let speaks = training.rank(worker) == Some(0);
        let world = training.world();
        let Some(member) = training.member(worker) else { return };
        match report {
            Report::Step(step) => member.step = member.step.max(step),
            Report::Progress(progress) => {
                member.step = member.step.max(progress.step);
                if speaks && progress.step > self.step {
                    self.step = progress.step;
                    self.progress = Some(progress);
                    effects.push(Effect::Emit(Notice::Progress(progress)));
                }
            }
            Report::Epoch(epoch) => {
                member.step = member.step.max(epoch.step);
                let newer = self.last_epoch.as_ref().is_none_or(|last| last.epoch < epoch.epoch);
                if speaks && newer {
                    self.step = self.step.max(epoch.step);
                    self.last_epoch = Some(epoch.clone());
                    effects.push(self.record(now));
                    effects.push(Effect::Emit(Notice::Epoch(epoch)));
                }
            }
            Report::Staged(staged) => self.staged(worker, staged, effects),
            Report::System(seen) => {
                member.system.take(&seen);
                effects.extend(member.system.point(now, worker, member.step, world, false));
            }
            Report::Warning(message) => effects.push(warning(format!("worker `{worker}`: {message}"))),
            Report::Ended { step, end } => self.job_ended(now, worker, step, end, effects),
        }
    }

    fn staged(&mut self, worker: WorkerId, staged: Staged, effects: &mut Vec<Effect>) {
        let Some(training) = self.training() else { return };
        training.staged.push_back((worker, staged));
        if training.staged.len() > STAGED_AT_MOST
            && let Some((worker, oldest)) = training.staged.pop_front()
        {
            effects.push(warning(format!(
                "checkpoint of step {} was not published: {STAGED_AT_MOST} newer ones wait for the disk",
                oldest.checkpoint.step
            )));
            effects.push(Effect::Answer { worker, staged: oldest.path, published: None });
        }
        self.publish_next(effects);
    }

    /// One at a time, so that "best" is decided on what was really published.
    fn publish_next(&mut self, effects: &mut Vec<Effect>) {
        let Some(training) = self.training() else { return };
        if training.publishing.is_some() {
            return;
        }
        let Some((worker, staged)) = training.staged.pop_front() else { return };
        let score = self.score(&staged.checkpoint);
        let better = score.is_some_and(|score| self.best_score.is_none_or(|best| score > best));
        // A resumed run may come by the best one's step again: it takes that one's place on disk.
        let same_step = self.best.as_ref().is_some_and(|best| best.step == staged.checkpoint.step);
        let best = better || same_step;
        if let Some(training) = self.training() {
            training.publishing = Some(Publishing { worker, staged: staged.clone(), score, best });
        }
        effects.push(Effect::Publish { staged, best });
    }

    /// Higher is better. A checkpoint between validations carries the older metrics, so equal is not better.
    fn score(&self, checkpoint: &v1::Checkpoint) -> Option<f64> {
        let score = match &self.plan.best_by {
            Some(name) => {
                let metrics = checkpoint.metrics.iter().map(|metric| (metric.name.as_str(), metric.value));
                metric_score(name, metrics)
            }
            None if checkpoint.step == 0 => None,
            None => match (&self.last_epoch, &self.progress) {
                (Some(epoch), _) if epoch.step == checkpoint.step => Some(-epoch.train_loss),
                (_, Some(progress)) => Some(-progress.loss),
                _ => None,
            },
        };
        score.filter(|score| !score.is_nan())
    }

    pub(super) fn published(
        &mut self,
        now: Timestamp,
        path: &Path,
        outcome: Result<Publication, String>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(publishing) = self.training().and_then(|training| training.publishing.take()) else { return };
        let (worker, staged) = (publishing.worker, path.to_owned());
        if let Some(training) = self.training() {
            let step = publishing.staged.checkpoint.step;
            training.unpublished = outcome.as_ref().err().map(|why| Unpublished { step, why: why.clone() });
        }
        match outcome {
            Ok(publication) => {
                let checkpoint = v1::Checkpoint { best: publishing.best, ..publication.checkpoint };
                if publishing.best {
                    self.best_score = publishing.score;
                    self.best = Some(checkpoint.clone());
                }
                self.last = Some(checkpoint.clone());
                effects.push(Effect::Persist(Record::Checkpoint(checkpoint.clone())));
                effects.extend(publication.pruned.into_iter().map(|step| Effect::Persist(Record::Pruned { step })));
                effects.push(self.record(now));
                let path = checkpoint.path.clone();
                effects.push(Effect::Emit(Notice::Checkpoint(checkpoint)));
                effects.extend(publication.warnings.into_iter().map(warning));
                effects.push(Effect::Answer { worker, staged, published: Some(path) });
            }
            Err(why) => {
                let step = publishing.staged.checkpoint.step;
                effects.push(warning(format!("checkpoint of step {step} was not published: {why}")));
                effects.push(Effect::Answer { worker, staged, published: None });
            }
        }
        self.publish_next(effects);
        self.conclude_if_due(now, effects);
    }

    fn job_ended(&mut self, now: Timestamp, worker: WorkerId, step: u64, end: JobEnd, effects: &mut Vec<Effect>) {
        let Some(training) = self.training() else { return };
        let world = training.world();
        let unasked = training.stopping.is_none() && training.ending.is_none();
        let Some(member) = training.member(worker) else { return };
        if member.end.is_some() {
            return;
        }
        member.step = member.step.max(step);
        effects.extend(member.system.point(now, worker, member.step, world, true));
        let (end, blame) = match end {
            JobEnd::Finished(reason) => (MemberEnd::Finished(reason), None),
            JobEnd::Ordered(Order::Stop) if !unasked => (MemberEnd::Stopped, None),
            JobEnd::Ordered(_) if !unasked => (MemberEnd::Broken, None),
            JobEnd::Ordered(order) => {
                let message =
                    format!("worker `{worker}` ended at step {step} by an order ({order:?}) that nobody gave");
                (MemberEnd::Broken, Some((resumable(message), Weight::Told)))
            }
            JobEnd::Failed(failure) => (MemberEnd::Broken, Some((failure, Weight::Told))),
            JobEnd::PeerLost(peer) => {
                let message = format!("worker `{worker}` lost its peer {peer} at step {step}");
                (MemberEnd::Broken, Some((resumable(message), Weight::Consequence)))
            }
        };
        if matches!(end, MemberEnd::Finished(_) | MemberEnd::Stopped) {
            self.step = self.step.max(step);
        }
        if let Some(member) = self.training().and_then(|training| training.member(worker)) {
            member.end = Some(end);
        }
        if let Some((failure, weight)) = blame {
            self.blame(now, worker, failure, weight, effects);
        }
        self.conclude_if_due(now, effects);
    }

    pub(super) fn left_training(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        cause: Departure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.training().and_then(|training| training.member(worker)) else { return };
        // Who has said how its job ended may go; a second word about one who left may still explain it.
        if member.end.as_ref().is_some_and(|end| *end != MemberEnd::Left) {
            return;
        }
        member.end = Some(MemberEnd::Left);
        let message = format!("worker `{worker}` left at step {}: {}", member.step, cause.why);
        let weight = if cause.told { Weight::Told } else { Weight::Silence };
        self.blame(now, worker, resumable(message), weight, effects);
        self.conclude_if_due(now, effects);
    }

    /// The first cause stands, unless it was but a consequence, or the same worker's silence that is now explained.
    fn blame(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        failure: v1::Failure,
        weight: Weight,
        effects: &mut Vec<Effect>,
    ) {
        let generation = self.generation;
        let Some(training) = self.training() else { return };
        // Whoever asked to stop at once asked for broken jobs.
        if training.stopping.as_ref().is_some_and(|stopping| stopping.at_once) {
            return;
        }
        if let Some(ending) = &mut training.ending {
            let was_consequence = ending.weight == Weight::Consequence && weight != Weight::Consequence;
            let explains = ending.worker == worker && ending.weight == Weight::Silence && weight == Weight::Told;
            if was_consequence || explains {
                (ending.failure, ending.worker, ending.weight) = (failure, worker, weight);
            }
            return;
        }
        training.ending = Some(Ending { since: now, failure, worker, weight });
        effects.extend(training.orders(generation, Order::Abort));
        effects.push(self.standing_notice(now));
    }

    pub(super) fn stop_training(&mut self, now: Timestamp, at_once: bool, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        let Some(training) = self.training() else { return };
        let already = training.stopping.as_ref().is_some_and(|stopping| stopping.at_once || !at_once);
        if already || training.ending.is_some() {
            return;
        }
        training.stopping = Some(Stopping { at_once, since: now });
        effects.extend(training.orders(generation, if at_once { Order::Abort } else { Order::Stop }));
        effects.push(self.standing_notice(now));
        self.conclude_if_due(now, effects);
    }

    /// Comes to the verdict once everyone has ended and what was staged is published.
    pub(super) fn conclude_if_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let step = self.step;
        let nothing_to_resume = self.last.is_none() && !self.resumed;
        let Some(training) = self.training() else { return };
        if training.publishing.is_some() {
            return;
        }
        let all_ended = training.all_ended();
        let verdict = if let Some(ending) = &training.ending {
            let explained = all_ended && ending.weight == Weight::Told;
            let mut failure = ending.failure.clone();
            if failure.hint == RESUME_HINT && nothing_to_resume {
                failure.hint = "it had no checkpoint yet: start it again".into();
            }
            let grace = if training.may_be_writing() { WRITER_GRACE } else { GRACE };
            (explained || now.since(ending.since) >= grace).then_some(Verdict::Failed(failure))
        } else if let Some(stopping) = training.stopping.as_ref().filter(|stopping| stopping.at_once) {
            (all_ended || now.since(stopping.since) >= GRACE)
                .then(|| Verdict::Stopped { reason: format!("stopped at once on request, after step {step}") })
        } else if all_ended {
            let stopped = training.members.iter().any(|member| member.end == Some(MemberEnd::Stopped));
            let reason = training.members.iter().find_map(|member| match &member.end {
                Some(MemberEnd::Finished(reason)) => Some(reason.clone()),
                _ => None,
            });
            Some(match reason {
                Some(_) if !stopped && training.unpublished.is_some() => {
                    Verdict::Failed(training.unpublished.as_ref().map(Unpublished::failure).unwrap_or_default())
                }
                Some(reason) if !stopped => Verdict::Succeeded { reason: format!("{reason}, step {step}") },
                _ => Verdict::Stopped { reason: format!("stopped on request at step {step}") },
            })
        } else {
            None
        };
        if let Some(verdict) = verdict {
            self.end(now, verdict, effects);
        }
    }
}

impl Unpublished {
    fn failure(&self) -> v1::Failure {
        v1::Failure {
            message: format!("the last checkpoint, of step {}, could not be published", self.step),
            causes: vec![self.why.clone()],
            hint: "check the space and the permissions where `checkpoint.dir` is, then resume from the newest checkpoint, \
                   or start again where there is none"
                .into(),
            input_is_wrong: false,
        }
    }
}

fn warning(message: String) -> Effect {
    Effect::Emit(Notice::Warning(v1::Warning { message }))
}

fn resumable(message: String) -> v1::Failure {
    v1::Failure { message, causes: Vec::new(), hint: RESUME_HINT.into(), input_is_wrong: false }
}
