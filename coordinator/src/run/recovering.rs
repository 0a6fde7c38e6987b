//! Between two generations. Members of the old one say how far they are, or are given up; those who wait are let in; then everybody
//! goes on from the newest state that somebody holds in memory, or, where nobody is left who does, from the newest checkpoint.

use proto::{WorkerId, v1};

use super::{
    Departure, Effect, Holding, JobEnd, Notice, Order, Phase, RESUME_HINT, Run, Start, Verdict, resumable,
    training::{Remains, Stopping, Training},
    warning,
};
use crate::clock::Timestamp;

/// Generations in a row that may be lost without a step committed in between.
const BARREN_AT_MOST: u32 = 5;

/// As many in a row make a member suspect whom its peers lose though it lives: they cannot reach it.
const ACCUSED_AT: u32 = 2;

pub(super) struct Recovering {
    /// Since when nothing trains.
    pub since: Timestamp,
    /// Absent: everyone stopped for the world to change.
    pub cause: Option<Cause>,
    /// Rank 0 of the generation that is over: its last reports may still be on their way.
    pub spoke: Option<WorkerId>,
    survivors: Vec<Survivor>,
    joiners: Vec<WorkerId>,
    /// Whom members say they cannot reach.
    accused: Vec<WorkerId>,
    /// The run cannot go on; what is held is saved, where something is.
    giving_up: Option<v1::Failure>,
    /// A member has failed in a way that no new generation would cure.
    fatal: Option<v1::Failure>,
}

struct Survivor {
    remains: Remains,
    expelled: bool,
}

/// What ended a generation.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub worker: WorkerId,
    /// Its step.
    pub step: u64,
    pub why: String,
    pub weight: Weight,
}

impl Cause {
    /// As a member saw it.
    pub fn of_a_lost_peer(by: WorkerId, step: u64, words: String, peer: Option<WorkerId>) -> Self {
        let weight = if peer.is_some() { Weight::Consequence } else { Weight::GaveUp };
        Self { worker: peer.unwrap_or(by), step, why: words, weight }
    }

    /// As its session or its process's end told.
    pub fn of_a_departure(worker: WorkerId, step: u64, departure: Departure) -> Self {
        let weight = if departure.told { Weight::Told } else { Weight::Silence };
        Self { worker, step, why: departure.why, weight }
    }

    pub fn words(&self) -> String {
        let Self { worker, step, why, weight } = self;
        match weight {
            Weight::GaveUp => format!("worker `{worker}` gave its generation up at step {step}: {why}"),
            Weight::Consequence => format!("worker `{worker}` is out of its peers' reach at step {step}: {why}"),
            Weight::Silence | Weight::Told => format!("worker `{worker}` left at step {step}: {why}"),
        }
    }
}

/// How much a cause explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// A member gave up, and does not say for whom.
    GaveUp,
    /// A peer was seen to be gone: there must be a reason for that.
    Consequence,
    /// A session closed or fell silent.
    Silence,
    /// The process's own end.
    Told,
}

impl Recovering {
    /// A coordinator that came back finds it so: members of a generation that is over, not heard of yet.
    pub fn away(members: &[WorkerId], since: Timestamp, step: u64) -> Self {
        let survivors = members.iter().map(|&worker| Survivor {
            remains: Remains { worker, step, said: false, holding: None, away: true },
            expelled: false,
        });
        Self {
            since,
            cause: None,
            spoke: members.first().copied(),
            survivors: survivors.collect(),
            joiners: Vec::new(),
            accused: Vec::new(),
            giving_up: None,
            fatal: None,
        }
    }

