//! What can be typed after `lockstep propensity`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::LakeArgs;

#[derive(Debug, Subcommand)]
pub enum Propensity {
    /// Estimate propensities by position from click logs, with intervals, and write them as a table for `prepare --propensities`.
    Estimate(PropensityEstimateArgs),
    /// Show a table of propensities, and refuse one that is not in order.
    Show(PropensityShowArgs),
}

#[derive(Debug, clap::Args)]
pub struct PropensityEstimateArgs {
    #[command(flatten)]
    pub lake: LakeArgs,
    /// How: from explored lists, or from documents that stood at several positions.
    #[arg(long, value_enum)]
    pub method: Estimator,
    /// Estimate the first so many positions; with `randomized`, those that exploration shuffles.
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub positions: usize,
    /// Of the bootstrap: the same seed and logs give the same intervals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Replicates of the bootstrap; `randomized` takes none.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub bootstrap: usize,
    /// The file to write; appears whole or not at all.
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
pub enum Estimator {
    /// Explored lists: clicks by position of lists whose first results were shuffled.
    Randomized,
    /// Documents that moved: click rates of the same document of the same query, positions two by two.
    Pairs,
    /// Documents that moved: propensities and a relevance a document together, by maximum likelihood.
    Em,
}

#[derive(Debug, clap::Args)]
pub struct PropensityShowArgs {
    /// The table.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub json: bool,
}
