//! THE training loop, and its steps.

use std::time::Instant;

use dataset::{lanes::Atom, reader::LaneReader, seeded};
use proto::v1::OrderKind;
use tch::Tensor;

use super::{Agreed, Job, JobError, Outcome, Reduced};
use crate::{
    collective::Lost,
    loss::{Targets, Terms},
    memory,
    model::DropoutKeys,
    optimizer::sum_of_squares,
};

/// Trains until all epochs are done, patience is at its end, or an order comes.
pub fn train(job: &mut Job) -> Result<Outcome, JobError> {
    let _no_graph = tch::no_grad_guard();
    if let Some(why) = job.begin()? {
        return job.finish(why);
    }
    if job.seat.save_only {
        return job.stop();
    }
    for step in job.step..job.total_steps() {
        job.read(step)?;
        let terms = job.forward_backward(step)?;
        let agreed = match job.reduce(terms) {
            Reduced::ByAll(agreed) => agreed,
            Reduced::PeerLost(lost) => return Err(lost.into()),
        };
        let counts = job.apply(step, &agreed)?;
        job.report(&agreed, counts);
        let verdict = job.end_epoch_if_due()?;
        job.save_if_due()?;
        if let Some(why) = verdict {
            return job.finish(why);
        }
        match agreed.ends {
            Some(OrderKind::Stop) => return job.stop(),
            Some(order) => return Ok(Outcome::Ordered(order)),
            None => {}
        }
    }
    job.finish(format!("all {} epochs done", job.spec.training.epochs))
}

impl Job {
    /// What comes before a generation's first step: telling what the one before may have left untold, and ending what it did not end, be
    /// it an epoch or the run.
    fn begin(&mut self) -> Result<Option<String>, JobError> {
        // Of what was told before a window that the coordinator knows, it has missed nothing.
        self.tell_epochs(self.seat.reported_step);
        let verdict = self.end_epoch_if_due()?;
        self.save_if_due()?;
        Ok(verdict)
    }

    fn finish(&mut self, why: String) -> Result<Outcome, JobError> {
        self.save_last()?;
        Ok(Outcome::Finished(why))
    }

    fn stop(&mut self) -> Result<Outcome, JobError> {
        self.save_last()?;
        Ok(Outcome::Ordered(OrderKind::Stop))
    }

    /// Fills the batch with this rank's share of a step.
    fn read(&mut self, step: u64) -> Result<(), JobError> {
        let position = self.position(step);
        let began = Instant::now();
        let Some(data) = &mut self.data else { return Err(Lost::aborted().into()) };
        data.next(position.epoch, position.step_in_epoch, &mut self.batch)?;
        self.reports.waited_for_data(began.elapsed());
        Ok(())
    }

    /// Gradients of this rank's terms, summed into the flat buffer; the terms themselves.
    fn forward_backward(&mut self, step: u64) -> Result<Terms, JobError> {
        self.network.parameters.slices().1.fill(0.0);
        self.objective.check(&self.batch.labels)?;
        let atoms = self.batch.atoms.len();
        let pieces = (self.spec.training.accumulate as usize).max(self.batch.rows().div_ceil(self.piece_rows));
        let pieces = pieces.clamp(1, atoms.max(1));
        let mut terms = Terms::default();
        for piece in 0..pieces {
            terms += self.forward_backward_of(step, atoms * piece / pieces..atoms * (piece + 1) / pieces);
        }
        Ok(terms)
    }

