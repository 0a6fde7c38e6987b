//! A propensity table as a file on disk.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use ranking::propensity::PropensityTable;

use crate::PipelineError;

/// Reads a table that `lockstep propensity estimate`, or a person, has written.
pub fn read_table(path: &Path) -> Result<PropensityTable, PipelineError> {
    let bytes = fs::read(path).map_err(|error| PipelineError::io("read", path, error))?;
    PropensityTable::from_json(&bytes).map_err(|error| {
        let refused = PipelineError::data(format!("`{}` holds no propensities", path.display()));
        match error.hint() {
            Some(hint) => refused.with_hint(hint).because(error),
            None => refused.because(error),
        }
    })
}

/// Refuses, before any work is done, what [`write_table`] would refuse.
pub(super) fn check_out(out: &Path, overwrite: bool) -> Result<(), PipelineError> {
    if out.is_dir() {
        return Err(PipelineError::options(format!("`{}` is a folder, and a table is a file", out.display())));
    }
    if out.exists() && !overwrite {
        return Err(exists(out));
    }
    let folder = folder(out);
    if !folder.is_dir() {
        return Err(PipelineError::options(format!(
            "there is no folder `{}` to write `{}` to",
            folder.display(),
            out.display()
        )));
    }
    Ok(())
}

/// Whole or not at all: written beside its place, synced, then named.
pub(super) fn write_table(table: &PropensityTable, out: &Path, overwrite: bool) -> Result<(), PipelineError> {
    let failed = |error| PipelineError::io("write", out, error);
    let folder = folder(out);
    // The process's umask takes away what it always does.
    let everybody = Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".propensities-").permissions(everybody).tempfile_in(folder).map_err(failed)?;
    file.write_all(&table.to_json()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let named = if overwrite { file.persist(out) } else { file.persist_noclobber(out) };
    match named {
        Ok(_) => fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(out)),
        Err(error) => Err(failed(error.error)),
    }
}

fn exists(out: &Path) -> PipelineError {
    PipelineError::options(format!("`{}` exists", out.display())).with_hint("add `--overwrite` to replace it")
}

fn folder(out: &Path) -> &Path {
    out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
