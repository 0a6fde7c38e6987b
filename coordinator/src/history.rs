//! Runs that are over, also those of earlier lives of this coordinator.

use std::{collections::BTreeMap, sync::Arc};

use proto::v1::{self, run_event};

use crate::{
    checkpoints::RunFolder,
    clock::Timestamp,
    journal::{Entry, Journal, JournalError},
    run::{RESUME_HINT, Restored},
};

/// Progress is announced before it is durable, so that numbers past the last durable one may have been seen: the ones that follow keep
/// clear of them, or a watcher that comes back would take new events for old ones.
pub const CLEAR_OF: u64 = 1_000_000;

/// What closes the runs that were live when the process died.
#[derive(Default)]
pub struct Closing(Vec<Entry>);

/// By id, which is by time.
#[derive(Default)]
pub struct History(BTreeMap<String, v1::RunStatus>);

impl History {
    /// Reads the journal. Runs that were live when the process died are taken up again if `go_on`, else closed as interrupted, in the
    /// journal too. Blocking.
    pub fn load(journal: &Journal, now: Timestamp, go_on: bool) -> Result<(Self, Vec<Restored>), JournalError> {
        let mut closing = Closing::default();
        let mut history = Self::read(journal, now, &mut closing, go_on)?;
        if !closing.0.is_empty() {
            journal.commit(&closing.0, true)?;
        }
        let live: Vec<String> =
            history.all().filter(|run| run.ended_unix_micros == 0).map(|run| run.run_id.clone()).collect();
        let live: Vec<_> = live.into_iter().filter_map(|run| history.0.remove(&run)).collect();
        let restored = live.into_iter().map(|run| restored(journal, run)).collect::<Result<_, _>>()?;
        Ok((history, restored))
    }

    /// The same, but for what it has to write.
    pub fn read(journal: &Journal, now: Timestamp, closing: &mut Closing, go_on: bool) -> Result<Self, JournalError> {
        let mut history = Self::default();
        for mut status in journal.runs()? {
            // A document that this version does not understand any more cannot be gone on with.
            let goes_on = go_on && proto::spec::parse(&status.spec_toml, &[]).is_ok();
            if status.ended_unix_micros == 0 && !goes_on {
                let sequence = journal.last_sequence(&status.run_id)?;
                let last = journal.checkpoints(&status.run_id)?.pop();
                closing.0.extend(interrupt(&mut status, sequence, last, now));
            }
            history.add(status);
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

/// What is durable of a run that was live.
fn restored(journal: &Journal, status: v1::RunStatus) -> Result<Restored, JournalError> {
    let last = journal.checkpoints(&status.run_id)?.pop();
    let (progress, reported, epoch) = journal.told(&status.run_id)?;
    let epochs_told = epoch.as_ref().map_or(0, |epoch| epoch.epoch + 1);
    let status = v1::RunStatus { progress, last_epoch: epoch, ..status };
    Ok(Restored { sequence: journal.last_sequence(&status.run_id)?, status, last, reported, epochs_told })
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
    let resumable = holds_checkpoints(&status.spec_toml).unwrap_or(last.is_some());
    let hint = if resumable { RESUME_HINT } else { "submit it again: it had no checkpoint yet" };
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
    for (number, event) in (sequence + CLEAR_OF..).zip(events) {
        entries.push(Entry::Event(Arc::new(v1::RunEvent {
            sequence: number,
            unix_micros: now.unix_micros(),
            run_id: status.run_id.clone(),
            event: Some(event),
        })));
    }
    entries
}

/// Whether there is something to resume from, be it of an earlier run of the name. `None`: that cannot be told.
fn holds_checkpoints(spec_toml: &str) -> Option<bool> {
    let spec = proto::spec::parse(spec_toml, &[]).ok()?;
    Some(!RunFolder::of(&spec).steps().ok()?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_run_is_closed_beyond_the_numbers_it_announced_and_says_whether_it_can_be_resumed() {
        let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let journal = Journal::open(state.path()).unwrap();
        let spec_toml = format!(
            "name = \"baseline\"\n[data]\ntrain = \"/data\"\n[model]\nkind = \"linear\"\n[checkpoint]\ndir = \"{}\"\n",
            dir.path().display()
        );
        let entries = |run: &str| {
            let (run_id, phase) = (run.to_owned(), v1::Phase::Training.into());
            let status = v1::RunStatus { run_id, phase, spec_toml: spec_toml.clone(), ..Default::default() };
            let event = v1::RunEvent { sequence: 7, run_id: run.into(), ..Default::default() };
            [Entry::Run(Box::new(status)), Entry::Event(Arc::new(event))]
        };
        let hint = |history: &History, run: &str| history.get(run).unwrap().failure.clone().unwrap().hint;

        journal.commit(&entries("r-1"), true).unwrap();
        let history = History::load(&journal, Timestamp(1), false).unwrap().0;
        assert_eq!(hint(&history, "r-1"), "submit it again: it had no checkpoint yet");
        let numbers: Vec<_> = journal.events("r-1", 7, 9).unwrap().iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, [1_000_007, 1_000_008]);

        // Resumed from this one, it had none of its own yet.
        std::fs::create_dir_all(dir.path().join("baseline/step-00000100")).unwrap();
        journal.commit(&entries("r-2"), true).unwrap();
        let history = History::load(&journal, Timestamp(2), false).unwrap().0;
        assert_eq!(hint(&history, "r-2"), RESUME_HINT);
    }
}
