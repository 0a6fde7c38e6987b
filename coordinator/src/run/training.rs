//! A generation at work: reports in, and how it comes to its end. A member lost in mid-training ends the generation, not the run.

use std::time::Duration;

use proto::{Generation, WorkerId, v1};

use super::{
    Departure, Effect, Holding, JobEnd, Notice, Order, Phase, Report, Run, Verdict, recovering::Cause, resumable,
    system::SystemWindow, warning,
};
use crate::clock::Timestamp;

/// How long a failed or aborted generation is waited for: members say how they ended. Work is not at stake any more.
const GRACE: Duration = Duration::from_secs(3);

/// The same where rank 0 lives and may still be writing a checkpoint.
const WRITER_GRACE: Duration = Duration::from_secs(10);

pub(super) struct Training {
    members: Vec<Member>,
    /// Let in where the next generation begins.
    pub joiners: Vec<WorkerId>,
    pub seated: Timestamp,
    /// Everyone was asked to stop after the same step, so that the world can change.
    pub yielding: bool,
    /// The coordinator was away in the middle of it: orders may have been obeyed that it does not know of.
    restored: bool,
    pub ending: Option<Ending>,
}

struct Member {
    worker: WorkerId,
    step: u64,
    /// When it got on last, and whether it is in a collective.
    moved: Timestamp,
    waiting: bool,
    pulse: u64,
    system: SystemWindow,
    end: Option<MemberEnd>,
    /// Its process or its session, and with it what it held.
    gone: bool,
    /// The coordinator was away, and has not heard of it since.
    away: bool,
}

struct MemberEnd {
    how: How,
    holding: Option<Holding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Finished(String),
    Stopped,
    Yielded,
    /// Aborted, failed or bereft of a peer: the run's cause says more.
    Broken,
    Left,
}

pub(super) struct Stopping {
    pub at_once: bool,
    pub since: Timestamp,
    /// Why the run ends when it has saved; absent: on request.
    pub failure: Option<v1::Failure>,
    /// Saved for a member that hands over to nobody else: then the run goes on from there.
    pub hands_over: bool,
}

/// The run has failed; what remains is to hear the others out.
pub(super) struct Ending {
    pub since: Timestamp,
    pub failure: v1::Failure,
}

/// What is left of a member when its generation is over.
pub(super) struct Remains {
    pub worker: WorkerId,
    pub step: u64,
    /// Whether it has said how it ended, and what it holds.
    pub said: bool,
    pub holding: Option<Holding>,
    pub away: bool,
}

impl Training {
    pub fn new(members: &[WorkerId], seated: Timestamp, step: u64) -> Self {
        let members = members
            .iter()
            .map(|&worker| Member {
                worker,
                step,
                moved: seated,
                waiting: false,
                pulse: 0,
                system: SystemWindow::new(seated),
                end: None,
                gone: false,
                away: false,
            })
            .collect();
        Self { members, joiners: Vec::new(), seated, yielding: false, restored: false, ending: None }
    }

    /// At work, as far as anybody knows.
    pub fn away(members: &[WorkerId], now: Timestamp, step: u64) -> Self {
        let mut training = Self::new(members, now, step);
        training.members.iter_mut().for_each(|member| member.away = true);
        training.restored = true;
        training
    }

    pub fn is_away(&self, worker: WorkerId) -> bool {
        self.members.iter().any(|member| member.worker == worker && member.away)
    }

    /// How many have not been heard of since the coordinator came back.
    pub fn absent(&self) -> usize {
        self.members.iter().filter(|member| member.away).count()
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

    /// With those who wait to be let in.
    pub fn world_to_be(&self) -> usize {
        self.members.len() + self.joiners.len()
    }

    pub fn may_grow(&self) -> bool {
        self.ending.is_none() && self.members.iter().all(|member| member.end.is_none())
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

    /// To everyone who is still at work.
    pub fn orders(&self, generation: Generation, order: Order) -> Vec<Effect> {
        let at_work = self.members.iter().filter(|member| member.end.is_none());
        at_work.map(|member| Effect::Order { worker: member.worker, generation, order }).collect()
    }

    /// Of those who have not left.
    pub fn remains(&self) -> Vec<Remains> {
        let here = self.members.iter().filter(|member| !member.gone);
        here.map(|member| Remains {
            worker: member.worker,
            step: member.step,
            said: member.end.is_some(),
            holding: member.end.as_ref().and_then(|end| end.holding),
            away: member.away,
        })
        .collect()
    }

    fn member(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.worker == worker)
    }
}

impl Run {
    pub(super) fn training(&mut self) -> Option<&mut Training> {
        match &mut self.phase {
            Phase::Training(training) => Some(training),
            _ => None,
        }
    }

