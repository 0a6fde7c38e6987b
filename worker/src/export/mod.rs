//! Trained models, as files that serve elsewhere: TorchScript, safetensors, an MLflow model's folder. What leaves here takes raw
//! features and needs nothing of Lockstep's.

pub mod command;
mod folder;
mod forward;
pub mod mlflow;
mod torchscript;
mod weights;

use std::{io::Write as _, path::Path};

use clap::ValueEnum;
use dataset::whole_file::WholeFile;
use serde_json::{Value, json};

use crate::{
    fault::Fault,
    model::load::{Loaded, Trained},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A scripted module: raw features in, scores out, normalisation inside.
    Torchscript,
    /// The tensors, and in the file's metadata what they are.
    Safetensors,
    /// A folder that `mlflow.pytorch.load_model` opens.
    Mlflow,
}

/// Writes a model to `out`, which appears whole or not at all.
pub fn export(loaded: &Loaded, format: Format, out: &Path, overwrite: bool) -> Result<(), Fault> {
    match format {
        Format::Torchscript => whole_file(out, overwrite, || torchscript::bytes(loaded)),
        Format::Safetensors => whole_file(out, overwrite, || weights::bytes(loaded)),
        Format::Mlflow => mlflow::write(loaded, out, overwrite),
    }
}

/// What exists already is refused before any work is done.
fn whole_file(out: &Path, overwrite: bool, bytes: impl FnOnce() -> Result<Vec<u8>, Fault>) -> Result<(), Fault> {
    let whole = WholeFile::begin(out, overwrite)?;
    let bytes = bytes()?;
    whole.file().and_then(|mut file| file.write_all(&bytes)).map_err(|error| unwritable(out, &error))?;
    Ok(whole.commit()?)
}

fn unwritable(out: &Path, error: &std::io::Error) -> Fault {
    Fault::failed(format!("cannot write `{}`: {error}", out.display()), "free space there, or name another place")
}

/// Where the model comes from; what was never trained here is not exported.
fn trained(loaded: &Loaded) -> Result<&Trained, Fault> {
    loaded.trained.as_ref().ok_or_else(|| {
        Fault::wrong_input(
            format!("`{}` is no checkpoint but a scripted module, as it would be exported", loaded.path.display()),
            "give the folder of a checkpoint or of a run",
        )
    })
}

/// What a stranger may want to know of a model: where it comes from, and what it was trained for.
fn provenance(trained: &Trained) -> Value {
    let manifest = &trained.manifest;
    json!({
        "lockstep": manifest.lockstep,
        "run_id": manifest.run_id,
        "run_name": manifest.run_name,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "dataset_hash": manifest.dataset_hash,
        "features": manifest.features,
        "model": trained.spec.model,
        "loss": trained.spec.loss,
        "metrics": manifest.metrics,
    })
}
