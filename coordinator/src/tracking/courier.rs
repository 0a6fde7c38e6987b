//! Carries one run to its server, parcel by parcel, until all of it has arrived.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use proto::{checkpoint::MANIFEST, v1};
use tokio::{
    sync::{Semaphore, watch},
    time::{Duration, sleep},
};

use super::{
    ExportModel,
    about::{Pairs, RUN_ID, first_tags, later_tags, parameters, status_word},
    board::Board,
    mlflow::{Experiment, Mlflow, Trouble},
    model::Model,
    parcel::{Batch, pack},
    patience::pause,
    servers::{Server, Servers},
};
use crate::{
    inbox::{Call, Inbox},
    journal::{Journal, JournalError},
};

/// Events read from the journal at a time.
const CHUNK: usize = 256;
/// Between the first new event and its being sent.
const GATHER_FOR: Duration = Duration::from_secs(1);
/// A journal that cannot be read is tried again.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// So often a server rejects the same thing, before it is believed.
const REJECTIONS: u32 = 3;
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

pub(super) struct Courier {
    pub run: String,
    pub inbox: Inbox,
    pub journal: Journal,
    pub servers: Servers,
    pub export: Option<Arc<ExportModel>>,
    pub durable: watch::Receiver<u64>,
    pub nudges: watch::Receiver<u64>,
    pub board: Board,
}

/// What this life of the courier knows beyond the record. Another life does these things again, to no effect.
#[derive(Default)]
struct Done {
    /// Parameters and tags are there.
    introduced: bool,
    /// The run's end is.
    ended: bool,
    /// Files of its model that are.
    files: BTreeSet<String>,
    /// Its best checkpoint as a model, and what is wrong with that.
    model: Option<Model>,
}

/// How far one try has come.
enum Came {
    Through,
    /// There is nothing to send before the run goes on.
    Nothing,
    ToItsEnd,
}

/// Why one try came no further.
enum Stopped {
    Trouble(Trouble),
    Journal(JournalError),
    /// The coordinator is going away.
    Dismissed,
}

impl From<Trouble> for Stopped {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Failed tries in a row, since something went through.
#[derive(Default)]
struct Outage {
    failures: u32,
    deliveries: u64,
    /// Those who watch have been told.
    said: bool,
}

impl Courier {
    /// Until the run has arrived, or the coordinator goes.
    pub async fn deliver(mut self) {
        let Some((mut record, Server { mlflow, at_work })) = self.begin().await else { return };
        let mut outage = Outage::default();
        let mut done = Done::default();
        loop {
            let nudge = *self.nudges.borrow_and_update();
            let tried = match Semaphore::acquire_owned(Arc::clone(&at_work)).await {
                Ok(_permit) => self.try_once(&mlflow, &mut record, &mut done).await,
                Err(_) => return,
            };
            match tried {
                Ok(Came::Through) => self.through(&mlflow, &mut outage).await,
                Ok(Came::Nothing) => {
                    if self.durable.changed().await.is_err() {
                        return;
                    }
                    // Events come in swarms, and go together.
                    tokio::select! {
                        () = sleep(GATHER_FOR) => {}
                        _ = self.nudges.changed() => {}
                    }
                }
                Ok(Came::ToItsEnd) => {
                    self.through(&mlflow, &mut outage).await;
                    tracing::info!(run = %self.run, url = mlflow.url(), "all of the run is tracked");
                    return self.board.done(&self.run);
                }
                Err(Stopped::Dismissed | Stopped::Journal(JournalError::Closed)) => return,
                Err(Stopped::Journal(error)) => {
                    tracing::error!(run = %self.run, %error, "what is to be tracked cannot be read, trying again");
                    sleep(READ_AGAIN_AFTER).await;
                }
                Err(Stopped::Trouble(Trouble::Deleted(why))) => return self.give_up(&mlflow, record, &why).await,
                Err(Stopped::Trouble(trouble)) => self.wait_out(&mlflow, trouble, &mut outage, nudge).await,
            }
        }
    }

