//! The files of a checkpoint, as whoever takes one up finds them: what its manifest says, and whether every byte is what that says.
//! The coordinator looks before it publishes and before a run goes on, a worker before it scores.

use std::{
    fs::{self, File},
    path::Path,
};

use proto::checkpoint::{CheckpointManifest, MANIFEST};

const FORMAT: u32 = 1;

/// The manifest of the checkpoint at `path`, if it is one that this version reads. Says what is wrong in words.
pub fn read_manifest(path: &Path) -> Result<CheckpointManifest, String> {
    let text = fs::read(path.join(MANIFEST)).map_err(|error| format!("`{MANIFEST}` cannot be read: {error}"))?;
    let manifest: CheckpointManifest = serde_json::from_slice(&text)
        .map_err(|error| format!("`{MANIFEST}` is not a checkpoint's manifest: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!("its format is {}, this version reads {FORMAT}", manifest.format));
    }
    if let Some(file) = manifest.files.iter().find(|file| Path::new(&file.name).components().count() != 1) {
        return Err(format!("`{MANIFEST}` names a file outside the checkpoint: `{}`", file.name));
    }
    Ok(manifest)
}

/// Every file there, at its length.
pub fn check_sizes(path: &Path, manifest: &CheckpointManifest) -> Result<(), String> {
    for file in &manifest.files {
        // Not through links: their target would be published with the name of a file, and change behind it.
        let found = fs::symlink_metadata(path.join(&file.name)).map_err(|error| format!("`{}`: {error}", file.name))?;
        if !found.is_file() {
            return Err(format!("`{}` is not a regular file", file.name));
        }
        let found = found.len();
        if found != file.bytes {
            return Err(format!("`{}` has {found} bytes, its manifest says {}", file.name, file.bytes));
        }
    }
    Ok(())
}

/// Reads every byte.
pub fn verify(path: &Path) -> Result<CheckpointManifest, String> {
    let manifest = read_manifest(path)?;
    check_sizes(path, &manifest)?;
    for file in &manifest.files {
        let mut hasher = blake3::Hasher::new();
        let read = File::open(path.join(&file.name)).and_then(|open| hasher.update_reader(open).map(|_| ()));
        read.map_err(|error| format!("`{}`: {error}", file.name))?;
        if hasher.finalize().to_hex().as_str() != file.blake3.to_ascii_lowercase() {
            return Err(format!("the bytes of `{}` do not have the hash that its manifest says", file.name));
        }
    }
    Ok(manifest)
}