    /// Those of the old generation in rank order, then those to be let in.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.survivors().chain(self.joiners.iter().copied())
    }

    pub fn survivors(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.survivors.iter().map(|survivor| survivor.remains.worker)
    }

    pub fn world_to_be(&self, draining: &[WorkerId]) -> usize {
        self.workers().filter(|worker| !draining.contains(worker)).count()
    }

    /// Members of the old generation that have not let go of it.
    pub fn at_work(&self) -> usize {
        self.survivors.iter().filter(|survivor| !survivor.remains.said).count()
    }

    /// Whom most members cannot reach though it lives; of several the last in rank. Asked once everybody has said how it ended, it
    /// is taken out by whoever asks.
    fn out_of_reach(&mut self) -> Option<WorkerId> {
        let accusers = |worker: WorkerId| self.accused.iter().filter(|accused| **accused == worker).count();
        let here = self.survivors.iter_mut().filter(|survivor| !survivor.expelled);
        let most =
            here.filter(|survivor| accusers(survivor.remains.worker) > 0).max_by_key(|s| accusers(s.remains.worker))?;
        most.expelled = true;
        let worker = most.remains.worker;
        self.accused.clear();
        Some(worker)
    }

    fn newest(&self) -> Option<Holding> {
        self.survivors.iter().filter_map(|survivor| survivor.remains.holding).max()
    }

    pub fn is_away(&self, worker: WorkerId) -> bool {
        self.survivors.iter().any(|survivor| survivor.remains.worker == worker && survivor.remains.away)
    }

    fn survivor(&mut self, worker: WorkerId) -> Option<&mut Survivor> {
        self.survivors.iter_mut().find(|survivor| survivor.remains.worker == worker)
    }

    /// The first cause stands, unless it was but a consequence, or the same worker's silence that is now explained.
    fn learn(&mut self, cause: Cause) {
        let replaces = match &self.cause {
            None => true,
            Some(known) => {
                let was_consequence = known.weight <= Weight::Consequence && cause.weight > known.weight;
                was_consequence || (known.worker == cause.worker && cause.weight > known.weight)
            }
        };
        if replaces {
            self.cause = Some(cause);
        }
    }
}

impl Run {
    fn recovering(&mut self) -> Option<&mut Recovering> {
        match &mut self.phase {
            Phase::Recovering(recovering) => Some(recovering),
            _ => None,
        }
    }

    /// Ends the generation at work. Without a cause everyone stops by themselves, at the same step.
    pub(super) fn recover(&mut self, now: Timestamp, cause: Option<Cause>, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        let Some(training) = self.training() else { return };
        if cause.is_some() {
            effects.extend(training.orders(generation, Order::Abort));
        }
        let accused =
            cause.iter().filter(|cause| cause.weight == Weight::Consequence).map(|cause| cause.worker).collect();
        let joiners = std::mem::take(&mut training.joiners);
        let spoke = training.workers().next();
        let survivors = training.remains().into_iter().map(|remains| Survivor { remains, expelled: false }).collect();
        if cause.is_some() {
            self.barren += 1;
        }
        // Whether to save for a handover is looked at anew: by then there may be somebody to hand over to.
        self.stopping = self.stopping.take().filter(|stopping| !stopping.hands_over);
        let giving_up = cause.as_ref().filter(|_| self.barren > BARREN_AT_MOST).map(|cause| {
            let message = format!("{} generations in a row were lost before they got a step further", self.barren);
            v1::Failure {
                causes: vec![cause.words()],
                hint: "something kills the workers at this step: see their logs, then resume with `lockstep train \
                       run.toml --resume`"
                    .into(),
                ..resumable(message)
            }
        });
        self.phase = Phase::Recovering(Box::new(Recovering {
            since: now,
            cause,
            spoke,
            survivors,
            joiners,
            accused,
            giving_up,
            fatal: None,
        }));
        effects.push(self.record(now));
        self.go_on_or_say(now, effects);
    }

