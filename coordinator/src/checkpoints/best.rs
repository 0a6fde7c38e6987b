//! The best of the checkpoints that a run folder holds, by the rule of publishing: what a crash between a publication and its record
//! or its links lost is found again here.

use dataset::checkpoint::{check_sizes, read_manifest};
use proto::{checkpoint::CheckpointManifest, v1};

use super::{BEST, Claim, LATEST, RunFolder, checkpoint_of, linked, publish::link};
use crate::run::metric_score;

/// What a folder says about the run that is to go on in it.
#[derive(Debug, Default)]
pub struct Found {
    pub best: Option<v1::Checkpoint>,
    /// Higher is better; absent: what there is cannot be compared.
    pub score: Option<f64>,
    pub warnings: Vec<String>,
}

/// Looks at every readable checkpoint, and sets the links `best` and `latest` right. `best_by`: the metric, or the training loss.
pub fn restore(claim: &Claim, best_by: Option<&str>) -> Found {
    let folder = &claim.folder;
    let mut found = Found::default();
    let mut manifests: Vec<CheckpointManifest> =
        folder.steps().unwrap_or_default().into_iter().filter_map(|step| readable(folder, step)).collect();
    // In the order in which they were published: of equals the first is the best.
    manifests.sort_unstable_by_key(|manifest| (manifest.unix_micros, manifest.step));
    let Some(latest) = manifests.last().map(|manifest| manifest.step) else { return found };
    let mut best: Option<(f64, &CheckpointManifest)> = None;
    for manifest in &manifests {
        if let Some(score) = score(manifest, best_by)
            && best.is_none_or(|(best, _)| score > best)
        {
            best = Some((score, manifest));
        }
    }
    found.score = best.map(|(score, _)| score);
    let of_link = || linked(folder, BEST).and_then(|step| manifests.iter().find(|manifest| manifest.step == step));
    let best = best.map(|(_, manifest)| manifest).or_else(of_link);
    for (name, wanted) in [(BEST, best.map(|manifest| manifest.step)), (LATEST, Some(latest))] {
        if let Some(step) = wanted.filter(|step| linked(folder, name) != Some(*step))
            && let Err(error) = link(claim, name, step)
        {
            found.warnings.push(format!("link `{name}` in `{}` was not set right: {error}", folder.path().display()));
        }
    }
    found.best = best.map(|manifest| {
        let bytes = manifest.files.iter().map(|file| file.bytes).sum();
        checkpoint_of(folder, manifest.clone(), bytes, true)
    });
    found
}

fn readable(folder: &RunFolder, step: u64) -> Option<CheckpointManifest> {
    let path = folder.step(step);
    let manifest = read_manifest(&path).ok()?;
    check_sizes(&path, &manifest).ok()?;
    (manifest.step == step).then_some(manifest)
}

fn score(manifest: &CheckpointManifest, best_by: Option<&str>) -> Option<f64> {
    match best_by {
        Some(name) => {
            let metrics = manifest.metrics.iter().map(|metric| (metric.name.as_str(), metric.value));
            metric_score(name, metrics)
        }
        None => train_loss(manifest).map(|loss| -loss),
    }
    .filter(|score| !score.is_nan())
}

/// As far as the manifest tells: the mean over the epoch under way, or of the one that has just ended where it was the best so far.
fn train_loss(manifest: &CheckpointManifest) -> Option<f64> {
    let trainer = &manifest.trainer;
    if manifest.step == 0 {
        return None;
    }
    if trainer.epoch_denominator > 0.0 {
        return Some(trainer.epoch_loss / trainer.epoch_denominator);
    }
    let just_ended = manifest.step_in_epoch == 0 && trainer.best_epoch.is_some_and(|best| best + 1 == manifest.epoch);
    // The trainer's figure is the negated loss where nothing validates.
    trainer.best.filter(|_| just_ended).map(|best| -best)
}
