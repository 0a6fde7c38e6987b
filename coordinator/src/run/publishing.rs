//! Checkpoints on their way from a member's staging folder to where everybody sees them. They outlive generations: what was staged was
//! committed, whoever staged it may be gone.

use std::{collections::VecDeque, path::Path};

use proto::{WorkerId, v1};

use super::{Effect, Notice, Phase, Publication, Record, Run, Staged, metric_score, warning};
use crate::clock::Timestamp;

/// Checkpoints waiting to be published, beyond which disks are plainly too slow and the oldest is dropped with a warning.
const STAGED_AT_MOST: usize = 8;

#[derive(Default)]
pub(super) struct Publishing {
    under_way: Option<UnderWay>,
    staged: VecDeque<Staged>,
    /// Of the newest staged one, where it could not be published.
    pub unpublished: Option<Unpublished>,
}

struct UnderWay {
    staged: Staged,
    score: Option<f64>,
    best: bool,
}

pub(super) struct Unpublished {
    step: u64,
    why: String,
}

impl Publishing {
    pub fn is_of(&self, path: &Path) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.staged.path == path)
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }
}

impl Run {
    pub(super) fn staged(&mut self, staged: Staged, effects: &mut Vec<Effect>) {
        self.publishing.staged.push_back(staged);
        if self.publishing.staged.len() > STAGED_AT_MOST
            && let Some(oldest) = self.publishing.staged.pop_front()
        {
            effects.push(warning(format!(
                "checkpoint of step {} was not published: {STAGED_AT_MOST} newer ones wait for the disk",
                oldest.checkpoint.step
            )));
            self.answer(&oldest, None, effects);
        }
        self.publish_next(effects);
    }

    /// One at a time, so that "best" is decided on what was really published.
    fn publish_next(&mut self, effects: &mut Vec<Effect>) {
        if !self.publishing.is_idle() {
            return;
        }
        let Some(staged) = self.publishing.staged.pop_front() else { return };
        let score = self.score(&staged.checkpoint);
        let better = score.is_some_and(|score| self.best_score.is_none_or(|best| score > best));
        // The heir of a rank that died may stage what that one had staged already: only a better one is worth going back to.
        let passed = self.last.as_ref().filter(|last| last.step >= staged.checkpoint.step && !better);
        if let Some(path) = passed.map(|last| last.path.clone()) {
            self.answer(&staged, Some(path), effects);
            return self.publish_next(effects);
        }
        // A resumed run may come by the best one's step again: it takes that one's place on disk.
        let same_step = self.best.as_ref().is_some_and(|best| best.step == staged.checkpoint.step);
        let best = better || same_step;
        self.publishing.under_way = Some(UnderWay { staged: staged.clone(), score, best });
        effects.push(Effect::Publish { staged, best });
    }

    /// Higher is better. A checkpoint between validations carries the older metrics, so equal is not better.
    pub(super) fn score(&self, checkpoint: &v1::Checkpoint) -> Option<f64> {
        let score = match &self.plan.best_by {
            Some(name) => {
                let metrics = checkpoint.metrics.iter().map(|metric| (metric.name.as_str(), metric.value));
                metric_score(name, metrics)
            }
            None if checkpoint.step == 0 => None,
            None => match (&self.last_epoch, &self.progress) {
                (Some(epoch), _) if epoch.step == checkpoint.step => Some(-epoch.train_loss),
                (_, Some(progress)) => Some(-progress.loss),
                _ => None,
            },
        };
        score.filter(|score| !score.is_nan())
    }

    pub(super) fn published(
        &mut self,
        now: Timestamp,
        outcome: Result<Publication, String>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(UnderWay { staged, score, best }) = self.publishing.under_way.take() else { return };
        let step = staged.checkpoint.step;
        self.publishing.unpublished = outcome.as_ref().err().map(|why| Unpublished { step, why: why.clone() });
        match outcome {
            Ok(publication) => {
                let checkpoint = v1::Checkpoint { best, ..publication.checkpoint };
                if best {
                    self.best_score = score;
                    self.best = Some(checkpoint.clone());
                }
                if self.last.as_ref().is_none_or(|last| last.step <= checkpoint.step) {
                    self.last = Some(checkpoint.clone());
                }
                effects.push(Effect::Persist(Record::Checkpoint(checkpoint.clone())));
                effects.extend(publication.pruned.into_iter().map(|step| Effect::Persist(Record::Pruned { step })));
                effects.push(self.record(now));
                let path = checkpoint.path.clone();
                effects.push(Effect::Emit(Notice::Checkpoint(checkpoint)));
                effects.extend(publication.warnings.into_iter().map(warning));
                self.answer(&staged, Some(path), effects);
            }
            Err(why) => {
                effects.push(warning(format!("checkpoint of step {step} was not published: {why}")));
                self.answer(&staged, None, effects);
            }
        }
        self.publish_next(effects);
        match &self.phase {
            Phase::Training(_) => self.conclude_if_due(now, effects),
            Phase::Recovering(_) => self.go_on_if_possible(now, effects),
            Phase::Gathering(_) | Phase::Ended { .. } => {}
        }
    }

    /// Every member hears of it: those that keep a copy until it is published may drop it.
    fn answer(&self, staged: &Staged, published: Option<String>, effects: &mut Vec<Effect>) {
        let seated: Vec<WorkerId> = match &self.phase {
            Phase::Training(training) => training.workers().collect(),
            _ => self.members(),
        };
        effects.extend(seated.into_iter().map(|worker| Effect::Answer {
            worker,
            staged: staged.path.clone(),
            step: staged.checkpoint.step,
            published: published.clone(),
        }));
    }
}

impl Unpublished {
    pub fn failure(&self) -> v1::Failure {
        v1::Failure {
            message: format!("the last checkpoint, of step {}, could not be published", self.step),
            causes: vec![self.why.clone()],
            hint: "check the space and the permissions where `checkpoint.dir` is, then resume from the newest checkpoint, \
                   or start again where there is none"
                .into(),
            input_is_wrong: false,
        }
    }
}