    pub(super) fn ended_recovering(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        step: u64,
        end: JobEnd,
        holding: Option<Holding>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(recovering) = self.recovering() else { return };
        let Some(survivor) = recovering.survivor(worker) else { return };
        if survivor.remains.said {
            return;
        }
        survivor.remains = Remains { worker, step: survivor.remains.step.max(step), said: true, holding, away: false };
        match end {
            JobEnd::PeerLost { words, peer } => {
                recovering.accused.extend(peer);
                recovering.learn(Cause::of_a_lost_peer(worker, step, words, peer));
            }
            JobEnd::Failed(failure) => drop(recovering.fatal.get_or_insert(failure)),
            JobEnd::Finished(_) | JobEnd::Ordered(_) => {}
        }
        self.go_on_if_possible(now, effects);
    }

    pub(super) fn returned_recovering(&mut self, worker: WorkerId, step: u64, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        let Some(survivor) = self.recovering().and_then(|recovering| recovering.survivor(worker)) else { return };
        survivor.remains.away = false;
        survivor.remains.step = survivor.remains.step.max(step);
        // What was ordered while it was away did not reach it.
        effects.push(Effect::Order { worker, generation, order: Order::Abort });
    }

    pub(super) fn left_recovering(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        cause: Departure,
        effects: &mut Vec<Effect>,
    ) {
        self.draining.retain(|draining| *draining != worker);
        let name = worker.to_string();
        let Some(recovering) = self.recovering() else { return };
        let step = recovering.survivor(worker).map(|survivor| survivor.remains.step);
        if let Some(step) = step {
            recovering.survivors.retain(|survivor| survivor.remains.worker != worker);
            recovering.learn(Cause::of_a_departure(worker, step, cause.clone()));
            self.lose(now, worker, step, &cause, effects);
        } else if recovering.joiners.contains(&worker) {
            recovering.joiners.retain(|joiner| *joiner != worker);
        } else if let Some(known) =
            self.lost.iter_mut().map(|(_, lost)| lost).find(|lost| lost.worker == name).filter(|_| cause.told)
        {
            // It had left already; now its end is explained.
            known.why = cause.why.clone();
            let step = known.step;
            self.tell_of_the_lost(effects);
            if let Some(recovering) = self.recovering() {
                recovering.learn(Cause::of_a_departure(worker, step, cause));
            }
        }
        self.go_on_or_say(now, effects);
    }

    pub(super) fn joins_recovering(&mut self, now: Timestamp, worker: WorkerId, effects: &mut Vec<Effect>) {
        if let Some(recovering) = self.recovering() {
            recovering.joiners.push(worker);
        }
        self.go_on_or_say(now, effects);
    }

    pub(super) fn stop_recovering(&mut self, now: Timestamp, at_once: bool, effects: &mut Vec<Effect>) {
        if at_once {
            let reason = format!("stopped at once on request, after step {}", self.step);
            return self.end(now, Verdict::Stopped { reason }, effects);
        }
        if self.stopping.is_none() {
            self.stopping = Some(Stopping::to_save(now));
        }
        self.go_on_or_say(now, effects);
    }

    /// Says why, where it cannot be yet.
    fn go_on_or_say(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.go_on_if_possible(now, effects);
        if let Phase::Recovering(_) = self.phase {
            effects.push(self.standing_notice(now));
        }
    }

