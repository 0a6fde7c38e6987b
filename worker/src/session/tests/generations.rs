//! Members of a run are lost and come: the run goes on from memory, with the very same batches.

use std::sync::atomic::Ordering;

use proto::{
    checkpoint::TrainerState,
    v1::{EpochEnded, JobEnded, OrderKind, job_ended::Outcome, worker_message::Message},
};

use super::ranks::{
    EPOCH, ROWS, ROWS_A_STEP, Rank, Run, STEPS, Standing, assert_each_row_once, epochs, progress, staged,
};
use crate::collective::{
    Collective as _,
    ring::{GroupId, Options, PeerAddress, connect},
};

fn lost(ended: &JobEnded) -> &str {
    let Some(Outcome::PeerLost(why)) = &ended.outcome else { panic!("{ended:?}") };
    why
}

fn finished(ended: &JobEnded) {
    assert_eq!(ended.outcome, Some(Outcome::Finished("all 4 epochs done".into())));
    assert_eq!(ended.holding.as_ref().map(|holding| (holding.step, holding.epoch_closed)), Some((STEPS, true)));
}

/// The newest step that a coordinator knows of, of a history that goes on from `first_step`.
fn reported(heard: &[Message], first_step: u64) -> u64 {
    progress(heard).iter().map(|window| window.step).filter(|step| *step <= first_step).max().unwrap_or(0)
}

/// What does not depend on the clock.
fn results(heard: &[&[Message]]) -> Vec<EpochEnded> {
    let told = heard.iter().flat_map(|heard| epochs(heard));
    let mut epochs: Vec<EpochEnded> = Vec::new();
    for epoch in told {
        let epoch = EpochEnded { generation: 0, train_seconds: 0.0, validation_seconds: 0.0, ..epoch };
        match epochs.iter().find(|known| known.epoch == epoch.epoch) {
            Some(known) => assert_eq!(*known, epoch, "an epoch was told twice, and differently"),
            None => epochs.push(epoch),
        }
    }
    epochs
}

#[test]
fn a_rank_lost_in_mid_epoch_leaves_no_trace_whichever_it_is() {
    let run = Run::new(40, "");
    let (weights, told) = run.undisturbed();
    for victim in [0, 1] {
        let mut members = [Rank::new("a:1"), Rank::new("b:1")];
        let [one, other] = &mut members;
        run.seat(&Standing::default(), &mut [one, other]);
        members[victim].watch(|shared| shared.step.load(Ordering::Relaxed) >= EPOCH + 150);
        let ended = members[victim].cut_off();
        assert_eq!(lost(&ended), "aborted");
        assert!(ended.step < STEPS, "the fault came too late");
        let survived = members[1 - victim].end();
        assert!(lost(&survived).starts_with("lost "), "{survived:?}");
        let holding = survived.holding.unwrap();
        assert!(holding.step > EPOCH && holding.step < STEPS);
        assert_eq!(holding.generation, run.generation.load(Ordering::Relaxed));

        let [one, other] = members;
        let first_heard = one.heard.clone();
        let mut survivor = if victim == 0 { other } else { one };
        survivor.heard.clear();
        let mut joiner = Rank::new("c:1");
        let reported_step = reported(&first_heard, holding.step);
        let standing = Standing { source: Some(0), lacking: vec![1], first_step: holding.step, reported_step };
        run.seat(&standing, &mut [&mut survivor, &mut joiner]);
        finished(&survivor.end());
        finished(&joiner.end());
        assert!(survivor.weights() == weights, "the survivor of {victim}");
        assert!(joiner.weights() == weights, "the joiner after {victim}");
        assert_each_row_once(&[(&first_heard, holding.step), (&survivor.heard, STEPS)], STEPS);
        assert_eq!(results(&[&first_heard, &survivor.heard]), results(&[&told]));
    }
}

#[test]
fn the_newest_state_wins_and_who_is_a_step_behind_receives_it() {
    let run = Run::new(40, "");
    let history = |stale: bool| {
        let (mut ahead, mut behind) = (Rank::new("a:1"), Rank::new("b:1"));
        run.seat(&Standing::default(), &mut [&mut ahead, &mut behind]);
        ahead.shared().give_way.store(true, Ordering::Relaxed);
        let steps = [ahead.end().step, behind.end().step];
        assert_eq!(steps[0], steps[1]);
        // One goes a step further alone; the other, now rank 0, has never heard of that step.
        let at = steps[0];
        let alone = Standing { source: Some(0), first_step: at, ..Standing::default() };
        run.seat(&alone, &mut [&mut ahead]);
        ahead.shared().give_way.store(true, Ordering::Relaxed);
        let at = ahead.end().step;
        assert!(at > steps[0]);
        if !stale {
            behind = Rank::new("b:2");
        }
        ahead.heard.clear();
        behind.heard.clear();
        let standing = Standing { source: Some(1), lacking: vec![0], first_step: at, reported_step: steps[0] };
        run.seat(&standing, &mut [&mut behind, &mut ahead]);
        finished(&behind.end());
        finished(&ahead.end());
        assert!(behind.weights() == ahead.weights());
        let windows = progress(&behind.heard);
        assert_eq!(windows.first().map(|window| window.first_step), Some(steps[0]), "it tells of steps it never made");
        assert_eq!(epochs(&behind.heard).len(), 4);
        windows.iter().map(|window| window.rows).sum::<u64>() + steps[0] * ROWS_A_STEP
    };
    assert_eq!(history(true), 4 * ROWS);
    assert_eq!(history(false), 4 * ROWS);
}

