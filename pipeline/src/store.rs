//! Where a lake lies: a folder, or a prefix of an S3 bucket, behind one [`ObjectStore`].
//!
//! Writes here are atomic, and those to folders are durable too: a file is written beside its place under a hidden name, synced, and
//! only then given its name, so that what has a name is whole even after a power cut.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{
    BackoffConfig, Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    RetryConfig, WriteMultipart, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
};
use url::Url;

use crate::PipelineError;

/// S3 gives up on a request after this long; the first tries come quickly.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// Files up to this size go to S3 in one request.
const ONE_REQUEST: u64 = 8 << 20;

/// A folder or an S3 prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// `file:///` or `s3://bucket`: what [`objects`](Self::object_store) is the store of.
    url: Url,
    prefix: Path,
    /// The folder on disk, where it is one.
    folder: Option<PathBuf>,
}

impl Store {
    /// `data/lake`, `/abs/lake`, `file:///abs/lake`, or `s3://bucket/prefix` with the `AWS_*` variables that other tools read
    /// (`AWS_ENDPOINT_URL` for servers that are not Amazon's). Nothing need be there yet, and nothing is asked for yet.
    pub fn open(location: &str) -> Result<Self, PipelineError> {
        match location.split_once("://") {
            None => Self::folder(FilePath::new(location)),
            Some(("file", _)) => {
                let path = Url::parse(location).ok().and_then(|url| url.to_file_path().ok());
                let path = path.ok_or_else(|| {
                    PipelineError::options(format!("`{location}` names no folder"))
                        .with_hint("write `file:///absolute/path`, or the path alone")
                })?;
                Self::folder(&path)
            }
            Some(("s3", _)) => Self::s3(location),
            Some((scheme, _)) => {
                Err(PipelineError::options(format!("`{location}`: `{scheme}` is no store that is known"))
                    .with_hint("name a folder, or `s3://bucket/prefix`"))
            }
        }
    }

    fn folder(path: &FilePath) -> Result<Self, PipelineError> {
        let absolute = std::path::absolute(path).map_err(|error| PipelineError::io("find", path, error))?;
        let prefix = Path::from_absolute_path(&absolute).map_err(|error| {
            PipelineError::options(format!("`{}` cannot be the name of a store", path.display())).because(error)
        })?;
        let url = Url::parse("file:///").map_err(|error| PipelineError::options("`file:///`").because(error))?;
        Ok(Self { objects: Arc::new(LocalFileSystem::new()), url, prefix, folder: Some(absolute) })
    }

    fn s3(location: &str) -> Result<Self, PipelineError> {
        let wrong =
            || PipelineError::options(format!("`{location}` names no bucket")).with_hint("write `s3://bucket/prefix`");
        let url = Url::parse(location).map_err(|error| wrong().because(error))?;
        let bucket = url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(wrong)?;
        let prefix = Path::from_url_path(url.path()).map_err(|error| wrong().because(error))?;
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 8, retry_timeout: RETRY_FOR };
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
        let plain = |name| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://"));
        // Whoever writes http:// means it.
        if plain("AWS_ENDPOINT_URL") || plain("AWS_ENDPOINT") || plain("AWS_ENDPOINT_URL_S3") {
            builder = builder.with_allow_http(true);
        }
        let objects = builder.build().map_err(|error| {
            PipelineError::options(format!("`{location}` cannot be opened"))
                .with_hint("see the AWS_* variables: region, endpoint and credentials")
                .because(error)
        })?;
        let root = Url::parse(&format!("s3://{bucket}")).map_err(|error| wrong().because(error))?;
        Ok(Self { objects: Arc::new(objects), url: root, prefix, folder: None })
    }

    /// The same store, seen from `below`.
    #[must_use]
    pub fn below(&self, below: &str) -> Self {
        let folder = self.folder.as_ref().map(|folder| folder.join(below));
        Self { prefix: self.path(below), folder, objects: Arc::clone(&self.objects), url: self.url.clone() }
    }

    /// What paths of [`path`](Self::path) are paths in.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// What to register [`object_store`](Self::object_store) as with a query engine.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The path of what lies below; `""` is the store's own.
    pub fn path(&self, below: &str) -> Path {
        below.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The path below this store, of one that lies in it.
    pub fn relative(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        Some(parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"))
    }

    /// As a person would write it.
    pub fn display(&self, below: &str) -> String {
        match &self.folder {
            Some(folder) if below.is_empty() => folder.display().to_string(),
            Some(folder) => folder.join(below).display().to_string(),
            None => format!("{}/{}", self.url.as_str().trim_end_matches('/'), self.path(below)),
        }
    }

    /// The folder on disk of what lies below; none on S3.
    pub fn local(&self, below: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| if below.is_empty() { folder.clone() } else { folder.join(below) })
    }

    /// Puts what must not be there yet; false if it was. Of many that put the same name at once exactly one gets true.
    ///
    /// A request that went through but whose answer was lost is told by its content, so `bytes` must differ from what anyone else
    /// would put: give them something drawn by chance.
    pub async fn put_new(&self, below: &str, bytes: Bytes) -> Result<bool, PipelineError> {
        if let Some(path) = self.local(below) {
            return link_new(&path, &bytes).map_err(|error| PipelineError::io("write", &path, error));
        }
        let path = self.path(below);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Ok(self.get(below).await? == Some(bytes))
            }
            Err(error) => Err(self.failed("write", below, error)),
        }
    }

    /// The content; none where there is none.
    pub async fn get(&self, below: &str) -> Result<Option<Bytes>, PipelineError> {
        match self.objects.get(&self.path(below)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(|error| self.failed("read", below, error)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", below, error)),
        }
    }

    /// All objects below, in the order of their names; hidden ones too.
    pub async fn list(&self, below: &str) -> Result<Vec<ObjectMeta>, PipelineError> {
        let found: Result<Vec<_>, _> = self.objects.list(Some(&self.path(below))).try_collect().await;
        let mut found = found.map_err(|error| self.failed("list", below, error))?;
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// The names of what lies directly below, folders only.
    pub async fn folders(&self, below: &str) -> Result<Vec<String>, PipelineError> {
        let found = self.objects.list_with_delimiter(Some(&self.path(below))).await;
        let found = found.map_err(|error| self.failed("list", below, error))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        let mut names: Vec<String> = found.common_prefixes.iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Removes what is there; nothing there is as good.
    pub async fn remove(&self, path: &Path) -> Result<(), PipelineError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", &self.relative(path).unwrap_or_default(), error)),
        }
    }

    /// Copies a file into the store, in parts if it is large; it appears whole. Only for stores that are no folder.
    pub(crate) async fn upload(&self, below: &str, file: &mut File) -> Result<(), PipelineError> {
        let path = self.path(below);
        let spooled = |error| PipelineError::io("read back", FilePath::new("the spooled file"), error);
        let bytes = file.metadata().map_err(spooled)?.len();
        io::Seek::rewind(file).map_err(spooled)?;
        if bytes <= ONE_REQUEST {
            let mut whole = Vec::with_capacity(bytes as usize);
            io::Read::read_to_end(file, &mut whole).map_err(spooled)?;
            let put = self.objects.put(&path, PutPayload::from(whole)).await;
            return put.map(drop).map_err(|error| self.failed("write", below, error));
        }
        let upload = self.objects.put_multipart(&path).await.map_err(|error| self.failed("write", below, error))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, ONE_REQUEST as usize);
        let mut part = vec![0; ONE_REQUEST as usize];
        loop {
            let read = io::Read::read(file, &mut part).map_err(spooled)?;
            if read == 0 {
                break;
            }
            upload.wait_for_capacity(4).await.map_err(|error| self.failed("write", below, error))?;
            upload.write(&part[..read]);
        }
        upload.finish().await.map(drop).map_err(|error| self.failed("write", below, error))
    }

    /// An error of the store, in words.
    pub(crate) fn failed(&self, what: &str, below: &str, error: StoreError) -> PipelineError {
        let message = format!("cannot {what} `{}`", self.display(below));
        if self.folder.is_some() {
            return PipelineError { kind: crate::ErrorKind::Io, ..PipelineError::network(message).because(error) };
        }
        let hint = match &error {
            StoreError::Unauthenticated { .. } | StoreError::PermissionDenied { .. } => {
                "the store refused the credentials: see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do"
            }
            StoreError::NotFound { .. } => "is there such a bucket? see AWS_REGION and AWS_ENDPOINT_URL too",
            _ => "see AWS_ENDPOINT_URL, AWS_REGION and the AWS_* credentials, and whether the store is up",
        };
        PipelineError::network(message).with_hint(hint).because(error)
    }
}

