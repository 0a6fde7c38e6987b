//! A folder that appears whole or not at all: written beside its target under a hidden name, renamed at the end.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use tempfile::TempDir;

use super::unwritable;
use crate::fault::Fault;

/// Gone when dropped, unless it was committed.
#[derive(Debug)]
pub struct WholeFolder {
    target: PathBuf,
    hidden: TempDir,
    replaceable: Option<&'static str>,
}

impl WholeFolder {
    /// Refuses a target that exists, unless `overwrite`; then only a folder that holds `mark`, a file by which its kind is known.
    pub fn begin(target: &Path, overwrite: bool, mark: &'static str) -> Result<Self, Fault> {
        let Some(name) = target.file_name() else {
            return Err(Fault::wrong_input(format!("`{}` is not the name of a folder", target.display()), "name one"));
        };
        let replaceable = overwrite.then_some(mark);
        check(target, replaceable)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |error: io::Error| unwritable(target, &error);
        fs::create_dir_all(parent).map_err(failed)?;
        let hidden = tempfile::Builder::new()
            .prefix(&format!(".{}.partial-", name.to_string_lossy()))
            .tempdir_in(parent)
            .map_err(failed)?;
        Ok(Self { target: target.to_owned(), hidden, replaceable })
    }

    /// Writes a file of the folder, and the folders on the way to it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let path = self.hidden.path().join(name);
        let written = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            fs::write(&path, bytes)?;
            File::open(&path)?.sync_all()
        };
        written().map_err(|error| unwritable(&self.target.join(name), &error))
    }

    /// The target appears, replacing what was there.
    pub fn commit(self) -> Result<(), Fault> {
        check(&self.target, self.replaceable)?;
        self.appear().map_err(|error| unwritable(&self.target, &error))
    }

    fn appear(&self) -> io::Result<()> {
        let hidden = self.hidden.path();
        // Temporary folders are their owner's alone; this one is a result, as open as what `mkdir` makes.
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        rustix::fs::chmod(hidden, rustix::fs::Mode::from_raw_mode(0o777 & !umask.as_raw_mode()))?;
        if self.target.exists() {
            // One step; what is left under the hidden name is the old one, which goes with it.
            match rustix::fs::renameat_with(CWD, hidden, CWD, &self.target, RenameFlags::EXCHANGE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    fs::remove_dir_all(&self.target)?;
                    fs::rename(hidden, &self.target)?;
                }
                result => result?,
            }
        } else {
            fs::rename(hidden, &self.target)?;
        }
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

fn check(target: &Path, replaceable: Option<&'static str>) -> Result<(), Fault> {
    let shown = target.display();
    match (fs::symlink_metadata(target), replaceable) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        (Err(error), _) => Err(unwritable(target, &error)),
        (Ok(_), None) => Err(Fault::wrong_input(
            format!("`{shown}` exists"),
            "give --overwrite to replace it, or write to another place",
        )),
        (Ok(_), Some(mark)) if target.join(mark).is_file() => Ok(()),
        (Ok(_), Some(mark)) => Err(Fault::wrong_input(
            format!("`{shown}` exists and holds no `{mark}`, so it is not replaced"),
            "write to another place",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(target: &Path, overwrite: bool, text: &str) -> Result<WholeFolder, Fault> {
        let folder = WholeFolder::begin(target, overwrite, "MARK")?;
        folder.write("MARK", b"")?;
        folder.write("inner/text", text.as_bytes())?;
        Ok(folder)
    }

    #[test]
    fn a_folder_appears_at_its_commit_and_only_one_of_its_kind_is_replaced() {
        let sandbox = tempfile::tempdir().unwrap();
        let target = sandbox.path().join("deeper/out");
        let text = || fs::read_to_string(target.join("inner/text")).unwrap();
        let first = write(&target, false, "one").unwrap();
        assert!(!target.exists());
        first.commit().unwrap();
        assert_eq!(text(), "one");
        assert!(write(&target, false, "two").unwrap_err().message.ends_with("` exists"));
        drop(write(&target, true, "two").unwrap());
        assert_eq!(text(), "one");
        write(&target, true, "three").unwrap().commit().unwrap();
        assert_eq!(text(), "three");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
        let foreign = sandbox.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        assert!(write(&foreign, true, "four").unwrap_err().message.contains("holds no `MARK`"));
    }
}