    /// Seats the next generation as soon as that can be.
    pub(super) fn go_on_if_possible(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let patience = self.plan.deadlines.let_go();
        let Some(recovering) = self.recovering() else { return };
        if recovering.at_work() > 0 {
            if now.since(recovering.since) >= patience {
                let hung =
                    recovering.survivors.iter_mut().filter(|survivor| !survivor.remains.said && !survivor.expelled);
                effects.extend(hung.map(|survivor| {
                    survivor.expelled = true;
                    let why = format!(
                        "hung: it did not let go of a generation that was over within {} s",
                        patience.as_secs_f64()
                    );
                    Effect::Expel { worker: survivor.remains.worker, why }
                }));
            }
            return;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.at_once) {
            let reason = format!("stopped at once on request, after step {}", self.step);
            return self.end(now, Verdict::Stopped { reason }, effects);
        }
        if let Some(failure) = self.recovering().and_then(|recovering| recovering.fatal.clone()) {
            if self.publishing.is_idle() {
                self.end(now, Verdict::Failed(self.resumable_or_not(failure)), effects);
            }
            return;
        }
        if self.barren >= ACCUSED_AT
            && let Some(worker) = self.recovering().and_then(Recovering::out_of_reach)
        {
            let why = "its peers cannot reach it".to_owned();
            return effects.push(Effect::Expel { worker, why });
        }
        match &self.prepared {
            Ok(true) => {}
            Ok(false) => return,
            Err(failure) => {
                let failure = failure.clone();
                return self.end(now, Verdict::Failed(failure), effects);
            }
        }
        self.let_go_of_the_draining(now, effects);
        let Some(recovering) = self.recovering() else { return };
        let newest = recovering.newest();
        // What is being published may be what to go on from.
        if newest.is_none() && !self.publishing.is_idle() {
            return;
        }
        self.give_up_if_nobody_comes();
        let Some(recovering) = self.recovering() else { return };
        if let Some(failure) = recovering.giving_up.take() {
            if newest.is_none() {
                return self.end(now, Verdict::Failed(self.resumable_or_not(failure)), effects);
            }
            // Somebody holds a state: a generation that takes no step saves it.
            self.stopping = Some(Stopping { failure: Some(failure), ..Stopping::to_save(now) });
        }
        let stops = self.stopping.is_some();
        let least = if stops { 1 } else { self.plan.least as usize };
        let Some(recovering) = self.recovering() else { return };
        let count = recovering.workers().count();
        if stops && newest.is_none() {
            let reason = format!("stopped on request at step {}", self.step);
            let verdict = match self.stopping.take().and_then(|stopping| stopping.failure) {
                Some(failure) => Verdict::Failed(self.resumable_or_not(failure)),
                None => Verdict::Stopped { reason },
            };
            return self.end(now, verdict, effects);
        }
        if count >= least.max(1) {
            self.seat_the_next(now, newest, effects);
        }
    }

    /// Members that want to go, do so once others hold what they hold.
    fn let_go_of_the_draining(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let draining = self.draining.clone();
        let saved = self.last.as_ref().map(|last| last.step);
        let Some(recovering) = self.recovering() else { return };
        let goes = |worker: &WorkerId| draining.contains(worker);
        if !recovering.workers().any(|worker| goes(&worker)) {
            return;
        }
        let newest = recovering.newest();
        let others_hold = recovering
            .survivors
            .iter()
            .any(|survivor| survivor.remains.holding == newest && !goes(&survivor.remains.worker));
        let safe = newest.is_none_or(|newest| others_hold || saved == Some(newest.step));
        if safe {
            let gone: Vec<WorkerId> = recovering.workers().filter(goes).collect();
            recovering.survivors.retain(|survivor| !goes(&survivor.remains.worker));
            recovering.joiners.retain(|worker| !goes(worker));
            self.draining.retain(|worker| !gone.contains(worker));
            effects.extend(gone.into_iter().map(|worker| Effect::Dismiss { worker }));
        } else if recovering.workers().all(|worker| goes(&worker)) {
            self.stopping.get_or_insert(Stopping { hands_over: true, ..Stopping::to_save(now) });
        }
    }

    fn give_up_if_nobody_comes(&mut self) {
        let least = self.plan.least as usize;
        let Some(alone) = self.alone.clone().filter(|_| self.stopping.is_none()) else { return };
        let Some(recovering) = self.recovering() else { return };
        if recovering.workers().count() >= least || recovering.giving_up.is_some() {
            return;
        }
        let failure = match &recovering.cause {
            Some(cause) => v1::Failure { causes: vec![alone], ..resumable(cause.words()) },
            None => resumable(alone),
        };
        recovering.giving_up = Some(failure);
    }

