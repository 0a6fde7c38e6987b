//! `prepare`: from click logs and feature tables to training data, as one plan of the query engine.
//!
//! The log's events meet the features of their query and user, their results become rows and meet those of their document and
//! of the pair, every row gets its label and its weight, and a sink that is a node of the plan writes the training layout where the
//! rows are. Tables lie in memory and the rows stream past them, so the lists of the log stay together and nothing is shuffled;
//! tables that do not fit are joined by sorting, and lists are brought together again. Nothing appears before all is well.

mod expressions;
mod options;
mod plan;
mod publish;
mod report;
mod sources;

mod copies;
mod faults;
mod join_key;
mod list_id;
mod questions;

pub(crate) mod numbered;
pub(crate) mod sink;

use std::{collections::HashSet, num::NonZeroUsize, sync::Arc, time::Instant};

use chrono::NaiveDate;
use datafusion::common::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::ScalarUDF;
use dataset::writer::{Layout, Staging};

pub use self::{
    list_id::list_id,
    options::{DEFAULT_FEATURES, JoinChoice, LogRange, Missing, PrepareOptions, SplitBy},
    report::{FeatureReport, PartReport, PrepareReport, TableReport, render},
    sink::TimePart,
    sources::Key,
};
use self::{
    plan::{Ingredients, Source},
    questions::{means, one_number, outcomes, refuse_missing, refuse_repeated_keys, repeated, totals},
    sink::{Counts, Fill, Outcome, SinkSpec},
    sources::{Log, Table, Wanted},
};
use crate::{
    PipelineError,
    engine::{self, Engine, EngineOptions, Joins},
    lake::Lake,
};

/// Tables are held in memory if their files are below the allowed memory divided by this: decoded and with their hash table they
/// take about four times their size on disk, and half of the memory is for what streams by.
const FILES_PER_MEMORY: u64 = 8;

/// Our functions, for whoever runs a part of the plan.
pub(crate) fn functions() -> [Arc<ScalarUDF>; 4] {
    [list_id::ListId::udf(), join_key::JoinKey::udf(), copies::CopyRank::udf(), faults::Fault::udf()]
}

/// What goes on, for a person to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Opening,
    Checking,
    Averaging,
    Writing,
}

/// Prepares; the dataset appears whole or not at all.
pub fn prepare(options: &PrepareOptions, progress: &dyn Fn(Stage)) -> Result<PrepareReport, PipelineError> {
    options.check()?;
    // Before any work: an output that is there already is found out now. It outlives the runtime: partitions of a plan that has failed may
    // still write while their error is on its way, and would leave a folder that is removed under them.
    let staging = Staging::begin(&options.output.path, options.output.overwrite)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.engine.threads.get())
        .thread_stack_size(8 << 20)
        .enable_all()
        .build()
        .map_err(|error| PipelineError::options("cannot start threads").because(error))?;
    let report = runtime.block_on(Preparation { options, progress, begun: Instant::now() }.run(&staging))?;
    staging.commit()?;
    Ok(report)
}

struct Preparation<'a> {
    options: &'a PrepareOptions,
    progress: &'a dyn Fn(Stage),
    begun: Instant,
}

