//! Model workers: what a real one does, without the numbers. Its state is a count of steps and a hash of how it came about.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{Generation, WorkerId, v1};

use super::super::{Event, Holding, JobEnd, Order, Report, Start};
use super::staged;

/// How long the run is.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub steps_per_epoch: u64,
    pub epochs: u64,
}

impl Length {
    pub fn total(&self) -> u64 {
        self.steps_per_epoch * self.epochs
    }

    fn ends_epoch(&self, step: u64) -> bool {
        step > 0 && step.is_multiple_of(self.steps_per_epoch)
    }
}

/// What a worker holds of the run in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub step: u64,
    pub epoch_closed: bool,
    /// Of all steps in their order: a step left out or done twice shows.
    pub history: u64,
    /// Ends of epochs, of which whoever was to tell may be gone before it did.
    epochs: Vec<u64>,
    /// Copies of checkpoints that nobody has published yet.
    snapshots: BTreeSet<u64>,
}

impl State {
    pub fn fresh(step: u64) -> Self {
        Self { step, epoch_closed: true, history: history(step), epochs: Vec::new(), snapshots: BTreeSet::new() }
    }

    fn apply(&mut self, length: Length) {
        self.history = after(self.history, self.step);
        self.step += 1;
        self.epoch_closed = !length.ends_epoch(self.step);
    }

    pub fn holding(&self) -> Holding {
        Holding { step: self.step, epoch_closed: self.epoch_closed }
    }
}

/// Of the first `steps` steps, each done once.
pub fn history(steps: u64) -> u64 {
    (0..steps).fold(1, after)
}

fn after(history: u64, step: u64) -> u64 {
    (history ^ step).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
}

/// What the members of a generation do together.
#[derive(Default)]
pub struct Group {
    arrived: BTreeMap<u64, BTreeSet<usize>>,
    orders: BTreeMap<u64, (bool, bool)>,
    /// What the source sends.
    sent: Option<State>,
}

/// What the coordinator has sent.
pub enum Mail {
    Seat {
        generation: Generation,
        members: Vec<WorkerId>,
        start: Start,
        first_step: u64,
        reported_step: u64,
        save_only: bool,
    },
    Order {
        generation: Generation,
        order: Order,
    },
    Published(u64),
    Release,
    Dismiss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Meet,
    Step,
    CloseEpoch,
    /// A last word together, so that the last step is known to be everybody's.
    Confirm,
}

pub struct Job {
    pub generation: Generation,
    pub members: Vec<WorkerId>,
    rank: usize,
    start: Start,
    first_step: u64,
    stage: Stage,
    /// Collectives completed.
    done: u64,
    waits: bool,
    aborted: bool,
    stop: bool,
    yields: bool,
    ordered: Option<Order>,
    confirmed: u64,
    reported: u64,
}

/// One process.
pub struct Process {
    pub id: WorkerId,
    pub paused: bool,
    /// Its session is open, as the coordinator sees it.
    pub session: bool,
    /// Given to the run.
    pub held: bool,
    pub gone: bool,
    pub mail: VecDeque<Mail>,
    pub out: VecDeque<Event>,
    pub job: Option<Job>,
    /// The job that ended last, and what was said of it.
    pub ended: Option<(Job, Report)>,
    pub state: Option<State>,
    /// The coordinator died, and it has not found the new one.
    pub astray: bool,
}

