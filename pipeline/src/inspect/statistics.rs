//! One column of numbers, summed up while it streams by.

use arrow::array::{Array, Float32Array};

use super::FeatureReport;

/// Where a value stands: file index, row of that file, both from 0.
pub(super) type Place = (usize, u64);

/// Running statistics of a float32 column; moments merge chunk by chunk in f64 (Chan, Golub and LeVeque 1979).
#[derive(Debug)]
pub(super) struct Statistics {
    finite: u64,
    mean: f64,
    /// Sum of squared differences from the mean.
    spread: f64,
    min: f32,
    max: f32,
    pub zeros: u64,
    pub below_zero: u64,
    pub nulls: u64,
    pub nonfinite: u64,
    pub first_null: Option<Place>,
    pub first_nonfinite: Option<Place>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            finite: 0,
            mean: 0.0,
            spread: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            zeros: 0,
            below_zero: 0,
            nulls: 0,
            nonfinite: 0,
            first_null: None,
            first_nonfinite: None,
        }
    }
}

impl Statistics {
    pub fn add(&mut self, column: &Float32Array, file: usize, row: u64) {
        let all: &[f32] = column.values();
        if column.null_count() == 0 && all.iter().fold(true, |fine, value| fine & value.is_finite()) {
            return self.add_finite(all);
        }
        let mut finite = Vec::with_capacity(all.len());
        for (index, &value) in all.iter().enumerate() {
            let place = (file, row + index as u64);
            if column.is_null(index) {
                self.nulls += 1;
                self.first_null.get_or_insert(place);
            } else if value.is_finite() {
                finite.push(value);
            } else {
                self.nonfinite += 1;
                self.first_nonfinite.get_or_insert(place);
            }
        }
        self.add_finite(&finite);
    }

    fn add_finite(&mut self, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let spread: f64 = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum();
        let (before, delta) = (self.finite as f64, mean - self.mean);
        self.spread += spread + delta * delta * before * count / (before + count);
        self.mean += delta * count / (before + count);
        self.finite += values.len() as u64;
        self.min = values.iter().fold(self.min, |min, &value| min.min(value));
        self.max = values.iter().fold(self.max, |max, &value| max.max(value));
        self.zeros += values.iter().map(|&value| u64::from(value == 0.0)).sum::<u64>();
        self.below_zero += values.iter().map(|&value| u64::from(value < 0.0)).sum::<u64>();
    }

    /// The one finite value it holds, if it holds no other.
    pub fn constant(&self) -> Option<f32> {
        (self.finite > 0 && self.min == self.max).then_some(self.min)
    }

    pub fn report(&self, name: &str) -> FeatureReport {
        let known = |value: f64| if self.finite > 0 { value } else { f64::NAN };
        FeatureReport {
            name: name.to_owned(),
            min: known(f64::from(self.min)),
            mean: known(self.mean),
            std: known((self.spread / (self.finite as f64).max(1.0)).sqrt()),
            max: known(f64::from(self.max)),
            zeros: self.zeros,
            nulls: self.nulls,
            nonfinite: self.nonfinite,
        }
    }
}
