//! What can be typed after `score`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::ValueEnum;

/// A model, and the data that it is to score.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The folder of a checkpoint, of a run (`checkpoints/<run>`) or of an MLflow model; or a file of TorchScript.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Which checkpoint of a run's folder.
    #[arg(long, value_enum, default_value_t = Which::Best)]
    pub checkpoint: Which,
    /// The features of a module that does not know them itself, in its order: `price,rating`.
    #[arg(long, value_name = "NAMES")]
    pub features: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    Best,
    Latest,
}

impl Which {
    pub fn word(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Latest => "latest",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// A Parquet file or a folder of them. Features are found by the names that the model was trained with; it needs no label.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The Parquet file to write: ids, the label where there is one, and `score`, row for row. `-` streams Arrow batches to stdout.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    pub overwrite: bool,
    /// Threads that score; the scores are the same for any number [default: one a core].
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// The column of query ids [default: the one that the model was trained with, where the data has it].
    #[arg(long, value_name = "COLUMN")]
    pub query: Option<String>,
    /// The column of what a list is [default: the run's `data.group`, or list_id, where the data has it].
    #[arg(long, value_name = "COLUMN")]
    pub list: Option<String>,
    /// The column of document ids [default: document_id, where the data has it].
    #[arg(long, value_name = "COLUMN")]
    pub document: Option<String>,
    /// The column of labels [default: the one that the model was trained with, where the data has it].
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}