#[test]
fn an_epoch_that_was_interrupted_in_validation_is_closed_once() {
    let run = Run::new(6000, "");
    let (weights, told) = run.undisturbed();
    for attempt in 0.. {
        assert!(attempt < 20, "validation was never met");
        let (mut survivor, mut victim) = (Rank::new("a:1"), Rank::new("b:1"));
        run.seat(&Standing::default(), &mut [&mut survivor, &mut victim]);
        victim.watch(|shared| shared.epoch_open.load(Ordering::Relaxed));
        victim.cut_off();
        let ended = survivor.end();
        lost(&ended);
        let holding = ended.holding.unwrap();
        if holding.epoch_closed {
            continue;
        }
        assert_eq!(holding.step % EPOCH, 0);
        assert_eq!(epochs(&survivor.heard).len() as u64, holding.step / EPOCH - 1);
        let first_heard = std::mem::take(&mut survivor.heard);
        let mut joiner = Rank::new("c:1");
        let standing = Standing {
            source: Some(0),
            lacking: vec![1],
            first_step: holding.step,
            reported_step: reported(&first_heard, holding.step),
        };
        run.seat(&standing, &mut [&mut survivor, &mut joiner]);
        finished(&survivor.end());
        finished(&joiner.end());
        assert!(survivor.weights() == weights && joiner.weights() == weights);
        assert_eq!(results(&[&first_heard, &survivor.heard]), results(&[&told]));
        assert_each_row_once(&[(&first_heard, holding.step), (&survivor.heard, STEPS)], STEPS);
        return;
    }
}

#[test]
fn a_joiner_inherits_everything_from_members_that_are_lost_after_it_came() {
    let run = Run::new(40, "[checkpoint]\nevery = \"100 steps\"");
    let (weights, told) = run.undisturbed();
    let (mut first, mut second) = (Rank::new("a:1"), Rank::new("b:1"));
    run.seat(&Standing::default(), &mut [&mut first, &mut second]);
    first.watch(|shared| shared.step.load(Ordering::Relaxed) >= 230);
    first.cut_off();
    let at = second.end().holding.unwrap().step;
    let mut third = Rank::new("c:1");
    let known = reported(&first.heard, at);
    let standing = Standing { source: Some(0), lacking: vec![1], first_step: at, reported_step: known };
    run.seat(&standing, &mut [&mut second, &mut third]);
    second.watch(|shared| shared.step.load(Ordering::Relaxed) >= EPOCH + 300);
    second.cut_off();
    let then = third.end().holding.unwrap().step;
    assert!(then >= EPOCH + 299 && then < STEPS);
    let mut fourth = Rank::new("d:1");
    let known = known.max(reported(&second.heard, then));
    let standing = Standing { source: Some(0), lacking: vec![1], first_step: then, reported_step: known };
    run.seat(&standing, &mut [&mut third, &mut fourth]);
    finished(&third.end());
    finished(&fourth.end());
    assert!(third.weights() == weights && fourth.weights() == weights);
    let heard: [&[Message]; 3] = [&first.heard, &second.heard, &third.heard];
    assert_eq!(results(&heard), results(&[&told]));
    assert_each_row_once(&[(heard[0], at), (heard[1], then), (heard[2], STEPS)], STEPS);
    let last = staged(&third.heard);
    assert_eq!(last.last().map(|(step, _)| *step), Some(STEPS));
    assert!(last.iter().all(|(_, path)| path.ends_with("-c.1")), "{last:?}");
}

#[test]
fn whoever_follows_a_dead_first_rank_writes_the_copies_that_it_could_not() {
    let run = Run::new(40, "[checkpoint]\nevery = \"50 steps\"");
    let staging = run.folder.path().join("staging");
    std::fs::write(&staging, "a store that is away").unwrap();
    let (mut first, mut second) = (Rank::new("a:1"), Rank::new("b:1"));
    run.seat(&Standing::default(), &mut [&mut first, &mut second]);
    first.watch(|shared| shared.step.load(Ordering::Relaxed) >= 225);
    first.cut_off();
    let holding = second.end().holding.unwrap();
    let at = holding.step;
    assert!(at < STEPS && staged(&first.heard).is_empty());
    let warned =
        |message: &Message| matches!(message, Message::Warning(warning) if warning.message.contains("not written"));
    assert!(first.heard.iter().any(warned), "{:?}", first.heard);
    std::fs::remove_file(&staging).unwrap();
    second.heard.clear();
    let standing = Standing { source: Some(0), first_step: at, ..Standing::default() };
    run.seat(&standing, &mut [&mut second]);
    finished(&second.end());
    let steps: Vec<u64> = staged(&second.heard).into_iter().map(|(step, _)| step).collect();
    // The copy of an epoch's last step is taken once the epoch is closed.
    let newest = (at - u64::from(!holding.epoch_closed)) / 50 * 50;
    assert!(steps[0] < steps[1] && steps[1] == newest, "{steps:?} after {at}");
}

