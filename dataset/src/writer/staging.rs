//! A folder that appears whole or not at all: written beside its target under a hidden name, renamed at the end.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};

use super::WriteError;

/// `.<name>.partial-<pid>` beside the target; removed on drop unless committed.
///
/// The folder is locked for as long as its process lives, so that what a killed process left behind can be told from
/// what another one is still writing.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    path: PathBuf,
    overwrite: bool,
    committed: bool,
    _lock: File,
}

impl Staging {
    /// Refuses a target that exists and is not empty, unless `overwrite`; then it is replaced by [`commit`](Self::commit).
    pub fn begin(target: &Path, overwrite: bool) -> Result<Self, WriteError> {
        let Some(name) = target.file_name() else {
            return Err(WriteError::Schema { message: format!("`{}` is not the name of a folder", target.display()) });
        };
        check_target(target, overwrite)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(io("create", parent))?;
        let prefix = format!(".{}.partial-", name.to_string_lossy());
        remove_abandoned(parent, &prefix);
        let path = parent.join(format!("{prefix}{}", process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(WriteError::Busy { path: target.to_owned() });
            }
            other => other.map_err(io("create", &path))?,
        }
        let lock = File::open(&path).map_err(io("open", &path))?;
        // A file system without locks costs the cleaning up after a killed process, nothing else.
        let _ = lock.try_lock();
        Ok(Self { target: target.to_owned(), path, overwrite, committed: false, _lock: lock })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The target appears, replacing what was there.
    pub fn commit(mut self) -> Result<(), WriteError> {
        sync_tree(&self.path)?;
        // Again: it may have appeared, or been filled, in the meantime.
        check_target(&self.target, self.overwrite)?;
        if fs::symlink_metadata(&self.target).is_ok() {
            // One step: whoever is killed here leaves the old dataset or the new one, never neither.
            exchange(&self.path, &self.target).map_err(io("replace", &self.target))?;
            self.committed = true;
            // What is left beside it under the hidden name is the old one.
            fs::remove_dir_all(&self.path).map_err(io("remove", &self.path))?;
        } else {
            fs::rename(&self.path, &self.target).map_err(io("rename to", &self.target))?;
            self.committed = true;
        }
        let parent = self.path.parent().unwrap_or(Path::new("."));
        sync(parent)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished dataset could not be removed");
        }
    }
}

/// Two folders change names.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // Not every file system can; two renames leave a moment without either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let aside = one.with_extension("replaced");
            fs::rename(other, &aside)?;
            fs::rename(one, other).or_else(|error| fs::rename(&aside, other).and(Err(error)))?;
            fs::rename(&aside, one)
        }
        result => Ok(result?),
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError::Io { what, path, source }
}

/// A target is absent, empty, or a dataset that may be replaced.
fn check_target(target: &Path, overwrite: bool) -> Result<(), WriteError> {
    match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", target)(error)),
        Ok(metadata) if !metadata.is_dir() => {
            let found = "a file".to_owned();
            return Err(WriteError::NotADataset { path: target.to_owned(), found });
        }
        Ok(_) => {}
    }
    if fs::read_dir(target).map_err(io("read", target))?.next().is_none() {
        return Ok(());
    }
    if !overwrite {
        return Err(WriteError::Exists { path: target.to_owned() });
    }
    // An --overwrite aimed at a home folder by mistake must not empty it.
    match foreign_entry(target, true)? {
        Some(found) => Err(WriteError::NotADataset { path: target.to_owned(), found }),
        None => Ok(()),
    }
}

/// The first thing in a folder that no dataset holds; a split's folder holds folders of datasets.
fn foreign_entry(folder: &Path, nested: bool) -> Result<Option<String>, WriteError> {
    for entry in fs::read_dir(folder).map_err(io("read", folder))? {
        let entry = entry.map_err(io("read", folder))?;
        let path = entry.path();
        let is_folder = entry.file_type().map_err(io("read", &path))?.is_dir();
        let name = entry.file_name().to_string_lossy().into_owned();
        // What a verb says about the data that it wrote; readers pass over it.
        if !is_folder && name.starts_with('_') && name.ends_with(".json") {
            continue;
        }
        if is_folder && nested {
            if let Some(found) = foreign_entry(&path, false)? {
                return Ok(Some(format!("{}/{found}", entry.file_name().to_string_lossy())));
            }
        } else if is_folder || path.extension().is_none_or(|extension| extension != "parquet") {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Removes what killed processes left beside this target. Nothing depends on it, so no failure is reported.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        let Ok(folder) = File::open(&path) else { continue };
        match folder.try_lock() {
            Ok(()) => {
                tracing::info!(path = %path.display(), "removing what an ended process left unfinished");
                let _ = fs::remove_dir_all(&path);
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Makes a folder's files and names durable before the rename makes them visible.
fn sync_tree(folder: &Path) -> Result<(), WriteError> {
    for entry in fs::read_dir(folder).map_err(io("read", folder))? {
        let path = entry.map_err(io("read", folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), WriteError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io("flush", path))
}
