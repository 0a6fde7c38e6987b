//! Runs that are over, also those of earlier lives of this coordinator.

use std::{collections::BTreeMap, sync::Arc};

use proto::v1::{self, run_event};

use crate::{
    clock::Timestamp,
    journal::{Entry, Journal, JournalError},
    run::RESUME_HINT,
};

/// By id, which is by time.
#[derive(Default)]
pub struct History(BTreeMap<String, v1::RunStatus>);

impl History {
    /// Reads the journal. Runs that were live when the process died are closed as interrupted, in the journal too. Blocking.
    pub fn load(journal: &Journal, now: Timestamp) -> Result<Self, JournalError> {
        let mut history = Self::default();
        let mut entries = Vec::new();
        for mut status in journal.runs()? {
            if status.ended_unix_micros == 0 {
                let sequence = journal.last_sequence(&status.run_id)?;
                let last = journal.checkpoints(&status.run_id)?.pop();
                entries.extend(interrupt(&mut status, sequence, last, now));
            }
            history.add(status);
        }
        if !entries.is_empty() {
            journal.commit(&entries, true)?;
        }
        Ok(history)
    }

    pub fn add(&mut self, status: v1::RunStatus) {
        self.0.insert(status.run_id.clone(), status);
    }

    pub fn get(&self, run: &str) -> Option<&v1::RunStatus> {
        self.0.get(run)
    }

    /// Oldest first.
    pub fn all(&self) -> impl Iterator<Item = &v1::RunStatus> {
        self.0.values()
    }
}

/// Failed, not stopped: nobody asked for it.
fn interrupt(status: &mut v1::RunStatus, sequence: u64, last: Option<v1::Checkpoint>, now: Timestamp) -> Vec<Entry> {
    let step = status.progress.as_ref().map_or(0, |progress| progress.step);
    let message = match v1::Phase::try_from(status.phase) {
        Ok(v1::Phase::Training) => {
            format!("interrupted: the coordinator ended while the run trained, after step {step}")
        }
        _ => "interrupted: the coordinator ended while the run waited to train".to_owned(),
    };
    let hint = if last.is_some() { RESUME_HINT } else { "submit it again: it had no checkpoint yet" };
    let failure =
        v1::Failure { message: message.clone(), causes: Vec::new(), hint: hint.to_owned(), input_is_wrong: false };
    let phase = v1::Phase::Failed.into();
    status.phase = phase;
    status.standing = format!("failed: {message}");
    status.ended_unix_micros = now.unix_micros();
    status.failure = Some(failure.clone());
    status.workers.clear();
    let standing = v1::Standing { phase, words: status.standing.clone() };
    let ended = v1::Ended { phase, failure: Some(failure), best: status.best.clone(), last, reason: message };
    let events = [run_event::Event::Standing(standing), run_event::Event::Ended(ended)];
    let mut entries = vec![Entry::Run(Box::new(status.clone()))];
    for (number, event) in (sequence + 1..).zip(events) {
        entries.push(Entry::Event(Arc::new(v1::RunEvent {
            sequence: number,
            unix_micros: now.unix_micros(),
            run_id: status.run_id.clone(),
            event: Some(event),
        })));
    }
    entries
}
