//! The one task that owns every run and the pool. Calls come in by the inbox and become events; the core decides; [`outgoing`] carries
//! out. Transitions are logged here and nowhere else.

mod outgoing;
mod seating;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{Deadlines, Generation, RunId, WorkerId, v1};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::MissedTickBehavior,
};

use crate::{
    archive::Archive,
    clock::{Clock, Timestamp},
    history::{CLEAR_OF, History},
    inbox::{Call, Inbox, Reply},
    journal::{Entry, Journal},
    nursery::Nursery,
    pool::{Outbox, Place, Pool},
    preparation::{BuildManifest, Preparation},
    refusal::{Refusal, RefusalKind},
    run::{Departure, Event, Order, Report, Restored, Run},
    submission::Submission,
    tracking::{self, Tracker},
};
use outgoing::Outgoing;

/// Calls taken together, so that their records share one commit.
const TOGETHER: usize = 64;

/// Runs that may wait or train at a time.
const LIVE_AT_MOST: usize = 1000;

pub struct Driver {
    pub clock: Clock,
    pub inbox: Inbox,
    pub journal: Journal,
    pub history: History,
    pub pool: Pool,
    pub archive: Archive,
    pub tracker: Tracker,
    pub nursery: Nursery,
    pub events: broadcast::Sender<Arc<v1::RunEvent>>,
    pub build_manifest: Arc<BuildManifest>,
    /// Nobody but this process starts workers, and it does not start them again.
    pub own_workers: bool,
    pub deadlines: Deadlines,
    pub state: DriverState,
}

/// What the driver makes itself.
#[derive(Default)]
pub struct DriverState {
    /// Runs to be taken up again before anything else is done.
    restored: Vec<Restored>,
    /// By id, which is by the order of submission.
    live: BTreeMap<RunId, Live>,
    out: Vec<Outgoing>,
    last_id: u64,
    /// Since when something is committed that is not durable.
    unflushed: Option<Instant>,
    /// Time of the newest event that is committed, durable or not.
    newest_event: u64,
}

impl DriverState {
    pub fn restoring(restored: Vec<Restored>) -> Self {
        Self { restored, ..Self::default() }
    }
}

struct Live {
    run: Run,
    submission: Submission,
    preparation: Option<Preparation>,
    sequence: u64,
    /// It has begun in a former life of this coordinator.
    again: bool,
}

