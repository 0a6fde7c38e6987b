//! The end of an epoch: its audit, its validation, and whether patience is at its end.
//!
//! What is evaluated is dealt by blocks: rank r scores the blocks b with b mod W = r, several at once. What a row scores follows from
//! the weights and the row alone ([`crate::score`]) and the sums over lists are exact, so the values are the same to the bit for every
//! number of workers and threads, and `lockstep evaluate` gets them too. Nothing is padded, nothing counted twice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use dataset::{
    lanes::{self, Atom, Blocks},
    reader,
    source::{Decoded, ParquetSource, Source},
};
use proto::{spec, v1};
use ranking::metrics::{Convention, Evaluator, Mean, Metric, Sum};

use super::{Job, JobError, shared::Shared};
use crate::{
    model::Network,
    score::{self, Scorer},
};

/// What every value is measured by.
fn convention() -> Convention {
    Convention::default()
}

/// Blocks are small enough that each worker gets some for each of its threads.
const LANES_A_WORKER: u32 = 2;

/// A dataset that is scored after each epoch.
pub(super) struct Evaluation {
    /// Stands before the names of its metrics.
    prefix: &'static str,
    /// Its key in the run's document, and what its rows are called.
    key: &'static str,
    rows: &'static str,
    manifest: v1::Manifest,
    blocks: Arc<Blocks>,
    source: Arc<dyn Source>,
}

/// Means over some of its lists.
struct Tally {
    means: Vec<Mean>,
    not_finite: bool,
}

impl Job {
    /// After an epoch's last step: audits, validates, reports, where that was not done. Some(why) ends the run.
    pub(super) fn end_epoch_if_due(&mut self) -> Result<Option<String>, JobError> {
        if self.step == 0 || !self.step.is_multiple_of(self.steps_per_epoch) {
            return Ok(None);
        }
        if self.epoch_open {
            self.close_epoch()?;
        }
        Ok(self.patience_is_over())
    }

    /// All that can fail, or be interrupted, comes before anything is changed: an epoch is closed once, whoever closes it.
    fn close_epoch(&mut self) -> Result<(), JobError> {
        let epoch = self.step / self.steps_per_epoch - 1;
        let train_seconds = self.epoch_began.elapsed().as_secs_f64();
        let audit = self.audited(epoch)?;
        if self.state.epoch_denominator == 0.0 && self.state.skipped_nonfinite == 0 {
            return Err(JobError::wrong_input(
                format!("a whole epoch held nothing for loss `{}` to learn from", self.spec.loss.kind),
                "pairwise losses need lists with two different labels, listwise ones a label above 0, pointwise ones a weight above 0",
            ));
        }
        let began = Instant::now();
        let metrics = self.validate(epoch)?;
        self.confirm()?;
        self.metrics = metrics;
        let train_loss = self.state.epoch_loss / self.state.epoch_denominator;
        let improved = self.judge(epoch, train_loss);
        let (judgments, validation) = self.metrics.iter().cloned().partition(|metric| {
            let metric: &v1::Metric = metric;
            metric.name.starts_with(spec::JUDGMENTS)
        });
        self.reports.keep_epoch(v1::EpochEnded {
            generation: self.seat.generation,
            epoch,
            epochs: self.spec.training.epochs,
            step: self.step,
            train_loss,
            rows: self.state.epoch_rows,
            lists: self.state.epoch_lists,
            train_seconds,
            validation_seconds: began.elapsed().as_secs_f64(),
            validation,
            judgments: without_prefix(judgments),
            learning_rate: self.schedule.at(epoch, self.step - 1),
            audit: Some(audit),
            improved,
            epochs_without_improvement: self.state.epochs_without_improvement,
        });
        self.state.epoch_loss = 0.0;
        self.state.epoch_denominator = 0.0;
        self.state.epoch_rows = 0;
        self.state.epoch_lists = 0;
        self.state.epoch_atoms = 0;
        self.epoch_hash = 0;
        self.epoch_began = Instant::now();
        self.epoch_open = false;
        self.improved = improved;
        self.show();
        self.tell_epochs(self.step);
        self.reports.restart_clock();
        Ok(())
    }

    /// Why the run ends early, where it does.
    pub(super) fn patience_is_over(&self) -> Option<String> {
        let stopping = self.spec.training.early_stopping.as_ref()?;
        let waited = self.state.epochs_without_improvement;
        (waited >= stopping.patience)
            .then(|| format!("early stopping: {} did not improve for {waited} epochs", stopping.metric))
    }

