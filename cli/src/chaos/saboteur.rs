//! Carries a plan out, as far as deciding goes: events and the time in, what to do to whom out.

use std::time::{Duration, Instant};

use proto::{
    WorkerId,
    v1::{self, run_event::Event},
};
use ranking::chance::mix;

use super::plan::{Action, Deed, When, Whom};

pub struct Saboteur {
    armed: Vec<Armed>,
    /// In rank order.
    members: Vec<WorkerId>,
    began: bool,
    seed: u64,
    drawn: u64,
    paused: Vec<Paused>,
}

struct Armed {
    action: Action,
    due: Option<Instant>,
    spent: bool,
}

struct Paused {
    until: Instant,
    worker: WorkerId,
}

/// Something to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    pub worker: WorkerId,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kill,
    Pause,
    /// After a pause.
    GoOn,
    Terminate,
}

impl Saboteur {
    pub fn new(plan: Vec<Action>, seed: u64) -> Self {
        let armed = plan.into_iter().map(|action| Armed { action, due: None, spent: false }).collect();
        Self { armed, members: Vec::new(), began: false, seed, drawn: 0, paused: Vec::new() }
    }

    pub fn take(&mut self, message: &v1::RunEvent, now: Instant) {
        match &message.event {
            Some(Event::Seated(seated)) => {
                self.members = seated.workers.iter().filter_map(|worker| worker.parse().ok()).collect();
                if !std::mem::replace(&mut self.began, true) {
                    for armed in &mut self.armed {
                        armed.due = match armed.action.when {
                            When::After(span) | When::Every(span) => Some(now + span),
                            When::Step(_) => None,
                        };
                    }
                }
            }
            Some(Event::Progress(progress)) => {
                for armed in self.armed.iter_mut().filter(|armed| !armed.spent && armed.due.is_none()) {
                    if let When::Step(step) = armed.action.when
                        && progress.step >= step
                    {
                        armed.due = Some(now);
                    }
                }
            }
            _ => {}
        }
    }

    /// When there is something to do next.
    pub fn due(&self) -> Option<Instant> {
        let armed = self.armed.iter().filter(|armed| !armed.spent).filter_map(|armed| armed.due);
        armed.chain(self.paused.iter().map(|paused| paused.until)).min()
    }

    /// What is to be done by now.
    pub fn strike(&mut self, now: Instant) -> Vec<Blow> {
        let mut blows = Vec::new();
        self.paused.retain(|paused| {
            let over = paused.until <= now;
            blows.extend(over.then_some(Blow { worker: paused.worker, kind: Kind::GoOn }));
            !over
        });
        for at in 0..self.armed.len() {
            let armed = &mut self.armed[at];
            if armed.spent || armed.due.is_none_or(|due| due > now) {
                continue;
            }
            let Action { when, whom, deed } = armed.action;
            match when {
                When::Every(span) => armed.due = armed.due.map(|due| next(due, span, now)),
                When::Step(_) | When::After(_) => armed.spent = true,
            }
            for worker in self.victims(whom) {
                let kind = match deed {
                    Deed::Kill => Kind::Kill,
                    Deed::Terminate => Kind::Terminate,
                    Deed::Pause(span) => {
                        self.paused.push(Paused { until: now + span, worker });
                        Kind::Pause
                    }
                };
                blows.push(Blow { worker, kind });
            }
        }
        blows
    }

    fn victims(&mut self, whom: Whom) -> Vec<WorkerId> {
        match whom {
            Whom::All => self.members.clone(),
            Whom::Rank(rank) => self.members.get(rank).copied().into_iter().collect(),
            Whom::Slot(slot) => self.members.iter().filter(|member| member.slot == slot).copied().collect(),
            Whom::Any => {
                let Some(most) = (self.members.len() as u64).checked_sub(1) else { return Vec::new() };
                self.drawn += 1;
                let drawn = mix(self.seed ^ mix(self.drawn)) % (most + 1);
                self.members.get(drawn as usize).copied().into_iter().collect()
            }
        }
    }
}

