//! Normalisation of raw features, kept inside the model so that it eats what the data holds.
//!
//! Statistics are taken block by block in f64 and merged in block order (Chan, Golub & LeVeque 1979), so that they are the same
//! to the bit for every number of workers.

use proto::spec::Normalize;
use tch::{Device, Kind, Tensor};

/// x̂ = (t(x) - mean) * scale, t being `sign(x) ln(1 + |x|)` for `log1p` and nothing for `standard`.
#[derive(Debug)]
pub struct Normalization {
    kind: Normalize,
    /// [features] each.
    pub mean: Tensor,
    pub scale: Tensor,
}

impl Normalization {
    /// The identity, until statistics or a checkpoint replace it.
    pub fn new(kind: Normalize, features: usize, device: Device) -> Self {
        let mean = Tensor::zeros([features as i64], (Kind::Float, device));
        let scale = mean.ones_like();
        Self { kind, mean, scale }
    }

    pub fn from_statistics(kind: Normalize, statistics: Statistics, device: Device) -> Self {
        let mean: Vec<f32> = statistics.mean.iter().map(|mean| *mean as f32).collect();
        let scale: Vec<f32> = statistics.scales().map(|scale| scale as f32).collect();
        let mut this = Self::new(kind, mean.len(), device);
        this.set(&mean, &scale);
        this
    }

    /// As kept in a checkpoint.
    pub fn set(&mut self, mean: &[f32], scale: &[f32]) {
        let device = self.mean.device();
        self.mean = Tensor::from_slice(mean).to_device(device);
        self.scale = Tensor::from_slice(scale).to_device(device);
    }

    /// For another thread: tensors of its own over the same memory, as it stands now.
    pub fn replica(&self) -> Self {
        Self { kind: self.kind, mean: self.mean.shallow_clone(), scale: self.scale.shallow_clone() }
    }

    /// As [`apply`](Self::apply), never `x` itself: for whoever may write to what it is given.
    pub fn apply_to_new(&self, x: &Tensor) -> Tensor {
        if self.kind == Normalize::None { x.copy() } else { self.apply(x) }
    }

    pub fn apply(&self, x: &Tensor) -> Tensor {
        match self.kind {
            Normalize::None => x.shallow_clone(),
            // In this order: x * scale - mean * scale cancels badly where the mean is large.
            Normalize::Standard => (x - &self.mean) * &self.scale,
            Normalize::Log1p => (x.sign() * x.abs().log1p() - &self.mean) * &self.scale,
        }
    }
}

/// Count, mean and sum of squared deviations of each (transformed) feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    pub rows: f64,
    pub mean: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Statistics {
    /// Of row-major features.
    pub fn of(kind: Normalize, features: &[f32], width: usize) -> Self {
        let transform = |value: f32| -> f64 {
            let value = f64::from(value);
            if kind == Normalize::Log1p { value.abs().ln_1p().copysign(value) } else { value }
        };
        let rows = (features.len() / width.max(1)) as f64;
        // Sums of distances from the first row: exact for a constant feature, which must be known for what it is.
        let first: Vec<f64> = features.iter().take(width).map(|value| transform(*value)).collect();
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            let values = mean.iter_mut().zip(row).zip(&first);
            values.for_each(|((sum, value), first)| *sum += transform(*value) - first);
        }
        mean.iter_mut().zip(&first).for_each(|(sum, first)| *sum = first + *sum / rows.max(1.0));
        let mut squares = vec![0.0; width];
        for row in features.chunks_exact(width) {
            for ((square, value), mean) in squares.iter_mut().zip(row).zip(&mean) {
                let deviation = transform(*value) - mean;
                *square += deviation * deviation;
            }
        }
        Self { rows, mean, squares }
    }

    pub fn merge(self, other: Self) -> Self {
        let rows = self.rows + other.rows;
        if self.rows == 0.0 || other.rows == 0.0 {
            return if self.rows == 0.0 { other } else { self };
        }
        let mut merged = Self { rows, mean: self.mean, squares: self.squares };
        let parts = merged.mean.iter_mut().zip(&mut merged.squares).zip(other.mean.iter().zip(&other.squares));
        for ((mean, square), (other_mean, other_square)) in parts {
            let apart = other_mean - *mean;
            *mean += apart * other.rows / rows;
            *square += other_square + apart * apart * self.rows * other.rows / rows;
        }
        merged
    }

    /// One over the standard deviation; 0 for a feature that never varied, which then says nothing.
    fn scales(&self) -> impl Iterator<Item = f64> {
        self.squares.iter().map(|square| if *square > 0.0 { (self.rows / square).sqrt() } else { 0.0 })
    }

    /// As one row of numbers, for the wire: rows, means, squares.
    pub fn pack(&self, out: &mut Vec<f64>) {
        out.push(self.rows);
        out.extend_from_slice(&self.mean);
        out.extend_from_slice(&self.squares);
    }

    pub fn unpack(packed: &[f64]) -> Self {
        let width = (packed.len() - 1) / 2;
        Self { rows: packed[0], mean: packed[1..=width].to_vec(), squares: packed[width + 1..].to_vec() }
    }
}