impl Driver {
    /// Until it is told to shut down, or has to give up: then it says why.
    pub async fn drive(mut self, mut inbox: mpsc::Receiver<Call>, tick: Duration) -> Option<v1::Failure> {
        for kept in std::mem::take(&mut self.state.restored) {
            self.restore(kept);
        }
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut calls = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                _ = inbox.recv_many(&mut calls, TOGETHER) => {}
                _ = ticks.tick() => self.tick(),
            }
            let mut farewell = None;
            for call in calls.drain(..) {
                match call {
                    Call::ShutDown { runs_go_on, reply } => farewell = Some((runs_go_on, reply)),
                    call => self.take(call),
                }
            }
            match &farewell {
                Some((true, _)) => {}
                Some((false, _)) => self.feed_all(|| Event::ShutDown),
                None => self.settle(),
            }
            if let Err(failure) = self.carry_out(farewell.is_none()).await {
                // The workers of one that is deposed are its successor's.
                if self.journal.deposed().is_none() {
                    self.see_everyone_off();
                }
                return Some(failure);
            }
            if let Some((runs_go_on, reply)) = farewell {
                if !runs_go_on {
                    self.see_everyone_off();
                }
                let flushed = self.flush().await;
                let _ = reply.send(Ok(()));
                return flushed.err();
            }
        }
    }

    fn take(&mut self, call: Call) {
        match call {
            Call::Submit { submission, reply } => self.submit(*submission, reply),
            Call::Get { run, reply } => {
                let status = self.status(&run);
                self.reply(reply, status);
            }
            Call::List { reply } => {
                let live = self.state.live.values().map(|live| self.status_of(live));
                let mut runs: Vec<_> = self.history.all().cloned().chain(live).collect();
                runs.sort_by(|a, b| b.run_id.cmp(&a.run_id));
                self.reply(reply, Ok(runs));
            }
            Call::Stop { run, now, reply } => self.stop(&run, now, reply),
            Call::Find { run, reply } => {
                let found = self.status(&run).map(|status| status.run_id);
                self.reply(reply, found);
            }
            Call::Workers { reply } => {
                let workers = self.pool.statuses(self.clock.now());
                self.reply(reply, Ok(workers));
            }
            Call::Join { about, outbox, hang_up, reply } => {
                if let Some((run, place)) = self.seat_kept(&about) {
                    return self.returned(run, place, about, outbox, hang_up, reply);
                }
                let joined = self.pool.join(self.clock.now(), about.clone(), outbox, hang_up);
                self.joined(&about, joined, reply);
            }
            Call::Heartbeat { worker, run, generation, beat } => {
                let v1::Heartbeat { step, system, waiting, pulse, step_seconds } = beat;
                self.pool.heard(self.clock.now(), worker, (!run.is_empty()).then_some(step));
                self.pool.pace(worker, step_seconds);
                if !run.is_empty() {
                    self.feed_named(
                        &run,
                        Event::Report { worker, generation, report: Report::Step { step, waiting, pulse } },
                    );
                    if let Some(system) = system {
                        self.feed_named(&run, Event::Report { worker, generation, report: Report::System(system) });
                    }
                }
            }
            Call::Report { worker, run, generation, report } => {
                self.pool.heard(self.clock.now(), worker, step_of(&report));
                if let (Report::Ended { .. }, Ok(id)) = (&report, run.parse()) {
                    self.pool.job_ended(worker, &id, generation);
                }
                self.feed_named(&run, Event::Report { worker, generation, report });
            }
            Call::Left { worker, why } => self.lose(worker, why),
            Call::Drain { worker, why } => {
                tracing::info!(%worker, %why, "worker wants to leave");
                match self.pool.run_of(worker) {
                    Some(run) => self.feed(&run, Event::Drain { worker }),
                    None => self.dismiss(worker),
                }
            }
            Call::Exited { worker, why, successor } => self.exited(worker, why, successor),
            Call::Prepared { run, outcome } => self.prepared(&run, outcome),
            Call::Published { run, staged, outcome } => self.feed(&run, Event::Published { staged, outcome }),
            Call::Tracked { run, tracking, reply } => {
                self.state.out.push(Outgoing::Record(Entry::Tracking { run, tracking }));
                self.reply(reply, Ok(()));
            }
            Call::Warn { run, message } => self.feed_named(&run, Event::Warned(message)),
            // Taken by `drive`.
            Call::ShutDown { .. } => {}
        }
    }

    fn submit(&mut self, submission: Submission, reply: Reply<RunId>) {
        let name = &submission.spec.name;
        let namesake = self.state.live.values().find(|live| live.submission.spec.name == *name);
        if let Some(live) = namesake {
            let message = format!("run `{}`, named `{name}` too, has not ended", live.run.plan().id);
            let hint = "wait for it to end, stop it with `lockstep stop`, or choose another `name`";
            return self.reply(reply, Err(Refusal::new(RefusalKind::Conflict, message, hint)));
        }
        if self.state.live.len() >= LIVE_AT_MOST {
            let message = format!("{LIVE_AT_MOST} runs wait or train already");
            let hint = "wait for some to end, or stop some";
            return self.reply(reply, Err(Refusal::new(RefusalKind::Exhausted, message, hint)));
        }
        let now = self.clock.now();
        // Ids sort by submission, also within a millisecond.
        self.state.last_id = (now.unix_micros() / 1000).max(self.state.last_id + 1);
        let id = RunId::new(self.state.last_id, ulid::Ulid::new().random());
        let run = Run::new(submission.plan(id.clone(), self.deadlines), now);
        if let Some(tracking) = &submission.spec.tracking {
            let record = Box::new(tracking::first_record(tracking));
            self.state.out.push(Outgoing::Record(Entry::Tracking { run: id.to_string(), tracking: record }));
            self.tracker.begin(&id.to_string(), tracking);
        }
        self.state.live.insert(id.clone(), Live { run, submission, preparation: None, sequence: 0, again: false });
        self.feed(&id, Event::Submitted);
        self.reply(reply, Ok(id));
    }

    fn stop(&mut self, run: &str, now: bool, reply: Reply<()>) {
        // Whoever names none means what goes on, not what waits behind it.
        let training = || self.state.live.values().rev().find(|live| live.run.is_training());
        let status = match run {
            "" => training().map_or_else(|| self.status(run), |live| Ok(self.status_of(live))),
            run => self.status(run),
        };
        let answer = match status {
            Err(refusal) => Err(refusal),
            Ok(status) if status.ended_unix_micros > 0 => Err(Refusal::new(
                RefusalKind::Conflict,
                format!("run `{}` has ended: {}", status.run_id, status.standing),
                "there is nothing to stop",
            )),
            Ok(status) => {
                self.feed_named(&status.run_id, Event::Stop { now });
                Ok(())
            }
        };
        self.reply(reply, answer);
    }

    fn joined(
        &mut self,
        about: &v1::Join,
        joined: Result<(WorkerId, Option<WorkerId>), Refusal>,
        reply: Reply<WorkerId>,
    ) {
        match joined {
            Ok((worker, former)) => {
                tracing::info!(%worker, host = %about.host, pid = about.pid, device = %about.device, "worker joined");
                if let Some(former) = former {
                    self.lose(former, format!("replaced by `{worker}`"));
                }
                self.reply(reply, Ok(worker));
            }
            Err(refusal) => {
                tracing::warn!(slot = about.slot, life = about.life, reason = %refusal, "worker refused");
                let nobody_else_will_come = self.own_workers;
                self.feed_all(|| Event::TurnedAway { why: refusal.message.clone(), nobody_else_will_come });
                self.reply(reply, Err(refusal));
            }
        }
    }

    /// The seat that a worker says it holds, if the run still counts on it.
    fn seat_kept(&self, about: &v1::Join) -> Option<(RunId, Place)> {
        let holding = about.holding.as_ref().filter(|_| about.version == proto::VERSION)?;
        let run: RunId = holding.run_id.parse().ok()?;
        let generation = Generation(holding.generation);
        let worker = WorkerId { slot: about.slot, life: about.life };
        let live = self.state.live.get(&run).filter(|live| live.run.awaits(worker, generation))?;
        let members = live.run.members();
        let rank = members.iter().position(|member| *member == worker)?;
        let [rank, world] = [rank, members.len()].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Some((run.clone(), Place { run, generation, rank, world }))
    }

    fn returned(
        &mut self,
        run: RunId,
        place: Place,
        about: v1::Join,
        outbox: Outbox,
        hang_up: oneshot::Sender<()>,
        reply: Reply<WorkerId>,
    ) {
        let step = about.holding.as_ref().map_or(0, |holding| holding.step);
        let worker = self.pool.rejoin(self.clock.now(), about, outbox, hang_up, place);
        tracing::info!(%worker, %run, step, "worker is back in its seat");
        self.feed(&run, Event::Returned { worker, step });
        self.reply(reply, Ok(worker));
    }

    /// Takes up a run that was live when this coordinator's former life ended.
    fn restore(&mut self, kept: Restored) {
        let Ok(id) = kept.status.run_id.parse::<RunId>() else { return };
        let Some(submission) = Submission::again(&kept.status) else { return };
        tracing::info!(run = %id, step = kept.reported, "run is taken up again");
        let sequence = kept.sequence + CLEAR_OF;
        let run = Run::restored(submission.plan(id.clone(), self.deadlines), self.clock.now(), kept);
        self.state.last_id = self.state.last_id.max(run.created_millis());
        let live = Live { run, submission, preparation: None, sequence, again: true };
        self.state.live.insert(id.clone(), live);
        self.feed(&id, Event::Restored);
    }

    /// A session is over, whatever the process does.
    fn lose(&mut self, worker: WorkerId, why: String) {
        if self.pool.leave(worker, &why) {
            tracing::warn!(%worker, %why, "worker left");
            self.feed_all(|| Event::Left { worker, cause: Departure { why: why.clone(), told: false } });
        }
    }

    /// The process itself has ended. `successor`: whoever started it starts another in its place.
    fn exited(&mut self, worker: WorkerId, why: String, successor: bool) {
        if !self.pool.leave(worker, &why) {
            self.pool.explain_departure(worker, &why);
        }
        tracing::info!(%worker, %why, successor, "worker process ended");
        self.feed_all(|| Event::Left { worker, cause: Departure { why: why.clone(), told: true } });
        if !successor {
            let nobody_else_will_come = self.own_workers;
            let why = format!("worker `{worker}` ended: {why}");
            self.feed_all(|| Event::TurnedAway { why: why.clone(), nobody_else_will_come });
        }
    }

    /// Tells a worker to end, in peace.
    fn dismiss(&mut self, worker: WorkerId) {
        self.send(worker, v1::coordinator_message::Message::Dismiss(v1::Dismiss {}));
        self.pool.leave(worker, "dismissed");
    }

    fn prepared(&mut self, run: &RunId, outcome: Result<Box<Preparation>, v1::Failure>) {
        let event = match outcome {
            Err(failure) => Event::Refused(failure),
            Ok(preparation) => match self.state.live.get_mut(run) {
                Some(live) if !live.run.has_ended() => {
                    let prepared = preparation.summary.clone();
                    live.preparation = Some(*preparation);
                    Event::Prepared(prepared)
                }
                // Stopped meanwhile.
                _ => return self.archive.remove_staging(preparation.claim),
            },
        };
        self.feed(run, event);
    }

    fn tick(&mut self) {
        for (worker, why) in self.pool.lost(self.clock.now()) {
            self.lose(worker, why);
        }
        self.feed_all(|| Event::Tick);
    }

    /// Gives idle workers to runs, in the order of their submission, and tells runs whom they wait behind.
    fn settle(&mut self) {
        let mut idle = self.pool.idle().into_iter();
        let mut first: Option<RunId> = None;
        let ids: Vec<RunId> = self.state.live.keys().cloned().collect();
        for id in ids {
            while self.state.live.get(&id).is_some_and(|live| live.run.wants() > 0) {
                let Some(worker) = idle.next() else { break };
                self.pool.hold(worker, &id);
                self.feed(&id, Event::Offered { worker });
            }
            let Some(live) = self.state.live.get(&id).filter(|live| !live.run.has_ended()) else { continue };
            let behind = first.clone().filter(|_| live.run.wants() > 0);
            if live.run.behind() != behind.as_ref() {
                self.feed(&id, Event::Queued { behind });
            }
            first.get_or_insert(id);
        }
    }

    fn feed(&mut self, id: &RunId, event: Event) {
        let Some(live) = self.state.live.get_mut(id) else { return };
        let effects = live.run.on(self.clock.now(), event);
        self.state.out.extend(effects.into_iter().map(|effect| Outgoing::Effect(id.clone(), Box::new(effect))));
    }

    fn feed_named(&mut self, run: &str, event: Event) {
        match run.parse() {
            Ok(id) if self.state.live.contains_key(&id) => self.feed(&id, event),
            _ => tracing::debug!(run, ?event, "message for a run that is not live"),
        }
    }

    fn feed_all(&mut self, event: impl Fn() -> Event) {
        let ids: Vec<RunId> = self.state.live.keys().cloned().collect();
        for id in ids {
            self.feed(&id, event());
        }
    }

    /// Answers leave behind the records of what they speak of.
    fn reply<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Refusal>) {
        self.state.out.push(Outgoing::Reply(Box::new(move || drop(reply.send(answer)))));
    }

    fn status(&self, run: &str) -> Result<v1::RunStatus, Refusal> {
        let live = match run {
            "" => self.state.live.values().next_back(),
            run => run.parse().ok().and_then(|id: RunId| self.state.live.get(&id)),
        };
        if let Some(live) = live {
            return Ok(self.status_of(live));
        }
        let past = match run {
            "" => self.history.all().last(),
            run => self.history.get(run),
        };
        past.cloned().ok_or_else(|| Refusal::no_such_run(run))
    }

    fn status_of(&self, live: &Live) -> v1::RunStatus {
        let mut status = live.run.status(self.clock.now());
        status.workers = self.pool.statuses_of(self.clock.now(), &live.run.plan().id);
        status
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn step_of(report: &Report) -> Option<u64> {
    match report {
        Report::Step { step, .. } | Report::Ended { step, .. } => Some(*step),
        Report::Progress(progress) => Some(progress.step),
        Report::Epoch(epoch) => Some(epoch.step),
        Report::Staged(_) | Report::Warning(_) | Report::System(_) => None,
    }
}

/// As workers read it.
fn order_kind(order: Order) -> v1::OrderKind {
    match order {
        Order::Stop => v1::OrderKind::Stop,
        Order::Checkpoint => v1::OrderKind::Checkpoint,
        Order::Abort => v1::OrderKind::Abort,
        Order::Yield => v1::OrderKind::Yield,
    }
}