    pub(super) fn reported(&mut self, now: Timestamp, worker: WorkerId, report: Report, effects: &mut Vec<Effect>) {
        match report {
            Report::Step { step, waiting, pulse } => {
                let Some(member) = self.training().and_then(|training| training.member(worker)) else { return };
                if step > member.step || waiting != member.waiting || pulse != member.pulse {
                    member.moved = now;
                }
                member.step = member.step.max(step);
                (member.waiting, member.pulse) = (waiting, pulse);
            }
            Report::Progress(progress) => {
                self.reached(now, worker, progress.step);
                // What every rank knows is taken from one of them, or windows would count twice.
                if self.speaks(worker) && progress.step > self.reported {
                    self.reported = progress.step;
                    self.step = self.step.max(progress.step);
                    self.barren = 0;
                    self.progress = Some(progress);
                    effects.push(Effect::Emit(Notice::Progress(progress)));
                }
            }
            Report::Epoch(epoch) => {
                self.reached(now, worker, epoch.step);
                if self.speaks(worker) && epoch.epoch >= self.epochs_told {
                    self.epochs_told = epoch.epoch + 1;
                    self.step = self.step.max(epoch.step);
                    self.last_epoch = Some(epoch.clone());
                    effects.push(self.record(now));
                    effects.push(Effect::Emit(Notice::Epoch(epoch)));
                }
            }
            Report::Staged(staged) => self.staged(staged, effects),
            Report::System(seen) => {
                let Some(training) = self.training() else { return };
                let world = training.world();
                let Some(member) = training.member(worker) else { return };
                member.system.take(&seen);
                effects.extend(member.system.point(now, worker, member.step, world, false));
            }
            Report::Warning(message) => effects.push(warning(format!("worker `{worker}`: {message}"))),
            Report::Ended { step, end, holding } => match &self.phase {
                Phase::Recovering(_) => self.ended_recovering(now, worker, step, end, holding, effects),
                _ => self.job_ended(now, worker, step, end, holding, effects),
            },
        }
    }

    /// Whether it is the one whose word about the run is taken.
    fn speaks(&self, worker: WorkerId) -> bool {
        match &self.phase {
            Phase::Training(training) => training.rank(worker) == Some(0),
            Phase::Recovering(recovering) => recovering.spoke == Some(worker),
            _ => false,
        }
    }

    fn reached(&mut self, now: Timestamp, worker: WorkerId, step: u64) {
        if let Some(member) = self.training().and_then(|training| training.member(worker))
            && step > member.step
        {
            (member.step, member.moved) = (step, now);
        }
    }

