//! Carrying out what the core decided. Everything that was decided together is recorded in one commit first; only then does any of it
//! leave. While the disk refuses, or etcd is away, nothing leaves: workers train on, calls wait. A coordinator of its own workers, whom
//! nobody else can reach, does not wait for ever, and one that leads no more not at all.

use std::{sync::Arc, time::Duration, time::Instant};

use proto::{
    RunId, WorkerId,
    v1::{self, coordinator_message, run_event},
};

use super::{Driver, order_kind};
use crate::{
    checkpoints::publish,
    inbox::Call,
    journal::{Entry, JournalError},
    preparation,
    run::{Departure, Effect, Event, Notice, Record, Staged},
};

/// How long progress may stay off the disk.
const FLUSH_AFTER: Duration = Duration::from_secs(2);

/// Between two tries to write to a journal that refuses.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a coordinator of its own workers tries.
const GIVE_UP_AFTER: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(10) };

pub(super) enum Outgoing {
    Effect(RunId, Box<Effect>),
    Record(Entry),
    Announce(Arc<v1::RunEvent>),
    Reply(Box<dyn FnOnce() + Send>),
}

impl Driver {
    /// Until nothing is left to do. `admit`: give workers that become idle to who waits for them.
    pub(super) async fn carry_out(&mut self, admit: bool) -> Result<(), v1::Failure> {
        while !self.state.out.is_empty() {
            let (entries, out) = self.recorded();
            if !entries.is_empty() {
                let durable = entries.iter().any(Entry::must_be_durable);
                self.commit(entries, durable).await?;
            }
            for outgoing in out {
                match outgoing {
                    Outgoing::Effect(run, effect) => self.perform(&run, *effect),
                    // Taken by `recorded`.
                    Outgoing::Record(_) => {}
                    Outgoing::Announce(event) => {
                        log(&event);
                        // Without watchers nobody receives.
                        let _ = self.events.send(event);
                    }
                    Outgoing::Reply(send) => send(),
                }
            }
            self.retire();
            if admit {
                self.settle();
            }
        }
        if self.state.unflushed.is_some_and(|since| since.elapsed() > FLUSH_AFTER) {
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes what is to go out; numbers its events.
    fn recorded(&mut self) -> (Vec<Entry>, Vec<Outgoing>) {
        let unix_micros = self.now().unix_micros();
        let mut entries = Vec::new();
        let mut rest = Vec::new();
        for outgoing in std::mem::take(&mut self.state.out) {
            let (id, effect) = match outgoing {
                Outgoing::Effect(id, effect) => (id, effect),
                Outgoing::Record(entry) => {
                    entries.push(entry);
                    continue;
                }
                outgoing => {
                    rest.push(outgoing);
                    continue;
                }
            };
            match *effect {
                Effect::Persist(record) => {
                    let run = id.to_string();
                    entries.push(match record {
                        Record::Run(status) => Entry::Run(status),
                        Record::Checkpoint(checkpoint) => Entry::Checkpoint { run, checkpoint },
                        Record::Pruned { step } => Entry::Pruned { run, step },
                    });
                }
                Effect::Emit(notice) => {
                    let Some(live) = self.state.live.get_mut(&id) else { continue };
                    live.sequence += 1;
                    let (sequence, run_id) = (live.sequence, id.to_string());
                    let event = Arc::new(v1::RunEvent { sequence, unix_micros, run_id, event: Some(notice) });
                    entries.push(Entry::Event(Arc::clone(&event)));
                    rest.push(Outgoing::Announce(event));
                }
                effect => rest.push(Outgoing::Effect(id, Box::new(effect))),
            }
        }
        (entries, rest)
    }

    async fn commit(&mut self, entries: Vec<Entry>, durable: bool) -> Result<(), v1::Failure> {
        let entries = Arc::new(entries);
        let began = Instant::now();
        loop {
            let (journal, written) = (self.journal.clone(), Arc::clone(&entries));
            let committed = tokio::task::spawn_blocking(move || journal.commit(&written, durable)).await;
            match committed {
                Ok(Ok(())) => break,
                Ok(Err(error @ JournalError::Deposed(_))) => return Err(self.journal.failure(&error)),
                Ok(Err(error)) => {
                    complain(&error);
                    if self.own_workers && began.elapsed() >= GIVE_UP_AFTER {
                        return Err(self.journal.failure(&error));
                    }
                }
                Err(error) => tracing::error!(%error, "journal writer ended"),
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
        let times = entries.iter().map(|entry| if let Entry::Event(event) = entry { event.unix_micros } else { 0 });
        self.state.newest_event = times.max().unwrap_or_default().max(self.state.newest_event);
        if durable {
            self.tracker.durable(self.state.newest_event);
        }
        self.state.unflushed = if durable { None } else { self.state.unflushed.or_else(|| Some(Instant::now())) };
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), v1::Failure> {
        if self.state.unflushed.is_some() {
            self.commit(Vec::new(), true).await?;
        }
        Ok(())
    }

    fn perform(&mut self, run: &RunId, effect: Effect) {
        match effect {
            // Taken by `recorded`.
            Effect::Persist(_) | Effect::Emit(_) => {}
            Effect::Prepare => self.prepare(run),
            Effect::Seat { generation, members, start, first_step, reported_step, save_only } => {
                let common = v1::Seat { first_step, reported_step, save_only, ..v1::Seat::default() };
                self.seat(run, generation, &members, &start, common);
            }
            Effect::Order { worker, generation, order } => {
                let order =
                    v1::Order { run_id: run.to_string(), generation: generation.0, kind: order_kind(order).into() };
                self.send(worker, coordinator_message::Message::Order(order));
            }
            Effect::Publish { staged, best } => self.publish(run, staged, best),
            Effect::Answer { worker, staged, step, published } => {
                let staged_path = staged.to_string_lossy().into_owned();
                let answer = v1::CheckpointPublished { staged_path, path: published.unwrap_or_default(), step };
                self.send(worker, coordinator_message::Message::Published(answer));
            }
            Effect::RemoveStaging => {
                let preparation = self.state.live.get(run).and_then(|live| live.preparation.as_ref());
                if let Some(preparation) = preparation {
                    self.archive.remove_staging(Arc::clone(&preparation.claim));
                }
            }
            Effect::Release { worker } => {
                self.pool.release(self.clock.now(), worker);
                self.send(worker, coordinator_message::Message::Release(v1::Release { run_id: run.to_string() }));
            }
            Effect::Expel { worker, why } if self.pool.about(worker).is_some() => self.lose(worker, why),
            // One that never came back has no session to end.
            Effect::Expel { worker, why } => {
                self.feed(run, Event::Left { worker, cause: Departure { why, told: false } })
            }
            Effect::Dismiss { worker } => self.dismiss(worker),
        }
    }

    /// Who cannot be reached has left.
    pub(super) fn send(&mut self, worker: WorkerId, message: coordinator_message::Message) {
        if let Err(why) = self.pool.send(worker, message) {
            self.lose(worker, why);
        }
    }

    fn prepare(&mut self, run: &RunId) {
        let Some(live) = self.state.live.get(run) else { return };
        let (inbox, build) = (self.inbox.clone(), Arc::clone(&self.build_manifest));
        let (id, spec, resume_from) = (run.clone(), live.submission.spec.clone(), live.submission.resume_from.clone());
        let best_by = live.run.plan().best_by.clone();
        let again = live.again;
        let from_another = again && self.journal.is_shared();
        let started = self.nursery.spawn(async move {
            let run = id.clone();
            let prepared = tokio::task::spawn_blocking(move || {
                preparation::prepare(&id, &spec, &resume_from, best_by.as_deref(), &*build, again, from_another)
            })
            .await;
            let outcome = match prepared {
                Ok(outcome) => outcome.map(Box::new),
                Err(_) => Err(broken("preparing the run broke off", "the coordinator's log says where")),
            };
            inbox.tell(Call::Prepared { run, outcome }).await;
        });
        if !started {
            self.feed(run, Event::Refused(broken("too many runs are prepared at once", "submit it again")));
        }
    }

    fn publish(&mut self, run: &RunId, staged: Staged, best: bool) {
        let Some(live) = self.state.live.get(run) else { return };
        let Some(preparation) = &live.preparation else { return };
        let checkpoint = &live.submission.spec.checkpoint;
        let path = staged.path.clone();
        let job = publish::Job {
            claim: Arc::clone(&preparation.claim),
            run: run.clone(),
            staged,
            best,
            best_so_far: live.run.best().map(|best| best.step),
            keep: checkpoint.keep,
            keep_initial: checkpoint.initial,
        };
        if !self.archive.publish(job) {
            let why = "too many checkpoints wait for the disk".to_owned();
            self.feed(run, Event::Published { staged: path, outcome: Err(why) });
        }
    }

    /// Ended runs are history, once all that they decided is carried out.
    fn retire(&mut self) {
        let pending = |id: &RunId, out: &[Outgoing]| {
            out.iter().any(|outgoing| matches!(outgoing, Outgoing::Effect(run, _) if run == id))
        };
        let now = self.now();
        let (out, history) = (&self.state.out, &mut self.history);
        self.state.live.retain(|id, live| {
            let over = live.run.has_ended() && !pending(id, out);
            if over {
                history.add(live.run.status(now));
            }
            !over
        });
    }

    /// Every worker is told to go; sessions end behind it.
    pub(super) fn see_everyone_off(&mut self) {
        for worker in self.pool.everyone() {
            // One that does not read any more is gone already.
            let _ = self.pool.send(worker, coordinator_message::Message::Dismiss(v1::Dismiss {}));
            self.pool.leave(worker, "dismissed");
        }
    }
}

fn broken(message: &str, hint: &str) -> v1::Failure {
    v1::Failure { message: message.into(), causes: Vec::new(), hint: hint.into(), input_is_wrong: false }
}

fn complain(error: &JournalError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(%error, %cause, hint = error.hint(), "journal refused a record, trying again");
}

fn log(event: &v1::RunEvent) {
    let run = &event.run_id;
    match &event.event {
        Some(run_event::Event::Standing(standing)) => tracing::info!(%run, standing = %standing.words, "run"),
        Some(run_event::Event::Seated(seated)) => {
            tracing::info!(%run, generation = seated.generation, workers = seated.workers.join(" "), "workers seated");
        }
        Some(run_event::Event::Epoch(epoch)) => {
            tracing::info!(%run, epoch = epoch.epoch + 1, step = epoch.step, loss = epoch.train_loss, "epoch ended");
        }
        Some(run_event::Event::Checkpoint(checkpoint)) => {
            tracing::info!(%run, step = checkpoint.step, best = checkpoint.best, path = %checkpoint.path, "checkpoint published");
        }
        Some(Notice::Lost(lost)) => {
            tracing::warn!(%run, worker = lost.worker, generation = lost.generation, step = lost.step, why = lost.why, "member lost");
        }
        Some(Notice::Warning(warning)) => tracing::warn!(%run, warning = %warning.message, "run"),
        Some(run_event::Event::Progress(_) | run_event::Event::System(_) | run_event::Event::Ended(_)) | None => {}
    }
}