#[test]
fn all_ranks_give_way_after_the_same_step_and_a_third_is_let_in() {
    let run = Run::new(40, "");
    let (mut one, mut other, mut third) = (Rank::new("a:1"), Rank::new("b:1"), Rank::new("c:1"));
    run.seat(&Standing::default(), &mut [&mut one, &mut other]);
    one.watch(|shared| shared.step.load(Ordering::Relaxed) >= EPOCH + 50);
    // Asked of one rank only: the others hear of it with the sums.
    one.shared().give_way.store(true, Ordering::Relaxed);
    let ended = [one.end(), other.end()];
    for ended in &ended {
        assert_eq!(ended.outcome, Some(Outcome::Ordered(OrderKind::Yield as i32)));
        assert_eq!(ended.holding, Some(one.holding()));
    }
    let at = one.holding().step;
    assert!(at < STEPS);
    let first_heard = std::mem::take(&mut one.heard);
    let reported_step = reported(&first_heard, at);
    let standing = Standing { source: Some(1), lacking: vec![2], first_step: at, reported_step };
    run.seat(&standing, &mut [&mut one, &mut other, &mut third]);
    for rank in [&mut one, &mut other, &mut third] {
        finished(&rank.end());
    }
    assert!(one.weights() == other.weights() && other.weights() == third.weights());
    assert_each_row_once(&[(&first_heard, at), (&one.heard, STEPS)], STEPS);
    let audits: Vec<_> = results(&[&first_heard, &one.heard]).into_iter().map(|epoch| epoch.audit.unwrap()).collect();
    assert_eq!(audits.len(), 4);
    assert!(audits.iter().all(|audit| audit.hash_low == audit.expected_hash_low && audit.rows == ROWS));
}

#[test]
fn who_is_interrupted_while_receiving_holds_nothing_and_may_receive_again() {
    let run = Run::new(40, "");
    let (mut one, mut other) = (Rank::new("a:1"), Rank::new("b:1"));
    run.seat(&Standing::default(), &mut [&mut one, &mut other]);
    one.shared().give_way.store(true, Ordering::Relaxed);
    let at = one.end().step;
    assert_eq!(other.end().step, at);

    // A source that is lost after the first of what it has to send.
    let source = Rank::new("s:1");
    let peers = [source.as_peer(0), other.as_peer(1)];
    let generation = run.generation.fetch_add(1, Ordering::Relaxed) + 1;
    let standing = Standing { source: Some(0), lacking: vec![1], first_step: at + 1, ..Standing::default() };
    other.sit(run.seat_of(1, generation, &peers, &standing));
    let group = GroupId { run: "r-elastic".into(), generation, secret: 0x5eed };
    let addresses = peers.map(|peer| PeerAddress {
        worker: peer.worker,
        address: peer.address.parse().unwrap(),
        machine: peer.machine,
    });
    let mut ring = connect(&source.listener, 0, &addresses, &group, &Options::default()).unwrap();
    let head = serde_json::json!({
        "step": at + 1, "trainer": TrainerState::default(), "metrics": [], "epoch_open": false, "epoch_seconds": 0.0,
        "improved": false, "save_due": false, "last_saved": null, "nonfinite_in_a_row": 0, "epochs": [], "records": 0
    });
    let head = head.to_string().into_bytes();
    ring.broadcast(&mut (head.len() as u64).to_le_bytes(), 0).unwrap();
    ring.broadcast(&mut head.clone(), 0).unwrap();
    drop(ring);
    let ended = other.end();
    assert!(lost(&ended).starts_with("lost s:1 (rank 0): "), "{ended:?}");
    assert!(ended.holding.is_none() && other.kept.is_some(), "{ended:?}");

    // Nobody may count on what it does not hold.
    let counted_on = Standing { source: Some(0), first_step: at, ..Standing::default() };
    run.seat(&counted_on, &mut [&mut other]);
    let ended = other.end();
    let Some(Outcome::Failed(failure)) = &ended.outcome else { panic!("{ended:?}") };
    assert!(failure.message.contains("counts on a state that this worker does not hold") && ended.holding.is_none());

    let standing = Standing { source: Some(0), lacking: vec![1], first_step: at, ..Standing::default() };
    run.seat(&standing, &mut [&mut one, &mut other]);
    finished(&one.end());
    finished(&other.end());
    assert!(one.weights() == other.weights() && one.weights() == run.undisturbed().0);
}
