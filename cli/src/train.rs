//! The verb `train`: a coordinator in this process, workers beside it, one run from its document to its end. Whatever happens on the
//! way, nothing is left running.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use coordinator::Coordinator;
use proto::{RunSpec, spec::check::to_toml};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    args::{Device, TrainArgs},
    children::{self, Crew, Exit, LIFE, Post},
    client::{Client, Events},
    document,
    errors::Fault,
    print,
    remote::verdict,
    resume::resume_from,
    serve,
    signals::Interrupts,
    view::View,
};

/// How long workers may take to go when the coordinator has dismissed them, and when we tell them too.
const GO_WITHIN: Duration = Duration::from_secs(2);
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How long a run may take to stop at once before its workers are killed, and to notice that they were.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Lines of a failed worker's log that are shown.
const LAST_LINES: usize = 12;

pub async fn train(args: TrainArgs, log: Option<&str>) -> Result<ExitCode, Fault> {
    let mut flags = Vec::new();
    flags.extend(args.workers.map(|workers| ("cluster.workers", workers.to_string())));
    flags.extend(args.device.map(|device| ("cluster.device", device.word().to_owned())));
    let spec = document::load(&args.document, &flags)?;
    let resume = resume_from(&spec, args.resume.as_deref())?;
    let spec = document::absolute(spec)?;
    let binary = children::find()?;
    let state = match &args.state {
        Some(state) => document::absolute_path(state)?,
        None => spec.checkpoint.dir.join(".state"),
    };
    // Before anything starts: an interrupt from here on ends things in order.
    let interrupts = Interrupts::listen()?;
    let view = View::new(args.json, document::best_metric(&spec));

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
        let post = Post { binary: &binary, coordinator: &address, device, logs: &logs, filter };
        Ok::<_, Fault>((Crew::muster(&post, spec.cluster.workers)?, logs))
    };
    match muster() {
        Ok((crew, logs)) => {
            let launch = Launch { coordinator, crew, interrupts, view, exits: Vec::new() };
            launch.carry_out(&binary, &address, &spec, resume, &logs).await
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
    view: View,
    exits: Vec<Exit>,
}

impl Launch {
    async fn carry_out(
        mut self,
        binary: &Path,
        address: &str,
        spec: &RunSpec,
        resume: String,
        logs: &Path,
    ) -> Result<ExitCode, Fault> {
        let outcome = self.submit_and_follow(binary, address, spec, resume, logs).await;
        self.view.clear();
        if self.view.story().ended.is_some() {
            self.view.summarise();
        }
        let Self { coordinator, crew, view, mut exits, .. } = self;
        // The coordinator dismisses the workers; those that it does not reach are told by us.
        let ((), left) = tokio::join!(coordinator.shutdown(), crew.dismiss(GO_WITHIN, LEAVE_WITHIN));
        exits.extend(left);
        outcome.and_then(|()| verdict(view.story())).inspect_err(|_| last_words(&exits))
    }

    async fn submit_and_follow(
        &mut self,
        binary: &Path,
        address: &str,
        spec: &RunSpec,
        resume: String,
        logs: &Path,
    ) -> Result<(), Fault> {
        let submitting = async {
            // The workers load libtorch meanwhile.
            children::verify_version(binary).await?;
            let mut client = Client::connect(address).await?;
            let run_id = client.submit(to_toml(spec), resume).await?;
            let events = client.watch(&run_id).await?;
            Ok::<_, Fault>((client, run_id, events))
        };
        let (client, run_id, events) = tokio::select! {
            submitted = submitting => submitted?,
            () = self.interrupts.next() => return Err(Fault::run("interrupted before the run was submitted")),
        };
        self.view.notice(&format!("run {run_id} `{}`, coordinator {address}, logs in {}", spec.name, logs.display()));
        self.follow(client, &run_id, events).await
    }

    /// Until the run has ended, or has been given up.
    async fn follow(&mut self, mut client: Client, run_id: &str, mut events: Events) -> Result<(), Fault> {
        let mut asked = 0;
        let mut patience: Option<Instant> = None;
        loop {
            let out_of_patience = patience.unwrap_or_else(Instant::now);
            tokio::select! {
                event = events.next() => match event? {
                    Some(event) => self.view.show(&event),
                    None => return Ok(()),
                },
                () = self.coordinator.broken() => return Err(serve::broken()),
                Some(exit) = self.crew.next_exit() => self.lost(exit).await,
                () = self.interrupts.next() => {
                    asked += 1;
                    match asked {
                        1 => {
                            self.view.notice("stopping: a checkpoint is saved first (Ctrl-C again stops at once)");
                            stop(&mut client, run_id, false).await;
                        }
                        2 => {
                            self.view.notice("stopping at once, without saving");
                            patience = Some(Instant::now() + STOP_WITHIN);
                            stop(&mut client, run_id, true).await;
                        }
                        _ => self.crew.kill(),
                    }
                }
                () = sleep_until(out_of_patience), if patience.is_some() => {
                    if asked > 2 {
                        return Err(Fault::run(format!("run `{run_id}` did not stop, its workers were killed")));
                    }
                    asked = 3;
                    patience = Some(Instant::now() + STOP_WITHIN);
                    self.crew.kill();
                }
            }
        }
    }

    /// The coordinator learns from a silent connection too, but not why.
    async fn lost(&mut self, exit: Exit) {
        if !exit.clean {
            self.view.notice(&format!("worker w{}:{LIFE} {}", exit.slot, exit.cause));
        }
        self.coordinator.worker_exited(exit.slot, LIFE, exit.cause.clone()).await;
        self.exits.push(exit);
    }
}

/// Where this cannot be said, the run has just ended or will not stop: its events and the next interrupt settle which.
async fn stop(client: &mut Client, run_id: &str, now: bool) {
    match timeout(STOP_WITHIN, client.stop(run_id, now)).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => tracing::info!(reason = %fault.message(), "the run was not stopped"),
        Err(_) => tracing::warn!("the coordinator does not answer"),
    }
}

/// Shows what those that did not end well said last.
fn last_words(exits: &[Exit]) {
    for exit in exits.iter().filter(|exit| !exit.clean) {
        let lines = children::last_lines(&exit.log, LAST_LINES);
        if lines.is_empty() {
            continue;
        }
        print::note(format_args!("worker w{}:{LIFE} {}; the end of {}:", exit.slot, exit.cause, exit.log.display()));
        for line in lines {
            print::note(format_args!("  {line}"));
        }
    }
}

/// One folder a launch, so that the logs of an earlier one stay readable.
fn log_folder(state: &Path, name: &str) -> Result<PathBuf, Fault> {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "");
    let folder = state.join("logs").join(format!("{name}-{time}"));
    std::fs::create_dir_all(&folder).map_err(|error| {
        Fault::run(format!("cannot make the folder `{}`", folder.display()))
            .because(&error)
            .hint("name a folder that can be written to with `--state DIR`")
    })?;
    Ok(folder)
}
