//! Which checkpoint to go on from: the newest whose every byte is what its manifest says, of the same model and data.

use std::path::{Path, PathBuf};

use dataset::checkpoint::{read_manifest, verify};
use proto::{
    RunSpec,
    checkpoint::{CheckpointManifest, MANIFEST},
    v1,
};
use serde_json::json;

use super::{CheckpointError, RunFolder};

/// A checkpoint of which every file has the bytes that its manifest promises.
#[derive(Debug)]
pub struct VerifiedCheckpoint {
    /// Folder, absolute.
    pub path: PathBuf,
    pub manifest: CheckpointManifest,
    /// Newer ones that were passed over, by name, and why.
    pub skipped: Vec<String>,
}

/// The checkpoint that `what` means: the folder of a checkpoint, the folder of a run (its newest intact one), or `latest` (of the run
/// that `spec` names). `data`, where it is known already, must be the data that the checkpoint was trained on. Blocking: reads it all.
pub fn resolve_resume(
    spec: &RunSpec,
    what: &str,
    data: Option<&v1::Manifest>,
) -> Result<VerifiedCheckpoint, CheckpointError> {
    let verified = resolve(spec, what)?;
    let mut differences = of_model(spec, &verified.manifest, true)?;
    differences.extend(of_features(spec, &verified.manifest, data));
    differences.extend(of_course(spec, &verified.manifest)?);
    differences.extend(of_columns(spec, &verified.manifest, data)?);
    if let Some(data) = data
        && data.hash != verified.manifest.dataset_hash
    {
        differences.push(format!(
            "the dataset is another: its hash is {}, the checkpoint's {}",
            data.hash, verified.manifest.dataset_hash
        ));
    }
    refuse(verified, differences, "restore what differs, or start a new run with `model.start_from` set to it")
}

/// The checkpoint that `[model] start_from` means: verified in the same way, but only its model must be this run's.
pub fn resolve_start(
    spec: &RunSpec,
    from: &Path,
    data: Option<&v1::Manifest>,
) -> Result<VerifiedCheckpoint, CheckpointError> {
    let verified = resolve(spec, &from.to_string_lossy())?;
    let mut differences = of_model(spec, &verified.manifest, false)?;
    differences.extend(of_features(spec, &verified.manifest, data));
    refuse(
        verified,
        differences,
        "set `model` and `data.features` as the checkpoint has them, or leave `start_from` out",
    )
}

fn refuse(
    verified: VerifiedCheckpoint,
    differences: Vec<String>,
    hint: &str,
) -> Result<VerifiedCheckpoint, CheckpointError> {
    if differences.is_empty() {
        return Ok(verified);
    }
    let message = format!("checkpoint `{}` is of another run: {}", verified.path.display(), differences.join("; "));
    Err(CheckpointError::new(message, hint))
}

fn resolve(spec: &RunSpec, what: &str) -> Result<VerifiedCheckpoint, CheckpointError> {
    let folder = match what {
        "" | "latest" => RunFolder::of(spec),
        path => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            // Links are followed, so that what is pruned later is not what a link has moved on to.
            let path = path.canonicalize().unwrap_or(path);
            if !path.is_dir() {
                let hint = "give the folder of a checkpoint or of a run, or `latest`";
                return Err(CheckpointError::new(format!("checkpoint `{}` does not exist", path.display()), hint));
            }
            let named_as_one = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
            if named_as_one || path.join(MANIFEST).exists() {
                let manifest = verify(&path).map_err(|why| {
                    let hint = "give the run's folder instead to take the newest intact checkpoint";
                    CheckpointError::new(format!("checkpoint `{}` is damaged: {why}", path.display()), hint)
                })?;
                return Ok(VerifiedCheckpoint { path, manifest, skipped: Vec::new() });
            }
            RunFolder(path)
        }
    };
    newest_intact(&folder)
}

fn newest_intact(folder: &RunFolder) -> Result<VerifiedCheckpoint, CheckpointError> {
    let steps = folder.steps().map_err(|error| folder.unreadable(&error))?;
    if steps.is_empty() {
        let message = format!("there is no checkpoint in `{}`", folder.path().display());
        return Err(CheckpointError::new(message, "start without `--resume`, or check `name` and `checkpoint.dir`"));
    }
    let mut skipped = Vec::new();
    let mut dated = Vec::new();
    for step in steps.into_iter().rev() {
        let path = folder.step(step);
        match read_manifest(&path) {
            Ok(manifest) => dated.push((manifest.unix_micros, step, path)),
            Err(why) => skipped.push(damaged(&path, &why)),
        }
    }
    // By time, not by step: a run resumed from an early step leaves higher steps of its former life behind.
    dated.sort_unstable_by(|a, b| b.cmp(a));
    for (_, _, path) in dated {
        match verify(&path) {
            Ok(manifest) => return Ok(VerifiedCheckpoint { path, manifest, skipped }),
            Err(why) => skipped.push(damaged(&path, &why)),
        }
    }
    Err(CheckpointError {
        message: format!("no checkpoint in `{}` is intact", folder.path().display()),
        causes: skipped,
        hint: Some("restore one from a copy, or start anew under another `name`".into()),
    })
}

fn damaged(path: &Path, why: &str) -> String {
    format!("checkpoint `{}` is damaged and was skipped: {why}", path.display())
}

