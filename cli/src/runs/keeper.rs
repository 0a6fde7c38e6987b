//! Where runs are kept, and how each is asked. All give the same answers, in the same shape.

use std::{path::Path, time::Duration};

use coordinator::{
    StateFolder,
    kept::Kept,
    tracking::{
        Credentials, Mlflow, Trouble,
        mlflow::{Artifact, FoundRun},
    },
};
use proto::v1::{self, CheckpointsRequest, ListRunsRequest, MetricsRequest, RunStatus, run_event};

use crate::{args::RunsKeeper, client::Client, document::absolute_path, errors::Fault, print};

/// A person who named no place does not wait for one.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// Events of a folder that are read at a time.
const EVENTS_AT_ONCE: usize = 1024;
/// A live run that is silent so long has told everything.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// Where `train` and `coordinator` keep their state unless told otherwise.
const USUAL_FOLDERS: [&str; 2] = ["checkpoints/.state", ".lockstep"];

pub enum Keeper {
    Coordinator(Box<Client>, Option<String>),
    Folder(StateFolder, Option<String>),
    Mlflow(Mlflow, String),
}

/// The newest events that a live run is known to have.
struct Awaited {
    step: Option<u64>,
    epoch: Option<u64>,
}

impl Awaited {
    fn of(status: &RunStatus) -> Self {
        // One that has ended says so itself.
        let live = status.ended_unix_micros == 0;
        Self {
            step: status.progress.as_ref().filter(|_| live).map(|progress| progress.step),
            epoch: status.last_epoch.as_ref().filter(|_| live).map(|epoch| epoch.epoch),
        }
    }

    /// Whether all have come, this one among them.
    fn has_come(&mut self, event: &v1::RunEvent) -> bool {
        let before = (self.step, self.epoch);
        match &event.event {
            Some(run_event::Event::Progress(progress)) => self.step = self.step.filter(|step| progress.step < *step),
            Some(run_event::Event::Epoch(ended)) => self.epoch = self.epoch.filter(|epoch| ended.epoch < *epoch),
            _ => {}
        }
        before != (None, None) && (self.step, self.epoch) == (None, None)
    }
}

/// A run, and all that belongs to it.
pub struct Whole {
    pub kept: Kept,
    /// Absent where MLflow is asked.
    pub status: Option<RunStatus>,
    pub checkpoints: Vec<v1::Checkpoint>,
    pub curves: Vec<v1::Series>,
}

impl Keeper {
    pub async fn find(args: &RunsKeeper) -> Result<Self, Fault> {
        if let Some(url) = &args.mlflow {
            let mlflow = Mlflow::new(&proto::addresses::with_scheme(url), Credentials::from_environment());
            let mlflow = mlflow
                .map_err(|trouble| Fault::words(trouble.to_string()).hint("write `--mlflow http://127.0.0.1:5000`"))?;
            return Ok(Self::Mlflow(mlflow, args.experiment.clone().unwrap_or_else(|| "lockstep".into())));
        }
        if let Some(folder) = &args.state {
            return Self::folder(&absolute_path(folder)?, args.experiment.clone());
        }
        if let Some(url) = &args.coordinator {
            return Ok(Self::Coordinator(Box::new(Client::connect(url).await?), args.experiment.clone()));
        }
        let looking = tokio::time::timeout(LOOK_WITHIN, Client::connect(proto::DEFAULT_ADDRESS));
        if let Ok(Ok(client)) = looking.await {
            return Ok(Self::Coordinator(Box::new(client), args.experiment.clone()));
        }
        for folder in USUAL_FOLDERS.map(Path::new) {
            if folder.join("journal.redb").exists() {
                print::note(format_args!(
                    "no coordinator answers at {}: reading {}",
                    proto::DEFAULT_ADDRESS,
                    folder.display()
                ));
                return Self::folder(&absolute_path(folder)?, args.experiment.clone());
            }
        }
        Err(Fault::run(format!(
            "no coordinator answers at {}, and there is no state folder here",
            proto::DEFAULT_ADDRESS
        ))
        .hint("name where the runs are kept: `--coordinator URL`, `--state DIR`, or `--mlflow URL --experiment NAME`"))
    }

    fn folder(folder: &Path, experiment: Option<String>) -> Result<Self, Fault> {
        let opened = StateFolder::open(folder).map_err(|error| {
            let fault = match std::error::Error::source(&error) {
                Some(source) => Fault::run(error.to_string()).because(source),
                None => Fault::run(error.to_string()),
            };
            match error {
                coordinator::JournalError::InUse(_) => {
                    fault.hint("the coordinator that uses it is asked by `--coordinator URL`")
                }
                error => fault.hint(error.hint()),
            }
        })?;
        Ok(Self::Folder(opened, experiment))
    }