impl Preparation<'_> {
    async fn run(&self, staging: &Staging) -> Result<PrepareReport, PipelineError> {
        let options = self.options;
        (self.progress)(Stage::Opening);
        let lake = options.logs.as_ref().map(|logs| Lake::open(&logs.lake)).transpose()?;
        let (files, unlisted_files) = match (&lake, &options.logs) {
            (Some(lake), Some(logs)) => {
                let files = lake.files(logs.dates.clone()).await?;
                let unlisted = lake.unlisted(logs.dates.clone(), &files).await?;
                (files, unlisted)
            }
            _ => (Vec::new(), 0),
        };
        let dates: HashSet<NaiveDate> = files.iter().map(|file| file.date).collect();
        // Footers are read here, whoever runs the plan.
        let context = engine::context(&options.engine, Joins::Streamed)?;
        let mut tables = Vec::new();
        for (key, location) in &options.tables {
            tables.push(Table::open(&context, *key, location).await?);
        }
        tables.sort_by_key(|table| table.key);
        let wanted = Wanted {
            features: options.features.clone(),
            user: tables.iter().any(|table| table.key == Key::User),
            propensity: options.weighting.logged,
        };
        let log = match &lake {
            Some(lake) => Some(Log::open(&context, lake, &files, &wanted).await?),
            None => None,
        };
        let judgments = match &options.judgments {
            Some(location) => Some(Table::judgments(&context, location).await?),
            None => None,
        };
        let features = self.find_features(&tables, log.as_ref())?;
        let (tables, unused): (Vec<Table>, Vec<Table>) = tables
            .into_iter()
            .partition(|table| features.iter().any(|(_, source)| *source == Source::Table(table.key)));

        let joins = self.joins(&tables);
        let plans = Plans {
            options,
            log: log.as_ref(),
            judgments: judgments.as_ref(),
            tables: &tables,
            features: &features,
            now: chrono::Utc::now().timestamp_micros(),
        };
        let mut outcome = self.attempt(&plans, staging, joins, &options.engine).await.map(|written| (written, joins));
        for (joins, engine) in self.frugal_ways(joins) {
            let Err(Failure::Memory(error)) = outcome else { break };
            tracing::info!(%error, threads = engine.threads, "out of memory: joining by sorting");
            outcome = self.attempt(&plans, staging, joins, &engine).await.map(|written| (written, joins));
        }
        let (written, joins) = outcome.map_err(|failure| failure.into_error(&options.engine.engine))?;
        let parts = publish::arrange(staging.path(), &written.spec, &written.outcomes)?;
        let report = report::PrepareReport {
            log: options.logs.as_ref().zip(log.as_ref()).map(|(range, log)| report::LogReport {
                from: *range.dates.start(),
                to: *range.dates.end(),
                dates: dates.len(),
                files: log.files,
                bytes: log.bytes,
            }),
            judgments: options.judgments.clone(),
            unjudged_rows: written.unjudged,
            unlisted_files,
            events: written.events,
            repeated_events: written.repeated_events,
            queries: written.queries,
            rows: parts.iter().map(|part| part.rows).sum(),
            lists: parts.iter().map(|part| part.lists).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            dropped_rows: written.counts.dropped,
            single_label_lists: written.counts.single_label_lists,
            labels: written.counts.labels.clone(),
            label_options: options.labels,
            features: report::features(&features, &written.counts, &written.spec.fill),
            tables: report::tables(&tables, &written.counts),
            unused_tables: unused.iter().map(|table| table.location.clone()).collect(),
            weighting: options.weighting,
            propensities: options.propensities.clone(),
            divisor: written.divisor,
            weights: written.counts.weights,
            joins: if joins == Joins::Streamed { "streamed" } else { "sorted" },
            seconds: self.begun.elapsed().as_secs_f64(),
            out: options.output.path.clone(),
            parts,
        };
        publish::write_report(staging.path(), &report)?;
        Ok(report)
    }

    fn find_features(&self, tables: &[Table], log: Option<&Log>) -> Result<Vec<(String, Source)>, PipelineError> {
        plan::find_features(&self.options.features, tables, log).map_err(|problems| {
            let count = match problems.len() {
                1 => "a feature".to_owned(),
                count => format!("{count} features"),
            };
            let mut known: Vec<&str> =
                tables.iter().flat_map(|table| table.numeric.iter().map(String::as_str)).collect();
            known.sort_unstable();
            known.dedup();
            let known = if known.is_empty() {
                "no tables were given".to_owned()
            } else {
                format!("the tables have {}", known.join(", "))
            };
            PipelineError::options(format!(
                "{count} cannot be told from the tables and the log: {}",
                problems.join("; ")
            ))
            .with_hint(format!("choose with --features; {known}"))
        })
    }

    fn joins(&self, tables: &[Table]) -> Joins {
        let bytes: u64 = tables.iter().map(|table| table.bytes).sum();
        let fits = bytes <= self.options.engine.memory as u64 / FILES_PER_MEMORY;
        match (self.options.joins, &self.options.engine.engine) {
            (JoinChoice::Streamed, _) => Joins::Streamed,
            (JoinChoice::Sorted, _) => Joins::Sorted,
            (JoinChoice::Auto, _) if fits => Joins::Streamed,
            (JoinChoice::Auto, _) => Joins::Sorted,
        }
    }

    /// What to try when memory did not suffice: the guess from the files' sizes was wrong, or too many sorts share what there is.
    fn frugal_ways(&self, joins: Joins) -> Vec<(Joins, EngineOptions)> {
        let engine = &self.options.engine;
        let mut ways = Vec::new();
        if joins == Joins::Streamed && self.options.joins == JoinChoice::Auto {
            ways.push((Joins::Sorted, engine.clone()));
        }
        // On one thread that would be the same once more.
        let shared = engine.threads > NonZeroUsize::MIN;
        if self.options.joins != JoinChoice::Streamed && engine.engine == Engine::Local && shared {
            ways.push((Joins::Sorted, EngineOptions { threads: NonZeroUsize::MIN, ..engine.clone() }));
        }
        ways
    }

    async fn attempt(
        &self,
        plans: &Plans<'_>,
        staging: &Staging,
        joins: Joins,
        engine: &EngineOptions,
    ) -> Result<Prepared, Failure> {
        let options = self.options;
        let context = engine::context(engine, joins)?;
        let mut ingredients = plans.ingredients(&context);
        (self.progress)(Stage::Checking);
        for table in plans.tables.iter().chain(plans.judgments) {
            refuse_repeated_keys(&ingredients, table).await?;
        }
        let (events, queries) = totals(&ingredients).await?;
        let (repeated, repeated_events) = match plans.log {
            Some(_) => repeated(&ingredients).await?,
            None => (Vec::new(), 0),
        };
        let fill = match options.missing {
            Missing::Error => Fill::Refuse,
            Missing::Drop => Fill::DropRow,
            Missing::Zero => Fill::With(vec![0.0; plans.features.len()]),
            Missing::Mean => {
                (self.progress)(Stage::Averaging);
                Fill::With(means(&ingredients, &repeated).await?)
            }
        };
        if options.weighting.self_normalize {
            (self.progress)(Stage::Averaging);
            ingredients.divisor = one_number(ingredients.mean_weight(&repeated)?).await?.unwrap_or(1.0);
        }
        let spec = SinkSpec {
            staging: std::path::absolute(staging.path())
                .map_err(|error| PipelineError::io("find", staging.path(), error))?,
            features: options.features.clone(),
            tables: plans.tables.iter().map(|table| table.key.word().to_owned()).collect(),
            vector: options.output.layout == Some(Layout::Vector),
            zstd: options.output.compression == dataset::writer::Compression::Zstd,
            rows_per_file: options.output.rows_per_file,
            fill,
            parts: options.split.rule(),
            // A cluster may turn a streamed join into one that scatters lists, after the plan was made.
            // Judgments come in the order of queries only by custom.
            cluster: joins == Joins::Sorted || options.engine.engine != Engine::Local || plans.log.is_none(),
        };
        (self.progress)(Stage::Writing);
        let outcomes = outcomes(ingredients.write(&repeated, &spec)?).await?;
        let mut counts = Counts::default();
        for outcome in &outcomes {
            if let Some(why) = &outcome.refused {
                return Err(Failure::Other(
                    PipelineError::data(why.clone())
                        .with_hint("clean the log or the feature tables first: a model can learn nothing from it"),
                ));
            }
            counts.merge(&outcome.counts);
        }
        if spec.fill == Fill::Refuse {
            refuse_missing(&spec, &counts)?;
        }
        let mut unjudged = 0;
        if let (Some(_), Some(table)) = (plans.log, plans.judgments) {
            let shown = one_number(ingredients.impressions(&repeated)?).await?.unwrap_or(0.0) as u64;
            unjudged = shown.saturating_sub(counts.rows);
            if counts.rows == 0 {
                return Err(Failure::Other(
                    PipelineError::data(format!("none of the log's {shown} results has a label in {}", table.name()))
                        .with_hint("are its query_id and document_id those of the log?"),
                ));
            }
        }
        let divisor = ingredients.divisor;
        Ok(Prepared { spec, outcomes, counts, events, queries, repeated_events, unjudged, divisor })
    }
}

