//! The optimizers, over the flat buffers, and the learning rate over time.

use std::f64::consts::PI;

use proto::spec::{self, Every, OptimizerKind, ScheduleKind};

/// An optimizer and its state, one pass over the flat buffer an update.
#[derive(Debug)]
pub struct Optimizer {
    spec: spec::Optimizer,
    /// First and second moments (`adamw`), or momentum and nothing (`sgd`).
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// Updates so far.
    pub updates: u64,
}

impl Optimizer {
    pub fn new(spec: spec::Optimizer, parameters: usize) -> Self {
        let second = if spec.kind == OptimizerKind::Adamw { parameters } else { 0 };
        Self { spec, first: vec![0.0; parameters], second: vec![0.0; second], updates: 0 }
    }

    /// One update. The gradient used is `gradients * scale`.
    pub fn update(&mut self, learning_rate: f64, scale: f64, values: &mut [f32], gradients: &[f32]) {
        self.updates += 1;
        match self.spec.kind {
            OptimizerKind::Adamw => self.adamw(learning_rate, scale, values, gradients),
            OptimizerKind::Sgd => self.sgd(learning_rate, scale, values, gradients),
        }
    }

    /// AdamW (Loshchilov & Hutter 2019), in the order of operations of PyTorch's.
    fn adamw(&mut self, learning_rate: f64, scale: f64, values: &mut [f32], gradients: &[f32]) {
        let [beta1, beta2] = self.spec.betas.unwrap_or([0.9, 0.999]);
        let decay = self.spec.weight_decay.unwrap_or(0.01);
        let updates = self.updates as f64;
        let step_size = (learning_rate / (1.0 - beta1.powf(updates))) as f32;
        let root = (1.0 - beta2.powf(updates)).sqrt() as f32;
        let eps = self.spec.eps.unwrap_or(1e-8) as f32;
        let keep = (1.0 - learning_rate * decay) as f32;
        let (beta2, towards1, towards2, scale) =
            (beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32, scale as f32);
        let state = self.first.iter_mut().zip(&mut self.second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradients).zip(state) {
            let gradient = gradient * scale;
            *first += (gradient - *first) * towards1;
            *second = *second * beta2 + gradient * gradient * towards2;
            *value = *value * keep - step_size * *first / (second.sqrt() / root + eps);
        }
    }

    fn sgd(&mut self, learning_rate: f64, scale: f64, values: &mut [f32], gradients: &[f32]) {
        let decay = self.spec.weight_decay.unwrap_or(0.0) as f32;
        let momentum = self.spec.momentum.unwrap_or(0.0) as f32;
        let (rate, scale) = (learning_rate as f32, scale as f32);
        for ((value, gradient), velocity) in values.iter_mut().zip(gradients).zip(&mut self.first) {
            let gradient = gradient * scale + decay * *value;
            *velocity = *velocity * momentum + gradient;
            *value -= rate * *velocity;
        }
    }
}

/// The learning rate at a step.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    spec: spec::Schedule,
    base: f64,
    epochs: u64,
    warmup_steps: u64,
}

impl Schedule {
    pub fn new(spec: spec::Schedule, base: f64, epochs: u64, steps_per_epoch: u64) -> Self {
        let warmup_steps = match spec.warmup {
            Some(Every::Steps(steps)) => steps.get(),
            Some(Every::Epochs(epochs)) => epochs.get() * steps_per_epoch,
            Some(Every::Time(_)) | None => 0,
        };
        Self { spec, base, epochs, warmup_steps }
    }

    /// `epoch` and `step` (of the run) from 0. Warm-up multiplies what the schedule says.
    pub fn at(&self, epoch: u64, step: u64) -> f64 {
        let rate = match self.spec.kind {
            ScheduleKind::Constant => self.base,
            ScheduleKind::Cosine => {
                let minimum = self.spec.minimum.unwrap_or(0.0);
                minimum + (self.base - minimum) * (1.0 + (PI * epoch as f64 / self.epochs as f64).cos()) / 2.0
            }
        };
        if step < self.warmup_steps { rate * (step + 1) as f64 / self.warmup_steps as f64 } else { rate }
    }
}

/// Sum of squares in f64, in an order that is fixed and wide enough for vector units.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_gives_pytorchs_values() {
        // torch.optim.lr_scheduler.CosineAnnealingLR(T_max=4), base 0.1: the rate of epochs 0 to 3.
        let spec = spec::Schedule { kind: ScheduleKind::Cosine, ..Default::default() };
        let schedule = Schedule::new(spec, 0.1, 4, 10);
        let expected = [0.1, 0.085_355_339_059_327_37, 0.05, 0.014_644_660_940_672_627];
        for (epoch, expected) in expected.into_iter().enumerate() {
            assert!((schedule.at(epoch as u64, 10 * epoch as u64) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn warm_up_grows_linearly_to_the_schedules_rate() {
        let warmup = "4 steps".parse().ok();
        let schedule = Schedule::new(spec::Schedule { warmup, ..Default::default() }, 0.8, 4, 10);
        let rates: Vec<f64> = (0..6).map(|step| schedule.at(0, step)).collect();
        assert_eq!(rates, [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8]);
    }

    #[test]
    fn adamws_first_update_is_the_rate_against_the_gradients_sign_after_decay() {
        let spec = spec::Optimizer { learning_rate: 0.1, weight_decay: Some(0.5), ..Default::default() };
        let mut optimizer = Optimizer::new(spec, 2);
        let mut values = [1.0f32, 1.0];
        optimizer.update(0.1, 0.5, &mut values, &[4.0, -0.02]);
        assert!((values[0] - (0.95 - 0.1)).abs() < 1e-6 && (values[1] - (0.95 + 0.1)).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn momentum_adds_up() {
        let spec = spec::Optimizer { kind: OptimizerKind::Sgd, momentum: Some(0.5), ..Default::default() };
        let mut optimizer = Optimizer::new(spec, 1);
        let mut values = [0.0f32];
        optimizer.update(1.0, 1.0, &mut values, &[1.0]);
        optimizer.update(1.0, 1.0, &mut values, &[1.0]);
        assert_eq!(values, [-2.5]);
    }
}
