//! How the runs that are being told to a tracker stand: written by their couriers, read by whoever asks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Older ones are in the journal.
const REMARKS_AT_MOST: usize = 100;

/// Clones share it.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    standings: Mutex<BTreeMap<String, Standing>>,
    /// What could not be told of runs that are done, until somebody asks.
    remarks: Mutex<VecDeque<String>>,
    /// Counts what went through, and every run that is stuck or done.
    changes: watch::Sender<u64>,
    /// Counts how often those who wait were told to try at once.
    nudges: watch::Sender<u64>,
}

/// Of a run that has not arrived altogether.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub url: String,
    /// Why nothing goes through, and when it is tried again; empty where it does.
    pub trouble: String,
    /// The newest nudge that a try has failed after.
    pub failed_after_nudge: Option<u64>,
    /// What has gone through, however much that was.
    pub deliveries: u64,
}

impl Board {
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            standings: Mutex::default(),
            remarks: Mutex::default(),
            changes: watch::Sender::new(0),
            nudges: watch::Sender::new(0),
        }))
    }

    fn standings(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.0.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, run: &str, url: &str) {
        self.standings().insert(run.to_owned(), Standing { url: url.to_owned(), ..Standing::default() });
    }

    pub fn delivered(&self, run: &str) {
        if let Some(standing) = self.standings().get_mut(run) {
            standing.deliveries += 1;
            standing.trouble.clear();
            standing.failed_after_nudge = None;
        }
        self.changed();
    }

    /// `nudge`: the newest one when the try began.
    pub fn stuck(&self, run: &str, why: String, nudge: u64) {
        if let Some(standing) = self.standings().get_mut(run) {
            standing.trouble = why;
            standing.failed_after_nudge = Some(nudge);
        }
        self.changed();
    }

    pub fn done(&self, run: &str) {
        self.standings().remove(run);
        self.changed();
    }

    pub fn remark(&self, run: &str, remark: &str) {
        let mut remarks = self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        if remarks.len() == REMARKS_AT_MOST {
            remarks.pop_front();
        }
        remarks.push_back(format!("run {run}: {remark}"));
    }

    /// Each is told once.
    pub fn take_remarks(&self) -> Vec<String> {
        self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// `None`: all of it has arrived, or it is not tracked.
    pub fn standing(&self, run: &str) -> Option<Standing> {
        self.standings().get(run).cloned()
    }

    pub fn all(&self) -> BTreeMap<String, Standing> {
        self.standings().clone()
    }

    /// Everyone who waits tries at once. The number of this nudge.
    pub fn nudge(&self) -> u64 {
        self.0.nudges.send_modify(|nudges| *nudges += 1);
        *self.0.nudges.borrow()
    }

    pub fn nudges(&self) -> watch::Receiver<u64> {
        self.0.nudges.subscribe()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }
}