    /// A run that somebody deleted on the server is told no more.
    async fn give_up(&self, mlflow: &Mlflow, mut record: v1::Tracking, why: &str) {
        record.standing = format!("it is told no more: {why}");
        record.done = true;
        if self.save(&record).await.is_ok() {
            self.warn(format!("tracking: MLflow at {}: {why}; the run is told no more, and stays here", mlflow.url()))
                .await;
            self.board.remark(&self.run, &record.standing);
            self.board.done(&self.run);
        }
    }

    /// The record is written just before, or at the same time as, the run is handed over.
    async fn begin(&mut self) -> Option<(v1::Tracking, Server)> {
        let record = loop {
            match self.read(|journal, run| journal.tracking(run)).await {
                Ok(Some(record)) => break record,
                Ok(None) => self.durable.changed().await.ok()?,
                Err(Stopped::Journal(JournalError::Closed) | Stopped::Dismissed) => return None,
                Err(_) => sleep(READ_AGAIN_AFTER).await,
            }
        };
        match self.servers.at(&record.url) {
            Ok(Server { mlflow, at_work }) => {
                let (board, run) = (self.board.clone(), self.run.clone());
                let mlflow = mlflow.heard_by(Arc::new(move || board.delivered(&run)));
                Some((record, Server { mlflow, at_work }))
            }
            Err(trouble) => {
                tracing::error!(run = %self.run, %trouble, "the run cannot be tracked");
                self.warn(format!("tracking: {trouble}")).await;
                self.board.stuck(&self.run, trouble.to_string(), u64::MAX);
                None
            }
        }
    }

    async fn try_once(&mut self, mlflow: &Mlflow, record: &mut v1::Tracking, done: &mut Done) -> Result<Came, Stopped> {
        let status = self.read(|journal, run| journal.run(run)).await?.unwrap_or_default();
        if record.mlflow_run_id.is_empty() {
            *done = Done::default();
            self.find_or_make(mlflow, record, &status).await?;
            self.save(record).await?;
        }
        // Before the first event, once.
        if !done.introduced && record.after_sequence == 0 {
            let (parameters, tags) = (parameters(&status.spec_toml), first_tags(&status));
            self.log(mlflow, record, Batch { parameters, tags, ..Batch::default() }).await?;
            done.introduced = true;
        }
        let over = status.ended_unix_micros > 0;
        let through = if over { u64::MAX } else { *self.durable.borrow_and_update() };
        let after = record.after_sequence;
        let mut events = self.read(move |journal, run| journal.events(run, after, CHUNK)).await?;
        // What is not on disk yet may never have happened.
        events.retain(|event| event.unix_micros <= through);
        match pack(&events) {
            Some(parcel) => {
                let tags = if parcel.tells_more { later_tags(&status) } else { Pairs::new() };
                self.log(mlflow, record, Batch { points: parcel.points, tags, ..Batch::default() }).await?;
                record.after_sequence = parcel.through;
                self.save(record).await?;
                Ok(Came::Through)
            }
            None if over => {
                self.end(mlflow, record, &status, done).await?;
                record.done = true;
                self.save(record).await?;
                Ok(Came::ToItsEnd)
            }
            None => Ok(Came::Nothing),
        }
    }

    async fn find_or_make(
        &self,
        mlflow: &Mlflow,
        record: &mut v1::Tracking,
        status: &v1::RunStatus,
    ) -> Result<(), Stopped> {
        let experiment = experiment(mlflow, &record.experiment).await?;
        let run = match mlflow.run_of(&experiment.id, &self.run).await? {
            Some(run) => run,
            None => {
                let start_millis = status.created_unix_micros / 1000;
                // What it is found by; the others are logged, where one that is rejected can be left out.
                let tags = Pairs::from([(RUN_ID.to_owned(), self.run.clone())]);
                mlflow.create_run(&experiment.id, &status.name, start_millis, &tags).await?
            }
        };
        if let Err(Trouble::Rejected(why)) = mlflow.reaches(&run.artifact_uri).await {
            self.warn(format!(
                "tracking: MLflow at {}: the run and its curves will be there, but not its model: {why}",
                mlflow.url()
            ))
            .await;
        }
        (record.experiment_id, record.mlflow_run_id, record.artifact_uri) = (experiment.id, run.id, run.artifact_uri);
        Ok(())
    }

