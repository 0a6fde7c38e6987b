//! The verb `train`: a coordinator in this process, workers beside it, one run from its document to its end. Whatever happens on the
//! way, nothing is left running.

mod log_folders;

use std::{collections::BTreeMap, path::Path, pin::pin, process::ExitCode, time::Duration};

use coordinator::Coordinator;
use proto::{
    RunSpec, WorkerId,
    spec::check::to_toml,
    v1::{self, ListWorkersRequest, Phase, RunEvent, run_event::Event},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    args::{Device, TrainArgs},
    chaos::Chaos,
    children::{self, Commander, Crew, Exit, Post},
    client::{Client, Events},
    document,
    errors::Fault,
    print,
    remote::verdict,
    resume::resume_from,
    serve,
    signals::Interrupts,
    tracking,
    view::{Story, View},
};
use log_folders::log_folder;

/// How long workers may take to go when the coordinator has dismissed them, and when we tell them too.
const GO_WITHIN: Duration = Duration::from_secs(2);
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How long a run may take to stop at once before its workers are killed, and to notice that they were.
const STOP_WITHIN: Duration = Duration::from_secs(5);
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// How long the process of a worker that the coordinator has given up may take to be gone, or to be back, before it is killed.
const LET_BE: Duration = Duration::from_secs(1);

/// How often a run whose events are not seen is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Lines of a failed worker's log that are shown.
const LAST_LINES: usize = 12;

pub async fn train(args: TrainArgs, log: Option<&str>) -> Result<ExitCode, Fault> {
    Box::pin(train_under(None, args, log)).await
}

/// Trains while this is done to the run.
pub async fn train_under(chaos: Option<Chaos>, args: TrainArgs, log: Option<&str>) -> Result<ExitCode, Fault> {
    let mut flags = Vec::new();
    flags.extend(args.workers.map(|workers| ("cluster.workers", workers.to_string())));
    flags.extend(args.device.map(|device| ("cluster.device", device.word().to_owned())));
    let spec = document::load(&args.document, &flags)?;
    let resume = resume_from(&spec, args.resume.as_deref())?;
    let spec = document::absolute(spec)?;
    if resume.is_empty() {
        document::find_module(&spec)?;
    }
    let binary = children::find()?;
    let state = match &args.state {
        Some(state) => document::absolute_path(state)?,
        None => spec.checkpoint.dir.join(".state"),
    };
    // Before anything starts: an interrupt from here on ends things in order.
    let interrupts = Interrupts::listen()?;
    let view = View::new(args.json, spec.best_by());

    let coordinator = serve::for_one_run(args.listen, &state).await?;
    let address = format!("http://{}", coordinator.address());
    let muster = || {
        let logs = log_folder(&state, &spec.name)?;
        let device = match spec.cluster.device {
            proto::spec::Device::Auto => Device::Auto,
            proto::spec::Device::Cpu => Device::Cpu,
            proto::spec::Device::Cuda => Device::Cuda,
        };
        // What the terminal is spared belongs into their files.
        let filter = log.unwrap_or("info");
        let post = Post {
            binary: binary.clone(),
            coordinator: address.clone(),
            device,
            logs: logs.clone(),
            filter: filter.to_owned(),
            max_restarts: args.max_restarts,
        };
        Ok::<_, Fault>((Crew::muster(post, spec.cluster.workers)?, logs))
    };
    match muster() {
        Ok((crew, logs)) => {
            let launch = Launch {
                coordinator,
                crew,
                interrupts,
                asked: 0,
                view,
                exits: Exits::default(),
                errands: JoinSet::new(),
                chaos,
            };
            launch.carry_out(&binary, &address, &spec, resume, &logs, &state).await
        }
        Err(fault) => {
            coordinator.shutdown().await;
            Err(fault)
        }
    }
}

/// All that must be ended again.
struct Launch {
    coordinator: Coordinator,
    crew: Crew,
    interrupts: Interrupts,
    /// How often they asked to stop; 2: at once, 3: by killing.
    asked: u32,
    view: View,
    exits: Exits,
    /// What is said to the coordinator. It may be slow to listen, and nothing waits for it; one that fails is logged.
    errands: JoinSet<()>,
    /// What is done to its workers on purpose.
    chaos: Option<Chaos>,
}

/// How the newest process of each slot ended that has.
#[derive(Default)]
struct Exits(BTreeMap<u32, Exit>);

impl Exits {
    fn add(&mut self, exit: Exit) {
        self.0.insert(exit.slot, exit);
    }
}

