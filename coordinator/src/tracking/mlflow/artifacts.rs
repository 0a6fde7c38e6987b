//! What a run left behind, as files on the server: listed, brought there and back.

use std::{
    io,
    net::UdpSocket,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use futures::stream::{self, Stream};
use reqwest::{Body, Method, Url};
use tokio::{fs::File, io::AsyncReadExt as _, sync::watch, time::timeout};

use super::{Heard, Mlflow, SILENT_AT_MOST, Trouble, text};

/// Bytes of a file that go out together.
const PIECE: usize = 256 << 10;

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

    /// Whether files can be brought to a run's artifacts, and if not, why.
    pub async fn reaches(&self, uri: &str) -> Result<(), Trouble> {
        self.place(uri).await.map(drop)
    }

    /// A server's folder is ours where the server runs on this machine, or where it can be seen from here.
    async fn place(&self, uri: &str) -> Result<Place, Trouble> {
        let place = Place::of(uri, &self.base)?;
        match &place {
            Place::Local(folder) if !is_shared(folder) && !is_on_this_machine(&self.base).await? => {
                Err(Trouble::Rejected(format!(
                    "its artifacts are at `{uri}`, a folder of the server's machine that is not on this one: start the server with \
                     `--artifacts-destination`, so that files go through it, or mount that folder here"
                )))
            }
            _ => Ok(place),
        }
    }

    /// `uri`: of the run's artifacts, as the run has it. What is there already is replaced.
    pub async fn upload(&self, uri: &str, path: &str, file: &Path) -> Result<(), Trouble> {
        let unreadable =
            |error: std::io::Error| Trouble::Rejected(format!("`{}` cannot be read: {error}", file.display()));
        match self.place(uri).await? {
            Place::Proxied(url) => {
                let open = File::open(file).await.map_err(unreadable)?;
                let length = open.metadata().await.map_err(unreadable)?.len();
                let (left, mut pieces) = watch::channel(());
                let body = Body::wrap_stream(in_pieces(open, left, self.heard.clone()));
                let sending =
                    self.request(Method::PUT, joined(&url, path)?).header("content-length", length).body(body);
                let mut sending = pin!(self.answer(sending));
                // A large file may take long, but not stand still.
                loop {
                    tokio::select! {
                        answer = &mut sending => return answer.map(drop),
                        piece = timeout(SILENT_AT_MOST, pieces.changed()) => match piece {
                            Ok(Ok(())) => {}
                            Ok(Err(_)) => {
                                let answer = timeout(SILENT_AT_MOST, sending).await;
                                return answer.map_err(|_| silent()).flatten().map(drop);
                            }
                            Err(_) => return Err(silent()),
                        },
                    }
                }
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
        match self.place(uri).await? {
            Place::Proxied(url) => {
                let asking = timeout(SILENT_AT_MOST, self.request(Method::GET, joined(&url, path)?).send());
                let asked = asking.await.map_err(|_| silent())?;
                let mut answer = self.judged(asked.map_err(|error| self.unreachable(error))?).await?;
                let mut out = File::create(file).await.map_err(failed)?;
                loop {
                    let piece = timeout(SILENT_AT_MOST, answer.chunk()).await.map_err(|_| silent())?;
                    let Some(piece) = piece.map_err(|error| self.unreachable(error))? else { break };
                    out.write_all(&piece).await.map_err(failed)?;
                }
                out.flush().await.map_err(failed)
            }
            Place::Local(folder) => tokio::fs::copy(folder.join(path), file).await.map(drop).map_err(failed),
        }
    }
}

fn silent() -> Trouble {
    Trouble::Unreachable(format!("a file stood still for {} s", SILENT_AT_MOST.as_secs()))
}

/// A file's bytes; `left` sees each piece go, and is gone with the last one.
fn in_pieces(
    file: File,
    left: watch::Sender<()>,
    heard: Option<Arc<Heard>>,
) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static {
    stream::try_unfold((file, left), move |(mut file, left)| {
        let heard = heard.clone();
        async move {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut file).take(PIECE as u64).read_to_end(&mut piece).await?;
            left.send_replace(());
            if let Some(heard) = heard {
                heard();
            }
            Ok(if piece.is_empty() { None } else { Some((piece, (file, left))) })
        }
    })
}

/// Whether the folder of the run's experiment is here: the server has made it, so we see the same disk.
fn is_shared(artifacts: &Path) -> bool {
    let experiment = artifacts.ancestors().nth(2);
    experiment.is_some_and(|folder| folder.parent().is_some() && folder.is_dir())
}

/// Whether one of the server's addresses is one of this machine's: only those can be bound to.
async fn is_on_this_machine(base: &str) -> Result<bool, Trouble> {
    let Ok(url) = Url::parse(base) else { return Ok(false) };
    let found = tokio::task::spawn_blocking(move || url.socket_addrs(|| None)).await;
    let addresses = found
        .map_err(|_| Trouble::Unreachable("the search for the server's addresses broke off".into()))?
        .map_err(|error| Trouble::Unreachable(error.to_string()))?;
    Ok(addresses.iter().any(|address| UdpSocket::bind((address.ip(), 0)).is_ok()))
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
    use super::{super::Credentials, *};

    #[tokio::test]
    async fn a_folder_of_a_server_elsewhere_is_no_folder_of_ours_unless_it_is_seen_from_here() {
        let here = tempfile::tempdir().unwrap();
        let (run, file) = (here.path().join("1/ab/artifacts"), here.path().join("file"));
        std::fs::write(&file, "x").unwrap();
        let uri = format!("file://{}", run.display());
        let server = |url: &str| Mlflow::new(url, Credentials::None).unwrap();
        // Addresses of documentation (RFC 5737) are nobody's.
        let (elsewhere, this) = (server("http://192.0.2.1:5000"), server("http://127.0.0.1:5000"));
        let refused = elsewhere.upload(&uri, "model/MLmodel", &file).await.unwrap_err().to_string();
        assert!(refused.contains(&uri) && refused.contains("--artifacts-destination"), "{refused}");
        assert!(!here.path().join("1").exists(), "nothing was made here");
        this.upload(&uri, "model/MLmodel", &file).await.unwrap();
        assert!(run.join("model/MLmodel").is_file());
        // Now its experiment is seen from here.
        elsewhere.upload(&uri, "model/other", &file).await.unwrap();
        elsewhere.reaches("mlflow-artifacts:/1/ab/artifacts").await.unwrap();
    }

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