/// What plans are made of, whatever the engine.
struct Plans<'a> {
    options: &'a PrepareOptions,
    log: Option<&'a Log>,
    judgments: Option<&'a Table>,
    tables: &'a [Table],
    features: &'a [(String, Source)],
    now: i64,
}

impl Plans<'_> {
    fn ingredients<'b>(&'b self, context: &'b SessionContext) -> Ingredients<'b> {
        Ingredients {
            context,
            log: self.log,
            judgments: self.judgments,
            tables: self.tables,
            features: self.features,
            labels: &self.options.labels,
            weighting: &self.options.weighting,
            propensities: &self.options.propensities,
            divisor: 1.0,
            with_time: matches!(self.options.split, SplitBy::Time(_)),
            now: self.now,
        }
    }
}

/// What one attempt wrote.
struct Prepared {
    spec: SinkSpec,
    outcomes: Vec<Outcome>,
    counts: Counts,
    events: u64,
    queries: u64,
    repeated_events: u64,
    unjudged: u64,
    divisor: f64,
}

/// Why an attempt failed.
enum Failure {
    /// The plan needs more memory than it was given.
    Memory(DataFusionError),
    Plan(DataFusionError),
    Other(PipelineError),
}

impl Failure {
    fn into_error(self, engine: &Engine) -> PipelineError {
        match (self, engine) {
            (Self::Memory(error), _) => PipelineError::options("the plan needs more memory than it was given")
                .with_hint("give it more with --memory; unless --joins said otherwise, sorting on disk was tried")
                .because(error),
            (Self::Plan(error), Engine::Local) => PipelineError::data("the plan failed").because(error),
            (Self::Plan(error), Engine::Ballista(url)) => {
                PipelineError::network(format!("the plan failed on the engine at {url}"))
                    .with_hint("the logs of its scheduler and executors say more; nothing was published")
                    .because(error)
            }
            (Self::Other(error), _) => error,
        }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Other(error)
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        if let Some(words) = faults::Fault::words(&error) {
            return Self::Other(
                PipelineError::data(words)
                    .with_hint("this lake was not written by lockstep, which refuses such events: clean the log"),
            );
        }
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::Memory(error),
            _ => Self::Plan(error),
        }
    }
}
