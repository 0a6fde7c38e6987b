//! A coordinator's driver, a network and machines, as far as the core can tell them from real ones.

use std::collections::BTreeMap;

use proto::{Generation, WorkerId};

use super::super::{Departure, Effect, Event, Prepared, Publication, Record, Restored, Run, Staged, tests::elastic};
use super::{
    dice::Dice,
    witness::Witness,
    workers::{Group, Length, Mail, Process, history},
};
use crate::clock::Timestamp;

/// Once faults have stopped, so many moves are more than enough to come to an end.
const PATIENCE: usize = 60_000;

/// What has happened, over all schedules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    kills: usize,
    pauses: usize,
    cuts: usize,
    partitions: usize,
    drains: usize,
    doubles: usize,
    jumps: usize,
    deaths: usize,
    carried_on: usize,
    publications_failed: usize,
    generations: u64,
    from_memory: usize,
    from_checkpoints: usize,
    from_nothing: usize,
    gave_up: usize,
    succeeded: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let sum = |a: &mut usize, b: usize| *a += b;
        sum(&mut self.kills, other.kills);
        sum(&mut self.pauses, other.pauses);
        sum(&mut self.cuts, other.cuts);
        sum(&mut self.partitions, other.partitions);
        sum(&mut self.drains, other.drains);
        sum(&mut self.doubles, other.doubles);
        sum(&mut self.jumps, other.jumps);
        sum(&mut self.deaths, other.deaths);
        sum(&mut self.carried_on, other.carried_on);
        sum(&mut self.publications_failed, other.publications_failed);
        sum(&mut self.from_memory, other.from_memory);
        sum(&mut self.from_checkpoints, other.from_checkpoints);
        sum(&mut self.from_nothing, other.from_nothing);
        sum(&mut self.gave_up, other.gave_up);
        sum(&mut self.succeeded, other.succeeded);
        self.generations += other.generations;
    }

    /// A simulation in which nothing goes wrong proves nothing.
    pub fn assert_every_fault_fired(&self) {
        let faults = [
            self.kills,
            self.pauses,
            self.cuts,
            self.partitions,
            self.drains,
            self.doubles,
            self.jumps,
            self.deaths,
            self.carried_on,
            self.publications_failed,
            self.from_memory,
            self.from_checkpoints,
            self.from_nothing,
        ];
        assert!(faults.iter().all(|fired| *fired > 0), "some never came about: {self:?}");
        assert!(self.gave_up * 20 < self.succeeded, "too many gave up: {self:?}");
    }
}

