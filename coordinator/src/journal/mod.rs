//! What must outlive the process: runs, their events, curves and checkpoints. Kept in one embedded database under the state folder
//! (`folder`), or in etcd (`remote`), where another coordinator finds them.
//!
//! Values are the messages of the wire, which is the one format that already promises to be read by later versions. One writer: the
//! driver. Readers see what was committed, also what is not yet durable.

mod chunks;
mod folder;
mod remote;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::v1::{self, run_event};

use crate::etcd::{Etcd, EtcdError, leadership::Term};
use folder::Folder;
use remote::Remote;
use tables::Tables;

const FORMAT: u64 = 1;

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Entry {
    Run(Box<v1::RunStatus>),
    /// Its figures become points of the run's curves.
    Event(Arc<v1::RunEvent>),
    Checkpoint {
        run: String,
        checkpoint: v1::Checkpoint,
    },
    Pruned {
        run: String,
        step: u64,
    },
    Tracking {
        run: String,
        tracking: Box<v1::Tracking>,
    },
}

impl Entry {
    /// Figures may be lost with the power, and how far they have been sent; nothing else may.
    pub fn must_be_durable(&self) -> bool {
        match self {
            Self::Event(event) => {
                !matches!(event.event, Some(run_event::Event::Progress(_) | run_event::Event::System(_)))
            }
            Self::Tracking { .. } => false,
            _ => true,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("state folder `{}` is in use by another coordinator", .0.display())]
    InUse(PathBuf),
    #[error("state folder `{}` cannot be used", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("there is no journal in `{}`", .0.display())]
    NoJournal(PathBuf),
    #[error("state folder `{}` was written by another version: format {found}, this version has {FORMAT}", path.display())]
    Format { path: PathBuf, found: u64 },
    #[error("journal is closed")]
    Closed,
    #[error("journal cannot be read or written")]
    Storage(#[source] Box<redb::Error>),
    #[error("journal holds a record that cannot be read")]
    Record(#[source] prost::DecodeError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("{store} was written by another version: format {found}, this version has {FORMAT}")]
    StoreFormat { store: String, found: String },
    /// Nothing is written any more by this coordinator.
    #[error("deposed: {0}")]
    Deposed(String),
}

impl<E: Into<redb::Error>> From<E> for JournalError {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

impl JournalError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoJournal(_) => {
                "name the state folder of a coordinator or of `lockstep train` (<checkpoint.dir>/.state)"
            }
            Self::InUse(_) => "talk to that one, stop it, or choose another state folder",
            Self::Folder { .. } | Self::Storage(_) => "check its permissions and the space on its disk",
            Self::Format { .. } => "use the version that wrote it, or choose another state folder",
            Self::Closed => "the coordinator has ended: start it again",
            Self::Record(_) => "restore the state folder from a copy, or choose another",
            Self::Etcd(error) => error.hint(),
            Self::StoreFormat { .. } => "use the version that wrote it, or choose another name in --store",
            Self::Deposed(_) => DEPOSED_HINT,
        }
    }
}

const DEPOSED_HINT: &str = "the leader goes on with its runs, workers and clients find it";

/// Clones share it. Everything here blocks, and must not be called on a thread that drives a runtime.
#[derive(Clone)]
pub struct Journal(Backend);

#[derive(Clone)]
enum Backend {
    Folder(Folder),
    Etcd(Arc<Remote>),
}

impl Journal {
    /// Of a coordinator that is not there; one that was killed is repaired first, by the only writer there is.
    pub fn open_to_read(folder: &Path) -> Result<Self, JournalError> {
        Ok(Self(Backend::Folder(Folder::open_to_read(folder)?)))
    }

    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        Ok(Self(Backend::Folder(Folder::open(folder)?)))
    }

    /// As the leader of this term.
    pub fn lead(etcd: Etcd, term: Term) -> Result<Self, JournalError> {
        Ok(Self(Backend::Etcd(Arc::new(Remote::lead(etcd, term)?))))
    }

