//! The network that a run trains. A scripted module's file is read by every rank: the same one on all of them, and at a resume the one
//! that the run began with.

use std::{fs, path::Path, sync::Arc};

use proto::{
    checkpoint::MODULE,
    spec::{ModelKind, RunSpec},
    v1,
};
use tch::Device;

use super::JobError;
use crate::{
    collective::Collective,
    model::{Network, load},
};

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
    Ok(load::scripted(file, &path, &spec.model, features, device)?)
}
