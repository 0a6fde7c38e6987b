//! A file on its way into the lake: written under a hidden name (or to a nameless file on this machine, where the lake is on S3),
//! published whole.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    PipelineError,
    store::{Store, readable, sync_folder},
};

/// How the names of files that are being written begin.
const HIDDEN: &str = ".partial-";

/// Whether it is one that is being written, or was when its writer was killed.
pub fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(HIDDEN))
}

/// Written from one thread; gone when dropped, unless published.
pub struct Spool {
    file: BufWriter<Place>,
    hash: Xxh3,
    bytes: u64,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub bytes: u64,
    /// XXH3 (64 bits, hex) of the bytes.
    pub xxh3: String,
}

enum Place {
    /// In the folder where it will get its name.
    Hidden(NamedTempFile),
    Nameless(File),
}

impl Spool {
    /// A file that is to be published somewhere in `folder` of the store.
    pub fn new(store: &Store, folder: &str) -> Result<Self, PipelineError> {
        let place = match store.local(folder) {
            Some(folder) => hidden(&folder).map_err(|error| PipelineError::io("write in", &folder, error))?,
            None => {
                let file = tempfile::tempfile();
                Place::Nameless(file.map_err(|error| PipelineError::io("write in", &std::env::temp_dir(), error))?)
            }
        };
        Ok(Self { file: BufWriter::with_capacity(256 << 10, place), hash: Xxh3::new(), bytes: 0 })
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it its name in the store; it is durable then. An older file of that name is replaced.
    pub async fn publish(self, store: &Store, below: &str) -> Result<Published, PipelineError> {
        let named = Published { bytes: self.bytes, xxh3: format!("{:016x}", self.hash.digest()) };
        let path = store.local(below).unwrap_or_else(|| PathBuf::from(store.display(below)));
        let failed = |error| PipelineError::io("write", &path, error);
        match self.file.into_inner().map_err(|error| failed(error.into_error()))? {
            Place::Hidden(file) => {
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&path).map_err(|error| failed(error.error))?;
                sync_folder(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
            }
            Place::Nameless(mut file) => store.upload(below, &mut file).await?,
        }
        Ok(named)
    }
}

fn hidden(folder: &Path) -> io::Result<Place> {
    fs::create_dir_all(folder)?;
    let file = tempfile::Builder::new().prefix(HIDDEN).permissions(readable()).tempfile_in(folder)?;
    // A file system without locks costs the cleaning up after a killed process, nothing else.
    let _ = file.as_file().try_lock();
    Ok(Place::Hidden(file))
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Hidden(file) => file.as_file_mut().write(bytes),
            Self::Nameless(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