impl Process {
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            paused: false,
            session: true,
            held: false,
            gone: false,
            mail: VecDeque::new(),
            out: VecDeque::new(),
            job: None,
            ended: None,
            state: None,
            astray: false,
        }
    }

    pub fn works_in(&self, generation: Generation) -> bool {
        !self.gone && self.job.as_ref().is_some_and(|job| job.generation == generation && !job.aborted)
    }

    fn say(&mut self, generation: Generation, report: Report) {
        let worker = self.id;
        self.out.push_back(Event::Report { worker, generation, report });
    }

    /// The job under way ends, its state stays.
    fn end(&mut self, end: JobEnd) {
        let Some(job) = self.job.take() else { return };
        let meeting = job.stage == Stage::Meet && !matches!(end, JobEnd::Finished(_));
        // In the middle of receiving it holds nothing; who had it already, has it still.
        let lacks = matches!(&job.start, Start::Memory { lacking, .. } if lacking.contains(&(job.rank as u32)));
        if meeting && (lacks || !matches!(job.start, Start::Memory { .. })) {
            self.state = None;
        }
        let holding = self.state.as_ref().map(State::holding);
        let step = holding.map_or(job.first_step, |holding| holding.step);
        let report = Report::Ended { step, end, holding };
        self.say(job.generation, report.clone());
        self.ended = Some((job, report));
    }

    /// Of the seat that it holds, at work or not.
    pub fn generation(&self) -> Option<Generation> {
        let job = self.job.as_ref().or(self.ended.as_ref().map(|(job, _)| job));
        job.map(|job| job.generation)
    }

    /// The coordinator that came back knows so much: the rest is told again.
    pub fn carry_on(&mut self, reported: u64, length: Length) {
        self.astray = false;
        let ended = self.ended.take().filter(|_| self.job.is_none());
        let said = ended.map(|(job, report)| {
            self.job = Some(job);
            report
        });
        if let Some(job) = &mut self.job {
            job.reported = reported;
        }
        // What was told since the coordinator died is told once more with the rest.
        self.out.clear();
        self.report_progress(length);
        self.report_epochs(usize::MAX, length);
        self.stage_snapshots();
        if let Some(report) = said
            && let Some(job) = self.job.take()
        {
            self.say(job.generation, report.clone());
            self.ended = Some((job, report));
        }
    }

    fn abort(&mut self) {
        self.end(JobEnd::PeerLost { words: "aborted".into(), peer: None });
    }

    /// Its session is over: what it does has no meaning any more.
    pub fn start_over(&mut self, id: WorkerId) {
        *self = Self { paused: self.paused, ..Self::new(id) };
    }

    pub fn read_mail(&mut self) {
        match self.mail.pop_front() {
            None => {}
            Some(Mail::Seat { generation, members, start, first_step, reported_step, save_only }) => {
                self.abort();
                self.ended = None;
                let rank = members.iter().position(|member| *member == self.id).expect("a seat of one's own");
                self.job = Some(Job {
                    generation,
                    members,
                    rank,
                    start,
                    first_step,
                    stage: Stage::Meet,
                    done: 0,
                    waits: false,
                    aborted: false,
                    stop: false,
                    yields: false,
                    ordered: save_only.then_some(Order::Stop),
                    confirmed: first_step,
                    reported: reported_step,
                });
            }
            Some(Mail::Order { generation, order }) => {
                if let Some(job) = self.job.as_mut().filter(|job| job.generation == generation) {
                    match order {
                        Order::Stop => job.stop = true,
                        Order::Yield => job.yields = true,
                        Order::Abort => job.aborted = true,
                        Order::Checkpoint => {}
                    }
                }
            }
            Some(Mail::Published(step)) => {
                if let Some(state) = &mut self.state {
                    state.snapshots.retain(|kept| *kept > step);
                }
            }
            Some(Mail::Release) => {
                (self.held, self.state, self.ended) = (false, None, None);
            }
            Some(Mail::Dismiss) => self.gone = true,
        }
    }

    /// One move of its training thread. `lost`: a member of its generation that it cannot reach any more.
    pub fn advance(&mut self, group: &mut Group, length: Length, lost: Option<WorkerId>) {
        let Some(job) = &mut self.job else { return };
        if job.aborted {
            return self.abort();
        }
        let (rank, world, number) = (job.rank, job.members.len(), job.done);
        if !job.waits {
            job.waits = true;
            group.arrived.entry(number).or_default().insert(rank);
            if job.stage == Stage::Step {
                let orders = group.orders.entry(number).or_default();
                *orders = (orders.0 | job.stop, orders.1 | job.yields);
            }
            if matches!(&job.start, Start::Memory { source, .. } if *source as usize == rank)
                && job.stage == Stage::Meet
            {
                group.sent = self.state.clone();
            }
            return;
        }
        if group.arrived[&number].len() < world {
            if let Some(peer) = lost {
                self.end(JobEnd::PeerLost { words: "connection closed".into(), peer: Some(peer) });
            }
            return;
        }
        job.waits = false;
        job.done += 1;
        match job.stage {
            Stage::Meet => self.met(group),
            Stage::Step => {
                let state = self.state.as_mut().expect("who steps has a state");
                job.confirmed = state.step;
                state.apply(length);
                let (stop, yields) = group.orders[&number];
                job.ordered = if stop { Some(Order::Stop) } else { yields.then_some(Order::Yield) };
            }
            Stage::CloseEpoch => {
                let state = self.state.as_mut().expect("who steps has a state");
                job.confirmed = state.step;
                state.epoch_closed = true;
                state.epochs.push(state.step);
                state.snapshots.insert(state.step);
                self.report_progress(length);
                self.report_epochs(1, length);
                self.stage_snapshots();
            }
            Stage::Confirm => {
                let state = self.state.as_mut().expect("who steps has a state");
                job.confirmed = state.step;
                state.snapshots.insert(state.step);
                let end = match job.ordered {
                    Some(order) => JobEnd::Ordered(order),
                    None => JobEnd::Finished("all epochs".into()),
                };
                self.report_progress(length);
                self.stage_snapshots();
                return self.end(end);
            }
        }
        self.choose_stage(length);
    }

    fn met(&mut self, group: &Group) {
        let Some(job) = &self.job else { return };
        match &job.start {
            Start::Memory { lacking, .. } if lacking.contains(&(job.rank as u32)) => {
                let sent = group.sent.clone().expect("the source has sent its state");
                self.state = Some(State { snapshots: BTreeSet::new(), ..sent });
            }
            Start::Memory { .. } => {
                let held = self.state.as_ref().expect("who is said to hold a state holds one");
                let sent = group.sent.as_ref().expect("the source has sent its state");
                assert_eq!((held.holding(), held.history), (sent.holding(), sent.history), "two states of one step");
            }
            Start::Submitted | Start::Checkpoint(_) => self.state = Some(State::fresh(job.first_step)),
        }
        let state = self.state.as_ref().expect("just set");
        assert_eq!(state.step, job.first_step, "the state is not of the step that was agreed on");
    }

    /// What comes after a collective.
    fn choose_stage(&mut self, length: Length) {
        let Some(state) = self.state.clone() else { return };
        let Some(job) = &mut self.job else { return };
        let began = job.done == 1;
        self.report_progress(length);
        if began {
            // Whoever was to say so may be gone.
            self.report_epochs(usize::MAX, length);
            self.stage_snapshots();
        }
        let Some(job) = &mut self.job else { return };
        job.stage = if !state.epoch_closed {
            Stage::CloseEpoch
        } else if job.ordered == Some(Order::Yield) {
            return self.end(JobEnd::Ordered(Order::Yield));
        } else if job.ordered.is_some() || state.step == length.total() {
            Stage::Confirm
        } else {
            Stage::Step
        };
    }

    /// The newest so many.
    fn report_epochs(&mut self, most: usize, length: Length) {
        let (Some(job), Some(state)) = (&self.job, &self.state) else { return };
        if job.rank == 0 {
            let generation = job.generation;
            let from = state.epochs.len().saturating_sub(most);
            let ends: Vec<u64> = state.epochs.iter().skip(from).copied().collect();
            for step in ends {
                let epoch = step / length.steps_per_epoch - 1;
                self.say(generation, Report::Epoch(v1::EpochEnded { epoch, step, ..Default::default() }));
            }
        }
    }

    /// Of confirmed steps; no window spans two epochs.
    fn report_progress(&mut self, length: Length) {
        let Some(job) = &self.job else { return };
        let (generation, confirmed, mut first_step) = (job.generation, job.confirmed, job.reported);
        if job.rank != 0 {
            return;
        }
        while first_step < confirmed {
            let ends = (first_step / length.steps_per_epoch + 1) * length.steps_per_epoch;
            let step = confirmed.min(ends);
            self.say(generation, Report::Progress(v1::Progress { first_step, step, ..Default::default() }));
            first_step = step;
        }
        if let Some(job) = &mut self.job {
            job.reported = first_step;
        }
    }

    fn stage_snapshots(&mut self) {
        let (Some(job), Some(state)) = (&self.job, &self.state) else { return };
        if job.rank == 0 {
            let generation = job.generation;
            let kept: Vec<u64> = state.snapshots.iter().copied().filter(|step| *step <= job.confirmed).collect();
            for step in kept {
                self.say(generation, Report::Staged(staged(step, None)));
            }
        }
    }
}
