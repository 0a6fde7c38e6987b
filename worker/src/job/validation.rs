//! The end of an epoch: its audit, its validation, and whether patience is at its end.
//!
//! Validation is dealt by blocks: rank r scores the blocks b with b mod W = r, each block as one batch; the sums of each block are
//! gathered and merged in block order, so that the values are the same to the bit for every world size. Nothing is padded,
//! nothing counted twice.

use std::{sync::Arc, time::Instant};

use dataset::{lanes, reader};
use proto::v1::{self, worker_message::Message};
use ranking::metrics::{Convention, Evaluator, Metric};

use super::{Job, JobError};
use crate::memory;

impl Job {
    /// After an epoch's last step: audits, validates, reports. Some(why) ends the run.
    pub(super) fn end_epoch_if_due(&mut self, step: u64) -> Result<Option<String>, JobError> {
        let position = self.position(step);
        if !position.ends_epoch {
            return Ok(None);
        }
        let train_seconds = self.epoch_began.elapsed().as_secs_f64();
        let audit = self.audited(position.epoch)?;
        if self.state.epoch_denominator == 0.0 && self.state.skipped_nonfinite == 0 {
            return Err(JobError::wrong_input(
                format!("a whole epoch held nothing for loss `{}` to learn from", self.spec.loss.kind),
                "pairwise losses need lists with two different labels, listwise ones a label above 0, pointwise ones a weight above 0",
            ));
        }
        let began = Instant::now();
        self.metrics = self.validate(position.epoch)?;
        let train_loss = self.state.epoch_loss / self.state.epoch_denominator;
        let improved = self.judge(position.epoch, train_loss);
        if self.seat.rank == 0 {
            self.reports.send(Message::Epoch(v1::EpochEnded {
                generation: self.seat.generation,
                epoch: position.epoch,
                epochs: self.spec.training.epochs,
                step: step + 1,
                train_loss,
                rows: self.state.epoch_rows,
                lists: self.state.epoch_lists,
                train_seconds,
                validation_seconds: began.elapsed().as_secs_f64(),
                validation: self.metrics.clone(),
                learning_rate: self.schedule.at(position.epoch, step),
                audit: Some(audit),
                improved,
                epochs_without_improvement: self.state.epochs_without_improvement,
            }));
        }
        self.state.epoch_loss = 0.0;
        self.state.epoch_denominator = 0.0;
        self.state.epoch_rows = 0;
        self.state.epoch_lists = 0;
        self.state.epoch_atoms = 0;
        self.epoch_hash = 0;
        self.epoch_began = Instant::now();
        self.reports.restart_clock();
        self.improved = improved;
        Ok(self.patience_is_over())
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

    fn validate(&mut self, epoch: u64) -> Result<Vec<v1::Metric>, JobError> {
        let Some(scoring) = &self.validation else { return Ok(Vec::new()) };
        let mut metrics = Metric::REPORTED.to_vec();
        if let Some(stopping) = &self.spec.training.early_stopping {
            let wanted: Metric =
                stopping.metric.parse().map_err(|error| JobError::wrong_input(format!("{error}"), ""))?;
            if !metrics.contains(&wanted) {
                metrics.push(wanted);
            }
        }
        let width = metrics.len() + 1;
        let blocks = Arc::clone(&scoring.blocks);
        let (rank, world) = (self.seat.rank, self.seat.world);
        let mine = blocks.share(rank, world);
        let convention = Convention::default();
        let mut evaluator = Evaluator::new(&metrics, convention);
        let (mut sums, mut values) = (Vec::new(), vec![0.0; metrics.len()]);
        let mut not_finite = 0.0;
        for read in reader::scan(Arc::clone(&scoring.source), Arc::clone(&blocks), mine) {
            let (block, decoded) = read?;
            self.shared.go_on()?;
            let rows = &decoded.rows;
            let features = rows.features.len() / rows.rows().max(1);
            let labels = &rows.labels[decoded.range.clone()];
            if let Some(row) = labels.iter().position(|label| !(0.0..=31.0).contains(label)) {
                return Err(self.label_without_gain(block, row, labels[row]));
            }
            self.scores.resize(decoded.range.len(), 0.0);
            // In pieces, which follow from the block and the model alone: a block of wide activations would fill the memory.
            for (piece, scores) in self.scores.chunks_mut(self.piece_rows).enumerate() {
                let first = decoded.range.start + piece * self.piece_rows;
                let x = &rows.features[first * features..(first + scores.len()) * features];
                let x = memory::rows(x, scores.len()).to_device(self.device);
                self.network.score(&x).copy_data(scores, scores.len());
            }
            if self.scores.iter().any(|score| !score.is_finite()) {
                not_finite = 1.0;
            }
            let first = sums.len();
            sums.resize(first + width, 0.0);
            for list in decoded.atoms.clone() {
                let list = rows.starts[list] as usize..rows.starts[list + 1] as usize;
                let scores = list.start - decoded.range.start..list.end - decoded.range.start;
                evaluator.list(&rows.labels[list], &self.scores[scores], &mut values);
                sums[first..].iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
                sums[first + width - 1] += 1.0;
            }
        }
        sums.push(not_finite);
        let gathered = self.gather(&sums)?;
        if gathered.iter().any(|sums| sums.last() == Some(&1.0)) {
            return Err(JobError::failed(
                format!("the model's scores of validation rows are not finite after epoch {epoch}"),
                "lower the learning rate, set training.clip_norm, or normalise the features (model.normalize = \"standard\")",
            ));
        }
        let mut totals = vec![0.0; width];
        for block in 0..blocks.blocks.len() {
            let from = block / world as usize * width;
            let part = &gathered[block % world as usize][from..from + width];
            totals.iter_mut().zip(part).for_each(|(total, sum)| *total += sum);
        }
        let lists = totals[width - 1];
        let metric = |(metric, total): (&Metric, &f64)| v1::Metric {
            name: metric.to_string(),
            value: total / lists,
            convention: convention.words(*metric),
        };
        Ok(metrics.iter().zip(&totals).map(metric).collect())
    }

    fn label_without_gain(&self, block: u32, row: usize, label: f32) -> JobError {
        let place = self.seat.validation.as_ref().zip(self.validation.as_ref()).map(|(manifest, scoring)| {
            let block = &scoring.blocks.blocks[block as usize];
            let path = dataset::manifest::file_path(manifest, block.file as usize);
            format!("`{}`, row {}: ", path.display(), block.first_row + row as u64)
        });
        JobError::wrong_input(
            format!("{}label {label} is not between 0 and 31, as ndcg's gain needs", place.unwrap_or_default()),
            "train on such labels without data.validation, or grade them for validation",
        )
    }

    /// Whether the epoch is the best so far, by the early-stopping metric, ndcg@10, or the training loss where nothing validates.
    fn judge(&mut self, epoch: u64, train_loss: f64) -> bool {
        let stopping = self.spec.training.early_stopping.clone().unwrap_or_default();
        let value = match self.metrics.iter().find(|metric| metric.name == stopping.metric) {
            Some(metric) => metric.value,
            None => -train_loss,
        };
        let improved = value.is_finite() && self.state.best.is_none_or(|best| value > best + stopping.min_delta);
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