    fn job_ended(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        step: u64,
        end: JobEnd,
        holding: Option<Holding>,
        effects: &mut Vec<Effect>,
    ) {
        let asked = self.stopping.is_some();
        let at_once = self.stopping.as_ref().is_some_and(|stopping| stopping.at_once);
        let Some(training) = self.training() else { return };
        let (world, yielding, failing) = (training.world(), training.yielding, training.ending.is_some());
        let restored = training.restored;
        let Some(member) = training.member(worker) else { return };
        if member.end.is_some() {
            return;
        }
        (member.step, member.moved) = (member.step.max(step), now);
        let reached = member.step;
        effects.extend(member.system.point(now, worker, reached, world, true));
        let mut consequence = None;
        let mut failure = None;
        let how = match end {
            JobEnd::Finished(reason) => How::Finished(reason),
            JobEnd::Ordered(Order::Stop) if asked => How::Stopped,
            // To save for a handover of which the coordinator that came back knows nothing.
            JobEnd::Ordered(Order::Stop) if restored => How::Yielded,
            JobEnd::Ordered(Order::Yield) if yielding || restored => How::Yielded,
            JobEnd::Ordered(_) if asked || failing => How::Broken,
            JobEnd::Ordered(order) => {
                let message =
                    format!("worker `{worker}` ended at step {step} by an order ({order:?}) that nobody gave");
                failure = Some(resumable(message));
                How::Broken
            }
            JobEnd::Failed(why) => {
                failure = Some(why);
                How::Broken
            }
            JobEnd::PeerLost { words, peer } => {
                consequence = Some(Cause::of_a_lost_peer(worker, step, words, peer));
                How::Broken
            }
        };
        if matches!(how, How::Finished(_) | How::Stopped | How::Yielded) {
            self.step = self.step.max(step);
        }
        let yielded = how == How::Yielded;
        if let Some(member) = self.training().and_then(|training| training.member(worker)) {
            member.end = Some(MemberEnd { how, holding });
        }
        if let Some(failure) = failure {
            self.fail(now, failure, effects);
        } else if yielded {
            self.recover(now, None, effects);
        } else if let Some(cause) = consequence.filter(|_| !at_once && !failing) {
            self.recover(now, Some(cause), effects);
        }
        if let Phase::Training(_) = self.phase {
            self.conclude_if_due(now, effects);
        }
    }

    pub(super) fn left_training(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        cause: Departure,
        effects: &mut Vec<Effect>,
    ) {
        let at_once = self.stopping.as_ref().is_some_and(|stopping| stopping.at_once);
        let Some(training) = self.training() else { return };
        if training.joiners.contains(&worker) {
            training.joiners.retain(|joiner| *joiner != worker);
            return;
        }
        let failing = training.ending.is_some();
        let first_has_ended = !training.may_be_writing();
        let is_first = training.rank(worker) == Some(0);
        let Some(member) = training.member(worker) else { return };
        member.gone = true;
        // Who has said how its job ended may go.
        if member.end.is_some() {
            return;
        }
        let step = member.step;
        member.end = Some(MemberEnd { how: How::Left, holding: None });
        self.lose(now, worker, step, &cause, effects);
        // Rank 0's word is that all is done and saved.
        let all_is_saved = first_has_ended && !is_first;
        if at_once || failing || all_is_saved {
            self.conclude_if_due(now, effects);
        } else {
            self.recover(now, Some(Cause::of_a_departure(worker, step, cause)), effects);
        }
    }

    /// What no new generation would cure: everyone would fail again.
    pub(super) fn fail(&mut self, now: Timestamp, failure: v1::Failure, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        // Whoever asked to stop at once asked for broken jobs.
        if self.stopping.as_ref().is_some_and(|stopping| stopping.at_once) {
            return;
        }
        let Some(training) = self.training() else { return };
        if training.ending.is_some() {
            return;
        }
        training.ending = Some(Ending { since: now, failure });
        effects.extend(training.orders(generation, Order::Abort));
        effects.push(self.standing_notice(now));
    }

    /// Somebody waits to be let in, or to be let go: all stop after the same step, and a new generation begins.
    pub(super) fn change_world(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        if self.stopping.is_some() {
            return;
        }
        let draining = self.draining.clone();
        let Some(training) = self.training() else { return };
        if training.yielding || !training.may_grow() {
            return;
        }
        if training.workers().all(|worker| draining.contains(&worker)) && training.joiners.is_empty() {
            // Nobody to hand over to but the disk.
            effects.extend(training.orders(generation, Order::Stop));
            self.stopping = Some(Stopping { hands_over: true, ..Stopping::to_save(now) });
        } else {
            training.yielding = true;
            effects.extend(training.orders(generation, Order::Yield));
        }
        effects.push(self.standing_notice(now));
    }

    pub(super) fn returned(&mut self, now: Timestamp, worker: WorkerId, step: u64, effects: &mut Vec<Effect>) {
        let Some(member) = self.training().and_then(|training| training.member(worker)) else { return };
        (member.away, member.moved, member.step) = (false, now, member.step.max(step));
        let generation = self.generation;
        if self.stopping.is_some() {
            effects.push(Effect::Order { worker, generation, order: Order::Stop });
        }
        effects.push(self.standing_notice(now));
    }