    /// The newest first; with the newest points of these curves.
    pub async fn runs(&mut self, curves: &[String]) -> Result<Vec<Kept>, Fault> {
        match self {
            Self::Mlflow(mlflow, name) => {
                let found = found_runs(mlflow, name, "").await?;
                Ok(found.iter().map(|run| Kept::found(run, name)).collect())
            }
            _ => {
                let mut runs = Vec::new();
                for status in self.statuses().await? {
                    let series = match curves {
                        [] => Vec::new(),
                        curves => self.series(&status.run_id, curves).await?,
                    };
                    runs.push(Kept::of(&status, &series));
                }
                Ok(runs)
            }
        }
    }

    /// The run of this id or name (the newest of it); without one the newest.
    pub async fn whole(&mut self, run: Option<&str>) -> Result<Whole, Fault> {
        if let Self::Mlflow(mlflow, name) = self {
            let found = self::found(mlflow, name, run).await?;
            let kept = Kept::found(&found, name);
            let mut curves = Vec::new();
            for name in kept.metrics.keys() {
                let points = mlflow.history(&found.id, name).await.map_err(|trouble| asked(mlflow, &trouble))?;
                let points = points.into_iter().map(|point| v1::Point {
                    step: point.step,
                    unix_micros: point.unix_millis * 1000,
                    value: point.value,
                });
                curves.push(v1::Series { name: name.clone(), points: points.collect() });
            }
            return Ok(Whole { kept, status: None, checkpoints: Vec::new(), curves });
        }
        let status = self.status(run).await?;
        let series = self.series(&status.run_id, &[]).await?;
        let checkpoints = match self {
            Self::Coordinator(client, _) => {
                let request = CheckpointsRequest { run_id: status.run_id.clone() };
                let reply = client.runs.checkpoints(request).await;
                reply.map_err(|status| client.fault(&status))?.into_inner().checkpoints
            }
            Self::Folder(folder, _) => folder.checkpoints(&status.run_id).map_err(unreadable)?,
            Self::Mlflow(..) => Vec::new(),
        };
        // With what waits, which a list does not count.
        let status = match self {
            Self::Coordinator(client, _) => client.run(Some(&status.run_id)).await?,
            _ => status,
        };
        Ok(Whole { kept: Kept::of(&status, &series), status: Some(status), checkpoints, curves: series })
    }

    /// Shows each event of the run of this id or name (without one, of the newest) as far as they go at the moment, and says how it
    /// stands.
    pub async fn replay(&mut self, run: Option<&str>, mut show: impl FnMut(&v1::RunEvent)) -> Result<RunStatus, Fault> {
        let status = self.status(run).await?;
        match self {
            Self::Folder(folder, _) => {
                let mut after = 0;
                loop {
                    let events = folder.events(&status.run_id, after, EVENTS_AT_ONCE).map_err(unreadable)?;
                    events.iter().for_each(&mut show);
                    match events.last() {
                        Some(last) => after = last.sequence,
                        None => return Ok(status),
                    }
                }
            }
            Self::Coordinator(client, _) => {
                let mut events = client.watch(&status.run_id).await?;
                let mut awaited = Awaited::of(&status);
                // What a live run told while it was asked may not have been written down; then nothing more comes, or something newer.
                while let Ok(next) = tokio::time::timeout(QUIET_FOR, events.next()).await {
                    let Some(event) = next? else { break };
                    show(&event);
                    if awaited.has_come(&event) {
                        break;
                    }
                }
                Ok(status)
            }
            Self::Mlflow(..) => Ok(status),
        }
    }

    async fn status(&mut self, run: Option<&str>) -> Result<RunStatus, Fault> {
        let statuses = self.statuses().await?;
        let found = match run {
            None => statuses.into_iter().next(),
            Some(run) => {
                let known = |status: &RunStatus| {
                    let theirs = status.tracking.as_ref().is_some_and(|tracking| tracking.mlflow_run_id == run);
                    status.run_id == run || status.name == run || theirs
                };
                statuses.into_iter().find(known)
            }
        };
        found.ok_or_else(|| no_such_run(run))
    }

