//! The best checkpoint of a run as the files that are handed over: as it is on disk, and as an MLflow model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::checkpoint::{CheckpointManifest, MANIFEST};

use super::ExportModel;

/// Where a run's artifacts are: the model as MLflow loads it, the checkpoint as Lockstep does.
pub const MODEL_FOLDER: &str = "model";
pub const CHECKPOINT_FOLDER: &str = "checkpoint";

/// What is uploaded of a checkpoint, by its path among the artifacts.
pub(super) struct Model {
    pub files: BTreeMap<String, PathBuf>,
    /// What is not among them, and why.
    pub remark: String,
    /// Holds what was exported.
    _exported: Option<tempfile::TempDir>,
}

impl Model {
    pub async fn of(checkpoint: PathBuf, export: Option<Arc<ExportModel>>) -> Self {
        let nothing = |remark: String| Self { files: BTreeMap::new(), remark, _exported: None };
        let gathered = tokio::task::spawn_blocking(move || Self::gather(&checkpoint, export.as_deref()));
        gathered.await.unwrap_or_else(|_| nothing("gathering its best model broke off".into()))
    }

    fn gather(checkpoint: &Path, export: Option<&ExportModel>) -> Self {
        let mut files = BTreeMap::new();
        let manifest = std::fs::read(checkpoint.join(MANIFEST)).ok();
        let Some(manifest) = manifest.and_then(|text| serde_json::from_slice::<CheckpointManifest>(&text).ok()) else {
            let remark = format!("its best checkpoint, `{}`, is not there any more", checkpoint.display());
            return Self { files, remark, _exported: None };
        };
        for name in manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]) {
            files.insert(format!("{CHECKPOINT_FOLDER}/{name}"), checkpoint.join(name));
        }
        let exported = match export {
            None => Err("there is no `lockstep-worker` here to make an MLflow model of its best checkpoint".to_owned()),
            Some(export) => exported(export, checkpoint, &mut files)
                .map_err(|why| format!("no MLflow model could be made of its best checkpoint: {why}")),
        };
        match exported {
            Ok(folder) => Self { files, remark: String::new(), _exported: Some(folder) },
            Err(remark) => Self { files, remark, _exported: None },
        }
    }
}

fn exported(
    export: &ExportModel,
    checkpoint: &Path,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<tempfile::TempDir, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder for it: {error}"))?;
    let model = folder.path().join(MODEL_FOLDER);
    export(checkpoint, &model)?;
    files_in(folder.path(), &model, files).map_err(|error| format!("`{}`: {error}", model.display()))?;
    Ok(folder)
}

fn files_in(root: &Path, folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_in(root, &path, files)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            files.insert(name.to_owned(), path);
        }
    }
    Ok(())
}
