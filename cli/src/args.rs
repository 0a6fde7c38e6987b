//! What can be typed. The doc comments are the help texts.

mod audit;
mod chaos;
mod collect;
mod datasets;
mod evaluate;
mod experiments;
mod export;
mod judge;
mod logs;
mod prepare;
mod propensity;
mod runs;
mod score;

use std::{net::SocketAddr, path::PathBuf};

use chrono::NaiveDate;
use clap::{Parser, Subcommand, ValueEnum};
use coordinator::EtcdStore;

pub use audit::AuditArgs;
pub use chaos::ChaosArgs;
pub use collect::CollectArgs;
pub use datasets::{Base, Compression, GenerateArgs, Import, InspectArgs, Labels, Layout, OutputArgs, SplitArgs};
pub use evaluate::{
    ColumnArgs, CompareArgs, ConventionArgs, EmptyWord, EvaluateArgs, GainWord, MapDenominatorWord, NegativeWord,
    PrecisionDenominatorWord, TiesWord,
};
pub use experiments::{
    AbTestArgs, Counterfactual, CounterfactualActionsArgs, CounterfactualClicksArgs, LimitArgs, ListWeightsWord,
    RewardWord, UnitWord, WithoutUser, WorthWord,
};
pub use export::ExportArgs;
pub use judge::{AggregateArgs, CreateArgs, Judge, JudgeMethod, PlatformArgs, PullArgs};
pub use logs::{ClickModel, ImportLogs, Logs, SimulateArgs, UbiArgs, Unknown};
pub use prepare::{EngineVerb, ExecutorArgs, JoinWord, LabelWord, MissingWord, PrepareArgs, WeightWord};
pub use propensity::{Estimator, Propensity, PropensityEstimateArgs, PropensityShowArgs};
pub use runs::{
    BestArgs as RunsBest, CompareArgs as RunsCompare, FetchArgs as RunsFetch, Keeper as RunsKeeper,
    ListArgs as RunsList, Runs, ShowArgs as RunsShow, SyncArgs as RunsSync,
};
pub use score::{ModelArgs, ScoreArgs, Which};

/// Trains ranking models on Parquet, data-parallel, with one command.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version = proto::VERSION, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
    /// What to log on stderr: `error`, `warn`, `info`, `debug`, or `coordinator=debug,warn` [default: info for a standing
    /// coordinator, error for train, which shows what goes on itself, warn for the others].
    #[arg(long, global = true, env = "LOCKSTEP_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Train on this machine: a coordinator and its workers, until the run ends.
    Train(TrainArgs),
    /// Report every problem of a run.toml, start nothing.
    Check(CheckArgs),
    /// Turn text data into training Parquet.
    #[command(subcommand)]
    Import(Import),
    /// Gather click logs from a Kafka topic into a lake, each event exactly once.
    Collect(CollectArgs),
    /// Turn click logs and feature tables into training data.
    Prepare(Box<PrepareArgs>),
    /// Run a query engine of several machines, for `prepare --engine`.
    #[command(subcommand)]
    Engine(EngineVerb),
    /// Make a synthetic ranking dataset whose true ranking is known.
    Generate(GenerateArgs),
    /// Split a dataset by query, never through one.
    Split(SplitArgs),
    /// Show what a dataset holds, and what is odd about it.
    Inspect(InspectArgs),
    /// Collect human judgments: make rating tasks, pull ratings, conclude labels.
    #[command(subcommand)]
    Judge(Judge),
    /// Make click logs, or bring in those of other systems.
    #[command(subcommand)]
    Logs(Logs),
    /// How much each position is looked at: estimate it from click logs, show a table.
    #[command(subcommand)]
    Propensity(Propensity),
    /// What a new ranker would have earned, from the logs of the one that was live.
    #[command(subcommand)]
    Counterfactual(Counterfactual),
    /// Read an online A/B test from click logs whose searches name the arm that answered.
    Abtest(Box<AbTestArgs>),
    /// Score a dataset with a model.
    Score(ScoreArgs),
    /// How good a ranking is: of a file of predictions, or of a TREC qrels and run pair.
    Evaluate(Box<EvaluateArgs>),
    /// Whether one ranking is better than another, and where.
    Compare(Box<CompareArgs>),
    /// Run a standing coordinator.
    Coordinator(CoordinatorArgs),
    /// Run one worker for a standing coordinator.
    Worker(WorkerArgs),
    /// Hand a run to a standing coordinator.
    Submit(SubmitArgs),
    /// List a coordinator's runs, the newest first.
    List(ClientArgs),
    /// Show how a run is doing.
    Status(RunArgs),
    /// Follow a run until it ends.
    Watch(RunArgs),
    /// Show a run's curves.
    Metrics(MetricsArgs),
    /// List a run's checkpoints.
    Checkpoints(RunArgs),
    /// List a coordinator's workers.
    Workers(ClientArgs),
    /// Ask what is kept of runs: which is the best, what differs; bring its model.
    #[command(subcommand)]
    Runs(Runs),
    /// Prove that each epoch of a run counted every row exactly once, whatever happened to its workers.
    Audit(AuditArgs),
    /// Train on this machine while workers are killed, paused and sent away on purpose; at the end, what that cost.
    Chaos(Box<ChaosArgs>),
    /// Save a checkpoint and stop a run.
    Stop(StopArgs),
    /// Write a trained model as a file that serves elsewhere.
    Export(ExportArgs),
}