    /// Other coordinators may have led before, and may not know yet that they do no more.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Backend::Etcd(_))
    }

    /// The tables; with the events of this run, where one is named.
    fn tables(&self, run: Option<&str>) -> Result<Arc<Tables>, JournalError> {
        match &self.0 {
            Backend::Folder(folder) => folder.tables(),
            Backend::Etcd(remote) => remote.tables(run),
        }
    }

    /// Gives the state folder free, whoever still holds a clone.
    pub fn close(&self) {
        match &self.0 {
            Backend::Folder(folder) => folder.close(),
            Backend::Etcd(remote) => remote.close(),
        }
    }

    /// Why this coordinator leads no more.
    pub fn deposed(&self) -> Option<&str> {
        match &self.0 {
            Backend::Folder(_) => None,
            Backend::Etcd(remote) => remote.deposed(),
        }
    }

    /// Why it cannot be written, for people.
    pub fn failure(&self, error: &JournalError) -> v1::Failure {
        if let JournalError::Deposed(_) = error {
            let (message, hint) = (error.to_string(), error.hint().to_owned());
            return v1::Failure { message, causes: Vec::new(), hint, input_is_wrong: false };
        }
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            // Wrappers repeat what they wrap.
            let words = cause.to_string();
            if causes.last() != Some(&words) {
                causes.push(words);
            }
            source = cause.source();
        }
        if causes.is_empty() {
            causes.push(error.to_string());
        }
        let (place, hint) = match &self.0 {
            Backend::Folder(folder) => {
                (folder.file().display().to_string(), "free space, or put the state elsewhere with --state")
            }
            Backend::Etcd(remote) => (remote.place(), error.hint()),
        };
        let message = format!("the journal `{place}` cannot be written");
        v1::Failure { message, causes, hint: hint.into(), input_is_wrong: false }
    }

    /// All or nothing, but for what etcd cannot take at once (see `chunks`). `durable`: it outlives the process when this returns; else
    /// with the next commit that is. May be tried again.
    pub fn commit(&self, entries: &[Entry], durable: bool) -> Result<(), JournalError> {
        match &self.0 {
            Backend::Folder(folder) => folder.commit(entries, durable),
            Backend::Etcd(remote) => remote.commit(entries, durable),
        }
    }

    /// Oldest first.
    pub fn runs(&self) -> Result<Vec<v1::RunStatus>, JournalError> {
        self.tables(None)?.runs()
    }

    /// As it was recorded last.
    pub fn run(&self, run: &str) -> Result<Option<v1::RunStatus>, JournalError> {
        self.tables(None)?.run(run)
    }

    /// At most `limit` events after a sequence number, in order.
    pub fn events(&self, run: &str, after: u64, limit: usize) -> Result<Vec<v1::RunEvent>, JournalError> {
        self.tables(Some(run))?.events(run, after, limit)
    }

    /// How far a run is told: its newest progress that no later generation has voided, up to which step that holds, and the newest end
    /// of an epoch.
    pub fn told(&self, run: &str) -> Result<(Option<v1::Progress>, u64, Option<v1::EpochEnded>), JournalError> {
        self.tables(Some(run))?.told(run)
    }

    /// The number of the newest event; 0 where there is none.
    pub fn last_sequence(&self, run: &str) -> Result<u64, JournalError> {
        self.tables(Some(run))?.last_sequence(run)
    }

    /// Curves by name, points by step; all of them where no names are given.
    pub fn series(&self, run: &str, names: &[String]) -> Result<Vec<v1::Series>, JournalError> {
        self.tables(Some(run))?.series(run, names)
    }

    /// How much of each run that is tracked has reached its tracker.
    pub fn tracked(&self) -> Result<Vec<(String, v1::Tracking)>, JournalError> {
        self.tables(None)?.tracked()
    }

    /// `None`: the run is not tracked. What waits is counted.
    pub fn tracking(&self, run: &str) -> Result<Option<v1::Tracking>, JournalError> {
        let Some(mut tracking) = self.tables(None)?.tracking(run)? else { return Ok(None) };
        tracking.pending_points = if tracking.done { 0 } else { self.points_after(run, tracking.after_sequence)? };
        Ok(Some(tracking))
    }

    /// Points of events past a sequence number.
    pub fn points_after(&self, run: &str, after: u64) -> Result<u64, JournalError> {
        self.tables(Some(run))?.points_after(run, after)
    }

    /// Published and not pruned since, by step.
    pub fn checkpoints(&self, run: &str) -> Result<Vec<v1::Checkpoint>, JournalError> {
        self.tables(None)?.checkpoints(run)
    }
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, JournalError> {
    M::decode(bytes).map_err(JournalError::Record)
}
