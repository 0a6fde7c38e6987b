//! What a coordinator's state folder keeps, read where no coordinator is: nobody is waited for, nothing is written. Blocking.

use std::path::Path;

use proto::v1;

use crate::{
    clock::Clock,
    history::{Closing, History},
    journal::{Journal, JournalError},
    tracking::tracking_words,
};

/// Held open as long as it is read.
pub struct StateFolder {
    journal: Journal,
    history: History,
}

impl StateFolder {
    /// Runs that were live when their coordinator died are read as interrupted.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let journal = Journal::open_to_read(folder)?;
        let history = History::read(&journal, Clock::start().now(), &mut Closing::default(), false)?;
        Ok(Self { journal, history })
    }

    /// The newest first.
    pub fn runs(&self) -> Result<Vec<v1::RunStatus>, JournalError> {
        let mut runs: Vec<_> = self.history.all().cloned().collect();
        runs.reverse();
        for run in &mut runs {
            run.tracking = self.journal.tracking(&run.run_id)?;
            if let Some(tracking) = run.tracking.as_mut().filter(|tracking| !tracking.done) {
                tracking.standing = tracking_words(tracking, "no coordinator runs that could send it");
            }
        }
        Ok(runs)
    }

    pub fn series(&self, run: &str, names: &[String]) -> Result<Vec<v1::Series>, JournalError> {
        self.journal.series(run, names)
    }

    /// At most `limit` events after a sequence number, in order.
    pub fn events(&self, run: &str, after: u64, limit: usize) -> Result<Vec<v1::RunEvent>, JournalError> {
        self.journal.events(run, after, limit)
    }

    /// By step.
    pub fn checkpoints(&self, run: &str) -> Result<Vec<v1::Checkpoint>, JournalError> {
        self.journal.checkpoints(run)
    }
}
