//! A file that appears whole or not at all: without a name while it is written, under its own at the end.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags},
    io::Errno,
};

use crate::manifest::DatasetError;

/// Refuses a target that is one of the inputs, or would lie inside a folder of them, where the next reader would take it for data.
pub fn check_apart(target: &Path, inputs: &[&Path]) -> Result<(), DatasetError> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = parent.canonicalize().ok().zip(target.file_name()).map(|(parent, name)| parent.join(name));
    let places: Vec<PathBuf> = target.canonicalize().into_iter().chain(beside).collect();
    for input in inputs {
        let Ok(whole) = input.canonicalize() else { continue };
        if let Some(place) = places.iter().find(|place| place.starts_with(&whole)) {
            let how = if *place == whole { "is what is read itself" } else { "lies inside what is read" };
            let message = format!("`{}` {how}, `{}`", target.display(), input.display());
            return Err(DatasetError::new(target, message).hint("write to another place: the input stays as it is"));
        }
    }
    Ok(())
}

/// Gone with its process, however that ends, unless it was committed.
#[derive(Debug)]
pub struct WholeFile {
    target: PathBuf,
    overwrite: bool,
    file: File,
    /// Beside the target, where the file system has no files without a name.
    hidden: PathBuf,
    is_named: bool,
}

impl WholeFile {
    /// Refuses a target that exists, unless `overwrite`.
    pub fn begin(target: &Path, overwrite: bool) -> Result<Self, DatasetError> {
        let Some(name) = target.file_name() else {
            return Err(DatasetError::new(target, format!("`{}` is not the name of a file", target.display())));
        };
        check(target, overwrite)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let unwritable = |error: io::Error| failed("write", target, &error);
        fs::create_dir_all(parent).map_err(unwritable)?;
        let hidden = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), process::id()));
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let (file, is_named) = match rustix::fs::open(parent, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => (File::from(file), false),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => (File::create(&hidden).map_err(unwritable)?, true),
            Err(error) => return Err(unwritable(error.into())),
        };
        Ok(Self { target: target.to_owned(), overwrite, file, hidden, is_named })
    }

    /// A handle to write to.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The target appears, durable, in place of what was there.
    pub fn commit(mut self) -> Result<(), DatasetError> {
        self.appear().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.target),
            _ => failed("write", &self.target, &error),
        })
    }

    fn appear(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_named {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let _ = fs::remove_file(&self.hidden);
            rustix::fs::linkat(CWD, unnamed, CWD, &self.hidden, AtFlags::SYMLINK_FOLLOW)?;
            self.is_named = true;
        }
        let flags = if self.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &self.hidden, CWD, &self.target, flags) {
            // Not every file system can; a target that appears in between is replaced there.
            Err(Errno::INVAL | Errno::NOSYS) if !self.target.exists() => fs::rename(&self.hidden, &self.target)?,
            result => result?,
        }
        self.is_named = false;
        File::open(self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if self.is_named
            && let Err(error) = fs::remove_file(&self.hidden)
        {
            tracing::warn!(path = %self.hidden.display(), %error, "an unfinished file could not be removed");
        }
    }
}

fn check(target: &Path, overwrite: bool) -> Result<(), DatasetError> {
    match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("read", target, &error)),
        Ok(metadata) if !metadata.is_file() => {
            let message = format!("`{}` exists and is not a file", target.display());
            Err(DatasetError::new(target, message).hint("name a file, which need not exist"))
        }
        Ok(_) if overwrite => Ok(()),
        Ok(_) => Err(exists(target)),
    }
}

fn exists(target: &Path) -> DatasetError {
    DatasetError::new(target, format!("`{}` exists", target.display()))
        .hint("give --overwrite to replace it, or write to another place")
}

fn failed(what: &str, target: &Path, error: &io::Error) -> DatasetError {
    DatasetError::new(target, format!("cannot {what} `{}`: {error}", target.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_input_and_what_lies_inside_one_are_no_targets() {
        let folder = tempfile::tempdir().unwrap();
        let (data, beside) = (folder.path().join("data"), folder.path().join("data-scores"));
        let file = data.join("1.parquet");
        fs::create_dir(&data).unwrap();
        fs::write(&file, "rows").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        for (target, input) in [
            (&file, &file),
            (&file, &data),
            (&data.join("new.parquet"), &data),
            (&link.join("new.parquet"), &data),
            (&data.join("1.parquet"), &link.join("1.parquet")),
        ] {
            assert!(check_apart(target, &[&beside, input]).is_err(), "{target:?} {input:?}");
        }
        for target in [&beside, &data.join("2.parquet")] {
            check_apart(target, &[&file, &folder.path().join("absent")]).unwrap();
        }
    }

    fn write(target: &Path, overwrite: bool, text: &str) -> Result<WholeFile, DatasetError> {
        let whole = WholeFile::begin(target, overwrite)?;
        whole.file().unwrap().write_all(text.as_bytes()).unwrap();
        Ok(whole)
    }

    #[test]
    fn a_file_appears_at_its_commit_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deeper/out");
        let whole = write(&target, false, "one").unwrap();
        assert!(!target.exists());
        whole.commit().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        drop(write(&target, true, "two").unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        write(&target, true, "three").unwrap().commit().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "three");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_exists_is_refused_also_where_it_appears_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let late = write(&target, false, "late").unwrap();
        write(&target, false, "first").unwrap().commit().unwrap();
        assert!(late.commit().unwrap_err().message.ends_with("` exists"));
        assert!(WholeFile::begin(&target, false).unwrap_err().message.ends_with("` exists"));
        assert!(WholeFile::begin(folder.path(), true).unwrap_err().message.contains("is not a file"));
        assert_eq!(fs::read_to_string(&target).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
