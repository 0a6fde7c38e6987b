//! Simulation: the core with model workers under random schedules of crashes, pauses, cuts, delays and clock jumps. Invariants are
//! looked at after every event. One number makes a schedule; `LOCKSTEP_SCHEDULE=<number>` replays it, `LOCKSTEP_SCHEDULES=<count>` runs
//! so many (a nightly run: 100,000).

mod dice;
mod witness;
mod workers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::prelude::*;
use proto::{Generation, WorkerId, v1};

use super::{
    Departure, Event, Holding, JobEnd, Order, Prepared, Publication, Report, Run,
    tests::{elastic, staged},
};
use crate::clock::Timestamp;
use world::World;

/// Enough to meet every pair of faults many times, and few enough for every build.
const USUALLY: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_is_lost_every_step_counts_once_and_the_run_comes_to_its_end() {
    let seeds = match number("LOCKSTEP_SCHEDULE") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKSTEP_SCHEDULES").unwrap_or(USUALLY),
    };
    let replayed = number("LOCKSTEP_SCHEDULE").is_some();
    let mut seen = world::Tally::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed).telling(replayed).play())) {
            Ok(tally) => seen.add(&tally),
            Err(panic) => {
                eprintln!("schedule {seed} broke an invariant; LOCKSTEP_SCHEDULE={seed} replays it");
                resume_unwind(panic);
            }
        }
    }
    eprintln!("{seen:?}");
    if !replayed {
        seen.assert_every_fault_fired();
    }
}

#[test]
fn a_schedule_replays_to_the_same_effects() {
    for seed in 0..50 {
        assert_eq!(World::new(seed).transcript(), World::new(seed).transcript(), "schedule {seed}");
    }
}

fn worker() -> impl Strategy<Value = WorkerId> {
    (0..4u32, 1..3u32).prop_map(|(slot, life)| WorkerId { slot, life })
}

fn report() -> impl Strategy<Value = Report> {
    let end = prop_oneof![
        Just(JobEnd::Finished("all epochs".into())),
        Just(JobEnd::Ordered(Order::Stop)),
        Just(JobEnd::Ordered(Order::Yield)),
        Just(JobEnd::Ordered(Order::Abort)),
        Just(JobEnd::Failed(v1::Failure::default())),
        worker().prop_map(|peer| JobEnd::PeerLost { words: "closed".into(), peer: Some(peer) }),
    ];
    let holding =
        proptest::option::of((0..50u64, any::<bool>()).prop_map(|(step, epoch_closed)| Holding { step, epoch_closed }));
    prop_oneof![
        4 => (0..50u64).prop_map(|step| Report::Progress(v1::Progress { step, ..Default::default() })),
        1 => (0..50u64, any::<bool>()).prop_map(|(step, waiting)| Report::Step { step, waiting, pulse: step }),
        1 => (0..5u64, 0..50u64).prop_map(|(epoch, step)| Report::Epoch(v1::EpochEnded { epoch, step, ..Default::default() })),
        2 => (0..50u64, 0.0..1.0f64).prop_map(|(step, ndcg)| Report::Staged(staged(step, Some(ndcg)))),
        3 => (0..50u64, end, holding).prop_map(|(step, end, holding)| Report::Ended { step, end, holding }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let published = |(step, fine): (u64, bool)| {
        let staged = staged(step, None);
        let done = Publication { checkpoint: staged.checkpoint, ..Default::default() };
        Event::Published { staged: staged.path, outcome: if fine { Ok(done) } else { Err("disk full".into()) } }
    };
    prop_oneof![
        2 => Just(Event::Submitted),
        3 => Just(Event::Prepared(Prepared::default())),
        1 => Just(Event::Queued { behind: None }),
        6 => worker().prop_map(|worker| Event::Offered { worker }),
        3 => (worker(), any::<bool>()).prop_map(|(worker, told)| {
            Event::Left { worker, cause: Departure { why: "gone".into(), told } }
        }),
        1 => worker().prop_map(|worker| Event::Drain { worker }),
        1 => any::<bool>().prop_map(|nobody_else_will_come| Event::TurnedAway { why: "full".into(), nobody_else_will_come }),
        12 => (worker(), 0..4u64, report()).prop_map(|(worker, generation, report)| {
            Event::Report { worker, generation: Generation(generation), report }
        }),
        4 => (0..50u64, any::<bool>()).prop_map(published),
        1 => any::<bool>().prop_map(|now| Event::Stop { now }),
        3 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Events that no worker of ours would send, in any order: nothing breaks, and the end stays the end.
    #[test]
    fn nonsense_in_any_order_does_no_harm(events in prop::collection::vec((0..8_000_000u64, event()), 1..120)) {
        let mut now = Timestamp(0);
        let mut run = Run::new(elastic(1, 2, 3), now);
        let mut witness = witness::Witness::default();
        for (later, event) in events {
            now.0 += later;
            let was_over = run.has_ended();
            let effects = run.on(now, event);
            witness.look_at_nonsense(was_over, &effects, &run);
        }
    }
}