    /// What a server goes on rejecting is sent in pieces, and those that it rejects by themselves are left out: the rest of the run does not
    /// wait for them. They stay here.
    async fn log(&self, mlflow: &Mlflow, record: &mut v1::Tracking, batch: Batch) -> Result<(), Stopped> {
        let told = insist(record, || mlflow.log(&record.mlflow_run_id, &batch)).await;
        if matches!(told, Err(Trouble::Invalid(_))) {
            for (name, piece) in batch.pieces() {
                match mlflow.log(&record.mlflow_run_id, &piece).await {
                    Err(Trouble::Invalid(why)) => self.leave_out(mlflow, record, &name, &why).await,
                    told => self.unless_forgotten(told, record).await?,
                }
            }
        } else {
            self.unless_forgotten(told, record).await?;
        }
        Ok(())
    }

    /// Those who watch are told once of each.
    async fn leave_out(&self, mlflow: &Mlflow, record: &mut v1::Tracking, what: &str, why: &str) {
        if record.left_out.iter().any(|known| known == what) {
            return;
        }
        record.left_out.push(what.to_owned());
        tracing::info!(run = %self.run, url = mlflow.url(), what, why, "tracker rejects a part of the run");
        self.warn(format!(
            "tracking: MLflow at {} does not take the {what}: {why}; it is left out there and kept here, the rest goes on",
            mlflow.url()
        ))
        .await;
    }

    /// A server that has forgotten the run is told all of it again.
    async fn unless_forgotten(&self, answer: Result<(), Trouble>, record: &mut v1::Tracking) -> Result<(), Stopped> {
        if let Err(Trouble::Gone(_)) = &answer {
            record.mlflow_run_id.clear();
            record.after_sequence = 0;
            self.save(record).await?;
        }
        Ok(answer?)
    }