/// The next time that is not past already: what was missed is not made up for.
fn next(due: Instant, span: Duration, now: Instant) -> Instant {
    let mut next = due + span;
    while next <= now {
        next += span;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seated(workers: &[&str]) -> v1::RunEvent {
        let workers = workers.iter().map(ToString::to_string).collect();
        let event = Some(Event::Seated(v1::Seated { workers, ..v1::Seated::default() }));
        v1::RunEvent { event, ..v1::RunEvent::default() }
    }

    fn step(step: u64) -> v1::RunEvent {
        let event = Some(Event::Progress(v1::Progress { step, ..v1::Progress::default() }));
        v1::RunEvent { event, ..v1::RunEvent::default() }
    }

    fn blow(slot: u32, life: u32, kind: Kind) -> Blow {
        Blow { worker: WorkerId { slot, life }, kind }
    }

    #[test]
    fn a_step_strikes_once_and_the_rank_is_that_of_the_generation_at_work() {
        let action = Action { when: When::Step(100), whom: Whom::Rank(0), deed: Deed::Kill };
        let (mut saboteur, now) = (Saboteur::new(vec![action], 0), Instant::now());
        saboteur.take(&seated(&["w0:1", "w1:1"]), now);
        saboteur.take(&step(99), now);
        assert_eq!(saboteur.due(), None);
        saboteur.take(&seated(&["w1:1", "w0:2"]), now);
        saboteur.take(&step(120), now);
        assert_eq!(saboteur.strike(saboteur.due().unwrap()), [blow(1, 1, Kind::Kill)]);
        saboteur.take(&step(130), now);
        assert_eq!((saboteur.due(), saboteur.strike(now)), (None, Vec::new()));
    }

    #[test]
    fn time_counts_from_where_training_began_and_what_was_missed_is_not_made_up_for() {
        let action = Action { when: When::Every(15 * SECOND), whom: Whom::All, deed: Deed::Kill };
        let (mut saboteur, now) = (Saboteur::new(vec![action], 0), Instant::now());
        assert_eq!(saboteur.due(), None);
        saboteur.take(&seated(&["w0:1", "w1:1"]), now);
        saboteur.take(&seated(&["w0:1", "w1:2"]), now + SECOND);
        assert_eq!(saboteur.due(), Some(now + 15 * SECOND));
        assert!(saboteur.strike(now + 14 * SECOND).is_empty());
        assert_eq!(saboteur.strike(now + 50 * SECOND), [blow(0, 1, Kind::Kill), blow(1, 2, Kind::Kill)]);
        assert_eq!(saboteur.due(), Some(now + 60 * SECOND));
    }

    #[test]
    fn who_is_paused_is_let_go_on() {
        let action = Action { when: When::After(SECOND), whom: Whom::Slot(1), deed: Deed::Pause(2 * SECOND) };
        let (mut saboteur, now) = (Saboteur::new(vec![action], 0), Instant::now());
        saboteur.take(&seated(&["w0:1", "w1:1"]), now);
        assert_eq!(saboteur.strike(now + SECOND), [blow(1, 1, Kind::Pause)]);
        assert_eq!(saboteur.due(), Some(now + 3 * SECOND));
        assert_eq!(saboteur.strike(now + 3 * SECOND), [blow(1, 1, Kind::GoOn)]);
        assert_eq!(saboteur.due(), None);
    }

    #[test]
    fn any_worker_means_each_of_them_and_a_seed_repeats_its_choice() {
        let chosen = |seed| {
            let action = Action { when: When::Every(SECOND), whom: Whom::Any, deed: Deed::Kill };
            let (mut saboteur, now) = (Saboteur::new(vec![action], seed), Instant::now());
            saboteur.take(&seated(&["w0:1", "w1:1", "w2:1"]), now);
            (1..100)
                .flat_map(|second| saboteur.strike(now + second * SECOND))
                .map(|blow| blow.worker.slot)
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        assert!((0..3).all(|slot| chosen(1).iter().filter(|other| **other == slot).count() > 15));
    }
}