/// The document and what is set over it.
#[derive(Debug, clap::Args)]
pub struct DocumentArgs {
    /// What to train.
    #[arg(value_name = "RUN.TOML")]
    pub file: PathBuf,
    /// Set any key over the document: `--set training.epochs=5`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub sets: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub document: DocumentArgs,
}

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub document: DocumentArgs,
    /// Worker processes; over `cluster.workers`.
    #[arg(long, env = "LOCKSTEP_WORKERS", value_name = "N")]
    pub workers: Option<u32>,
    /// What workers compute on; over `cluster.device`.
    #[arg(long, env = "LOCKSTEP_DEVICE", value_enum)]
    pub device: Option<Device>,
    /// Continue from a checkpoint: `--resume` or `--resume=latest`, `--resume=best`, or `--resume=FOLDER` of a checkpoint or a run.
    // With a space between them the word after it would be taken for the value, also where it is the document.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "latest")]
    pub resume: Option<String>,
    /// How often a worker that dies is started again, within a minute each; 0: never.
    #[arg(long, env = "LOCKSTEP_MAX_RESTARTS", value_name = "N", default_value_t = 10)]
    pub max_restarts: u32,
    /// Where the coordinator listens [default: 127.0.0.1:7070, or any free port where that is taken].
    #[arg(long, env = "LOCKSTEP_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where the coordinator keeps its journal and logs [default: <checkpoint.dir>/.state].
    #[arg(long, env = "LOCKSTEP_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print each event as one line of JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

