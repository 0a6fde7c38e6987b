//! The writer over a real folder, asked from a training thread's side.

use std::{fs, path::Path};

use proto::{
    checkpoint::{CheckpointManifest, TrainerState},
    spec::OptimizerKind,
};

use super::*;

struct Rank {
    writer: Writer,
    published: Published,
    heard: mpsc::Receiver<Message>,
}

fn seat(rank: u32, staging: &Path) -> v1::Seat {
    let peers = ["w1:1", "w2:3"].map(|worker| v1::Peer { worker: worker.into(), ..v1::Peer::default() });
    let staging = staging.to_string_lossy().into_owned();
    v1::Seat { rank, world: 2, peers: peers.to_vec(), staging, ..v1::Seat::default() }
}

fn snapshot(step: u64) -> Snapshot {
    let manifest = CheckpointManifest {
        format: 1,
        lockstep: String::new(),
        run_id: "r".into(),
        run_name: "r".into(),
        generation: 1,
        step,
        epoch: 0,
        step_in_epoch: step,
        steps_per_epoch: 1000,
        seed: 1,
        lanes: 8,
        world: 2,
        dataset_hash: String::new(),
        features: vec!["f".into()],
        spec_toml: String::new(),
        metrics: Vec::new(),
        trainer: TrainerState::default(),
        files: Vec::new(),
        unix_micros: 0,
    };
    Snapshot {
        manifest,
        entries: Vec::new(),
        module: None,
        normalization: [vec![0.0], vec![1.0]],
        optimizer: OptimizerKind::Sgd,
        buffers: Buffers::default(),
    }
}

impl Rank {
    fn new(rank: u32, staging: &Path) -> Self {
        let (sender, heard) = mpsc::channel(64);
        let mut writer = Writer::new();
        writer.open(&seat(rank, staging), sender).unwrap();
        Self { writer, published: Published::default(), heard }
    }

    /// The next generation.
    fn reopen(&mut self, rank: u32, staging: &Path) {
        let (sender, heard) = mpsc::channel(64);
        self.heard = heard;
        self.writer.open(&seat(rank, staging), sender).unwrap();
    }

    fn keep(&mut self, step: u64, best: bool) {
        self.writer.keep(snapshot(step), best);
    }

    fn confirm(&mut self, step: u64) {
        self.writer.hand_over(step, &self.published);
    }

    fn steps(&self) -> Vec<u64> {
        self.writer.shelf.lock().kept.iter().map(|kept| kept.snapshot.step()).collect()
    }

    fn next(&mut self) -> String {
        match self.heard.blocking_recv().unwrap() {
            Message::Staged(staged) => {
                let folder = Path::new(&staged.staged_path);
                assert!(folder.join(proto::checkpoint::MANIFEST).exists());
                folder.file_name().unwrap().to_string_lossy().into_owned()
            }
            Message::Warning(warning) => warning.message,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_copy_is_written_once_all_ranks_are_known_to_have_come_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(0, folder.path());
    rank.keep(5, false);
    rank.confirm(4);
    assert!(!rank.writer.shelf.lock().is_busy());
    rank.confirm(5);
    assert_eq!(rank.next(), "step-00000005-w1.1");
}

#[test]
fn a_rank_that_becomes_the_first_writes_what_it_kept_under_a_name_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut heir = Rank::new(1, folder.path());
    heir.keep(5, false);
    heir.keep(10, false);
    heir.confirm(12);
    assert!(!heir.writer.shelf.lock().is_busy());
    heir.writer.close(Duration::ZERO);
    heir.writer
        .open(&v1::Seat { rank: 0, peers: seat(0, folder.path()).peers[1..].to_vec(), ..seat(0, folder.path()) }, {
            let (sender, heard) = mpsc::channel(64);
            heir.heard = heard;
            sender
        })
        .unwrap();
    heir.confirm(12);
    assert_eq!([heir.next(), heir.next()], ["step-00000005-w2.3", "step-00000010-w2.3"]);
}

#[test]
fn copies_go_when_they_are_published_and_their_memory_serves_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(1, folder.path());
    rank.keep(5, false);
    rank.keep(10, false);
    rank.published.done(5);
    rank.confirm(10);
    assert_eq!(rank.steps(), [10]);
    assert_eq!(rank.writer.spare.len(), 1);
    rank.published.done(20);
    rank.confirm(10);
    assert_eq!(rank.steps(), [0; 0]);
}

#[test]
fn where_there_is_no_room_the_oldest_goes_and_the_best_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(1, folder.path());
    for (step, best) in [(5, false), (10, true), (15, false), (20, false)] {
        rank.keep(step, best);
    }
    assert_eq!(rank.steps(), [10, 20]);
}

#[test]
fn what_cannot_be_written_is_said_and_tried_again_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let staging = folder.path().join("staging");
    fs::write(&staging, "in the way").unwrap();
    let mut rank = Rank::new(0, &staging);
    rank.keep(5, false);
    rank.confirm(5);
    let said = rank.next();
    assert!(said.starts_with("the checkpoint of step 5 was not written: "), "{said}");
    rank.confirm(6);
    assert!(!rank.writer.shelf.lock().is_busy());
    fs::remove_file(&staging).unwrap();
    rank.keep(10, false);
    rank.confirm(10);
    assert_eq!([rank.next(), rank.next()], ["step-00000005-w1.1", "step-00000010-w1.1"]);
}

#[test]
fn the_last_copy_that_cannot_be_written_is_an_error_and_an_earlier_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let staging = folder.path().join("staging");
    fs::write(&staging, "in the way").unwrap();
    let mut rank = Rank::new(0, &staging);
    rank.keep(5, false);
    let go_on = || Ok::<(), ()>(());
    assert!(rank.writer.finish(5, go_on).unwrap().is_err());
    assert!(rank.writer.finish(6, go_on).unwrap().is_ok());
    fs::remove_file(&staging).unwrap();
    assert_eq!(rank.writer.finish(5, go_on), Ok(Ok(())));
}

#[test]
fn what_was_staged_but_not_published_is_staged_again_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(0, folder.path());
    rank.keep(5, false);
    rank.confirm(5);
    assert_eq!(rank.next(), "step-00000005-w1.1");
    rank.published.refused(5);
    rank.keep(10, false);
    rank.confirm(10);
    assert_eq!([rank.next(), rank.next()], ["step-00000005-w1.1", "step-00000010-w1.1"]);
}

#[test]
fn words_of_a_generation_that_is_over_are_said_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(0, folder.path());
    rank.writer.close(Duration::ZERO);
    rank.keep(5, false);
    assert_eq!(rank.writer.finish(5, || Ok::<(), ()>(())), Ok(Ok(())));
    rank.reopen(0, folder.path());
    assert_eq!(rank.next(), "step-00000005-w1.1");
}
