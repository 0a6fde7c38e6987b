//! Where a run stands, in words: one sentence for status, logs and tests.

use std::time::Duration;

use proto::v1;

use super::{Phase, Run, Verdict, gathering::Gathering, recovering::Recovering, training::Training};
use crate::clock::Timestamp;

/// A phase and why the run is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub phase: v1::Phase,
    pub words: String,
}

impl Run {
    /// Why are we not training, or how far are we? Shared by status, logs and tests.
    pub fn standing(&self, now: Timestamp) -> Standing {
        let (phase, words) = match &self.phase {
            Phase::Gathering(gathering) => (v1::Phase::Gathering, self.gathering_words(gathering, now)),
            Phase::Training(training) => (v1::Phase::Training, self.training_words(training, now)),
            Phase::Recovering(recovering) => (v1::Phase::Recovering, self.recovering_words(recovering, now)),
            Phase::Ended { verdict, .. } => (verdict.phase(), ended_words(verdict)),
        };
        Standing { phase, words }
    }

    fn gathering_words(&self, gathering: &Gathering, now: Timestamp) -> String {
        let (wanted, waited) = (self.plan.workers, seconds(now.since(gathering.since)));
        let missing = (wanted as usize).saturating_sub(gathering.members.len());
        match (&gathering.behind, missing) {
            (_, 0) => format!("reading the dataset, {}", seconds(now.since(self.created))),
            (Some(run), _) => format!("waiting for {missing} of {wanted} workers, behind run `{run}`"),
            (None, _) => format!("waiting for {missing} of {wanted} workers, {waited}"),
        }
    }

    fn training_words(&self, training: &Training, now: Timestamp) -> String {
        if let Some(ending) = &training.ending {
            let (left, of) = (training.still_at_work(), training.world());
            let since = seconds(now.since(ending.since));
            return format!("failing: {}; {left} of {of} workers still at work, {since}", ending.failure.message);
        }
        if let Some(stopping) = &self.stopping {
            if let Some(failure) = &stopping.failure {
                return format!("failing: {}; saving step {}", failure.message, self.step);
            }
            if stopping.hands_over {
                return format!("saving for whoever goes on, at step {}", self.step);
            }
            let how = if stopping.at_once { "stopping at once" } else { "stopping on request" };
            return format!("{how}, at step {}", self.step);
        }
        if training.all_ended() {
            return format!("publishing the last checkpoint, at step {}", self.step);
        }
        let absent = training.absent();
        if absent > 0 {
            let (world, since) = (training.world(), seconds(now.since(training.seated)));
            return format!(
                "training, as far as is known: {absent} of {world} members not heard of since the coordinator came back, {since}"
            );
        }
        if training.yielding {
            let joining: Vec<_> = training.joiners.iter().map(ToString::to_string).collect();
            let who = if joining.is_empty() { "a member".to_owned() } else { format!("`{}`", joining.join("`, `")) };
            let what = if joining.is_empty() { "let go" } else { "let in" };
            return format!("training: step {}; {who} is {what} after the next one", self.step);
        }
        match &self.progress {
            Some(progress) => {
                let epochs = progress.epochs.max(self.plan.epochs);
                // The report that ends the last epoch may already count the next one.
                let epoch = (progress.epoch + 1).min(epochs.max(1));
                format!("training: epoch {epoch} of {epochs}, step {}", self.step)
            }
            None => {
                let (world, since) = (training.world(), seconds(now.since(training.seated)));
                let plural = if world == 1 { "" } else { "s" };
                format!("training: {world} worker{plural} seated, no step reported yet, {since}")
            }
        }
    }
}

impl Run {
    fn recovering_words(&self, recovering: &Recovering, now: Timestamp) -> String {
        let since = seconds(now.since(recovering.since));
        let cause = match &recovering.cause {
            Some(cause) => cause.words(),
            None => format!("the world changes at step {}", self.step),
        };
        let (at_work, here) = (recovering.at_work(), recovering.world_to_be(&self.draining));
        let least = self.plan.least as usize;
        if at_work > 0 {
            let plural = if at_work == 1 { "" } else { "s" };
            return format!("recovering: {cause}; {at_work} member{plural} still to let go, {since}");
        }
        if here < least {
            return format!("recovering: {cause}; waiting for {} of {least} workers, {since}", least - here);
        }
        if self.prepared == Ok(false) {
            return format!("recovering: {cause}; reading the dataset again, {since}");
        }
        if !self.publishing.is_idle() {
            return format!("recovering: {cause}; waiting for a checkpoint to be published, {since}");
        }
        format!("recovering: {cause}; seating {here} workers, {since}")
    }
}

fn ended_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Succeeded { reason } => format!("finished: {reason}"),
        Verdict::Stopped { reason } => reason.clone(),
        Verdict::Failed(failure) => format!("failed: {}", failure.message),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}
