//! What a run's events add up to.

use proto::v1::{self, run_event::Event};

use super::counted::Counted;
use crate::words;

/// The run so far. Its only clock is the events', so that a story told afterwards is the same one.
#[derive(Debug, Default)]
pub struct Story {
    /// Decides which epoch is the best.
    pub metric: Option<String>,
    pub run_id: String,
    first_progress: Option<(u64, u64)>,
    /// Steps completed since the run's start, as far as was reported.
    pub step: u64,
    /// Rows and seconds of training, without validation.
    pub counted: Counted,
    /// Generations that took over from another, how long nothing trained meanwhile, and members lost.
    pub recoveries: u64,
    pub stood_seconds: f64,
    pub losses: u64,
    began: Option<u64>,
    latest: u64,
    pub epochs: Epochs,
    pub skipped_nonfinite: u64,
    pub skipped_empty: u64,
    pub ended: Option<v1::Ended>,
}

/// What the epochs that ended carried, against what they had to.
#[derive(Debug, Default)]
pub struct Epochs {
    /// Epochs that ended, and the rows of one of them as the manifest has it.
    pub whole: u64,
    pub rows: u64,
    pub mismatches: Vec<String>,
    /// The last step of the newest one, and of one epoch.
    step: u64,
    steps_per_epoch: u64,
}

impl Epochs {
    fn add(&mut self, epoch: &v1::EpochEnded, audit: &v1::Audit) {
        // Told again.
        if epoch.step <= self.step {
            return;
        }
        self.step = epoch.step;
        self.steps_per_epoch = epoch.step / (epoch.epoch + 1);
        self.whole += 1;
        self.rows = audit.expected_rows;
        self.mismatches.extend(mismatch(epoch.epoch, audit));
    }

    /// Those past this step have not ended after all.
    fn back_to(&mut self, step: u64) {
        while self.step > step && self.steps_per_epoch > 0 {
            self.step = self.step.saturating_sub(self.steps_per_epoch);
            self.whole = self.whole.saturating_sub(1);
        }
    }
}

impl Story {
    pub fn new(metric: Option<String>) -> Self {
        Self { metric, ..Self::default() }
    }

    pub fn take(&mut self, message: &v1::RunEvent) {
        self.run_id.clone_from(&message.run_id);
        self.began.get_or_insert(message.unix_micros);
        self.latest = self.latest.max(message.unix_micros);
        match &message.event {
            Some(Event::Progress(progress)) => {
                // The first window ends where counting begins: what came before it is not known.
                self.first_progress.get_or_insert((progress.step, message.unix_micros));
                self.step = self.step.max(progress.step);
                self.counted.add(progress);
                self.skipped_nonfinite = progress.skipped_nonfinite;
                self.skipped_empty = progress.skipped_empty;
            }
            Some(Event::Epoch(epoch)) => {
                if let Some(audit) = &epoch.audit {
                    self.epochs.add(epoch, audit);
                }
            }
            // What older generations reported past it is void.
            Some(Event::Seated(seated)) if seated.generation > 1 => {
                self.step = self.step.min(seated.first_step);
                self.counted.back_to(seated.first_step);
                self.epochs.back_to(seated.first_step);
                self.recoveries += 1;
                self.stood_seconds += seated.stood_seconds;
            }
            Some(Event::Lost(_)) => self.losses += 1,
            Some(Event::Ended(ended)) => self.ended = Some(ended.clone()),
            _ => {}
        }
    }

    pub fn trains(&self) -> bool {
        self.first_progress.is_some()
    }

    pub fn seconds(&self) -> f64 {
        self.latest.saturating_sub(self.began.unwrap_or(self.latest)) as f64 / 1e6
    }

    /// `epoch 3/20  step 1,240/8,000  loss 0.61340  1.23 M rows/s  0:42 left`.
    pub fn line(&self, progress: &v1::Progress) -> String {
        let total = progress.epochs * progress.steps_per_epoch;
        // The report that ends the last epoch may already count the next one.
        let epoch = (progress.epoch + 1).min(progress.epochs.max(1));
        let mut line = format!(
            "epoch {epoch}/{}  step {}/{}  loss {}  {} rows/s",
            progress.epochs,
            words::count(progress.step),
            words::count(total),
            words::loss(progress.loss),
            words::rate(progress.rows, progress.seconds),
        );
        if let Some(left) = self.seconds_left(progress.step, total) {
            line += &format!("  {} left", words::span(left));
        }
        line
    }

    /// By the pace since the first report, validation included.
    fn seconds_left(&self, step: u64, total: u64) -> Option<f64> {
        let (first_step, first_micros) = self.first_progress?;
        let steps = step.checked_sub(first_step).filter(|steps| *steps > 0)?;
        let seconds = self.latest.saturating_sub(first_micros) as f64 / 1e6;
        Some(seconds / steps as f64 * total.saturating_sub(step) as f64)
    }
}

/// What is wrong with an epoch's audit, if anything.
pub fn mismatch(epoch: u64, audit: &v1::Audit) -> Option<String> {
    let epoch = epoch + 1;
    let (rows, atoms) = (words::count(audit.rows), words::count(audit.atoms));
    if audit.rows != audit.expected_rows {
        let expected = words::counted(audit.expected_rows, "row");
        Some(format!("AUDIT MISMATCH in epoch {epoch}: {rows} of {expected} were counted"))
    } else if audit.atoms != audit.expected_atoms {
        let expected = words::count(audit.expected_atoms);
        Some(format!("AUDIT MISMATCH in epoch {epoch}: {atoms} of {expected} lists or rows were counted"))
    } else if (audit.hash_high, audit.hash_low) != (audit.expected_hash_high, audit.expected_hash_low) {
        Some(format!("AUDIT MISMATCH in epoch {epoch}: the right number of rows, but not each of them once"))
    } else {
        None
    }
}
