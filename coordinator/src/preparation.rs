//! Before a run can train: its manifests, checked against what it asks for, the checkpoints it starts from, and its folder. Blocking.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use dataset::manifest::DatasetError;
use proto::{RunId, RunSpec, spec::Data, v1};

use crate::{
    checkpoints::{CheckpointError, Claim, RunFolder, VerifiedCheckpoint, best, resolve_resume, resolve_start},
    run::Prepared,
};

/// Builds the manifest of a dataset: [`dataset::manifest::build`], or a test's own.
pub type BuildManifest = dyn Fn(&Path, &Data, bool) -> Result<v1::Manifest, DatasetError> + Send + Sync;

/// All that seats need beside places.
pub struct Preparation {
    pub summary: Prepared,
    pub train: v1::Manifest,
    pub validation: Option<v1::Manifest>,
    pub judgments: Option<v1::Manifest>,
    /// Folder of a verified checkpoint; empty: a fresh start.
    pub resume_from: String,
    /// Folder of a verified checkpoint whose weights to begin with; empty: fresh weights.
    pub start_from: String,
    pub claim: Arc<Claim>,
}

/// `again`: the run has begun, and its coordinator was away. `from_another`: that was not this one.
pub fn prepare(
    run: &RunId,
    spec: &RunSpec,
    resume_from: &str,
    best_by: Option<&str>,
    build: &BuildManifest,
    again: bool,
    from_another: bool,
) -> Result<Preparation, v1::Failure> {
    let Manifests { train, validation, judgments } = manifests(spec, build)?;
    // What a resumed run began with is in its checkpoint; the one it came from may be gone by now.
    let start = spec.model.start_from.as_ref().filter(|_| resume_from.is_empty());
    let start = match start.map(|from| resolve_start(spec, from, Some(&train))).transpose() {
        Err(_) if again => None,
        start => start.map_err(refused)?,
    };
    let resume = match resume_from {
        "" => None,
        // The run has passed it: gone by now, it is not missed.
        what if again => resolve_resume(spec, what, Some(&train)).ok(),
        what => Some(resolve_resume(spec, what, Some(&train)).map_err(refused)?),
    };
    let claim = Arc::new(Claim::take(RunFolder::of(spec), run, from_another).map_err(refused)?);
    if resume.is_none() && !again {
        // Looked at before it was taken, at the submission; now for good.
        claim.folder.refuse_if_taken(&spec.name).map_err(|error| {
            let _ = claim.remove_staging();
            refused(error)
        })?;
    }
    let skipped = |checkpoint: &Option<VerifiedCheckpoint>| match checkpoint {
        Some(checkpoint) => checkpoint.skipped.clone(),
        None => Vec::new(),
    };
    let mut summary = Prepared {
        dataset_hash: train.hash.clone(),
        warnings: [skipped(&start), skipped(&resume)].concat(),
        ..Prepared::default()
    };
    if let Some(resume) = &resume {
        summary.resumed_at = Some(resume.manifest.step);
        let found = best::restore(&claim, best_by);
        summary.best_score = found.score;
        summary.best = found.best;
        summary.warnings.extend(found.warnings);
    }
    let path = |checkpoint: Option<VerifiedCheckpoint>| {
        checkpoint.map(|checkpoint| checkpoint.path.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (resume_from, start_from) = (path(resume), path(start));
    Ok(Preparation { summary, train, validation, judgments, resume_from, start_from, claim })
}

struct Manifests {
    train: v1::Manifest,
    validation: Option<v1::Manifest>,
    judgments: Option<v1::Manifest>,
}

fn manifests(spec: &RunSpec, build: &BuildManifest) -> Result<Manifests, v1::Failure> {
    let by_list = !spec.loss.kind.is_pointwise();
    let train = build(&spec.data.train, &spec.data, by_list).map_err(unreadable)?;
    if train.rows == 0 {
        return Err(empty(&spec.data.train));
    }
    let (atoms, unit) = if by_list { (train.lists, "list") } else { (train.rows, "row") };
    let workers = spec.cluster.workers;
    if atoms < u64::from(workers) {
        let plural = if atoms == 1 { "" } else { "s" };
        let message = format!(
            "dataset `{}` has {atoms} {unit}{plural}, {workers} workers need at least {workers}",
            spec.data.train.display()
        );
        return Err(wrong(message, format!("set `cluster.workers = {}`, or train on more data", atoms.max(1))));
    }
    let evaluated = |what: &str, path: &Option<PathBuf>, data: &Data| {
        let Some(path) = path else { return Ok(None) };
        let manifest = build(path, data, true).map_err(unreadable)?;
        if manifest.rows == 0 {
            return Err(empty(path));
        }
        same_features(spec, what, path, &train, &manifest)?;
        Ok(Some(manifest))
    };
    let validation = evaluated("validation data", &spec.data.validation, &spec.data)?;
    // What people judged is no click log: it has the features, but need not have the log's lists and weights, and may have more.
    let features = train.columns.as_ref().map(|columns| columns.features.clone());
    let judged = Data { group: None, weight: None, features, ..spec.data.clone() };
    let judgments = evaluated("judgments", &spec.data.judgments, &judged)?;
    Ok(Manifests { train, validation, judgments })
}

fn same_features(
    spec: &RunSpec,
    what: &str,
    path: &Path,
    train: &v1::Manifest,
    validation: &v1::Manifest,
) -> Result<(), v1::Failure> {
    let features = |manifest: &v1::Manifest| manifest.columns.clone().unwrap_or_default().features;
    let (ours, theirs) = (features(train), features(validation));
    if ours == theirs {
        return Ok(());
    }
    let lacks = ours.iter().find(|name| !theirs.contains(name)).map(|name| format!("it lacks `{name}`"));
    let adds = theirs.iter().find(|name| !ours.contains(name)).map(|name| format!("it has `{name}` besides"));
    let how = lacks.or(adds).unwrap_or_else(|| "their order differs".into());
    let message = format!(
        "{what} `{}` does not have the features of the training data `{}`: {how}",
        path.display(),
        spec.data.train.display()
    );
    Err(wrong(message, "name the common ones in `data.features`, in the order that is wanted".into()))
}

fn empty(path: &Path) -> v1::Failure {
    wrong(format!("dataset `{}` is empty: it has no rows", path.display()), "check the path and how it was made".into())
}

fn unreadable(error: DatasetError) -> v1::Failure {
    wrong(
        error.message,
        error.hint.unwrap_or_else(|| format!("`lockstep inspect {}` shows more", error.path.display())),
    )
}

fn refused(error: CheckpointError) -> v1::Failure {
    v1::Failure { causes: error.causes, ..wrong(error.message, error.hint.unwrap_or_default()) }
}

fn wrong(message: String, hint: String) -> v1::Failure {
    v1::Failure { message, causes: Vec::new(), hint, input_is_wrong: true }
}
