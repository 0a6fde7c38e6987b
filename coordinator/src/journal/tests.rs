//! The same of both: the state folder's file, and etcd where there is one; and what is etcd's alone.

use std::time::Duration;

use ::tests::{Sandbox, servers};
use tokio::{runtime::Runtime, sync::watch};

use super::*;
use crate::etcd::{EtcdStore, created_at, delete, leadership::Candidate, wire::TxnRequest};

/// A server, and who leads by it.
struct Remotely {
    runtime: Runtime,
    server: servers::Etcd,
    _sandbox: Sandbox,
}

impl Remotely {
    fn start() -> Option<Self> {
        let sandbox = Sandbox::new();
        let server = servers::Etcd::start(&sandbox)?;
        Some(Self { runtime: Runtime::new().unwrap(), server, _sandbox: sandbox })
    }

    fn etcd(&self) -> Etcd {
        let _inside = self.runtime.enter();
        let store: EtcdStore = format!("etcd://{}/test", self.server.address).parse().unwrap();
        Etcd::new(store).unwrap()
    }

    /// Whoever led before is thought dead.
    fn lead(&self) -> Journal {
        let _inside = self.runtime.enter();
        let etcd = self.etcd();
        let depose = TxnRequest { success: vec![delete(etcd.key("leader"), Vec::new())], ..TxnRequest::default() };
        self.runtime.block_on(etcd.transact(depose)).unwrap();
        let candidate = Candidate::new(etcd.clone(), "http://here:7070".into(), Duration::from_secs(60), None);
        let leadership = self.runtime.block_on(candidate.campaign(&watch::Sender::new(None)));
        Journal::lead(etcd, leadership.term).unwrap()
    }

    /// Keys below a prefix, and the bytes of their values.
    fn size(&self, below: &str) -> (usize, usize) {
        let etcd = self.etcd();
        let prefix = etcd.key(below);
        let found = self.runtime.block_on(etcd.range(prefix.clone().into_bytes(), chunks::end_of(&prefix), 0)).unwrap();
        (found.kvs.len(), found.kvs.iter().map(|found| found.value.len()).sum())
    }
}

/// `test` opens the journal as often as it likes, one after the other.
fn on_both(test: impl Fn(&dyn Fn() -> Journal)) {
    let folder = tempfile::tempdir().unwrap();
    test(&|| Journal::open(folder.path()).unwrap());
    if let Some(remotely) = Remotely::start() {
        test(&|| remotely.lead());
    }
}

fn event(sequence: u64, event: run_event::Event) -> Entry {
    Entry::Event(Arc::new(v1::RunEvent { sequence, run_id: "r-1".into(), event: Some(event), ..Default::default() }))
}

fn progress(sequence: u64, first_step: u64, step: u64) -> Entry {
    let progress = v1::Progress { first_step, step, loss: 0.5, rows: 10, seconds: 2.0, ..Default::default() };
    event(sequence, run_event::Event::Progress(progress))
}

fn warning(sequence: u64, message: &str) -> Entry {
    event(sequence, run_event::Event::Warning(v1::Warning { message: message.into() }))
}

fn run(name: &str) -> Entry {
    Entry::Run(Box::new(v1::RunStatus { run_id: "r-1".into(), name: name.into(), ..Default::default() }))
}

fn checkpoint(step: u64) -> Entry {
    Entry::Checkpoint { run: "r-1".into(), checkpoint: v1::Checkpoint { step, ..Default::default() } }
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    on_both(|open| {
        let journal = open();
        journal.commit(&[progress(1, 0, 10), progress(2, 10, 20)], false).unwrap();
        assert_eq!(journal.last_sequence("r-1").unwrap(), 2, "what is not durable yet is shown");
        let tracking = Box::new(v1::Tracking { after_sequence: 1, ..Default::default() });
        journal.commit(&[Entry::Tracking { run: "r-1".into(), tracking }], false).unwrap();
        journal.commit(&[run("baseline")], true).unwrap();
        drop(journal);

        let journal = open();
        assert_eq!(journal.runs().unwrap()[0].name, "baseline");
        assert_eq!(journal.run("r-1").unwrap().unwrap().name, "baseline");
        assert_eq!(journal.last_sequence("r-1").unwrap(), 2);
        assert_eq!(journal.events("r-1", 1, 9).unwrap().len(), 1);
        let series = journal.series("r-1", &["train/rows_per_second".into()]).unwrap();
        assert_eq!(series[0].points.iter().map(|p| (p.step, p.value)).collect::<Vec<_>>(), [(10, 5.0), (20, 5.0)]);
        assert_eq!(journal.series("r-1", &[]).unwrap().len(), 4);
        assert!(journal.series("r-", &[]).unwrap().is_empty());
        let (told, reported, _) = journal.told("r-1").unwrap();
        assert_eq!((told.unwrap().step, reported), (20, 20));
        assert_eq!(journal.tracking("r-1").unwrap().unwrap().pending_points, 4);
    });
}

#[test]
fn a_pruned_checkpoint_is_listed_no_more() {
    on_both(|open| {
        let steps = |journal: &Journal| journal.checkpoints("r-1").unwrap().iter().map(|c| c.step).collect::<Vec<_>>();
        let pruned = |step| Entry::Pruned { run: "r-1".into(), step };
        let journal = open();
        journal.commit(&[run("x"), checkpoint(1), checkpoint(2), checkpoint(3), pruned(1)], true).unwrap();
        journal.commit(&[pruned(3)], true).unwrap();
        assert_eq!(steps(&journal), [2]);
        drop(journal);
        assert_eq!(steps(&open()), [2]);
    });
}

