//! What `export` takes.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Which;

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The folder of a checkpoint or of a run: `checkpoints/baseline`.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Which of a run's checkpoints.
    #[arg(long, value_enum, default_value_t = Which::Best)]
    pub checkpoint: Which,
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The file or folder to write.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Replace what an earlier export wrote there.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A scripted module: raw features in, scores out, normalisation inside.
    Torchscript,
    /// The tensors, and in the file's metadata what they are.
    Safetensors,
    /// A folder that `mlflow.pytorch.load_model` opens.
    Mlflow,
}

impl ExportFormat {
    pub fn word(self) -> &'static str {
        match self {
            Self::Torchscript => "torchscript",
            Self::Safetensors => "safetensors",
            Self::Mlflow => "mlflow",
        }
    }
}