    /// The run is over; then what it leaves behind: its best checkpoint and the model of that. What can never succeed is a remark, the rest
    /// is tried again.
    async fn end(
        &self,
        mlflow: &Mlflow,
        record: &mut v1::Tracking,
        status: &v1::RunStatus,
        done: &mut Done,
    ) -> Result<(), Stopped> {
        if !done.ended {
            let end_millis = status.ended_unix_micros / 1000;
            // The last events may have gone out with tags of a moment before the end.
            self.log(mlflow, record, Batch { tags: later_tags(status), ..Batch::default() }).await?;
            let status = status_word(status.phase());
            match insist(record, || mlflow.end_run(&record.mlflow_run_id, status, end_millis)).await {
                Err(Trouble::Invalid(why)) => {
                    self.leave_out(mlflow, record, "run's end", &why).await;
                }
                told => self.unless_forgotten(told, record).await?,
            }
            done.ended = true;
        }
        let Some(best) = &status.best else {
            record.standing = self.standing(record, "the run left no checkpoint", "");
            return Ok(());
        };
        if done.model.is_none() {
            done.model = Some(Model::of(PathBuf::from(&best.path), self.export.clone()).await);
        }
        let mut remark = done.model.as_ref().map(|model| model.remark.clone()).unwrap_or_default();
        let mut files: Vec<_> = done.model.iter().flat_map(|model| &model.files).collect();
        // What names the others comes last: whoever finds it finds all.
        files.sort_by_key(|(path, _)| path.ends_with(MANIFEST));
        for (path, file) in files {
            if done.files.contains(path) {
                continue;
            }
            match mlflow.upload(&record.artifact_uri, path, file).await {
                Ok(()) => {
                    done.files.insert(path.clone());
                }
                Err(Trouble::Rejected(why) | Trouble::Invalid(why)) => {
                    remark = format!("`{path}` could not be handed over: {why}");
                    break;
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
        record.standing = self.standing(record, "the best model too", &remark);
        Ok(())
    }

    /// How a run stands that is told to its end. `remark`: what is missing of its model.
    fn standing(&self, record: &v1::Tracking, well: &str, remark: &str) -> String {
        let rejected = match record.left_out.len() {
            0 => String::new(),
            _ => format!("MLflow rejected the {}", record.left_out.join(", the ")),
        };
        let missing: Vec<&str> = [rejected.as_str(), remark].into_iter().filter(|words| !words.is_empty()).collect();
        if missing.is_empty() {
            return format!("all has arrived, {well}");
        }
        let standing = format!("all has arrived, but {}", missing.join("; "));
        tracing::info!(run = %self.run, standing, "the run is not altogether tracked");
        self.board.remark(&self.run, &standing);
        standing
    }

    async fn through(&self, mlflow: &Mlflow, outage: &mut Outage) {
        self.board.delivered(&self.run);
        if std::mem::take(outage).said {
            self.warn(format!(
                "tracking goes on: MLflow at {} takes the run again, what waited is being sent",
                mlflow.url()
            ))
            .await;
        }
    }

    /// Says once what is wrong, then waits for its time or for a nudge.
    async fn wait_out(&mut self, mlflow: &Mlflow, trouble: Trouble, outage: &mut Outage, nudge: u64) {
        let deliveries = self.board.standing(&self.run).map_or(0, |standing| standing.deliveries);
        if deliveries != std::mem::replace(&mut outage.deliveries, deliveries) {
            outage.failures = 0;
        }
        outage.failures += 1;
        let chance = (ulid::Ulid::new().random() % 1000) as f64 / 1000.0;
        let pause = pause(&trouble, outage.failures, chance);
        tracing::debug!(run = %self.run, %trouble, ?pause, "tracker did not take a parcel");
        let next = format!("{trouble}, next try in {} s", pause.as_secs_f64().ceil());
        self.board.stuck(&self.run, next, nudge);
        if !std::mem::replace(&mut outage.said, true) {
            let hint = match trouble.hint() {
                "" => String::new(),
                hint => format!(" ({hint})"),
            };
            tracing::info!(run = %self.run, url = mlflow.url(), %trouble, "tracker does not take the run");
            self.warn(format!(
                "tracking: MLflow at {}: {trouble}{hint}; training goes on, what it could not take is kept and sent later",
                mlflow.url()
            ))
            .await;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.nudges.changed() => {}
        }
    }

    async fn warn(&self, message: String) {
        self.inbox.tell(Call::Warn { run: self.run.clone(), message }).await;
    }

    async fn save(&self, record: &v1::Tracking) -> Result<(), Stopped> {
        let (run, tracking) = (self.run.clone(), Box::new(record.clone()));
        self.inbox.ask(|reply| Call::Tracked { run, tracking, reply }).await.map_err(|_| Stopped::Dismissed)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Journal, &str) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Stopped> {
        let (journal, run) = (self.journal.clone(), self.run.clone());
        match tokio::task::spawn_blocking(move || read(&journal, &run)).await {
            Ok(read) => read.map_err(Stopped::Journal),
            Err(_) => Err(Stopped::Dismissed),
        }
    }
}

/// A rejection may be a matter of the moment: it is asked for again, unless the server has rejected something of this run before.
async fn insist<F: Future<Output = Result<(), Trouble>>>(
    record: &v1::Tracking,
    ask: impl Fn() -> F,
) -> Result<(), Trouble> {
    let mut told = ask().await;
    let again = if record.left_out.is_empty() { REJECTIONS - 1 } else { 0 };
    for _ in 0..again {
        if !matches!(told, Err(Trouble::Invalid(_))) {
            break;
        }
        sleep(ASK_AGAIN_AFTER).await;
        told = ask().await;
    }
    told
}

/// The experiment of this name, made where there is none.
async fn experiment(mlflow: &Mlflow, name: &str) -> Result<Experiment, Trouble> {
    let found = match mlflow.experiment(name).await? {
        Some(found) => Some(found),
        None => match mlflow.create_experiment(name).await? {
            Some(made) => Some(made),
            None => mlflow.experiment(name).await?,
        },
    };
    match found {
        Some(experiment) if experiment.deleted => Err(Trouble::Rejected(format!(
            "experiment `{name}` was deleted: restore it (`mlflow experiments restore --experiment-id {}`), or set another \
             `tracking.experiment`",
            experiment.id
        ))),
        Some(experiment) => Ok(experiment),
        None => Err(Trouble::Rejected(format!("experiment `{name}` can neither be found nor made"))),
    }
}
