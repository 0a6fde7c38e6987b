//! The journal in etcd. The leader alone writes, each time on condition that it still leads. It holds what it has read and written in
//! memory too, so that nobody who asks waits for etcd; of runs that are over, events are read when somebody asks for them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use proto::v1;
use redb::{Database, backends::InMemoryBackend};
use tokio::runtime::Handle;

use super::{
    Entry, FORMAT, JournalError,
    chunks::{Chunks, Keys, RUN_BYTES, behind, end_of, last_number, plan},
    decode,
    tables::Tables,
};
use crate::etcd::{
    Etcd,
    leadership::{Term, why_refused},
    put,
    wire::{KeyValue, RequestOp},
};

/// Keys that are read at a time.
const PAGE: i64 = 64;

/// What the tables in memory keep at hand beside themselves.
const CACHE_BYTES: usize = 16 << 20;

pub struct Remote {
    etcd: Etcd,
    term: Term,
    keys: Keys,
    runtime: Handle,
    tables: Arc<Tables>,
    writing: Mutex<Writing>,
    /// Runs of earlier terms whose events have not been read yet.
    unread: Mutex<HashSet<String>>,
    reading: Mutex<()>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Writing {
    /// Shown, and to be written with what must be durable next.
    pending: Vec<Entry>,
    chunks: HashMap<String, Chunks>,
}

impl Remote {
    pub fn lead(etcd: Etcd, term: Term) -> Result<Self, JournalError> {
        let memory = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(InMemoryBackend::new())?;
        let remote = Self {
            keys: Keys(etcd.store().name().to_owned()),
            etcd,
            term,
            runtime: Handle::current(),
            tables: Arc::new(Tables::Writable(memory)),
            writing: Mutex::default(),
            unread: Mutex::default(),
            reading: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        // Of this version: it was empty.
        let _ = remote.tables.make()?;
        remote.check_format()?;
        let mut runs = HashSet::new();
        remote.each(&remote.keys.runs(), |found| {
            let status: v1::RunStatus = decode(&found.value)?;
            runs.insert(status.run_id.clone());
            Ok(Entry::Run(Box::new(status)))
        })?;
        remote.each(&remote.keys.tracking(), |found| {
            let run = remote.part(&found.key, 2);
            Ok(Entry::Tracking { run, tracking: Box::new(decode(&found.value)?) })
        })?;
        remote.each(&remote.keys.checkpoints(), |found| {
            let run = remote.part(&found.key, 2);
            Ok(Entry::Checkpoint { run, checkpoint: decode(&found.value)? })
        })?;
        *lock(&remote.unread) = runs;
        Ok(remote)
    }

    fn check_format(&self) -> Result<(), JournalError> {
        let found = self.runtime.block_on(self.etcd.get(&self.keys.format()))?;
        match found.map(|found| String::from_utf8_lossy(&found.value).into_owned()) {
            None => self.write(vec![put(self.keys.format(), FORMAT.to_string(), 0)]),
            Some(found) if found == FORMAT.to_string() => Ok(()),
            Some(found) => Err(JournalError::StoreFormat { store: self.place(), found }),
        }
    }

    /// Part of a key, the store's name being the first.
    fn part(&self, key: &[u8], number: usize) -> String {
        String::from_utf8_lossy(key).split('/').nth(number).unwrap_or_default().to_owned()
    }

    /// Reads what lies below a prefix into the tables.
    fn each(
        &self,
        prefix: &str,
        mut entry: impl FnMut(&KeyValue) -> Result<Entry, JournalError>,
    ) -> Result<(), JournalError> {
        self.pages(prefix, |page| {
            let entries: Vec<Entry> = page.iter().map(&mut entry).collect::<Result<_, _>>()?;
            self.tables.write(&entries, true)
        })
    }

    fn pages(
        &self,
        prefix: &str,
        mut take: impl FnMut(&[KeyValue]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let (mut from, to) = (prefix.as_bytes().to_vec(), end_of(prefix));
        loop {
            let page = self.runtime.block_on(self.etcd.range(from, to.clone(), PAGE))?;
            take(&page.kvs)?;
            match page.kvs.into_iter().next_back() {
                Some(last) if page.more => {
                    from = last.key;
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }

    /// With the events of this run.
    pub fn tables(&self, run: Option<&str>) -> Result<Arc<Tables>, JournalError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(JournalError::Closed);
        }
        if let Some(run) = run
            && lock(&self.unread).contains(run)
        {
            let _one_at_a_time = lock(&self.reading);
            if lock(&self.unread).contains(run) {
                self.read_events(run)?;
                lock(&self.unread).remove(run);
            }
        }
        Ok(Arc::clone(&self.tables))
    }

    fn read_events(&self, run: &str) -> Result<(), JournalError> {
        let mut chunks = Chunks::default();
        self.pages(&self.keys.events(run), |page| {
            let mut entries = Vec::new();
            for found in page {
                let events = chunks.read(last_number(&found.key).unwrap_or_default(), &found.value)?;
                entries.extend(events.into_iter().map(|event| Entry::Event(Arc::new(event))));
            }
            self.tables.write(&entries, true)
        })?;
        // One that is over is written of no more.
        if self.tables.run(run)?.is_some_and(|status| status.ended_unix_micros == 0) {
            lock(&self.writing).chunks.insert(run.to_owned(), chunks);
        }
        Ok(())
    }

    pub fn commit(&self, entries: &[Entry], durable: bool) -> Result<(), JournalError> {
        self.refuse_if_over()?;
        let mut writing = lock(&self.writing);
        if !durable {
            self.tables.write(entries, true)?;
            writing.pending.extend_from_slice(entries);
            return Ok(());
        }
        let planned = plan(&self.keys, &writing.chunks, writing.pending.iter().chain(entries));
        for operations in planned.transactions {
            self.write(operations)?;
        }
        // Only now, and nothing is forgotten before: tried again, the same is written again.
        self.tables.write(entries, true)?;
        writing.pending.clear();
        writing.chunks.extend(planned.chunks);
        for entry in entries {
            if let Entry::Run(status) = entry
                && status.ended_unix_micros > 0
            {
                writing.chunks.remove(&status.run_id);
            }
        }
        self.coarsen(&mut writing.chunks);
        Ok(())
    }

    /// One step for each run that takes too much; what fails is done another time.
    fn coarsen(&self, chunks: &mut HashMap<String, Chunks>) {
        for (run, chunks) in chunks {
            let Some((first, last)) = chunks.coarsen_next(RUN_BYTES) else { continue };
            let (from, to) = (self.keys.chunk(run, first), behind(&self.keys.chunk(run, last)));
            let mut coarse = chunks.clone();
            let done = self.runtime.block_on(self.etcd.range(from.into_bytes(), to, 0)).map_err(JournalError::from);
            let done = done.and_then(|found| self.write(coarse.coarsen(&self.keys, run, &found.kvs)?));
            match done {
                Ok(()) => *chunks = coarse,
                Err(error) => tracing::debug!(run, %error, "old events could not be made coarser"),
            }
        }
    }

    /// One transaction, if this one still leads.
    fn write(&self, operations: Vec<RequestOp>) -> Result<(), JournalError> {
        self.refuse_if_over()?;
        let answer = self.runtime.block_on(self.etcd.transact(self.term.only(operations)))?;
        if answer.succeeded {
            return Ok(());
        }
        let why = why_refused(answer);
        self.term.end(why.clone());
        Err(JournalError::Deposed(why))
    }

    fn refuse_if_over(&self) -> Result<(), JournalError> {
        if let Some(why) = self.term.over() {
            return Err(JournalError::Deposed(why.to_owned()));
        }
        if self.closed.load(Ordering::Relaxed) { Err(JournalError::Closed) } else { Ok(()) }
    }

    pub fn deposed(&self) -> Option<&str> {
        self.term.over()
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn place(&self) -> String {
        self.etcd.store().to_string()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
