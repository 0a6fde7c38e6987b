//! What can be typed after `judge`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum Judge {
    /// Make a rating task of query-document pairs: a file that raters fill in, or a project on Label Studio.
    Create(CreateArgs),
    /// Fetch the ratings there are so far, as JSONL.
    Pull(PullArgs),
    /// Conclude one label a pair, and say how far raters agree.
    Aggregate(AggregateArgs),
}

/// A server to rate on.
#[derive(Debug, clap::Args)]
pub struct PlatformArgs {
    /// A Label Studio server, as `http://127.0.0.1:8080` [default: files]. Its access token comes from
    /// LOCKSTEP_LABEL_STUDIO_TOKEN.
    #[arg(long, value_name = "URL")]
    pub platform: Option<String>,
    /// A file that holds the token, instead of LOCKSTEP_LABEL_STUDIO_TOKEN.
    #[arg(long, value_name = "FILE", requires = "platform")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Pairs to rate: .csv, .tsv, .jsonl or .parquet with `query_id`, `document_id`, and for raters to read `query`, `title`, `text`.
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// Without a platform: the file of tasks to write (JSONL); the instructions go beside it.
    #[arg(long, short, value_name = "FILE", required_unless_present = "platform", conflicts_with = "platform")]
    pub out: Option<PathBuf>,
    /// What raters are told, or a .txt or .md file that says it. The scale is added.
    #[arg(
        long,
        value_name = "TEXT|FILE",
        default_value = "How well does the document serve the query? Judge what it offers, not how it is presented."
    )]
    pub instructions: String,
    #[arg(long, default_value = "Relevance judgments", value_name = "TEXT")]
    pub title: String,
    /// How many raters each pair should have.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub raters: u32,
    /// Replace files that are there.
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct PullArgs {
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// The project that `create` made; without a platform a file that raters filled in, or a folder of them.
    #[arg(long, value_name = "TASK")]
    pub task: String,
    /// The file of ratings to write (JSONL).
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    pub overwrite: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JudgeMethod {
    /// The most frequent grade.
    Majority,
    /// The most probable grade, given how each rater errs.
    DawidSkene,
}

#[derive(Debug, clap::Args)]
pub struct AggregateArgs {
    /// Files of ratings (JSONL), read as one.
    #[arg(required = true, value_name = "RATINGS")]
    pub ratings: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t = JudgeMethod::Majority)]
    pub method: JudgeMethod,
    /// The least share of its ratings that a label needs; for dawid-skene the least probability.
    #[arg(long, default_value_t = 0.6, value_name = "SHARE")]
    pub min_agreement: f64,
    /// Leave pairs with fewer raters undecided.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub min_raters: usize,
    /// The judgments to write: .parquet, .csv or .jsonl. What is undecided goes to `.undecided.jsonl` beside it.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    pub overwrite: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}