/// Writes a file that must not be there yet; false if it was.
fn link_new(path: &FilePath, bytes: &[u8]) -> io::Result<bool> {
    let folder = path.parent().unwrap_or(FilePath::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".new-").permissions(readable()).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            sync_folder(folder)?;
            Ok(true)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// What files of a lake are for others; temporary ones would be their writer's alone.
pub(crate) fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

/// Makes names that were given in a folder survive a power cut.
pub(crate) fn sync_folder(folder: &FilePath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_that_put_the_same_name_one_wins_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let puts = (0..16).map(|n| {
            let store = store.clone();
            tokio::task::spawn_blocking(move || {
                let put = store.put_new("a/b.json", Bytes::from(format!("{n}")));
                tokio::runtime::Handle::current().block_on(put).unwrap().then_some(n)
            })
        });
        let won: Vec<i32> = futures::future::join_all(puts).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(store.get("a/b.json").await.unwrap().unwrap(), format!("{}", won[0]));
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
        assert_eq!(store.get("a/c.json").await.unwrap(), None);
    }

    #[tokio::test]
    async fn paths_are_the_stores_own_and_lists_are_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", folder.path().display())).unwrap().below("lake");
        assert!(store.list("").await.unwrap().is_empty());
        for name in ["b", "date=2026-01-01/x", "a"] {
            assert!(store.put_new(name, Bytes::from_static(b"!")).await.unwrap());
        }
        let listed = store.list("").await.unwrap();
        let names: Vec<String> = listed.iter().filter_map(|object| store.relative(&object.location)).collect();
        assert_eq!(names, ["a", "b", "date=2026-01-01/x"]);
        assert_eq!(store.folders("").await.unwrap(), ["date=2026-01-01"]);
        assert_eq!(store.path("date=2026-01-01/x"), listed[2].location);
    }

    #[test]
    fn a_location_that_is_none_is_refused_with_a_hint() {
        for wrong in ["hdfs://host/lake", "s3://", "file://relative"] {
            let error = Store::open(wrong).unwrap_err();
            assert_eq!(error.kind, crate::ErrorKind::Options, "{wrong}");
            assert!(error.message.contains(wrong) && error.hint().is_some(), "{error}");
        }
        let store = Store::open("s3://bucket/some/prefix").unwrap();
        assert_eq!(store.url().as_str(), "s3://bucket");
        assert_eq!(store.path("x").as_ref(), "some/prefix/x");
        assert_eq!(store.display("x"), "s3://bucket/some/prefix/x");
    }
}
