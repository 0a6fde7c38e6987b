//! Waiting for workers and for the dataset. Ends in one seating of all, or in a verdict.

use std::collections::BTreeSet;

use proto::{RunId, WorkerId, v1};

use super::{Departure, Effect, Phase, Prepared, Run, Start, Verdict, warning};
use crate::clock::Timestamp;

/// More reasons than this would bury the message.
const REASONS_KEPT: usize = 8;

pub(super) struct Gathering {
    /// Since when workers are waited for.
    pub since: Timestamp,
    pub behind: Option<RunId>,
    /// By slot, which is what ranks follow.
    pub members: BTreeSet<WorkerId>,
    pub prepared: bool,
    turned_away: Vec<String>,
}

impl Gathering {
    pub fn new(since: Timestamp) -> Self {
        Self { since, behind: None, members: BTreeSet::new(), prepared: false, turned_away: Vec::new() }
    }
}

impl Run {
    fn gathering(&mut self) -> Option<&mut Gathering> {
        match &mut self.phase {
            Phase::Gathering(gathering) => Some(gathering),
            _ => None,
        }
    }

    pub(super) fn queued(&mut self, now: Timestamp, behind: Option<RunId>, effects: &mut Vec<Effect>) {
        let Some(gathering) = self.gathering() else { return };
        if gathering.behind == behind {
            return;
        }
        if behind.is_none() {
            gathering.since = now;
        }
        gathering.behind = behind;
        effects.push(self.standing_notice(now));
    }

    pub(super) fn prepared(&mut self, now: Timestamp, prepared: Prepared, effects: &mut Vec<Effect>) {
        self.prepared = Ok(true);
        let Some(gathering) = self.gathering() else {
            // The coordinator was away meanwhile: the run is where its members are.
            self.resumed_at = prepared.resumed_at;
            return self.go_on_if_possible(now, effects);
        };
        gathering.prepared = true;
        self.dataset_hash = prepared.dataset_hash;
        self.step = prepared.resumed_at.unwrap_or_default();
        self.reported = self.step;
        self.resumed_at = prepared.resumed_at;
        self.best_score = prepared.best_score;
        self.best = prepared.best;
        for message in prepared.warnings {
            effects.push(warning(message));
        }
        self.seat_if_complete(now, effects);
    }

    pub(super) fn offered(&mut self, now: Timestamp, worker: WorkerId, effects: &mut Vec<Effect>) {
        if self.has(worker) {
            return;
        }
        if self.wants() == 0 {
            effects.push(Effect::Release { worker });
            return;
        }
        self.alone = None;
        match &mut self.phase {
            Phase::Gathering(gathering) => {
                gathering.members.insert(worker);
                self.seat_if_complete(now, effects);
            }
            Phase::Training(training) => {
                training.joiners.push(worker);
                self.change_world(now, effects);
            }
            Phase::Recovering(_) => self.joins_recovering(now, worker, effects),
            Phase::Ended { .. } => {}
        }
    }

    pub(super) fn left_gathering(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        cause: &Departure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(gathering) = self.gathering() else { return };
        if gathering.members.remove(&worker) {
            // Whoever is to come in its place has the whole time again.
            gathering.since = now;
            gathering.note(format!("worker `{worker}` left before the run began: {}", cause.why));
            effects.push(self.standing_notice(now));
        }
    }

    pub(super) fn turned_away(
        &mut self,
        now: Timestamp,
        why: String,
        nobody_else_will_come: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(gathering) = self.gathering() else {
            if nobody_else_will_come {
                self.alone = Some(why);
                self.go_on_if_possible(now, effects);
            }
            return;
        };
        gathering.note(why);
        if nobody_else_will_come {
            let causes = std::mem::take(&mut gathering.turned_away);
            let message = format!("run `{}` did not start: a worker it needs is gone", self.plan.id);
            let hint = "see what the worker wrote to standard error".to_owned();
            let failure = v1::Failure { message, causes, hint, input_is_wrong: false };
            self.end(now, Verdict::Failed(failure), effects);
        }
    }

    fn seat_if_complete(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let workers = self.plan.workers as usize;
        let Some(gathering) = self.gathering() else { return };
        if !gathering.prepared || gathering.members.len() < workers {
            effects.push(self.standing_notice(now));
            return;
        }
        self.seat_the_first(now, effects);
    }

    fn seat_the_first(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(gathering) = self.gathering() else { return };
        let members: Vec<WorkerId> = gathering.members.iter().copied().collect();
        self.begin(now, members, Start::Submitted, self.step, std::time::Duration::ZERO, effects);
    }

    pub(super) fn give_up_if_late(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (workers, least, patience) = (self.plan.workers, self.plan.least, self.plan.join_timeout);
        let Some(gathering) = self.gathering() else { return };
        let here = gathering.members.len();
        let complete = here >= workers as usize;
        if complete || gathering.behind.is_some() || now.since(gathering.since) < patience {
            return;
        }
        if here >= least as usize {
            // The others are let in when they come.
            if gathering.prepared {
                self.seat_the_first(now, effects);
            }
            return;
        }
        let causes = std::mem::take(&mut gathering.turned_away);
        let missing = workers as usize - here;
        let message = format!(
            "run `{}` did not start: {here} of {workers} workers joined within {} s",
            self.plan.id,
            patience.as_secs_f64()
        );
        let hint = match here {
            0 => format!("start {workers} workers for this coordinator, or raise `cluster.join_timeout`"),
            _ => format!("start {missing} more, or set `cluster.workers = {here}`"),
        };
        let failure = v1::Failure { message, causes, hint, input_is_wrong: false };
        self.end(now, Verdict::Failed(failure), effects);
    }
}

impl Gathering {
    fn note(&mut self, why: String) {
        if self.turned_away.len() < REASONS_KEPT {
            self.turned_away.push(why);
        }
    }
}