    pub(super) fn resumable_or_not(&self, mut failure: v1::Failure) -> v1::Failure {
        if failure.hint == RESUME_HINT && self.last.is_none() && self.resumed_at.is_none() {
            failure.hint = "it had no checkpoint yet: start it again".into();
        }
        failure
    }

    fn seat_the_next(&mut self, now: Timestamp, newest: Option<Holding>, effects: &mut Vec<Effect>) {
        let most = self.plan.most as usize;
        let Some(recovering) = self.recovering() else { return };
        let (since, lost_one) = (recovering.since, recovering.cause.is_some());
        recovering.joiners.sort_unstable();
        // Who hands over takes a place for a little longer: one who waits for it waits on.
        let room = most.saturating_sub(recovering.survivors.len());
        let later = recovering.joiners.split_off(room.min(recovering.joiners.len()));
        effects.extend(later.into_iter().map(|worker| Effect::Release { worker }));
        let mut places: Vec<(WorkerId, Option<Holding>)> =
            recovering.survivors.iter().map(|survivor| (survivor.remains.worker, survivor.remains.holding)).collect();
        // Rank 0 speaks for the run and writes its checkpoints: it held a state all along.
        places.sort_by_key(|(_, holding)| holding.is_none());
        places.extend(recovering.joiners.iter().map(|worker| (*worker, None)));
        let members: Vec<WorkerId> = places.iter().map(|(worker, _)| *worker).collect();
        let rank = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let (start, first_step) = match newest {
            Some(newest) => {
                let holds = |place: &(WorkerId, Option<Holding>)| place.1 == Some(newest);
                let source = rank(places.iter().position(holds).unwrap_or_default());
                let lacking = places
                    .iter()
                    .enumerate()
                    .filter(|(_, place)| !holds(place))
                    .map(|(index, _)| rank(index))
                    .collect();
                (Start::Memory { source, lacking }, newest.step)
            }
            None => match &self.last {
                Some(last) => (Start::Checkpoint(last.path.clone()), last.step),
                None => (Start::Submitted, self.resumed_at.unwrap_or_default()),
            },
        };
        if newest.is_none() && first_step < self.step {
            effects.push(warning(format!(
                "nobody who held the state of step {} is left: going on from step {first_step}, the newest that is on disk",
                self.step
            )));
            self.step = first_step;
            // Epochs past it will be told again; all are of one length.
            if let Some(epoch) = self.last_epoch.take_if(|epoch| epoch.step > first_step) {
                self.epochs_told = first_step * (epoch.epoch + 1) / epoch.step.max(1);
            }
        }
        self.recoveries += u32::from(lost_one);
        self.begin(now, members, start, first_step, now.since(since), effects);
        if self.stopping.is_none() && self.draining.iter().any(|worker| self.has(*worker)) {
            self.change_world(now, effects);
        }
    }

    /// A generation begins.
    pub(super) fn begin(
        &mut self,
        now: Timestamp,
        members: Vec<WorkerId>,
        start: Start,
        first_step: u64,
        stood: std::time::Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.generation = self.generation.next();
        self.step = self.step.max(first_step);
        self.reported = self.reported.min(first_step);
        self.phase = Phase::Training(Box::new(Training::new(&members, now, first_step)));
        self.tell_of_the_lost(effects);
        effects.push(self.record(now));
        effects.push(Effect::Emit(Notice::Seated(v1::Seated {
            generation: self.generation.0,
            workers: members.iter().map(WorkerId::to_string).collect(),
            first_step,
            stood_seconds: stood.as_secs_f64(),
        })));
        effects.push(self.standing_notice(now));
        let (generation, reported_step) = (self.generation, self.reported);
        let save_only = self.stopping.is_some();
        effects.push(Effect::Seat { generation, members, start, first_step, reported_step, save_only });
    }
}
