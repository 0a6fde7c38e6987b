//! Random schedules over the core: whatever happens in whatever order, these hold after every event.

use proptest::prelude::*;
use proto::{Generation, WorkerId, v1};

use super::{
    Departure, Effect, Event, JobEnd, Notice, Order, Prepared, Publication, Report, Run,
    tests::{plan, staged},
};
use crate::clock::Timestamp;

fn worker() -> impl Strategy<Value = WorkerId> {
    (0..4u32, 1..3u32).prop_map(|(slot, life)| WorkerId { slot, life })
}

fn job_end() -> impl Strategy<Value = JobEnd> {
    prop_oneof![
        Just(JobEnd::Finished("all epochs".into())),
        Just(JobEnd::Ordered(Order::Stop)),
        Just(JobEnd::Ordered(Order::Abort)),
        Just(JobEnd::Failed(v1::Failure::default())),
        Just(JobEnd::PeerLost { words: "closed".into(), peer: None }),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let progress = |step| Report::Progress(v1::Progress { step, ..Default::default() });
    prop_oneof![
        4 => (0..50u64).prop_map(progress),
        1 => (0..50u64, any::<bool>()).prop_map(|(step, waiting)| Report::Step { step, waiting }),
        1 => (0..5u64, 0..50u64).prop_map(|(epoch, step)| Report::Epoch(v1::EpochEnded { epoch, step, ..Default::default() })),
        2 => (0..50u64, 0.0..1.0f64).prop_map(|(step, ndcg)| Report::Staged(staged(step, Some(ndcg)))),
        2 => (0..50u64, job_end()).prop_map(|(step, end)| Report::Ended { step, end, holding: None }),
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
        1 => (worker(), any::<bool>()).prop_map(|(worker, told)| {
            Event::Left { worker, cause: Departure { why: "gone".into(), told } }
        }),
        12 => (worker(), 0..3u64, report()).prop_map(|(worker, generation, report)| {
            Event::Report { worker, generation: Generation(generation), report }
        }),
        4 => (0..50u64, any::<bool>()).prop_map(published),
        1 => any::<bool>().prop_map(|now| Event::Stop { now }),
        2 => Just(Event::Tick),
    ]
}

/// What has been seen of a run so far.
#[derive(Default)]
struct Witness {
    generation: Generation,
    committed: u64,
    ended: bool,
    publishing: bool,
    said_end: u32,
}

impl Witness {
    fn look(&mut self, was_over: bool, effects: &[Effect], run: &Run) {
        for effect in effects {
            if was_over {
                self.only_releases_after_the_end(effect);
            }
            self.one_seat_a_rank(effect);
            self.one_publication_at_a_time(effect);
            self.progress_only_forward(effect);
        }
        self.generations_only_grow(run);
        self.the_end_is_final(run, effects);
    }

    fn only_releases_after_the_end(&self, effect: &Effect) {
        assert!(matches!(effect, Effect::Release { .. }), "after the end: {effect:?}");
    }

    fn one_seat_a_rank(&self, effect: &Effect) {
        if let Effect::Seat { members, .. } = effect {
            let mut distinct = members.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), members.len(), "a worker holds two ranks: {members:?}");
            assert_eq!(members.len(), 2, "seats are given all at once");
            assert!(members.is_sorted(), "ranks follow slots: {members:?}");
        }
    }

    fn one_publication_at_a_time(&mut self, effect: &Effect) {
        if let Effect::Publish { .. } = effect {
            assert!(!self.publishing, "two publications at once");
            self.publishing = true;
        }
    }

    fn progress_only_forward(&mut self, effect: &Effect) {
        if let Effect::Emit(Notice::Progress(progress)) = effect {
            assert!(progress.step > self.committed, "step {} after {}", progress.step, self.committed);
            self.committed = progress.step;
        }
    }

    fn generations_only_grow(&mut self, run: &Run) {
        assert!(run.generation() >= self.generation);
        self.generation = run.generation();
    }

    fn the_end_is_final(&mut self, run: &Run, effects: &[Effect]) {
        assert!(run.has_ended() || !self.ended, "a run came back");
        self.ended = run.has_ended();
        self.said_end += effects.iter().filter(|e| matches!(e, Effect::Emit(Notice::Ended(_)))).count() as u32;
        assert_eq!(self.said_end, u32::from(self.ended), "watchers hear of the end once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold(events in prop::collection::vec((0..2_000_000u64, event()), 1..120)) {
        let mut now = Timestamp(0);
        let mut run = Run::new(plan(2), now);
        let mut witness = Witness::default();
        for (later, event) in events {
            now.0 += later;
            // The driver answers each publication once; what the core fences off was none.
            let answers = matches!(&event, Event::Published { .. });
            let was_over = run.has_ended();
            let before = run.members().len();
            let effects = run.on(now, event);
            if answers && effects.iter().any(|effect| matches!(effect, Effect::Answer { .. })) {
                witness.publishing = false;
            }
            prop_assert!(before <= 2);
            witness.look(was_over, &effects, &run);
        }
    }

    #[test]
    fn the_same_history_gives_the_same_effects(events in prop::collection::vec((0..2_000_000u64, event()), 1..60)) {
        let play = || {
            let mut now = Timestamp(0);
            let mut run = Run::new(plan(2), now);
            let mut seen = Vec::new();
            for (later, event) in &events {
                now.0 += later;
                seen.push(format!("{:?}", run.on(now, event.clone())));
            }
            seen
        };
        prop_assert_eq!(play(), play());
    }
}
