//! What can be typed after `prepare` and `engine`.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use bytesize::ByteSize;
use chrono::NaiveDate;
use clap::{Subcommand, ValueEnum};
use pipeline::engine::Engine;

use super::OutputArgs;

#[derive(Debug, clap::Args)]
pub struct PrepareArgs {
    /// The lake of click logs: a folder, or `s3://bucket/prefix`.
    #[arg(long, value_name = "LAKE", required_unless_present = "judgments", requires = "from", requires = "to")]
    pub logs: Option<String>,
    /// The first date, in UTC.
    #[arg(long, value_name = "DATE", requires = "logs")]
    pub from: Option<NaiveDate>,
    /// The last date, included.
    #[arg(long, value_name = "DATE", requires = "logs")]
    pub to: Option<NaiveDate>,
    /// Take the labels from a table of `lockstep judge aggregate` (Parquet). With --logs, results that nobody judged are left out; without,
    /// every query is one list of all its judged documents: an evaluation set.
    #[arg(long, value_name = "TABLE", conflicts_with = "labels")]
    pub judgments: Option<String>,
    /// Features of queries, keyed by `query_id`. A table with a `valid_from` column is joined as of the search's time.
    #[arg(long, value_name = "TABLE")]
    pub query_features: Option<String>,
    /// Features of documents, keyed by `document_id`.
    #[arg(long, value_name = "TABLE")]
    pub document_features: Option<String>,
    /// Features of pairs, keyed by `query_id` and `document_id`.
    #[arg(long, value_name = "TABLE")]
    pub pair_features: Option<String>,
    /// Features of users, keyed by `user_id`.
    #[arg(long, value_name = "TABLE")]
    pub user_features: Option<String>,
    /// Which features, from whichever table or column of the log has them [default: bm25_score, embedding_sim, title_match,
    /// doc_popularity, doc_freshness, doc_quality, query_length, query_popularity, user_preference_match, price_match].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub features: Option<Vec<String>>,
    #[arg(long, value_enum, default_value_t = LabelWord::Graded)]
    pub labels: LabelWord,
    /// A click that was read for longer than this is a long one.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub dwell_threshold: f64,
    /// Of `weighted` labels, as the three that follow.
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    pub click_weight: f64,
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    pub dwell_weight: f64,
    #[arg(long, value_name = "NUMBER", default_value_t = 2.0)]
    pub cart_weight: f64,
    #[arg(long, value_name = "NUMBER", default_value_t = 5.0)]
    pub purchase_weight: f64,
    /// `ipw` weighs every row by the inverse of its position's propensity, `ipw-clicks` only clicked ones.
    #[arg(long, value_enum, default_value_t = WeightWord::None)]
    pub weights: WeightWord,
    /// A table of `lockstep propensity estimate`, or `reference`, or `reference-rounded` for the weights of the reference's Spark job
    /// [default: reference].
    #[arg(long, value_name = "FILE")]
    pub propensities: Option<String>,
    /// Where a result was logged with its exact propensity, use that instead of the table.
    #[arg(long)]
    pub logged_propensities: bool,
    /// The largest weight.
    #[arg(long, value_name = "WEIGHT")]
    pub clip: Option<f64>,
    /// Divide the weights by their mean.
    #[arg(long)]
    pub self_normalize: bool,
    /// What to do about rows that lack a feature.
    #[arg(long, value_enum, default_value_t = MissingWord::Error)]
    pub missing: MissingWord,
    /// Write parts: `query:train=0.8,validation=0.2` by a hash of the query, or `time:train,validation=2026-01-21` by when a part begins.
    #[arg(long, value_name = "HOW")]
    pub split: Option<String>,
    /// The seed of a split by query.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub split_seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
    /// `local`, or `ballista://host:port` of a `lockstep engine scheduler`.
    #[arg(long, env = "LOCKSTEP_ENGINE", value_name = "URL", default_value = "local")]
    pub engine: Engine,
    /// What the plan may use; more is spilled to disk [default: half of the machine's].
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<ByteSize>,
    /// Threads of this machine, or parts that a cluster works on at a time [default: the machine's cores].
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How rows meet the tables: `streamed` past tables in memory, or `sorted` on disk [default: by the tables' size].
    #[arg(long, value_enum, default_value_t = JoinWord::Auto)]
    pub joins: JoinWord,
    /// Where to spill [default: the system's temporary folder].
    #[arg(long, value_name = "DIR")]
    pub spill: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LabelWord {
    /// 1 for a click, else 0.
    Binary,
    /// 4 purchased, 3 in the cart, 2 a long click, 1 a click, else 0.
    Graded,
    /// The sum of the weights of what was done.
    Weighted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightWord {
    None,
    Ipw,
    IpwClicks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MissingWord {
    /// Write nothing, and say how many rows lack which.
    Error,
    Zero,
    /// The feature's mean over all rows that have it.
    Mean,
    /// Leave the rows out.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JoinWord {
    Auto,
    Streamed,
    Sorted,
}

#[derive(Debug, Subcommand)]
pub enum EngineVerb {
    /// Hands out a plan's tasks to executors.
    Scheduler(SchedulerArgs),
    /// Carries out tasks. It reads the log and the tables, and writes the output: all machines must see them at the same path.
    Executor(ExecutorArgs),
}

#[derive(Debug, clap::Args)]
pub struct SchedulerArgs {
    /// Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50050")]
    pub listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub struct ExecutorArgs {
    /// `ballista://host:port`
    #[arg(long, value_name = "URL", default_value = "ballista://127.0.0.1:50050")]
    pub scheduler: Engine,
    /// Where other executors fetch from this one; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The name by which others reach this machine [default: the listening address].
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Tasks at a time [default: the machine's cores].
    #[arg(long, value_name = "N")]
    pub slots: Option<NonZeroUsize>,
    /// What its tasks may use together; more is spilled to disk [default: half of the machine's].
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<ByteSize>,
    /// Where joins stage their rows [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}