#[test]
fn many_events_of_many_commits_and_lives_are_all_there_in_order() {
    on_both(|open| {
        let mut journal = open();
        journal.commit(&[run("x")], true).unwrap();
        for sequence in 1..=200 {
            journal.commit(&[warning(sequence, &format!("warning {sequence}"))], sequence % 3 == 0).unwrap();
            if sequence % 75 == 0 {
                drop(journal);
                journal = open();
                assert_eq!(journal.last_sequence("r-1").unwrap(), sequence);
            }
        }
        journal.commit(&[], true).unwrap();
        drop(journal);
        let journal = open();
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = journal.events("r-1", after, 7).unwrap();
            let Some(last) = page.last() else { break };
            after = last.sequence;
            seen.extend(page.into_iter().map(|event| event.sequence));
        }
        assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    });
}

#[test]
fn a_state_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _journal = Journal::open(folder.path()).unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert!(matches!(error, JournalError::InUse(_)), "{error:?}");
}

#[test]
fn one_that_leads_no_more_cannot_write_even_before_it_knows() {
    let Some(remotely) = Remotely::start() else { return };
    let old = remotely.lead();
    old.commit(&[run("old")], true).unwrap();
    let new = remotely.lead();
    assert_eq!(old.deposed(), None);
    let error = old.commit(&[run("stale")], true).unwrap_err();
    assert_eq!(error.to_string(), "deposed: http://here:7070 leads now");
    assert_eq!(old.deposed(), Some("http://here:7070 leads now"));
    assert!(matches!(old.commit(&[], true), Err(JournalError::Deposed(_))), "nor what waited");
    new.commit(&[warning(1, "x")], true).unwrap();
    drop(new);
    assert_eq!(remotely.lead().runs().unwrap()[0].name, "old");
}

#[test]
fn a_commit_of_more_than_etcd_takes_at_once_is_written_whole() {
    let Some(remotely) = Remotely::start() else { return };
    let journal = remotely.lead();
    let mut entries = vec![run("x")];
    entries.extend((1..=300).map(checkpoint));
    entries.extend((1..=30).map(|sequence| warning(sequence, &"x".repeat(100_000))));
    journal.commit(&entries, true).unwrap();
    drop(journal);
    let journal = remotely.lead();
    assert_eq!((journal.checkpoints("r-1").unwrap().len(), journal.last_sequence("r-1").unwrap()), (300, 30));
    assert_eq!(journal.events("r-1", 0, 100).unwrap().len(), 30);
}

#[test]
fn a_commit_that_etcd_did_not_answer_may_be_tried_again_and_counts_once() {
    let Some(mut remotely) = Remotely::start() else { return };
    let journal = remotely.lead();
    journal.commit(&[run("x"), warning(1, "before")], true).unwrap();
    journal.commit(&[progress(2, 0, 10)], false).unwrap();
    remotely.server.kill();
    let entries = [warning(3, "meanwhile")];
    let error = journal.commit(&entries, true).unwrap_err();
    assert!(matches!(error, JournalError::Etcd(_)), "{error:?}");
    assert!(error.to_string().starts_with(&format!("etcd at {}: ", remotely.server.address)), "{error}");
    assert_eq!(journal.last_sequence("r-1").unwrap(), 2, "readers need no etcd, and see what was committed");
    remotely.server.revive();
    journal.commit(&entries, true).unwrap();
    drop(journal);
    let numbers: Vec<u64> = remotely.lead().events("r-1", 0, 9).unwrap().iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn a_long_run_stays_within_its_bound_and_its_windows_still_tile_its_steps() {
    const STEPS: u64 = 20_000;
    let Some(remotely) = Remotely::start() else { return };
    let journal = remotely.lead();
    journal.commit(&[run("x")], true).unwrap();
    for sequence in 1..=STEPS {
        journal.commit(&[progress(sequence, sequence - 1, sequence)], sequence % 20 == 0).unwrap();
    }
    let (keys, bytes) = remotely.size("events/r-1/");
    let whole = STEPS as usize * 40;
    assert!(bytes < 2 * chunks::RUN_BYTES && whole > 5 * chunks::RUN_BYTES, "{bytes} of {whole} bytes");
    assert!(keys < 64, "{keys} keys");
    drop(journal);
    let journal = remotely.lead();
    let (mut step, mut rows) = (0, 0);
    for event in journal.events("r-1", 0, usize::MAX).unwrap() {
        let Some(run_event::Event::Progress(window)) = event.event else { panic!("no window: {event:?}") };
        assert_eq!(window.first_step, step);
        (step, rows) = (window.step, rows + window.rows);
    }
    assert_eq!((step, rows), (STEPS, 10 * STEPS));
}

#[test]
fn a_store_of_another_version_is_refused() {
    let Some(remotely) = Remotely::start() else { return };
    drop(remotely.lead());
    let etcd = remotely.etcd();
    let write = TxnRequest {
        compare: vec![created_at("nothing", 0)],
        success: vec![crate::etcd::put(etcd.key("format"), "2", 0)],
        ..TxnRequest::default()
    };
    remotely.runtime.block_on(etcd.transact(write)).unwrap();
    let _inside = remotely.runtime.enter();
    let candidate = Candidate::new(etcd.clone(), "http://there:7070".into(), Duration::from_secs(60), None);
    let depose = TxnRequest { success: vec![delete(etcd.key("leader"), Vec::new())], ..TxnRequest::default() };
    remotely.runtime.block_on(etcd.transact(depose)).unwrap();
    let leadership = remotely.runtime.block_on(candidate.campaign(&watch::Sender::new(None)));
    let error = Journal::lead(etcd, leadership.term).err().unwrap();
    assert!(
        error.to_string().ends_with("/test was written by another version: format 2, this version has 1"),
        "{error}"
    );
}
