//! What a run left behind, as files on the server: listed, brought there and back.

use std::path::{Path, PathBuf};

use reqwest::{Method, Url};

use super::{Mlflow, Trouble, text};

/// A file among a run's artifacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Relative to the run's artifacts.
    pub path: String,
    pub is_folder: bool,
}

impl Mlflow {
    pub async fn artifacts(&self, run: &str, folder: &str) -> Result<Vec<Artifact>, Trouble> {
        let mut found = Vec::new();
        let mut page = String::new();
        loop {
            let mut asked = vec![("run_id", run), ("path", folder)];
            if !page.is_empty() {
                asked.push(("page_token", &page));
            }
            let Some(answer) = self.get("artifacts/list", &asked).await? else { break };
            let files = answer["files"].as_array().into_iter().flatten();
            found.extend(files.map(|file| Artifact { path: text(file, "path"), is_folder: file["is_dir"] == true }));
            page = text(&answer, "next_page_token");
            if page.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// `uri`: of the run's artifacts, as the run has it. What is there already is replaced.
    pub async fn upload(&self, uri: &str, path: &str, file: &Path) -> Result<(), Trouble> {
        let unreadable =
            |error: std::io::Error| Trouble::Rejected(format!("`{}` cannot be read: {error}", file.display()));
        match Place::of(uri, &self.base)? {
            Place::Proxied(url) => {
                let open = tokio::fs::File::open(file).await.map_err(unreadable)?;
                let length = open.metadata().await.map_err(unreadable)?.len();
                let sending =
                    self.request(Method::PUT, joined(&url, path)?).header("content-length", length).body(open);
                self.answer(sending).await.map(drop)
            }
            Place::Local(folder) => {
                let target = folder.join(path);
                let copied = async {
                    if let Some(parent) = target.parent() {
                        tokio::fs::create_dir_all(parent).await?;
                    }
                    tokio::fs::copy(file, &target).await
                };
                let failed = |error| Trouble::Rejected(format!("`{}` cannot be written: {error}", target.display()));
                copied.await.map(drop).map_err(failed)
            }
        }
    }

    pub async fn download(&self, uri: &str, path: &str, file: &Path) -> Result<(), Trouble> {
        use tokio::io::AsyncWriteExt as _;
        let failed =
            |error: std::io::Error| Trouble::Rejected(format!("`{}` cannot be written: {error}", file.display()));
        match Place::of(uri, &self.base)? {
            Place::Proxied(url) => {
                let asked = self.request(Method::GET, joined(&url, path)?).send().await;
                let mut answer = self.judged(asked.map_err(|error| self.unreachable(error))?).await?;
                let mut out = tokio::fs::File::create(file).await.map_err(failed)?;
                while let Some(piece) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
                    out.write_all(&piece).await.map_err(failed)?;
                }
                out.flush().await.map_err(failed)
            }
            Place::Local(folder) => tokio::fs::copy(folder.join(path), file).await.map(drop).map_err(failed),
        }
    }
}

/// Where a run's artifacts can be reached.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Through the tracking server (or another one of its kind).
    Proxied(String),
    /// On this machine.
    Local(PathBuf),
}

impl Place {
    fn of(uri: &str, base: &str) -> Result<Self, Trouble> {
        if let Some(rest) = uri.strip_prefix("mlflow-artifacts:") {
            let (host, path) = match rest.strip_prefix("//") {
                Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
                None => ("", rest.trim_start_matches('/')),
            };
            let scheme = base.split("://").next().unwrap_or("http");
            let server = if host.is_empty() { base.to_owned() } else { format!("{scheme}://{host}") };
            return Ok(Self::Proxied(format!("{server}/api/2.0/mlflow-artifacts/artifacts/{path}")));
        }
        let local = match uri.strip_prefix("file:") {
            Some(rest) => Some(rest.strip_prefix("//").unwrap_or(rest)),
            None => uri.starts_with('/').then_some(uri),
        };
        match local {
            Some(path) if path.starts_with('/') => Ok(Self::Local(path.into())),
            _ => Err(Trouble::Rejected(format!(
                "its artifacts are at `{uri}`: Lockstep reaches those that the server itself serves (`mlflow-artifacts:`) or that are in a folder \
                 of this machine"
            ))),
        }
    }
}

fn joined(url: &str, path: &str) -> Result<Url, Trouble> {
    let mut joined = Url::parse(url).map_err(|error| Trouble::Rejected(format!("`{url}` is no address: {error}")))?;
    if let Ok(mut segments) = joined.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_reached_through_the_server_or_on_this_machine_or_not_at_all() {
        let base = "http://h:5000/tracking";
        let proxied = |uri: &str| match Place::of(uri, base).unwrap() {
            Place::Proxied(url) => url,
            place => panic!("{place:?}"),
        };
        let run = "1/abc/artifacts";
        assert_eq!(
            proxied(&format!("mlflow-artifacts:/{run}")),
            format!("http://h:5000/tracking/api/2.0/mlflow-artifacts/artifacts/{run}")
        );
        assert_eq!(
            proxied(&format!("mlflow-artifacts://other:1/{run}")),
            format!("http://other:1/api/2.0/mlflow-artifacts/artifacts/{run}")
        );
        for uri in ["/srv/mlruns/1", "file:///srv/mlruns/1", "file:/srv/mlruns/1"] {
            assert_eq!(Place::of(uri, base).unwrap(), Place::Local("/srv/mlruns/1".into()));
        }
        let refused = Place::of("s3://bucket/1", base).unwrap_err().to_string();
        assert!(refused.contains("`s3://bucket/1`") && refused.contains("mlflow-artifacts:"), "{refused}");
        assert_eq!(joined("http://h/a/b", "model/x y").unwrap().as_str(), "http://h/a/b/model/x%20y");
    }
}
