//! The journal as one file of the state folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, DatabaseError, ReadOnlyDatabase};

use super::{Entry, FORMAT, JournalError, tables::Tables};

const FILE: &str = "journal.redb";

/// Clones share it.
#[derive(Clone)]
pub struct Folder {
    path: PathBuf,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
enum Held {
    Open(Arc<Tables>),
    /// To be opened (again): after an error of its disk the database refuses everything.
    #[default]
    NotOpen,
    /// For good.
    Closed,
}

impl Folder {
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        fs::create_dir_all(path).map_err(|source| JournalError::Folder { path: path.to_owned(), source })?;
        let folder = Self { path: path.to_owned(), held: Arc::default() };
        match folder.tables()?.make()? {
            Ok(()) => Ok(folder),
            Err(found) => Err(JournalError::Format { path: path.to_owned(), found }),
        }
    }

    pub fn open_to_read(path: &Path) -> Result<Self, JournalError> {
        let file = path.join(FILE);
        if !file.exists() {
            return Err(JournalError::NoJournal(path.to_owned()));
        }
        let tables = match ReadOnlyDatabase::open(&file) {
            Ok(database) => Tables::ReadOnly(database),
            Err(DatabaseError::RepairAborted) => match Database::open(&file) {
                Ok(database) => Tables::Writable(database),
                Err(DatabaseError::DatabaseAlreadyOpen) => return Err(JournalError::InUse(path.to_owned())),
                Err(error) => return Err(error.into()),
            },
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(JournalError::InUse(path.to_owned())),
            Err(error) => return Err(error.into()),
        };
        match tables.format()? {
            Some(FORMAT) => {}
            found => return Err(JournalError::Format { path: path.to_owned(), found: found.unwrap_or_default() }),
        }
        Ok(Self { path: path.to_owned(), held: Arc::new(Mutex::new(Held::Open(Arc::new(tables)))) })
    }

    pub fn tables(&self) -> Result<Arc<Tables>, JournalError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Held::Open(tables) => return Ok(Arc::clone(tables)),
            Held::Closed => return Err(JournalError::Closed),
            Held::NotOpen => {}
        }
        let opened = Database::create(self.path.join(FILE)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(self.path.clone()),
            error => error.into(),
        })?;
        let opened = Arc::new(Tables::Writable(opened));
        *held = Held::Open(Arc::clone(&opened));
        Ok(opened)
    }

    pub fn commit(&self, entries: &[Entry], durable: bool) -> Result<(), JournalError> {
        let committed = self.tables().and_then(|tables| tables.write(entries, durable));
        if committed.is_err() {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Held::Open(_) = *held {
                *held = Held::NotOpen;
            }
        }
        committed
    }

    pub fn close(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Held::Closed;
    }

    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }
}
