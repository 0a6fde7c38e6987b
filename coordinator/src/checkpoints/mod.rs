//! Checkpoints on disk: where they lie ([`RunFolder`]), how they appear ([`publish`]) and which one to go on from ([`resume`]).
//!
//! ```text
//! <checkpoint.dir>/<run name>/step-00000500/      published: complete, never changed
//!                             best, latest        links to the two that people look for
//!                             .staging-<run id>/  where workers write; gone when the run ends
//! ```
//! Everything here blocks; the driver runs it off its own thread. Which checkpoint is the best is not decided here.

pub mod arrival;
pub mod best;
pub mod publish;
pub mod resume;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use proto::{
    RunId, RunSpec,
    checkpoint::{CheckpointManifest, MANIFEST},
    v1,
};
use rustix::fs::FlockOperation;

pub use arrival::Arrival;
pub use dataset::checkpoint::verify;
pub use resume::{VerifiedCheckpoint, resolve_resume, resolve_start};

pub const BEST: &str = "best";
pub const LATEST: &str = "latest";
const STAGING: &str = ".staging-";

/// A run of the same name that has just ended may still be tidying up.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why a checkpoint cannot be used, or a folder cannot hold any.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CheckpointError {
    pub message: String,
    /// Each checkpoint that was tried, by name, and what is wrong with it.
    pub causes: Vec<String>,
    pub hint: Option<String>,
}

impl CheckpointError {
    fn new(message: String, hint: &str) -> Self {
        Self { message, causes: Vec::new(), hint: Some(hint.to_owned()) }
    }
}

/// The folder that holds all checkpoints of the runs of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    pub fn of(spec: &RunSpec) -> Self {
        let dir = std::path::absolute(&spec.checkpoint.dir).unwrap_or_else(|_| spec.checkpoint.dir.clone());
        Self(dir.join(&spec.name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn step(&self, step: u64) -> PathBuf {
        self.0.join(format!("step-{step:08}"))
    }

    pub fn staging(&self, run: &RunId) -> PathBuf {
        self.0.join(format!("{STAGING}{run}"))
    }

    /// Published steps, ascending. A folder that is not there holds none.
    pub fn steps(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            steps.extend(name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// A fresh run must not mix its checkpoints with those of an earlier run of its name.
    pub fn refuse_if_taken(&self, name: &str) -> Result<(), CheckpointError> {
        let steps = self.steps().map_err(|error| self.unreadable(&error))?;
        let Some(newest) = steps.last() else { return Ok(()) };
        Err(CheckpointError::new(
            format!("`{}` holds checkpoints of an earlier run named `{name}`, up to step {newest}", self.0.display()),
            "continue it with `--resume`, choose another `name`, or remove the folder",
        ))
    }

    fn unreadable(&self, error: &io::Error) -> CheckpointError {
        CheckpointError::new(
            format!("folder `{}` cannot be read: {error}", self.0.display()),
            "check `checkpoint.dir` and its permissions",
        )
    }
}

/// A run folder taken by one run: nobody else publishes into it meanwhile, in this process or another.
#[derive(Debug)]
pub struct Claim {
    pub folder: RunFolder,
    pub staging: PathBuf,
    /// Holds the lock on the folder for as long as it is open.
    _lock: File,
}

impl Claim {
    /// Makes the folder, takes it, removes what crashed runs left half-written, and makes room for staging. What the run itself has
    /// staged stays: its workers may have gone on while its coordinator was away. `from_another`: whoever holds it may be a coordinator that
    /// leads no more, and may never learn of it; it is waited for, and then passed over.
    pub fn take(folder: RunFolder, run: &RunId, from_another: bool) -> Result<Self, CheckpointError> {
        let unwritable = |error: io::Error| {
            CheckpointError::new(
                format!("checkpoints cannot be written to `{}`: {error}", folder.0.display()),
                "set `checkpoint.dir` to a folder that can be written to",
            )
        };
        let started = Instant::now();
        let lock = loop {
            if let Some(lock) = try_lock(&folder.0).map_err(unwritable)? {
                break lock;
            }
            if started.elapsed() > LOCK_WITHIN {
                if from_another {
                    tracing::warn!(folder = %folder.0.display(), "a coordinator that led before still holds the run's folder, going on without it");
                    break File::open(&folder.0).map_err(unwritable)?;
                }
                return Err(CheckpointError::new(
                    format!("another run writes its checkpoints to `{}`", folder.0.display()),
                    "wait for it to end, stop it, or choose another `name`",
                ));
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        let staging = folder.staging(run);
        for entry in fs::read_dir(&folder.0).map_err(unwritable)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGING) && entry.path() != staging {
                fs::remove_dir_all(entry.path()).map_err(unwritable)?;
            }
        }
        fs::create_dir_all(&staging).map_err(unwritable)?;
        Ok(Self { folder, staging, _lock: lock })
    }

    /// What workers staged and nobody published goes; a folder that holds nothing goes too.
    pub fn remove_staging(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Fails where there are checkpoints, which is the point.
        let _ = fs::remove_dir(&self.folder.0);
        Ok(())
    }
}

/// `None`: it is held by another, or was just removed by one that ended.
fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(folder)?;
    let lock = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock?,
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        // A file system without locks still holds checkpoints.
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "checkpoint folder cannot be locked"),
        Ok(()) => {}
    }
    let still_there =
        fs::metadata(folder).is_ok_and(|found| lock.metadata().is_ok_and(|held| held.ino() == found.ino()));
    Ok(still_there.then_some(lock))
}

/// Copies a checkpoint whose every byte is what its manifest says to a folder that does not exist yet: whole, or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let manifest = verify(from).map_err(|why| {
        let hint = "take another checkpoint of the run: `lockstep runs show` lists them";
        CheckpointError::new(format!("checkpoint `{}` is damaged: {why}", from.display()), hint)
    })?;
    let copied = || {
        let arrival = Arrival::begin(to)?;
        for name in manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]) {
            fs::copy(from.join(name), arrival.path().join(name))?;
        }
        arrival.commit()
    };
    copied().map_err(|error: io::Error| {
        let hint = "name a folder that can be written to, and is not there yet";
        CheckpointError::new(format!("`{}` cannot be written: {error}", to.display()), hint)
    })
}

/// The published checkpoint that a manifest is of, as people are told of it.
fn checkpoint_of(folder: &RunFolder, manifest: CheckpointManifest, bytes: u64, best: bool) -> v1::Checkpoint {
    let metrics = manifest.metrics.into_iter();
    let metrics = metrics.map(|m| v1::Metric { name: m.name, value: m.value, convention: m.convention });
    v1::Checkpoint {
        path: folder.step(manifest.step).to_string_lossy().into_owned(),
        step: manifest.step,
        epoch: manifest.epoch,
        step_in_epoch: manifest.step_in_epoch,
        unix_micros: manifest.unix_micros,
        bytes,
        metrics: metrics.collect(),
        best,
    }
}

/// The step that a link (`best`, `latest`) points to.
fn linked(folder: &RunFolder, name: &str) -> Option<u64> {
    let target = fs::read_link(folder.path().join(name)).ok()?;
    target.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}