    /// Compares what the epoch's steps carried with what the manifest says they must.
    fn audited(&self, epoch: u64) -> Result<v1::Audit, JobError> {
        let expected = *self.audit.hash.get_or_init(|| lanes::expected_hash(self.audit.atoms));
        let audit = v1::Audit {
            rows: self.state.epoch_rows,
            atoms: self.state.epoch_atoms,
            expected_rows: self.audit.rows,
            expected_atoms: self.audit.atoms,
            hash_high: (self.epoch_hash >> 64) as u64,
            hash_low: self.epoch_hash as u64,
            expected_hash_high: (expected >> 64) as u64,
            expected_hash_low: expected as u64,
        };
        if (audit.rows, audit.atoms, self.epoch_hash) == (audit.expected_rows, audit.expected_atoms, expected) {
            return Ok(audit);
        }
        Err(JobError::failed(
            format!(
                "the audit of epoch {epoch} failed: its steps counted {} rows and {} lists or rows dealt, the dataset has {} and {}{}",
                audit.rows,
                audit.atoms,
                audit.expected_rows,
                audit.expected_atoms,
                if audit.atoms == audit.expected_atoms { "; some came twice and some never" } else { "" },
            ),
            "this is a fault of lockstep, not of your data: please report it with the run's id",
        ))
    }

    /// Scores what is to be scored after an epoch; the metrics of all of it, as checkpoints name them.
    fn validate(&mut self, epoch: u64) -> Result<Vec<v1::Metric>, JobError> {
        let mut found = Vec::new();
        for evaluation in &self.evaluations {
            let metrics = self.metrics_of(evaluation)?;
            let tally = evaluation.tally(&self.network, &metrics, &self.seat, &self.shared)?;
            let mut total = Tally::new(metrics.len());
            for of_rank in self.collective.gather(&tally.to_bytes())? {
                total.merge(&Tally::from_bytes(&of_rank));
            }
            if total.not_finite {
                return Err(JobError::failed(
                    format!("the model's scores of {} are not finite after epoch {epoch}", evaluation.rows),
                    "lower the learning rate, set training.clip_norm, or normalise the features (model.normalize = \"standard\")",
                ));
            }
            found.extend(metrics.iter().zip(total.means).map(|(metric, mean)| v1::Metric {
                name: format!("{}{metric}", evaluation.prefix),
                value: mean.value(),
                convention: convention().words(*metric),
            }));
        }
        Ok(found)
    }

    /// What is reported of an evaluation set, and what decides which epoch is the best, where that is of this set.
    fn metrics_of(&self, evaluation: &Evaluation) -> Result<Vec<Metric>, JobError> {
        let mut metrics = Metric::REPORTED.to_vec();
        let best_by = self.spec.best_by().unwrap_or_default();
        let (prefix, name) = match best_by.strip_prefix(spec::JUDGMENTS) {
            Some(name) => (spec::JUDGMENTS, name),
            None => ("", best_by.as_str()),
        };
        if prefix == evaluation.prefix {
            let wanted: Metric = name.parse().map_err(|error| JobError::wrong_input(format!("{error}"), ""))?;
            if !metrics.contains(&wanted) {
                metrics.push(wanted);
            }
        }
        Ok(metrics)
    }

    /// Whether the epoch is the best so far, by the early-stopping metric, ndcg@10, or the training loss where nothing validates.
    fn judge(&mut self, epoch: u64, train_loss: f64) -> bool {
        let min_delta = self.spec.training.early_stopping.as_ref().map_or(0.0, |stopping| stopping.min_delta);
        let best_by = self.spec.best_by();
        let value = match self.metrics.iter().find(|metric| Some(&metric.name) == best_by.as_ref()) {
            Some(metric) => metric.value,
            None => -train_loss,
        };
        let improved = value.is_finite() && self.state.best.is_none_or(|best| value > best + min_delta);
        if improved {
            self.state.best = Some(value);
            self.state.best_epoch = Some(epoch);
            self.state.epochs_without_improvement = 0;
        } else {
            self.state.epochs_without_improvement += 1;
        }
        improved
    }
}

fn without_prefix(metrics: Vec<v1::Metric>) -> Vec<v1::Metric> {
    let named = |metric: v1::Metric| {
        let name = metric.name.trim_start_matches(spec::JUDGMENTS).to_owned();
        v1::Metric { name, ..metric }
    };
    metrics.into_iter().map(named).collect()
}

/// Which rows lie in which block makes no difference to the values.
fn blocks(manifest: &v1::Manifest, world: u32, data: &spec::Data) -> Arc<Blocks> {
    Arc::new(Blocks::cut(manifest, Atom::List, LANES_A_WORKER * world, data.block_bytes.as_u64()))
}

impl Evaluation {
    /// All that a seat says is to be scored.
    pub fn of(seat: &v1::Seat, data: &spec::Data) -> Vec<Self> {
        let sets = [
            ("", "data.validation", "validation rows", &seat.validation),
            (spec::JUDGMENTS, "data.judgments", "judged rows", &seat.judgments),
        ];
        let evaluation = |(prefix, key, rows, manifest): (_, _, _, &Option<v1::Manifest>)| {
            let manifest = manifest.clone()?;
            let blocks = blocks(&manifest, seat.world, data);
            let source = Arc::new(ParquetSource::new(manifest.clone(), &blocks, data.cache.as_u64()));
            Some(Self { prefix, key, rows, manifest, blocks, source })
        };
        sets.into_iter().filter_map(evaluation).collect()
    }

    /// Deals the same rows to another number of workers.
    pub fn deal(&mut self, world: u32, data: &spec::Data) {
        self.blocks = blocks(&self.manifest, world, data);
    }