impl Launch {
    async fn carry_out(
        mut self,
        binary: &Path,
        address: &str,
        spec: &RunSpec,
        resume: String,
        logs: &Path,
        state: &Path,
    ) -> Result<ExitCode, Fault> {
        let outcome = self.submit_and_follow(address, spec, resume, logs).await;
        self.view.clear();
        if self.view.story().ended.is_some() {
            self.view.summarise();
        }
        let conclusion = self.chaos.take().map(|chaos| chaos.conclude(self.view.story()));
        if let Some(conclusion) = &conclusion {
            self.view.conclude(&conclusion.render(), &conclusion.json());
        }
        let outcome = outcome.and_then(|()| verdict(self.view.story()));
        let outcome = match conclusion {
            Some(conclusion) if conclusion.is_bad() => outcome.and(Err(conclusion.fault())),
            _ => outcome,
        };
        // A run stopped at once before its first report lost steps that nobody counted.
        let outcome = match outcome {
            Ok(_) if self.asked > 1 && stopped_with_nothing(self.view.story()) => {
                Err(Fault::run("the run was stopped at once, without saving"))
            }
            outcome => outcome,
        };
        let outcome = match outcome {
            Err(fault) if !self.exits.0.is_empty() && !self.view.story().trains() => {
                Err(self.wrong_binary(binary).await.unwrap_or(fault))
            }
            outcome => outcome,
        };
        if spec.tracking.is_some() {
            let when = format!(
                "by the next `lockstep train` that keeps its state there, or by `lockstep runs sync --state {}`",
                state.display()
            );
            for words in tracking::settle(&self.coordinator, &mut self.interrupts, state, &when).await {
                self.view.notice(&format!("tracking: {words}"));
            }
        }
        let exits = self.close().await?;
        outcome.inspect_err(|_| last_words(&exits))
    }

    /// Why workers end before they train, if it is their binary.
    async fn wrong_binary(&mut self, binary: &Path) -> Option<Fault> {
        tokio::select! {
            verified = children::verify_version(binary) => verified.err(),
            () = self.interrupts.next() => None,
        }
    }

    /// Ends all that was started. A further interrupt kills what is left, and leaves.
    async fn close(self) -> Result<Exits, Fault> {
        let Self { coordinator, crew, mut interrupts, mut asked, view, mut exits, errands, chaos: _ } = self;
        // Each holds a connection, and the coordinator waits for those to be closed.
        drop(errands);
        let commander = crew.commander();
        let shutdown = pin!(coordinator.shutdown());
        let mut dismissed = pin!(crew.dismiss(GO_WITHIN, LEAVE_WITHIN));
        // The coordinator dismisses the workers; those that it does not reach are told by us.
        let mut both = pin!(async { tokio::join!(shutdown, dismissed.as_mut()) });
        loop {
            tokio::select! {
                ((), left) = &mut both => {
                    left.into_iter().for_each(|exit| exits.add(exit));
                    return Ok(exits);
                }
                () = interrupts.next() => {
                    asked += 1;
                    if asked > 1 {
                        commander.kill();
                        // Killed processes are gone in a moment, whatever the coordinator waits for; so are we.
                        let _ = timeout(KILLED_WITHIN, &mut both).await;
                        return Err(Fault::run("left at once, while records or checkpoints may have been being written"));
                    }
                    view.notice("ending: records are being written (Ctrl-C again leaves at once)");
                }
            }
        }
    }

    async fn submit_and_follow(
        &mut self,
        address: &str,
        spec: &RunSpec,
        resume: String,
        logs: &Path,
    ) -> Result<(), Fault> {
        let submitting = async {
            let mut client = Client::connect(address).await?;
            let run_id = client.submit(to_toml(spec), resume).await?;
            let events = client.watch(&run_id).await?;
            Ok::<_, Fault>((client, run_id, events))
        };
        let (client, run_id, events) = tokio::select! {
            submitted = submitting => submitted?,
            () = self.interrupts.next() => {
                self.asked += 1;
                return Err(Fault::run("interrupted before the run was submitted"));
            }
        };
        self.view.notice(&format!("run {run_id} `{}`, coordinator {address}, logs in {}", spec.name, logs.display()));
        self.follow(&client, &run_id, events).await
    }

    /// Until the run has ended, or has been given up.
    async fn follow(&mut self, client: &Client, run_id: &str, mut events: Events) -> Result<(), Fault> {
        let mut patience: Option<Instant> = None;
        // Why its events are not seen any more.
        let mut blind: Option<Fault> = None;
        loop {
            let out_of_patience = patience.unwrap_or_else(Instant::now);
            let chaos = self.chaos.as_ref().and_then(Chaos::due);
            tokio::select! {
                event = events.next(), if blind.is_none() => match event {
                    Ok(Some(event)) => {
                        self.view.show(&event);
                        self.heed(client, &event);
                    }
                    Ok(None) => return Ok(()),
                    Err(fault) => {
                        let why = fault.message();
                        self.view.notice(&format!("the run cannot be watched any more ({why}); it saves a checkpoint and stops"));
                        self.errands.spawn(stop(client.clone(), run_id.to_owned(), false));
                        blind = Some(fault);
                    }
                },
                () = ended(client.clone(), run_id), if blind.is_some() => {
                    return Err(blind.unwrap_or_else(|| serve::broken(&self.coordinator)));
                }
                () = self.coordinator.broken() => return Err(serve::broken(&self.coordinator)),
                () = sleep_until(chaos.map_or_else(Instant::now, Instant::from_std)), if chaos.is_some() => self.strike().await,
                Some(exit) = self.crew.next_exit() => self.exited(exit),
                Some(_) = self.errands.join_next() => {}
                () = self.interrupts.next() => {
                    self.asked += 1;
                    match self.asked {
                        1 => {
                            self.view.notice("stopping: a checkpoint is saved first (Ctrl-C again stops at once)");
                            self.errands.spawn(stop(client.clone(), run_id.to_owned(), false));
                        }
                        2 => {
                            self.view.notice("stopping at once, without saving");
                            patience = Some(Instant::now() + STOP_WITHIN);
                            self.crew.finish();
                            self.errands.spawn(stop(client.clone(), run_id.to_owned(), true));
                        }
                        _ => {
                            patience.get_or_insert(Instant::now() + STOP_WITHIN);
                            self.crew.kill();
                        }
                    }
                }
                () = sleep_until(out_of_patience), if patience.is_some() => {
                    if self.asked > 2 {
                        return Err(Fault::run(format!("run `{run_id}` did not stop, its workers were killed")));
                    }
                    self.asked = 3;
                    patience = Some(Instant::now() + STOP_WITHIN);
                    self.crew.kill();
                }
            }
        }
    }