impl Device {
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct CoordinatorArgs {
    #[arg(long, env = "LOCKSTEP_LISTEN", value_name = "ADDR", default_value = proto::DEFAULT_ADDRESS)]
    pub listen: SocketAddr,
    /// Where it keeps its journal, and finds it again after a restart.
    #[arg(long, env = "LOCKSTEP_STATE", value_name = "DIR", default_value = ".lockstep")]
    pub state: PathBuf,
    /// Keep the journal in etcd instead, where other coordinators with the same store stand by to take over:
    /// `etcd://HOST:2379/NAME`, or `etcd://A:2379,B:2379,C:2379/NAME`.
    #[arg(long, env = "LOCKSTEP_STORE", value_name = "STORE", conflicts_with = "state")]
    pub store: Option<EtcdStore>,
    /// How workers and clients reach this coordinator when it leads, with `--store` [default: where it listens].
    #[arg(long, env = "LOCKSTEP_ADVERTISE", value_name = "URL", requires = "store", value_parser = address)]
    pub advertise: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub at: At,
    /// Its number on this machine: makes its name stable over restarts.
    #[arg(long, value_name = "N")]
    pub slot: Option<u32>,
    #[arg(long, env = "LOCKSTEP_DEVICE", value_enum)]
    pub device: Option<Device>,
}

/// Which click logs.
#[derive(Debug, clap::Args)]
pub struct LakeArgs {
    /// The lake: a folder, or `s3://bucket/prefix`.
    #[arg(long, value_name = "LAKE")]
    pub logs: String,
    /// The first date to read, in UTC [default: the lake's first].
    #[arg(long, value_name = "DATE")]
    pub from: Option<NaiveDate>,
    /// The last date to read [default: the lake's last].
    #[arg(long, value_name = "DATE")]
    pub to: Option<NaiveDate>,
}

/// Which coordinator.
#[derive(Clone, Debug, clap::Args)]
pub struct At {
    /// Several, separated by commas: the one that leads.
    #[arg(long, env = "LOCKSTEP_COORDINATOR", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    pub coordinator: String,
}

#[derive(Debug, clap::Args)]
pub struct ClientArgs {
    #[command(flatten)]
    pub at: At,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Which run [default: the newest].
    pub run: Option<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// Which run [default: the newest].
    pub run: Option<String>,
    /// Which curves, `train/loss`, `validation/ndcg@10` or `judgments/ndcg@10` [default: all].
    pub names: Vec<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Which run [default: the newest].
    pub run: Option<String>,
    /// Stop at once, without saving.
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub document: DocumentArgs,
    /// Continue from a checkpoint: `--resume` or `--resume=latest`, `--resume=best`, or `--resume=FOLDER` of a checkpoint or a run.
    // With a space between them the word after it would be taken for the value, also where it is the document.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "latest")]
    pub resume: Option<String>,
    /// Follow the run until it ends.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err("there is no `=`: write `--set training.epochs=5`".into()),
    }
}

/// One, not a list.
fn address(text: &str) -> Result<String, String> {
    match &*proto::addresses::coordinators(text).map_err(|error| error.to_string())? {
        [one] => Ok(one.clone()),
        _ => Err("it is one address, `http://host:7070`".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Verb {
        Args::try_parse_from(line.split(' ')).unwrap().verb
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn resume_takes_an_optional_checkpoint_and_the_file_may_stand_before_or_after_it() {
        let Verb::Train(args) = parse("lockstep train run.toml --resume --workers 2") else { panic!("not train") };
        assert_eq!((args.resume.as_deref(), args.workers), (Some("latest"), Some(2)));
        let Verb::Train(args) = parse("lockstep train run.toml --resume=best") else { panic!("not train") };
        assert_eq!(args.resume.as_deref(), Some("best"));
        let Verb::Train(args) = parse("lockstep train --resume run.toml") else { panic!("not train") };
        assert_eq!((args.resume.as_deref(), args.document.file), (Some("latest"), PathBuf::from("run.toml")));
        assert!(Args::try_parse_from(["lockstep", "train", "run.toml", "--resume", "best"]).is_err());
        let Verb::Train(args) = parse("lockstep train run.toml") else { panic!("not train") };
        assert_eq!(args.resume, None);
    }

    #[test]
    fn a_journal_is_in_a_folder_or_in_etcd() {
        let Verb::Coordinator(args) = parse("lockstep coordinator --store etcd://a:2379/x --advertise b:7070") else {
            panic!("not coordinator")
        };
        assert_eq!(args.store.unwrap().to_string(), "etcd://a:2379/x");
        assert_eq!(args.advertise.as_deref(), Some("http://b:7070"));
        for wrong in ["--store etcd://a:2379/x --state s", "--advertise b:7070", "--store a:2379"] {
            let words = format!("lockstep coordinator {wrong}");
            assert!(Args::try_parse_from(words.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sets_are_split_at_the_first_equals_sign() {
        let Verb::Check(args) = parse("lockstep check run.toml --set a.b=c=d --set x=1") else { panic!("not check") };
        assert_eq!(args.document.sets, [("a.b".into(), "c=d".into()), ("x".into(), "1".into())]);
        assert!(Args::try_parse_from(["lockstep", "check", "run.toml", "--set", "x"]).is_err());
    }

    #[test]
    fn metrics_takes_a_run_and_then_names() {
        let Verb::Metrics(args) = parse("lockstep metrics r-1 train/loss validation/map --json") else {
            panic!("not metrics")
        };
        assert_eq!(args.run.as_deref(), Some("r-1"));
        assert_eq!(args.names, ["train/loss", "validation/map"]);
        assert!(args.client.json);
    }
}
