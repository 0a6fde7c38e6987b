//! What `--resume=WHICH` means in the coordinator's words.

use proto::RunSpec;

use crate::{document::absolute_path, errors::Fault};

/// The coordinator knows `latest` and folders; `best` is a link that it keeps beside a run's checkpoints.
pub fn resume_from(spec: &RunSpec, which: Option<&str>) -> Result<String, Fault> {
    let path = match which {
        None => return Ok(String::new()),
        Some("latest" | "last" | "newest") => return Ok("latest".into()),
        Some("best") => {
            let link = absolute_path(&spec.checkpoint.dir)?.join(&spec.name).join("best");
            if !link.exists() {
                return Err(Fault::words(format!(
                    "there is no best checkpoint yet: `{}` does not exist",
                    link.display()
                ))
                .hint("continue from the newest one with `--resume=latest`"));
            }
            link
        }
        Some(path) => absolute_path(path.as_ref())?,
    };
    Ok(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_folders_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = RunSpec { name: "a".into(), ..RunSpec::default() };
        spec.checkpoint.dir = folder.path().into();
        assert_eq!(resume_from(&spec, None).unwrap(), "");
        assert_eq!(resume_from(&spec, Some("latest")).unwrap(), "latest");
        assert!(resume_from(&spec, Some("best")).unwrap_err().render().contains("no best checkpoint"));
        let best = folder.path().join("a/best");
        std::fs::create_dir_all(&best).unwrap();
        assert_eq!(resume_from(&spec, Some("best")).unwrap(), best.to_str().unwrap());
        assert!(resume_from(&spec, Some("c/step-00000001")).unwrap().ends_with("/c/step-00000001"));
    }
}