    /// What the course of the run means for its processes.
    fn heed(&mut self, client: &Client, event: &RunEvent) {
        if let Some(chaos) = &mut self.chaos {
            chaos.take(event);
        }
        match &event.event {
            Some(Event::Seated(_)) => self.crew.serve(),
            Some(Event::Lost(lost)) => {
                if let Ok(worker) = lost.worker.parse() {
                    self.errands.spawn(replace_if_given_up(client.clone(), self.crew.commander(), worker));
                }
            }
            _ => {}
        }
    }

    async fn strike(&mut self) {
        if let Some(chaos) = &mut self.chaos {
            for line in chaos.strike(&self.crew.commander()).await {
                self.view.notice(&line);
            }
        }
    }

    /// The coordinator learns from a silent connection too, but not why.
    fn exited(&mut self, exit: Exit) {
        if !exit.clean {
            self.view.gone(&exit.worker(), &exit.cause);
            if !exit.successor && exit.life > children::FIRST_LIFE {
                self.view.notice(&format!("worker {} is not started again", exit.worker()));
            }
        }
        let (handle, slot, life, why, successor) =
            (self.coordinator.handle(), exit.slot, exit.life, exit.why(), exit.successor);
        self.errands.spawn(async move {
            if timeout(STOP_WITHIN, handle.worker_exited(slot, life, why, successor)).await.is_err() {
                tracing::warn!(slot, life, "the coordinator was not told of a worker's end");
            }
        });
        self.exits.add(exit);
    }
}

/// A worker that the coordinator has given up, and whose process lives: stopped, hung, cut off. It is killed, so that another can take
/// its place, unless its slot is in use again.
async fn replace_if_given_up(mut client: Client, crew: Commander, worker: WorkerId) {
    sleep(LET_BE).await;
    let Ok(Ok(reply)) = timeout(STOP_WITHIN, client.workers.list(ListWorkersRequest {})).await else { return };
    let (slot, name) = (format!("w{}:", worker.slot), worker.to_string());
    let stays = |status: &v1::WorkerStatus| {
        let leaves_in_peace = status.worker == name && status.state == "left: dismissed";
        leaves_in_peace || status.worker.starts_with(&slot) && !status.state.starts_with("left")
    };
    if !reply.into_inner().workers.iter().any(stays) {
        crew.give_up(worker.slot, worker.life);
    }
}

/// Without a checkpoint that is known to be younger than the run's start.
fn stopped_with_nothing(story: &Story) -> bool {
    story
        .ended
        .as_ref()
        .is_some_and(|ended| ended.phase() == Phase::Stopped && (ended.last.is_none() || !story.trains()))
}

/// Until the run is known to have ended, or nothing can be known.
async fn ended(mut client: Client, run_id: &str) {
    loop {
        sleep(LOOK_EVERY).await;
        match timeout(STOP_WITHIN, client.live_runs()).await {
            Ok(Ok(live)) if live.iter().any(|live| live == run_id) => {}
            _ => return,
        }
    }
}

/// Where this cannot be said, the run has just ended or will not stop: its events and the next interrupt settle which.
async fn stop(mut client: Client, run_id: String, now: bool) {
    match timeout(STOP_WITHIN, client.stop(&run_id, now)).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => tracing::info!(reason = %fault.message(), "the run was not stopped"),
        Err(_) => tracing::warn!("the coordinator does not answer"),
    }
}

/// Shows what those that did not end well said last.
fn last_words(exits: &Exits) {
    for exit in exits.0.values().filter(|exit| !exit.clean) {
        let lines = children::last_lines(&exit.log, LAST_LINES);
        if lines.is_empty() {
            continue;
        }
        print::note(format_args!("worker {} {}; the end of {}:", exit.worker(), exit.cause, exit.log.display()));
        for line in lines {
            print::note(format_args!("  {line}"));
        }
    }
}
