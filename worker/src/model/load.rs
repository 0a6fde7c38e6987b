//! From what `--model` names to a network that scores: a checkpoint's folder, or a run's, which holds checkpoints; a file of
//! TorchScript; an MLflow model's folder, which holds one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use dataset::checkpoint;
use proto::{
    checkpoint::{CheckpointManifest, MANIFEST, MODEL, MODULE},
    spec::{self, ModelKind, RunSpec},
};
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Tensor};

use super::{Network, Unfit};
use crate::{export::mlflow, fault::Fault};

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    #[default]
    Best,
    Latest,
}

impl Which {
    /// The name of the link in a run's folder.
    fn link(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Latest => "latest",
        }
    }
}

/// What a path given as a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Checkpoint(PathBuf),
    /// A file of TorchScript.
    Module(PathBuf),
}

/// A model that was trained, ready to score.
#[derive(Debug)]
pub struct Loaded {
    /// Where it was found, links followed.
    pub path: PathBuf,
    /// Names, in the order in which it takes them.
    pub features: Vec<String>,
    pub network: Network,
    /// Nothing is known of a module that came by itself.
    pub trained: Option<Trained>,
}

/// What a checkpoint says of its model.
#[derive(Debug)]
pub struct Trained {
    pub manifest: CheckpointManifest,
    pub spec: RunSpec,
}

/// The model at `path`; every byte of a checkpoint is verified. `features` names those of a module that does not say them itself.
pub fn load(path: &Path, which: Which, features: Option<&[String]>) -> Result<Loaded, Fault> {
    match (find(path, which)?, features) {
        (Named::Checkpoint(folder), None) => from_checkpoint(folder),
        (Named::Checkpoint(folder), Some(_)) => Err(Fault::wrong_input(
            format!("checkpoint `{}` says itself which features it takes", folder.display()),
            "leave --features out",
        )),
        (Named::Module(file), features) => from_module(file, features),
    }
}

fn find(path: &Path, which: Which) -> Result<Named, Fault> {
    const HINT: &str = "give the folder of a checkpoint or of a run, `checkpoints/<run>` or `checkpoints/<run>/step-…`; a file of TorchScript; or an MLflow model's folder";
    let shown = path.display();
    // Links are followed once: what is read below is one checkpoint, also where a run moves its link on meanwhile.
    let folder = path
        .canonicalize()
        .map_err(|error| Fault::wrong_input(format!("model `{shown}` cannot be found: {error}"), HINT))?;
    if folder.is_file() {
        return Ok(Named::Module(folder));
    }
    if folder.join(mlflow::MLMODEL).is_file() {
        return Ok(Named::Module(folder.join(mlflow::MODULE)));
    }
    let named_as_one = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
    if named_as_one || folder.join(MANIFEST).exists() {
        return Ok(Named::Checkpoint(folder));
    }
    let link = which.link();
    match folder.join(link).canonicalize() {
        Ok(checkpoint) => Ok(Named::Checkpoint(checkpoint)),
        Err(_) => {
            let hint = match which {
                Which::Best => "no checkpoint of the run is known as its best: `--checkpoint latest` takes the newest",
                Which::Latest => HINT,
            };
            Err(Fault::wrong_input(format!("`{shown}` holds no checkpoint named `{link}`"), hint))
        }
    }
}

fn from_checkpoint(path: PathBuf) -> Result<Loaded, Fault> {
    let manifest = checkpoint::verify(&path).map_err(|why| {
        let hint = "take another checkpoint of the run, or restore this one from a copy";
        Fault::wrong_input(format!("checkpoint `{}` is damaged: {why}", path.display()), hint)
    })?;
    let spec = spec::parse(&manifest.spec_toml, &[]).map_err(|problems| {
        let message = format!("checkpoint `{}` is of a run that this version cannot read: {problems}", path.display());
        Fault::wrong_input(message, format!("use lockstep {}, which wrote it", manifest.lockstep))
    })?;
    let features = manifest.features.len();
    let mut network = match spec.model.kind {
        ModelKind::Torchscript => {
            let module = path.join(MODULE);
            scripted(module_file(&module)?.into(), &module, &spec.model, features, Device::Cpu)?
        }
        _ => Network::new(&spec.model, features, spec.seed, Device::Cpu),
    };
    weights(&mut network, &path)?;
    Ok(Loaded { path, features: manifest.features.clone(), network, trained: Some(Trained { manifest, spec }) })
}

