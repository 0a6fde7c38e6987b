//! From a staged folder to a published one: checked, flushed, renamed, linked, and older ones pruned.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use dataset::checkpoint::{check_sizes, read_manifest};
use proto::{
    RunId,
    checkpoint::{CheckpointManifest, MANIFEST},
};
use rustix::fs::{CWD, RenameFlags};

use super::{BEST, Claim, LATEST, checkpoint_of, linked};
use crate::run::{Publication, Staged};

/// One checkpoint to publish, and what stays beside it.
pub struct Job {
    pub claim: Arc<Claim>,
    pub run: RunId,
    pub staged: Staged,
    pub best: bool,
    /// Step of the best one so far, which stays unless this one takes its place.
    pub best_so_far: Option<u64>,
    /// The newest so many stay, beside the best one.
    pub keep: usize,
    pub keep_initial: bool,
}

/// Publishes by one rename; the error says in words why not, and then nothing of it is left. What goes wrong after the rename is
/// a warning: the checkpoint is there.
pub fn publish(job: &Job) -> Result<Publication, String> {
    let staged = &job.staged.path;
    let inside = staged.parent() == Some(&*job.claim.staging) && staged.file_name().is_some();
    if !inside {
        return Err(format!(
            "`{}` is not in the run's staging folder `{}`",
            staged.display(),
            job.claim.staging.display()
        ));
    }
    let published = check(job).and_then(|manifest| {
        let bytes = flush(staged, &manifest).and_then(|bytes| appear(job, manifest.step).map(|()| bytes));
        bytes.map(|bytes| (manifest, bytes)).map_err(|error| error.to_string())
    });
    let (manifest, bytes) = match published {
        Ok(published) => published,
        Err(why) => {
            if let Err(error) = fs::remove_dir_all(staged) {
                tracing::warn!(folder = %staged.display(), %error, "unpublished checkpoint cannot be removed");
            }
            return Err(why);
        }
    };

    let folder = &job.claim.folder;
    let mut warnings = Vec::new();
    for (name, wanted) in [(LATEST, true), (BEST, job.best)] {
        if wanted && let Err(error) = link(&job.claim, name, manifest.step) {
            warnings.push(format!("link `{name}` in `{}` was not moved: {error}", folder.path().display()));
        }
    }
    let pruned = prune(job, manifest.step).unwrap_or_else(|error| {
        warnings.push(format!("old checkpoints in `{}` were not removed: {error}", folder.path().display()));
        Vec::new()
    });
    let checkpoint = checkpoint_of(folder, manifest, bytes, job.best);
    Ok(Publication { checkpoint, pruned, warnings })
}

fn check(job: &Job) -> Result<CheckpointManifest, String> {
    let manifest = read_manifest(&job.staged.path)?;
    check_sizes(&job.staged.path, &manifest)?;
    if manifest.run_id != job.run.as_str() {
        return Err(format!("`{MANIFEST}` is of run `{}`, not `{}`", manifest.run_id, job.run));
    }
    if manifest.step != job.staged.checkpoint.step {
        return Err(format!("`{MANIFEST}` is of step {}, not {}", manifest.step, job.staged.checkpoint.step));
    }
    Ok(manifest)
}

/// All bytes to disk before the name: after a power cut a published folder is whole. Returns their number.
fn flush(path: &Path, manifest: &CheckpointManifest) -> io::Result<u64> {
    let mut bytes = 0;
    for name in manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]) {
        let file = File::open(path.join(name))?;
        file.sync_all()?;
        bytes += file.metadata()?.len();
    }
    File::open(path)?.sync_all()?;
    Ok(bytes)
}

/// One rename; where a resumed run comes by the same step again, one exchange.
fn appear(job: &Job, step: u64) -> io::Result<()> {
    let (staged, target) = (&job.staged.path, job.claim.folder.step(step));
    if target.exists() {
        match rustix::fs::renameat_with(CWD, staged, CWD, &target, RenameFlags::EXCHANGE) {
            // What it replaced now lies in the staging folder, and goes with it at the latest.
            Ok(()) => drop(fs::remove_dir_all(staged)),
            // No exchange on this file system: the old one steps aside first.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                let aside = job.claim.staging.join(format!(".replaced-{step}"));
                fs::rename(&target, &aside)?;
                fs::rename(staged, &target)?;
                drop(fs::remove_dir_all(aside));
            }
            Err(error) => return Err(error.into()),
        }
    } else {
        fs::rename(staged, &target)?;
    }
    File::open(job.claim.folder.path())?.sync_all()
}

/// Points the link `name` at a step, by one rename too; relative, so that the folder may be moved.
pub(super) fn link(claim: &Claim, name: &str, step: u64) -> io::Result<()> {
    let fresh = claim.staging.join(format!(".{name}"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(format!("step-{step:08}"), &fresh)?;
    fs::rename(&fresh, claim.folder.path().join(name))
}

/// Newest by the time they were taken: a run resumed from an early step leaves higher steps of its former life behind.
fn prune(job: &Job, just_published: u64) -> io::Result<Vec<u64>> {
    let folder = &job.claim.folder;
    let mut protected: BTreeSet<u64> = [just_published].into();
    protected.extend(linked(folder, BEST));
    protected.extend(job.best_so_far.filter(|_| !job.best));
    if job.keep_initial {
        protected.insert(0);
    }
    let mut dated = Vec::new();
    for step in folder.steps()? {
        // What cannot be read is not ours to remove.
        if let Ok(manifest) = read_manifest(&folder.step(step))
            && !(job.keep_initial && step == 0)
        {
            dated.push((manifest.unix_micros, step));
        }
    }
    dated.sort_unstable_by(|a, b| b.cmp(a));
    let mut pruned = Vec::new();
    for (_, step) in dated.into_iter().skip(job.keep.max(1)) {
        if protected.contains(&step) {
            continue;
        }
        // Out of sight first: nobody sees half a folder.
        let aside = job.claim.staging.join(format!(".pruned-{step}"));
        fs::rename(folder.step(step), &aside)?;
        fs::remove_dir_all(aside)?;
        pruned.push(step);
    }
    Ok(pruned)
}