pub struct World {
    dice: Dice,
    now: Timestamp,
    run: Run,
    length: Length,
    processes: BTreeMap<u32, Process>,
    lives: BTreeMap<u32, u32>,
    groups: BTreeMap<Generation, Group>,
    /// Pairs of slots that do not reach each other.
    partitions: Vec<(u32, u32)>,
    publishing: Option<Staged>,
    faults: usize,
    /// Manifests are being built.
    unprepared: bool,
    /// The coordinator dies when it has recorded what it decides next, before it does any of it.
    doomed: bool,
    /// What is in the journal, and what will be with the next record that must be.
    durable: Restored,
    volatile: Restored,
    witness: Witness,
    witness_of_the_journal: Witness,
    tally: Tally,
    transcript: Vec<String>,
    /// Says on stderr what happens.
    tells: bool,
    keeps_transcript: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let workers = 1 + dice.below(4) as u32;
        let least = 1 + dice.below(workers as usize) as u32;
        let most = workers + dice.below(3) as u32;
        let spare = dice.below(3) as u32;
        let now = Timestamp(1_000_000);
        let length = Length { steps_per_epoch: 1 + dice.below(6) as u64, epochs: 1 + dice.below(5) as u64 };
        let slots = workers + spare;
        let id = |slot| WorkerId { slot, life: 1 };
        Self {
            faults: dice.below(12),
            dice,
            now,
            run: Run::new(elastic(least, workers, most), now),
            length,
            processes: (0..slots).map(|slot| (slot, Process::new(id(slot)))).collect(),
            lives: (0..slots).map(|slot| (slot, 1)).collect(),
            groups: BTreeMap::new(),
            partitions: Vec::new(),
            publishing: None,
            unprepared: true,
            doomed: false,
            durable: Restored::default(),
            volatile: Restored::default(),
            witness: Witness::default(),
            witness_of_the_journal: Witness::default(),
            tally: Tally::default(),
            transcript: Vec::new(),
            tells: false,
            keeps_transcript: false,
        }
    }

    pub fn telling(self, tells: bool) -> Self {
        Self { tells, ..self }
    }

    pub fn transcript(mut self) -> Vec<String> {
        self.keeps_transcript = true;
        self.go();
        self.transcript
    }

    pub fn play(mut self) -> Tally {
        self.go();
        self.tally
    }

    fn go(&mut self) {
        self.feed(Event::Submitted);
        for left in (0..PATIENCE).rev() {
            if self.run.has_ended() {
                return self.judge();
            }
            assert!(left > 0, "nobody gets on any more: {}", self.run.standing(self.now).words);
            self.step();
        }
    }

    fn step(&mut self) {
        self.settle();
        if self.faults > 0 && self.dice.one_in(25) {
            self.faults -= 1;
            self.something_breaks();
        }
        let slots: Vec<u32> = self.processes.keys().copied().collect();
        let slot = slots[self.dice.below(slots.len())];
        match self.dice.below(10) {
            0..4 => self.advance(slot),
            4..6 => self.deliver(slot),
            6 | 7 => {
                let process = self.process(slot);
                if !process.paused && !process.gone {
                    process.read_mail();
                }
            }
            8 => {
                self.now.0 += 100_000 + 1000 * self.dice.below(400) as u64;
                self.feed(Event::Tick);
                if std::mem::take(&mut self.unprepared) {
                    self.feed(Event::Prepared(Prepared::default()));
                }
                self.mend(slot);
            }
            _ => self.publish(),
        }
    }

    fn process(&mut self, slot: u32) -> &mut Process {
        self.processes.get_mut(&slot).expect("a slot that exists")
    }

    fn advance(&mut self, slot: u32) {
        let Some(process) = self.processes.get(&slot).filter(|process| !process.paused && !process.gone) else {
            return;
        };
        let Some(job) = &process.job else { return };
        let (generation, me) = (job.generation, process.id);
        let reachable = |peer: &WorkerId| {
            let alive =
                self.processes.get(&peer.slot).is_some_and(|there| there.id == *peer && there.works_in(generation));
            // Who has not opened its mail yet will come.
            let coming =
                self.processes.get(&peer.slot).is_some_and(|there| there.id == *peer && has_seat(there, generation));
            let cut =
                self.partitions.iter().any(|&(a, b)| (a, b) == (me.slot, peer.slot) || (b, a) == (me.slot, peer.slot));
            (alive || coming) && !cut
        };
        let lost = job.members.iter().find(|peer| **peer != me && !reachable(peer)).copied();
        let group = self.groups.entry(generation).or_default();
        let length = self.length;
        if let Some(process) = self.processes.get_mut(&slot) {
            process.advance(group, length, lost);
        }
    }

    /// One message of a worker reaches the coordinator; now and then twice.
    fn deliver(&mut self, slot: u32) {
        let twice = self.faults > 0 && self.dice.one_in(30);
        let Some(process) = self.processes.get_mut(&slot).filter(|process| !process.astray) else { return };
        if !process.session {
            process.out.clear();
            return;
        }
        let Some(event) = process.out.pop_front() else { return };
        if twice {
            self.tally.doubles += 1;
            self.feed(event.clone());
        }
        self.feed(event);
    }

    fn publish(&mut self) {
        let Some(staged) = self.publishing.take() else { return };
        // The last one must not fail, or there is no model.
        let fails = self.faults > 0 && staged.checkpoint.step < self.length.total() && self.dice.one_in(6);
        let outcome = if fails {
            self.tally.publications_failed += 1;
            Err("no space left on device".to_owned())
        } else {
            self.witness.durable.insert(staged.checkpoint.step);
            Ok(Publication { checkpoint: staged.checkpoint, ..Publication::default() })
        };
        self.witness.published();
        self.feed(Event::Published { staged: staged.path, outcome });
    }

    fn something_breaks(&mut self) {
        let slots: Vec<u32> = self.processes.keys().copied().collect();
        let slot = slots[self.dice.below(slots.len())];
        match self.dice.below(9) {
            8 => {
                self.tally.deaths += 1;
                match self.dice.one_in(2) {
                    true => self.doomed = true,
                    false => self.coordinator_dies(),
                }
            }
            0..3 => {
                self.tally.kills += 1;
                self.kill(slot);
                // What was on its way may be lost, or all of them may go at once.
                if self.dice.one_in(4) {
                    slots.iter().for_each(|slot| self.kill(*slot));
                }
            }
            3 => {
                self.tally.pauses += 1;
                let process = self.process(slot);
                process.paused = true;
                self.loses_its_session(slot, "no heartbeat for 5 s");
            }
            4 => {
                self.tally.cuts += 1;
                self.loses_its_session(slot, "session broke");
            }
            5 => {
                self.tally.partitions += 1;
                let other = slots[self.dice.below(slots.len())];
                self.partitions.push((slot, other));
            }
            6 => {
                self.tally.drains += 1;
                let worker = self.process(slot).id;
                if self.process(slot).held {
                    self.feed(Event::Drain { worker });
                }
            }
            _ => {
                self.tally.jumps += 1;
                self.now.0 += 7_000_000;
                self.feed(Event::Tick);
            }
        }
    }

    /// It comes back at once, and knows what is in its journal.
    fn coordinator_dies(&mut self) {
        self.doomed = false;
        if self.tells {
            eprintln!("! the coordinator dies");
        }
        let plan = self.run.plan().clone();
        self.run = Run::restored(plan, self.now, self.durable.clone());
        self.volatile = self.durable.clone();
        self.witness = self.witness_of_the_journal.clone();
        self.witness.published();
        (self.publishing, self.unprepared) = (None, true);
        for process in self.processes.values_mut() {
            process.mail.clear();
            process.out.clear();
            process.astray = true;
        }
        self.feed(Event::Restored);
    }

    /// A worker finds the coordinator that came back.
    fn find_again(&mut self, slot: u32) {
        let length = self.length;
        let process = self.process(slot);
        let (worker, generation) = (process.id, process.generation());
        let step = process.state.as_ref().map_or(0, |state| state.step);
        if generation.is_some_and(|generation| self.run.awaits(worker, generation)) {
            self.tally.carried_on += 1;
            let (reported, _) = self.run.told();
            self.feed(Event::Returned { worker, step });
            self.process(slot).carry_on(reported, length);
        } else {
            self.new_life(slot);
        }
    }

    fn new_life(&mut self, slot: u32) {
        let life = self.lives.entry(slot).or_default();
        *life += 1;
        let id = WorkerId { slot, life: *life };
        self.process(slot).start_over(id);
    }

    fn kill(&mut self, slot: u32) {
        let everything_arrives = self.dice.one_in(2);
        while everything_arrives
            && !self.process(slot).out.is_empty()
            && self.process(slot).session
            && !self.process(slot).astray
        {
            let event = self.process(slot).out.pop_front();
            event.into_iter().for_each(|event| self.feed(event));
        }
        let process = self.process(slot);
        process.gone = true;
        if std::mem::take(&mut process.session) && !process.astray {
            let worker = process.id;
            self.feed(Event::Left { worker, cause: Departure { why: "killed by signal 9".into(), told: true } });
        }
    }

    fn loses_its_session(&mut self, slot: u32, why: &str) {
        let process = self.process(slot);
        if std::mem::take(&mut process.session) && !process.astray {
            let worker = process.id;
            self.feed(Event::Left { worker, cause: Departure { why: why.into(), told: false } });
        }
    }

    /// Time heals: processes are started again, pauses end, sessions are opened anew, cables found.
    fn mend(&mut self, slot: u32) {
        if self.dice.one_in(3) {
            self.partitions.retain(|&(a, b)| a != slot && b != slot);
        }
        let process = self.process(slot);
        process.paused = false;
        if process.gone || !process.session {
            // A dismissed process has closed its session behind it.
            self.loses_its_session(slot, "session closed");
            self.new_life(slot);
        } else if process.astray {
            self.find_again(slot);
        }
    }

    /// As the driver does: idle workers are offered to a run that wants some.
    fn settle(&mut self) {
        let idle: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, p)| p.session && !p.astray && !p.held && !p.gone)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in idle {
            if self.run.wants() == 0 {
                return;
            }
            let process = self.process(slot);
            process.held = true;
            let worker = process.id;
            self.feed(Event::Offered { worker });
        }
    }

    fn feed(&mut self, event: Event) {
        let was_over = self.run.has_ended();
        if self.tells {
            eprintln!("> {event:?}");
        }
        let effects = self.run.on(self.now, event);
        if self.tells {
            effects.iter().for_each(|effect| eprintln!("    {effect:?}"));
        }
        self.witness.look(was_over, &effects, &self.run);
        self.record(&effects);
        // One that has ended is history.
        if std::mem::take(&mut self.doomed) && !self.run.has_ended() {
            return self.coordinator_dies();
        }
        if self.keeps_transcript {
            self.transcript.extend(effects.iter().map(|effect| format!("{effect:?}")));
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    /// What the driver's journal does.
    fn record(&mut self, effects: &[Effect]) {
        let mut flushed = false;
        for effect in effects {
            match effect {
                Effect::Persist(Record::Run(status)) => (self.volatile.status, flushed) = ((**status).clone(), true),
                Effect::Persist(Record::Checkpoint(last)) => (self.volatile.last, flushed) = (Some(last.clone()), true),
                _ => {}
            }
        }
        let (reported, epochs_told) = self.run.told();
        (self.volatile.reported, self.volatile.epochs_told) = (reported, epochs_told);
        if flushed {
            self.durable = self.volatile.clone();
            self.witness_of_the_journal = self.witness.clone();
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Seat { generation, members, start, first_step, reported_step, save_only } => {
                use super::super::Start;
                match &start {
                    Start::Memory { .. } => self.tally.from_memory += 1,
                    Start::Checkpoint(_) => self.tally.from_checkpoints += 1,
                    Start::Submitted if generation.0 > 1 => self.tally.from_nothing += 1,
                    Start::Submitted => {}
                }
                for worker in &members {
                    let (members, start) = (members.clone(), start.clone());
                    self.mail(*worker, Mail::Seat { generation, members, start, first_step, reported_step, save_only });
                }
            }
            Effect::Order { worker, generation, order } => self.mail(worker, Mail::Order { generation, order }),
            Effect::Answer { worker, step, published: Some(_), .. } => self.mail(worker, Mail::Published(step)),
            Effect::Release { worker } => self.mail(worker, Mail::Release),
            Effect::Dismiss { worker } => {
                self.mail(worker, Mail::Dismiss);
            }
            Effect::Expel { worker, why } => {
                let process = self.process(worker.slot);
                if process.id == worker && process.session && !process.astray {
                    self.loses_its_session(worker.slot, &why);
                } else {
                    // One that never came back has no session to end.
                    self.feed(Event::Left { worker, cause: Departure { why, told: false } });
                }
            }
            Effect::Publish { staged, .. } => self.publishing = Some(staged),
            Effect::Persist(_) | Effect::Emit(_) | Effect::Prepare | Effect::RemoveStaging | Effect::Answer { .. } => {}
        }
    }

    fn mail(&mut self, worker: WorkerId, mail: Mail) {
        let process = self.process(worker.slot);
        if process.id == worker && process.session && !process.astray {
            process.mail.push_back(mail);
        }
    }

    fn judge(&mut self) {
        self.tally.generations = self.run.generation().0;
        let ended = self.witness.ended.clone().expect("an end that was told");
        if let Some(failure) = &ended.failure {
            // Faults can come thicker than steps; that is said, and is the only way to fail.
            assert!(failure.message.contains("generations in a row"), "failed: {failure:?}");
            self.tally.gave_up += 1;
            return;
        }
        self.tally.succeeded += 1;
        let total = self.length.total();
        assert_eq!(self.witness.told, total, "progress was told up to there only");
        let ends: Vec<u64> = (1..=self.length.epochs).map(|epoch| epoch * self.length.steps_per_epoch).collect();
        assert_eq!(self.witness.epochs.iter().copied().collect::<Vec<_>>(), ends, "epochs that were told");
        assert!(self.witness.durable.contains(&total), "the last checkpoint was not published");
        for process in self.processes.values() {
            if let Some(state) = process.state.as_ref().filter(|state| state.step == total) {
                assert_eq!(state.history, history(total), "`{}` did other steps", process.id);
            }
        }
    }
}

fn has_seat(process: &Process, generation: Generation) -> bool {
    !process.gone
        && process
            .mail
            .iter()
            .any(|mail| matches!(mail, Mail::Seat { generation: seated, .. } if *seated == generation))
}
