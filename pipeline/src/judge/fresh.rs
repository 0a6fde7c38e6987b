//! A file that appears whole or not at all: written beside its target under a hidden name, renamed at the end.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process,
};

use crate::PipelineError;

/// Removed on drop unless committed.
pub(crate) struct FreshFile {
    target: PathBuf,
    path: PathBuf,
    overwrite: bool,
    file: BufWriter<File>,
    committed: bool,
}

impl FreshFile {
    /// Refuses a target that is there, unless `overwrite`; then [`commit`](Self::commit) replaces it.
    pub fn begin(target: &Path, overwrite: bool) -> Result<Self, PipelineError> {
        check(target, overwrite)?;
        let Some(name) = target.file_name() else {
            return Err(PipelineError::options(format!("`{}` is not the name of a file", target.display())));
        };
        let parent = target.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).map_err(|error| PipelineError::io("create", parent, error))?;
        }
        let path = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), process::id()));
        let file = File::create(&path).map_err(|error| PipelineError::io("create", &path, error))?;
        Ok(Self { target: target.to_owned(), path, overwrite, file: BufWriter::new(file), committed: false })
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The target appears.
    pub fn commit(mut self) -> Result<(), PipelineError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(|error| PipelineError::io("write", &self.target, error))?;
        // Again: it may have appeared in the meantime.
        check(&self.target, self.overwrite)?;
        fs::rename(&self.path, &self.target).map_err(|error| PipelineError::io("write", &self.target, error))?;
        self.committed = true;
        Ok(())
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

impl Drop for FreshFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing depends on it: what is left has a hidden name.
            let _ = fs::remove_file(&self.path);
        }
    }
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