    /// The same for a run of the batch's atoms.
    fn forward_backward_of(&mut self, step: u64, atoms: std::ops::Range<usize>) -> Terms {
        let batch = &self.batch;
        let lists = batch.lists() > 0;
        let rows =
            if lists { batch.starts[atoms.start] as usize..batch.starts[atoms.end] as usize } else { atoms.clone() };
        if rows.is_empty() {
            return Terms::default();
        }
        let width = batch.features.len() / batch.rows();
        // The tape, which may hold a view of these numbers, is used up below, before the batch is filled anew.
        let x = memory::rows(&batch.features[rows.start * width..rows.end * width], rows.len());
        let x = x.to_device(self.device);
        let keys = self.network.drops().then(|| dropout_keys(self.spec.seed, step, batch, atoms.clone()));
        let (scores, tape) = self.network.forward(&x, keys.as_ref());
        self.scores.resize(rows.len(), 0.0);
        scores.copy_data(&mut self.scores, rows.len());
        self.gradient.resize(rows.len(), 0.0);
        let starts: Vec<u32> = match lists {
            true => batch.starts[atoms.start..=atoms.end].iter().map(|start| start - rows.start as u32).collect(),
            false => Vec::new(),
        };
        let targets = Targets { labels: &batch.labels[rows.clone()], weights: &batch.weights[rows], starts: &starts };
        let terms = self.objective.evaluate(&self.scores, targets, &mut self.gradient);
        self.network.backward(tape, &Tensor::from_slice(&self.gradient).to_device(self.device));
        terms
    }

    /// Divides by the global denominator, clips, updates; or skips the step, as all ranks do. Whether its loss counts.
    fn apply(&mut self, step: u64, agreed: &Agreed) -> Result<bool, JobError> {
        let position = self.position(step);
        let (values, gradients) = self.network.parameters.slices();
        let norm = sum_of_squares(gradients).sqrt() / agreed.terms.denominator.max(f64::MIN_POSITIVE);
        let finite = !agreed.nonfinite && norm.is_finite();
        if !finite {
            self.state.skipped_nonfinite += 1;
            self.nonfinite_in_a_row += 1;
        } else {
            self.nonfinite_in_a_row = 0;
            if agreed.terms.denominator > 0.0 {
                let clip = self.spec.training.clip_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
                let rate = self.schedule.at(position.epoch, step);
                self.optimizer.update(rate, clip / agreed.terms.denominator, values, gradients);
                self.state.updates += 1;
            } else {
                self.state.skipped_empty += 1;
            }
            self.state.epoch_loss += agreed.terms.loss;
            self.state.epoch_denominator += agreed.terms.denominator;
        }
        self.state.epoch_rows += agreed.rows;
        self.state.epoch_lists += agreed.lists;
        self.state.epoch_atoms += agreed.atoms;
        self.epoch_hash += agreed.hash;
        self.save_due |= agreed.checkpoint;
        self.epoch_open = position.ends_epoch;
        self.step = step + 1;
        self.gradient_norm = norm;
        self.show();
        if self.seat.world == 1 {
            self.confirmed();
        }
        if self.nonfinite_in_a_row >= self.spec.training.max_nonfinite {
            return Err(self.diverged(step));
        }
        Ok(finite)
    }

    fn diverged(&self, step: u64) -> JobError {
        let places: Vec<String> = self
            .data
            .iter()
            .flat_map(LaneReader::provenance)
            .take(3)
            .filter_map(|(file, first, end)| {
                let path = dataset::manifest::file_path(self.seat.train.as_ref()?, file as usize);
                Some(format!("`{}` rows {first}..{end}", path.display()))
            })
            .collect();
        JobError::failed(
            format!(
                "loss or gradient was not finite for {} steps in a row, the last being step {step} of epoch {}, when rank {} was reading {}",
                self.nonfinite_in_a_row,
                step / self.steps_per_epoch,
                self.seat.rank,
                places.join(", "),
            ),
            "lower the learning rate, set training.clip_norm, or normalise the features (model.normalize = \"standard\")",
        )
    }
}

/// A key for each row: its atom's, and its place in the atom.
fn dropout_keys(seed: u64, step: u64, batch: &dataset::reader::Batch, atoms: std::ops::Range<usize>) -> DropoutKeys {
    let mut rows = Vec::new();
    for atom in atoms {
        let length = if batch.lists() > 0 { batch.starts[atom + 1] - batch.starts[atom] } else { 1 };
        let key = seeded::mix(batch.atoms[atom]);
        rows.extend((0..u64::from(length)).map(|row| key.wrapping_add(row)));
    }
    DropoutKeys::new(&rows, seeded::key(&[seed, step]))
}

/// What a batch of a loss is made of.
pub fn atom_of(loss: proto::spec::LossKind) -> Atom {
    if loss.is_pointwise() { Atom::Row } else { Atom::List }
}