    /// This rank's share.
    fn tally(
        &self,
        network: &Network,
        metrics: &[Metric],
        seat: &v1::Seat,
        shared: &Shared,
    ) -> Result<Tally, JobError> {
        let mine = self.blocks.share(seat.rank, seat.world);
        let reads = Mutex::new(reader::scan(Arc::clone(&self.source), Arc::clone(&self.blocks), mine));
        let work = |scorer: &mut Scorer| -> Result<Tally, JobError> {
            let mut evaluator = Evaluator::new(metrics, convention());
            let mut tally = Tally::new(metrics.len());
            let mut scores = Vec::new();
            loop {
                // Each thread takes the next block that is read.
                let read = reads.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(read) = read else { return Ok(tally) };
                shared.go_on()?;
                let (block, decoded) = read?;
                self.check_labels(block, &decoded, metrics)?;
                tally.add(&decoded, scorer, &mut scores, &mut evaluator);
            }
        };
        let (tallies, ()) = score::on_threads(network, seat.threads as usize, work, || ());
        let mut total = Tally::new(metrics.len());
        for tally in tallies {
            total.merge(&tally?);
        }
        Ok(total)
    }

    fn check_labels(&self, block: u32, decoded: &Decoded, metrics: &[Metric]) -> Result<(), JobError> {
        let range = convention().labels(metrics);
        let labels = &decoded.rows.labels[decoded.range.clone()];
        let Some(row) = labels.iter().position(|label| !range.contains(*label)) else { return Ok(()) };
        let block = &self.blocks.blocks[block as usize];
        let path = dataset::manifest::file_path(&self.manifest, block.file as usize);
        Err(JobError::wrong_input(
            format!(
                "`{}`, row {}: label {} is not between {} and {}, {}",
                path.display(),
                block.first_row + row as u64,
                labels[row],
                range.least,
                range.most,
                range.why
            ),
            format!("train on such labels without {}, or grade them for it", self.key),
        ))
    }
}

impl Tally {
    fn new(metrics: usize) -> Self {
        Self { means: vec![Mean::default(); metrics], not_finite: false }
    }

    fn add(&mut self, block: &Decoded, scorer: &mut Scorer, scores: &mut Vec<f32>, evaluator: &mut Evaluator) {
        let (rows, range) = (&block.rows, &block.range);
        let features = rows.features.len() / rows.rows().max(1);
        scores.resize(range.len(), 0.0);
        scorer.score(&rows.features[range.start * features..range.end * features], scores);
        if scores.iter().any(|score| !score.is_finite()) {
            self.not_finite = true;
            return;
        }
        let mut values = vec![0.0; self.means.len()];
        for list in block.atoms.clone() {
            let list = rows.starts[list] as usize..rows.starts[list + 1] as usize;
            let scores = &scores[list.start - range.start..list.end - range.start];
            evaluator.list(&rows.labels[list], scores, &mut values);
            self.means.iter_mut().zip(&values).for_each(|(mean, value)| mean.add(*value));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.means.iter_mut().zip(&other.means).for_each(|(mean, other)| mean.merge(*other));
        self.not_finite |= other.not_finite;
    }

    /// For the wire: a metric's sum and its lists, one after the other, and whether all scores were finite.
    fn to_bytes(&self) -> Vec<u8> {
        let of = |mean: &Mean| [mean.sum.to_bytes().as_slice(), &mean.lists.to_le_bytes()].concat();
        let mut bytes: Vec<u8> = self.means.iter().flat_map(of).collect();
        bytes.push(u8::from(self.not_finite));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let (means, rest) = bytes.as_chunks::<24>();
        let mean = |bytes: &[u8; 24]| {
            let (mut sum, mut lists) = ([0; 16], [0; 8]);
            sum.copy_from_slice(&bytes[..16]);
            lists.copy_from_slice(&bytes[16..]);
            Mean { sum: Sum::from_bytes(sum), lists: u64::from_le_bytes(lists) }
        };
        Self { means: means.iter().map(mean).collect(), not_finite: rest == [1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_name_what_can_be_validated_as_its_curves_are_called_and_nothing_else() {
        let accepted = |metric: &str| {
            let document = format!(
                "name = \"a\"\n[data]\ntrain = \"t\"\nvalidation = \"v\"\n[model]\nhidden = [8]\n\
                 [training]\nearly_stopping = {{ metric = \"{metric}\" }}\n"
            );
            spec::parse(&document, &[]).is_ok()
        };
        let names = ["ndcg", "dcg", "map", "mrr", "precision", "recall", "err", "auc", "NDCG", ""];
        let cuts = ["", "@1", "@10", "@4294967295", "@0", "@+5", "@05", "@-1", "@", "@ 5", "@ten", "@5@5"];
        let mut known = 0;
        for name in names.iter().flat_map(|name| cuts.map(|cut| format!("{name}{cut}"))) {
            let found = name.parse::<Metric>().is_ok_and(|metric| metric.to_string() == name);
            assert_eq!(accepted(&name), found, "`{name}`");
            known += usize::from(found);
        }
        assert_eq!(known, 7 * 4);
    }
}