fn spec_of(manifest: &CheckpointManifest) -> Result<RunSpec, CheckpointError> {
    proto::spec::parse(&manifest.spec_toml, &[]).map_err(|problems| CheckpointError {
        message: format!("the checkpoint of step {} carries a run spec that this version cannot read", manifest.step),
        causes: problems.0.into_iter().map(|problem| problem.message).collect(),
        hint: Some("use the version of lockstep that wrote it".into()),
    })
}

/// `dropout` is no part of the weights: a warm start may change it.
fn of_model(spec: &RunSpec, manifest: &CheckpointManifest, dropout: bool) -> Result<Vec<String>, CheckpointError> {
    let (ours, theirs) = (&spec.model, spec_of(manifest)?.model);
    let pairs = [
        ("model.kind", json!(ours.kind), json!(theirs.kind)),
        ("model.hidden", json!(ours.hidden), json!(theirs.hidden)),
        ("model.activation", json!(ours.activation.unwrap_or_default()), json!(theirs.activation.unwrap_or_default())),
        ("model.layer_norm", json!(ours.layer_norm.unwrap_or_default()), json!(theirs.layer_norm.unwrap_or_default())),
        ("model.cross_layers", json!(ours.cross_layers), json!(theirs.cross_layers)),
        ("model.cross_rank", json!(ours.cross_rank), json!(theirs.cross_rank)),
        ("model.normalize", json!(ours.normalize), json!(theirs.normalize)),
    ];
    let mut differences = unequal(pairs);
    if dropout {
        let (ours, theirs) = (ours.dropout.unwrap_or_default(), theirs.dropout.unwrap_or_default());
        differences.extend(unequal([("model.dropout", json!(ours), json!(theirs))]));
    }
    Ok(differences)
}

fn of_features(spec: &RunSpec, manifest: &CheckpointManifest, data: Option<&v1::Manifest>) -> Option<String> {
    let columns = data.and_then(|data| data.columns.as_ref());
    let ours = columns.map(|columns| &columns.features).or(spec.data.features.as_ref())?;
    let theirs = &manifest.features;
    if ours == theirs {
        return None;
    }
    let first = ours.iter().zip(theirs).position(|(a, b)| a != b);
    Some(match first {
        _ if ours.len() != theirs.len() => {
            format!("the data has {} features, the checkpoint {}", ours.len(), theirs.len())
        }
        Some(at) => format!("feature {at} is `{}`, the checkpoint has `{}`", ours[at], theirs[at]),
        None => "the features differ".into(),
    })
}

/// Which columns are what. A key that is left out means what the data has; equal data (their hash covers it) resolve it equally.
fn of_columns(
    spec: &RunSpec,
    manifest: &CheckpointManifest,
    data: Option<&v1::Manifest>,
) -> Result<Vec<String>, CheckpointError> {
    let (ours, theirs) = (&spec.data, spec_of(manifest)?.data);
    let mut differences = unequal([
        ("data.label", json!(ours.label), json!(theirs.label)),
        ("data.query", json!(ours.query), json!(theirs.query)),
    ]);
    let columns = data.and_then(|data| data.columns.as_ref());
    let other_data = data.is_some_and(|data| data.hash != manifest.dataset_hash);
    let pairs = [
        ("data.group", &ours.group, &theirs.group, columns.map(|columns| &columns.group)),
        ("data.weight", &ours.weight, &theirs.weight, columns.map(|columns| &columns.weight)),
    ];
    for (key, ours, theirs, resolved) in pairs {
        let ours = match (ours, resolved) {
            (None, Some(resolved)) if theirs.is_some() => json!(resolved),
            _ => json!(ours),
        };
        // Where only the checkpoint leaves it out, what it meant is told by the data alone.
        if theirs.is_some() && !ours.is_null() || theirs.is_none() && !ours.is_null() && other_data {
            differences.extend(unequal([(key, ours, json!(theirs))]));
        }
    }
    Ok(differences)
}

/// What a position means: loss, the order of the data, and whose state the optimizer's is.
fn of_course(spec: &RunSpec, manifest: &CheckpointManifest) -> Result<Vec<String>, CheckpointError> {
    let theirs = spec_of(manifest)?;
    Ok(unequal([
        ("loss.kind", json!(spec.loss.kind), json!(theirs.loss.kind)),
        ("optimizer.kind", json!(spec.optimizer.kind), json!(theirs.optimizer.kind)),
        ("seed", json!(spec.seed), json!(manifest.seed)),
        ("training.batch", json!(spec.training.batch), json!(theirs.training.batch)),
        ("cluster.lanes", json!(spec.cluster.lanes), json!(manifest.lanes)),
        ("data.block_bytes", json!(spec.data.block_bytes.as_u64()), json!(theirs.data.block_bytes.as_u64())),
    ]))
}

fn unequal<const N: usize>(pairs: [(&str, serde_json::Value, serde_json::Value); N]) -> Vec<String> {
    let differing = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    differing
        .map(|(key, ours, theirs)| format!("`{key}` is {}, the checkpoint has {}", shown(&ours), shown(&theirs)))
        .collect()
}

fn shown(value: &serde_json::Value) -> String {
    if value.is_null() { "no value, which means the data's own".into() } else { value.to_string() }
}
