//! A folder that is brought from elsewhere: it appears whole or not at all, also when what brings it is killed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

/// Beside the target, while it is brought.
const PREFIX: &str = ".fetch-";

/// Gone when dropped, unless it was committed. One whose process was killed goes when the next is begun beside it.
#[derive(Debug)]
pub struct Arrival {
    target: PathBuf,
    staging: PathBuf,
    /// Held for as long as somebody brings it.
    _lock: File,
    committed: bool,
}

impl Arrival {
    /// Makes room beside the target, which is not there yet.
    pub fn begin(target: &Path) -> io::Result<Self> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent)?;
        remove_abandoned(parent);
        loop {
            let staging = parent.join(format!("{PREFIX}{}", ulid::Ulid::new()));
            fs::create_dir(&staging)?;
            // Between the two, another one may take it for abandoned.
            let lock = match File::open(&staging) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock?,
            };
            let taken = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
            if !taken && staging.exists() {
                return Ok(Self { target: target.to_owned(), staging, _lock: lock, committed: false });
            }
        }
    }

    /// What is to become the target.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// The target appears.
    pub fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.staging, &self.target)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.committed {
            remove(&self.staging);
        }
    }
}

/// What nobody holds, its process has left. Where a file system has no locks nothing is known, and nothing goes.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&entry.path());
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a half-brought folder could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_a_killed_one_left_goes_with_the_next_and_what_another_is_bringing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".fetch-killed");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("model.safetensors"), "half").unwrap();
        let under_way = Arrival::begin(&folder.path().join("one")).unwrap();
        assert!(!left.exists());
        fs::write(under_way.path().join("file"), "one").unwrap();
        let given_up = Arrival::begin(&folder.path().join("two")).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        drop(given_up);
        under_way.commit().unwrap();
        assert_eq!(names(folder.path()), ["one"]);
        assert_eq!(fs::read_to_string(folder.path().join("one/file")).unwrap(), "one");
    }
}
