//! `export`, as `lockstep` asks for it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::ValueEnum as _;
use serde_json::json;

use super::Format;
use crate::{fault::Fault, model::load, score::command::WhichArg};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The folder of a checkpoint, or of a run
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Which of a run's checkpoints
    #[arg(long, value_enum, default_value_t = WhichArg::Best)]
    pub checkpoint: WhichArg,
    #[arg(long, value_enum)]
    pub format: Format,
    /// The file or folder to write
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Replace what an earlier export wrote there
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON on stdout
    #[arg(long)]
    pub json: bool,
}

pub fn export(args: &ExportArgs) -> Result<(), Fault> {
    let _no_graph = tch::no_grad_guard();
    let model = load::load(&args.model, args.checkpoint.into(), None)?;
    let trained = super::trained(&model)?;
    super::export(&model, args.format, &args.out, args.overwrite)?;
    let (run, step, features) = (&trained.manifest.run_name, trained.manifest.step, model.features.len());
    let parameters = model.network.parameters.len();
    let said = if args.json {
        let format = args.format.to_possible_value().map(|value| value.get_name().to_owned());
        json!({
            "out": args.out,
            "format": format,
            "checkpoint": model.path,
            "run_name": run,
            "step": step,
            "features": features,
            "parameters": parameters,
        })
        .to_string()
    } else {
        format!("{} holds `{run}` of step {step}: {features} features, {parameters} parameters", args.out.display())
    };
    // A closed stdout loses the words, not the model.
    let _ = writeln!(io::stdout(), "{said}");
    Ok(())
}
