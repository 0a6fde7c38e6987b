//! The network that a run trains. A scripted module's file is read by every rank: the same one on all of them, and at a resume the one
//! that the run began with. Who joins later gets it from a rank that has it.

use std::{fs, path::Path, sync::Arc};

use proto::{
    checkpoint::MODULE,
    spec::{ModelKind, Normalize, RunSpec},
    v1,
};
use tch::Device;

use super::{JobError, state::broadcast};
use crate::{
    collective::{Collective, Lost},
    model::{Network, load},
};

const OTHER_FEATURES: &str =
    "give the data its features in the module's order, or script the module without `features`";

/// The network of a seat, its first values the seed's or the module's.
pub(super) fn network(
    spec: &RunSpec,
    seat: &v1::Seat,
    features: usize,
    collective: &mut dyn Collective,
    device: Device,
) -> Result<Network, JobError> {
    if spec.model.kind != ModelKind::Torchscript {
        return Ok(Network::new(&spec.model, features, spec.seed, device));
    }
    let given = spec.model.path.clone().unwrap_or_default();
    let path = if seat.resume_from.is_empty() { given.clone() } else { Path::new(&seat.resume_from).join(MODULE) };
    let file: Arc<[u8]> = load::module_file(&path)?.into();
    let hash = blake3::hash(&file);
    if !seat.resume_from.is_empty() && fs::read(&given).is_ok_and(|now| blake3::hash(&now) != hash) {
        return Err(JobError::wrong_input(
            format!("`{}` is not the module that this run began with, `{}`", given.display(), path.display()),
            "restore it or take it away to resume; to train the new one, start a run of another name",
        ));
    }
    let everyones = collective.gather(hash.as_bytes())?;
    if let Some(rank) = everyones.iter().position(|theirs| *theirs != everyones[0]) {
        return Err(JobError::wrong_input(
            format!("`{}` is another file for rank {rank} than for rank 0", path.display()),
            "copy the same module to each worker's machine",
        ));
    }
    let refused =
        |what: String, hint: &str| JobError::wrong_input(format!("the module `{}` {what}", path.display()), hint);
    let about = Network::about(&file).map_err(|unfit| refused(unfit.message, unfit.hint))?;
    let columns = seat.train.as_ref().and_then(|train| train.columns.as_ref());
    if let Some(own) = &about.features {
        same_features(own, columns.map_or(&[], |columns| &columns.features[..]))
            .map_err(|what| refused(what, OTHER_FEATURES))?;
    }
    // A run that began so goes on so.
    let begins = seat.resume_from.is_empty();
    if begins && about.normalize != Normalize::None && spec.model.normalize != Normalize::None {
        return Err(refused(
            "normalises its features itself, as it was exported, and model.normalize would do so once more before it"
                .into(),
            "leave model.normalize out: the module takes raw features",
        ));
    }
    Ok(load::scripted(file, &path, &spec.model, features, device)?)
}

/// The network of a seat whose state comes from the rank `root`.
pub(super) fn joined(
    spec: &RunSpec,
    features: usize,
    collective: &mut dyn Collective,
    root: usize,
    device: Device,
) -> Result<Network, JobError> {
    if spec.model.kind != ModelKind::Torchscript {
        return Ok(Network::new(&spec.model, features, spec.seed, device));
    }
    let file: Arc<[u8]> = broadcast(collective, Vec::new(), root)?.into();
    let path = spec.model.path.clone().unwrap_or_default();
    Ok(load::scripted(file, &path, &spec.model, features, device)?)
}

/// The other side of [`joined`], on every rank that has a network already.
pub(super) fn offered(network: &Network, collective: &mut dyn Collective, root: usize) -> Result<(), Lost> {
    let Some(file) = network.module_file() else { return Ok(()) };
    let mine = if collective.rank() == root { file.to_vec() } else { Vec::new() };
    broadcast(collective, mine, root).map(drop)
}

/// A module that says which features it takes must be given those, in its order. What is wrong reads on after "the module `model.pt` ".
fn same_features(own: &[String], given: &[String]) -> Result<(), String> {
    if own == given {
        return Ok(());
    }
    let index = own.iter().zip(given).take_while(|(own, given)| own == given).count();
    let nth = |names: &[String]| names.get(index).map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
    Err(format!(
        "takes other features than the data has: its feature {index} is {}, the data's {}",
        nth(own),
        nth(given)
    ))
}