    /// Members that have not found a coordinator again that came back are gone.
    pub(super) fn miss_the_absent(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let patience = self.plan.deadlines.reattach();
        let Some(training) = self.training() else { return };
        if now.since(training.seated) < patience {
            return;
        }
        let absent: Vec<WorkerId> = training.members.iter().filter(|member| member.away).map(|m| m.worker).collect();
        for worker in absent {
            let why = format!("it did not find the coordinator again within {} s", patience.as_secs_f64());
            self.left(now, worker, Departure { why, told: false }, effects);
        }
    }

    /// A member that takes no step while its peers wait for it does not get better by waiting on.
    pub(super) fn find_stuck(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let patience = self.plan.deadlines.stuck();
        let Some(training) = self.training() else { return };
        let waits = |member: &Member| member.end.is_none() && member.waiting && now.since(member.moved) >= patience;
        if !training.members.iter().any(waits) {
            return;
        }
        let stuck = training
            .members
            .iter()
            .filter(|member| member.end.is_none() && !member.waiting && now.since(member.moved) >= patience);
        effects.extend(stuck.map(|member| Effect::Expel {
            worker: member.worker,
            why: format!(
                "hung: it has not got on from step {} for {} s while its peers wait for it",
                member.step,
                now.since(member.moved).as_secs()
            ),
        }));
    }

    pub(super) fn stop_training(&mut self, now: Timestamp, at_once: bool, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        let already = self.stopping.as_ref().is_some_and(|stopping| stopping.at_once || !at_once);
        let Some(training) = self.training() else { return };
        if training.ending.is_some() {
            return;
        }
        let orders = training.orders(generation, if at_once { Order::Abort } else { Order::Stop });
        if already {
            // Saving for a handover becomes saving for good.
            if let Some(stopping) = &mut self.stopping {
                stopping.hands_over = false;
            }
            return;
        }
        self.stopping = Some(Stopping { at_once, ..Stopping::to_save(now) });
        if !at_once {
            effects.push(self.record(now));
        }
        effects.extend(orders);
        effects.push(self.standing_notice(now));
        self.conclude_if_due(now, effects);
    }

    /// Comes to the verdict once everyone has ended and what was staged is published.
    pub(super) fn conclude_if_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let step = self.step;
        if !self.publishing.is_idle() {
            return;
        }
        let Phase::Training(training) = &self.phase else { return };
        let all_ended = training.all_ended();
        let verdict = if let Some(ending) = &training.ending {
            let failure = self.resumable_or_not(ending.failure.clone());
            let grace = if training.may_be_writing() { WRITER_GRACE } else { GRACE };
            (all_ended || now.since(ending.since) >= grace).then_some(Verdict::Failed(failure))
        } else if let Some(stopping) = self.stopping.as_ref().filter(|stopping| stopping.at_once) {
            (all_ended || now.since(stopping.since) >= GRACE)
                .then(|| Verdict::Stopped { reason: format!("stopped at once on request, after step {step}") })
        } else if all_ended {
            let stopped = training.members.iter().any(|member| member.is(&How::Stopped));
            let reason = training.members.iter().find_map(|member| match &member.end {
                Some(MemberEnd { how: How::Finished(reason), .. }) => Some(reason.clone()),
                _ => None,
            });
            let unpublished = self.publishing.unpublished.as_ref();
            Some(match (reason, self.stopping.as_ref()) {
                (Some(_), _) if !stopped && unpublished.is_some() => {
                    Verdict::Failed(unpublished.map(super::publishing::Unpublished::failure).unwrap_or_default())
                }
                (Some(reason), _) if !stopped => Verdict::Succeeded { reason: format!("{reason}, step {step}") },
                (_, Some(Stopping { failure: Some(failure), .. })) => Verdict::Failed(failure.clone()),
                // What the members that are to go have saved is what others go on from.
                (_, Some(Stopping { hands_over: true, .. })) => return self.recover(now, None, effects),
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

impl Stopping {
    /// On request, once what is held is saved.
    pub fn to_save(since: Timestamp) -> Self {
        Self { at_once: false, since, failure: None, hands_over: false }
    }
}

impl Member {
    fn is(&self, how: &How) -> bool {
        self.end.as_ref().is_some_and(|end| end.how == *how)
    }
}
