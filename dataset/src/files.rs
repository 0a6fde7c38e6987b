//! The files of a folder that is given as data.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file itself, or by path all files in a folder and its folders whose name is `wanted`; names starting with `.` or `_` are somebody's
/// working state. `unreadable` says what could not be read.
pub fn files_under<E>(
    root: &Path,
    wanted: impl Fn(&str) -> bool,
    unreadable: impl Fn(&Path, io::Error) -> E,
) -> Result<Vec<PathBuf>, E> {
    if fs::metadata(root).map_err(|error| unreadable(root, error))?.is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, error))? {
            let path = entry.map_err(|error| unreadable(&folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&name) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
