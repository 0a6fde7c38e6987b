//! `lockstep runs …`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Runs {
    /// List runs, the newest first, with what their best checkpoints are worth.
    List(ListArgs),
    /// Show everything that is kept of a run.
    Show(ShowArgs),
    /// Name the run whose best checkpoint has the highest value of a metric.
    Best(BestArgs),
    /// Show what two runs do not have in common: documents, data, code, metrics.
    Compare(CompareArgs),
    /// Bring a run's best checkpoint, for `lockstep score`, `export`, `model.start_from` and `--resume`.
    Fetch(FetchArgs),
    /// Send what an MLflow server has not got yet of the runs of a state folder, and end.
    Sync(SyncArgs),
}

/// Where runs are kept [default: the coordinator at http://127.0.0.1:7070 if one answers, else checkpoints/.state or .lockstep].
#[derive(Clone, Debug, clap::Args)]
pub struct Keeper {
    /// Ask this coordinator.
    #[arg(long, env = "LOCKSTEP_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
    /// Read the state folder of a coordinator that does not run.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Ask this MLflow server.
    #[arg(long, value_name = "URL", conflicts_with = "state")]
    pub mlflow: Option<String>,
    /// Runs of this MLflow experiment alone [default with --mlflow: lockstep].
    #[arg(long, value_name = "NAME")]
    pub experiment: Option<String>,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub keeper: Keeper,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Which run, by its id, its name or MLflow's id [default: the newest].
    pub run: Option<String>,
    #[command(flatten)]
    pub keeper: Keeper,
}

#[derive(Debug, clap::Args)]
pub struct BestArgs {
    /// `ndcg@10`: of each run's best checkpoint; `train/epoch_loss` or another curve: its newest point.
    #[arg(long, value_name = "METRIC", default_value = "ndcg@10")]
    pub metric: String,
    /// The lowest value is the best.
    #[arg(long)]
    pub lowest: bool,
    #[command(flatten)]
    pub keeper: Keeper,
}

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    #[arg(value_name = "A")]
    pub a: String,
    #[arg(value_name = "B")]
    pub b: String,
    #[command(flatten)]
    pub keeper: Keeper,
}

#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Which run, by its id, its name or MLflow's id.
    #[arg(required_unless_present = "best", conflicts_with = "best")]
    pub run: Option<String>,
    /// The run with the highest value of this metric.
    #[arg(long, value_name = "METRIC")]
    pub best: Option<String>,
    /// With --best: the lowest value is the best.
    #[arg(long, requires = "best")]
    pub lowest: bool,
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub keeper: Keeper,
}

#[derive(Debug, clap::Args)]
pub struct SyncArgs {
    #[arg(long, env = "LOCKSTEP_STATE", value_name = "DIR", default_value = "checkpoints/.state")]
    pub state: PathBuf,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}
