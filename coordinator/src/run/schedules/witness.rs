//! What must hold after every event, one function each.

use std::collections::BTreeSet;

use proto::{Generation, v1};

use super::super::{Effect, Notice, Run, Start};

/// What has been seen of a run so far.
#[derive(Clone, Default)]
pub struct Witness {
    generation: Generation,
    /// Steps whose progress was told, without gap or overlap.
    pub told: u64,
    /// Ends of epochs, in steps, that were told and not taken back.
    pub epochs: BTreeSet<u64>,
    /// Steps of published checkpoints.
    pub durable: BTreeSet<u64>,
    pub ended: Option<v1::Ended>,
    said_end: u32,
    publishing: bool,
}

impl Witness {
    /// Of a run whose workers are what they should be.
    pub fn look(&mut self, was_over: bool, effects: &[Effect], run: &Run) {
        for effect in effects {
            self.only_releases_after_the_end(was_over, effect);
            self.one_seat_a_rank(effect, run);
            self.no_step_is_told_twice_or_skipped(effect);
            self.no_epoch_is_told_twice(effect);
            self.never_a_resume_past_what_is_durable(effect);
            self.one_publication_at_a_time(effect);
        }
        self.generations_only_grow(run);
        self.the_end_is_final(run, effects);
    }

    /// Of one whose workers say what comes into their heads.
    pub fn look_at_nonsense(&mut self, was_over: bool, effects: &[Effect], run: &Run) {
        for effect in effects {
            self.only_releases_after_the_end(was_over, effect);
            self.one_seat_a_rank(effect, run);
        }
        self.generations_only_grow(run);
        self.the_end_is_final(run, effects);
    }

    pub fn published(&mut self) {
        self.publishing = false;
    }

    fn only_releases_after_the_end(&self, was_over: bool, effect: &Effect) {
        assert!(!was_over || matches!(effect, Effect::Release { .. }), "after the end: {effect:?}");
    }

    fn one_seat_a_rank(&self, effect: &Effect, run: &Run) {
        let Effect::Seat { generation, members, start, .. } = effect else { return };
        assert_eq!(*generation, run.generation(), "seats of another generation");
        let distinct: BTreeSet<_> = members.iter().collect();
        assert_eq!(distinct.len(), members.len(), "a worker holds two ranks: {members:?}");
        assert!(!members.is_empty() && members.len() <= run.plan().most as usize, "a world of {}", members.len());
        if let Start::Memory { source, lacking } = start {
            assert!((*source as usize) < members.len() && !lacking.contains(source), "the source lacks what it sends");
        }
    }

    fn no_step_is_told_twice_or_skipped(&mut self, effect: &Effect) {
        match effect {
            Effect::Emit(Notice::Seated(seated)) => {
                self.told = self.told.min(seated.first_step);
                self.epochs.retain(|end| *end <= seated.first_step);
            }
            Effect::Emit(Notice::Progress(progress)) => {
                assert_eq!(
                    progress.first_step, self.told,
                    "steps {}..{} were told",
                    progress.first_step, progress.step
                );
                self.told = progress.step;
            }
            _ => {}
        }
    }

    fn no_epoch_is_told_twice(&mut self, effect: &Effect) {
        if let Effect::Emit(Notice::Epoch(epoch)) = effect {
            assert!(self.epochs.insert(epoch.step), "the epoch that ends at {} was told twice", epoch.step);
        }
    }

    fn never_a_resume_past_what_is_durable(&self, effect: &Effect) {
        if let Effect::Seat { start: Start::Checkpoint(path), first_step, .. } = effect {
            assert!(self.durable.contains(first_step), "`{path}` was never published");
            let newest = self.durable.last().copied();
            assert_eq!(Some(*first_step), newest, "a newer one was");
        }
    }

    fn one_publication_at_a_time(&mut self, effect: &Effect) {
        if let Effect::Publish { .. } = effect {
            assert!(!self.publishing, "two publications at once");
            self.publishing = true;
        }
    }

    fn generations_only_grow(&mut self, run: &Run) {
        assert!(run.generation() >= self.generation);
        self.generation = run.generation();
    }

    fn the_end_is_final(&mut self, run: &Run, effects: &[Effect]) {
        assert!(run.has_ended() || self.ended.is_none(), "a run came back");
        for effect in effects {
            if let Effect::Emit(Notice::Ended(ended)) = effect {
                self.ended = Some(ended.clone());
                self.said_end += 1;
            }
        }
        assert_eq!(self.said_end, u32::from(run.has_ended()), "watchers hear of the end once");
    }
}