fn from_module(path: PathBuf, features: Option<&[String]>) -> Result<Loaded, Fault> {
    let file = module_file(&path)?;
    let refused = |unfit: Unfit| Fault::wrong_input(format!("the module `{}` {unfit}", path.display()), unfit.hint);
    let named = Network::about(&file).map_err(refused)?.features;
    let features = match (named, features) {
        (Some(named), None) => named,
        (None, Some(given)) => given.to_vec(),
        (Some(named), Some(given)) if named == given => named,
        (Some(named), Some(_)) => {
            let message =
                format!("the module `{}` says that it takes other features: {}", path.display(), named.join(", "));
            return Err(Fault::wrong_input(message, "leave --features out"));
        }
        (None, None) => {
            return Err(Fault::wrong_input(
                format!("the module `{}` does not say which features it takes", path.display()),
                "name them in its order: `--features price,rating,…`; what `lockstep export` writes knows its own",
            ));
        }
    };
    let network = Network::finished(file.into(), features.len(), Device::Cpu).map_err(refused)?;
    Ok(Loaded { path, features, network, trained: None })
}

/// The bytes of a scripted module.
pub fn module_file(path: &Path) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|error| {
        let message = format!("the module `{}` cannot be read: {error}", path.display());
        Fault::wrong_input(message, "name the file that `torch.jit.script(model).save(\"model.pt\")` wrote")
    })
}

/// The network that a file of TorchScript is, read from `path`.
pub fn scripted(
    file: Arc<[u8]>,
    path: &Path,
    model: &spec::Model,
    features: usize,
    device: Device,
) -> Result<Network, Fault> {
    Network::scripted(file, model, features, device)
        .map_err(|unfit| Fault::wrong_input(format!("the module `{}` {unfit}", path.display()), unfit.hint))
}

/// Fills a network from a checkpoint's file: weights and normalisation.
pub fn weights(network: &mut Network, folder: &Path) -> Result<(), Fault> {
    let path = folder.join(MODEL);
    let bytes = fs::read(&path).map_err(|error| damaged(&path, &error))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&path, &error))?;
    let mut values = vec![0f32; network.parameters.len()];
    for entry in &network.parameters.entries {
        let range = entry.offset..entry.offset + entry.length;
        tensor(&path, &tensors, &entry.name, &entry.shape, &mut values[range])?;
    }
    network.parameters.values.copy_(&Tensor::from_slice(&values));
    let features = network.features();
    let (mut mean, mut scale) = (vec![0f32; features], vec![0f32; features]);
    tensor(&path, &tensors, "normalize.mean", &[features as i64], &mut mean)?;
    tensor(&path, &tensors, "normalize.scale", &[features as i64], &mut scale)?;
    network.normalization.set(&mean, &scale);
    Ok(())
}

/// One tensor of a file of safetensors, which must have this shape.
pub fn tensor(
    path: &Path,
    tensors: &SafeTensors<'_>,
    name: &str,
    shape: &[i64],
    into: &mut [f32],
) -> Result<(), Fault> {
    let other_model = |what: String| {
        Fault::wrong_input(
            format!("`{}` is a checkpoint of another model: {what}", path.display()),
            "the [model] section and the features must be those it was trained with",
        )
    };
    let tensor = tensors.tensor(name).map_err(|_| other_model(format!("it has no tensor `{name}`")))?;
    let expected: Vec<usize> = shape.iter().map(|length| *length as usize).collect();
    if tensor.shape() != expected || tensor.dtype() != Dtype::F32 {
        return Err(other_model(format!("tensor `{name}` has shape {:?}, not {expected:?}", tensor.shape())));
    }
    for (value, bytes) in into.iter_mut().zip(tensor.data().as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

pub fn damaged(path: &Path, error: &dyn std::fmt::Display) -> Fault {
    Fault::wrong_input(
        format!("the checkpoint file `{}` cannot be read: {error}", path.display()),
        "take an older checkpoint: `lockstep checkpoints` lists them",
    )
}
