//! A file that appears whole or not at all ([`WholeFile`]), to write to, with this crate's errors.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use dataset::{manifest::DatasetError, whole_file::WholeFile};

use crate::{ErrorKind, PipelineError};

/// Gone unless committed.
pub(crate) struct FreshFile {
    target: PathBuf,
    overwrite: bool,
    whole: WholeFile,
    file: BufWriter<File>,
}

impl FreshFile {
    /// Refuses a target that is there, unless `overwrite`; then [`commit`](Self::commit) replaces it.
    pub fn begin(target: &Path, overwrite: bool) -> Result<Self, PipelineError> {
        check(target, overwrite)?;
        if target.file_name().is_none() {
            return Err(PipelineError::options(format!("`{}` is not the name of a file", target.display())));
        }
        let whole = WholeFile::begin(target, overwrite).map_err(unwritable)?;
        let file = whole.file().map_err(|error| PipelineError::io("write", target, error))?;
        Ok(Self { target: target.to_owned(), overwrite, whole, file: BufWriter::new(file) })
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The target appears.
    pub fn commit(mut self) -> Result<(), PipelineError> {
        self.file.flush().map_err(|error| PipelineError::io("write", &self.target, error))?;
        // Again: it may have appeared in the meantime.
        check(&self.target, self.overwrite)?;
        self.whole.commit().map_err(unwritable)
    }
}

impl Write for FreshFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn unwritable(error: DatasetError) -> PipelineError {
    PipelineError { kind: ErrorKind::Io, message: error.message, hint: error.hint, source: None }
}

fn check(target: &Path, overwrite: bool) -> Result<(), PipelineError> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => {
            Err(PipelineError::options(format!("`{}` is a folder, a file goes there", target.display())))
        }
        Ok(_) if !overwrite => Err(PipelineError::options(format!("`{}` exists", target.display()))
            .with_hint("choose another name, or pass --overwrite")),
        _ => Ok(()),
    }
}