    async fn statuses(&mut self) -> Result<Vec<RunStatus>, Fault> {
        let (mut statuses, experiment) = match self {
            Self::Coordinator(client, experiment) => {
                let reply = client.runs.list(ListRunsRequest {}).await;
                (reply.map_err(|status| client.fault(&status))?.into_inner().runs, experiment)
            }
            Self::Folder(folder, experiment) => (folder.runs().map_err(unreadable)?, experiment),
            Self::Mlflow(..) => return Ok(Vec::new()),
        };
        if let Some(name) = experiment {
            statuses.retain(|status| status.tracking.as_ref().is_some_and(|tracking| tracking.experiment == *name));
        }
        Ok(statuses)
    }

    async fn series(&mut self, run: &str, names: &[String]) -> Result<Vec<v1::Series>, Fault> {
        match self {
            Self::Coordinator(client, _) => {
                let request = MetricsRequest { run_id: run.to_owned(), names: names.to_vec() };
                let reply = client.runs.metrics(request).await;
                Ok(reply.map_err(|status| client.fault(&status))?.into_inner().series)
            }
            Self::Folder(folder, _) => folder.series(run, names).map_err(unreadable),
            Self::Mlflow(..) => Ok(Vec::new()),
        }
    }

    /// Downloads a run's checkpoint (or, where there is none, its model) to a folder that exists. What was brought.
    pub async fn download(&self, run: &Kept, out: &Path) -> Result<Option<&'static str>, Fault> {
        let Self::Mlflow(mlflow, _) = self else { return Ok(None) };
        let told = |trouble: Trouble| asked(mlflow, &trouble);
        let found =
            mlflow.run(&run.mlflow_run_id).await.map_err(told)?.ok_or_else(|| no_such_run(Some(&run.run_id)))?;
        for folder in ["checkpoint", "model"] {
            let mut waiting = mlflow.artifacts(&found.id, folder).await.map_err(told)?;
            if waiting.is_empty() {
                continue;
            }
            while let Some(Artifact { path, is_folder }) = waiting.pop() {
                if is_folder {
                    waiting.extend(mlflow.artifacts(&found.id, &path).await.map_err(told)?);
                    continue;
                }
                // Names come from a server: none may lead out of the folder.
                let inside = path.strip_prefix(folder).map(|rest| rest.trim_start_matches('/')).unwrap_or_default();
                let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
                if inside.is_empty() || !Path::new(inside).components().all(plain) {
                    return Err(Fault::run(format!("run `{}` has an artifact of an odd name: `{path}`", run.run_id)));
                }
                let target = out.join(inside);
                if let Some(parent) = target.parent() {
                    std::fs::create_dir_all(parent)
                        .map_err(|error| Fault::run(format!("cannot make `{}`", parent.display())).because(&error))?;
                }
                mlflow.download(&found.artifact_uri, &path, &target).await.map_err(told)?;
            }
            return Ok(Some(folder));
        }
        Ok(None)
    }
}

async fn found_runs(mlflow: &Mlflow, name: &str, filter: &str) -> Result<Vec<FoundRun>, Fault> {
    let told = |trouble: Trouble| asked(mlflow, &trouble);
    let experiment = mlflow.experiment(name).await.map_err(told)?.ok_or_else(|| {
        Fault::words(format!("there is no experiment `{name}` at {}", mlflow.url()))
            .hint("name another with `--experiment NAME`")
    })?;
    mlflow.runs(&experiment.id, filter, false).await.map_err(told)
}

async fn found(mlflow: &Mlflow, name: &str, run: Option<&str>) -> Result<FoundRun, Fault> {
    let runs = found_runs(mlflow, name, "").await?;
    let found = match run {
        None => runs.into_iter().next(),
        Some(run) => runs.into_iter().find(|found| {
            found.id == run || found.name == run || found.tags.get("lockstep.run_id").is_some_and(|id| id == run)
        }),
    };
    found.ok_or_else(|| no_such_run(run))
}

fn no_such_run(run: Option<&str>) -> Fault {
    let message = run.map_or_else(|| "there is no run yet".into(), |run| format!("there is no run `{run}`"));
    Fault::words(message).hint("`lockstep runs list` shows those that are kept there")
}

fn unreadable(error: coordinator::JournalError) -> Fault {
    Fault::run(error.to_string()).hint(error.hint())
}

fn asked(mlflow: &Mlflow, trouble: &Trouble) -> Fault {
    Fault::run(format!("MLflow at {} was asked in vain", mlflow.url()))
        .caused_by(trouble.to_string())
        .hint(trouble.hint())
}
