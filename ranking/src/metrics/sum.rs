//! Sums that no order of addition changes.

/// An exact sum of finite numbers whose total, like each of them, stays below 2^66 in size: each is rounded once, to a multiple of 2^-60, and whole numbers are added
/// afterwards. The same numbers give the same sum to the bit in any order, in any blocks, on any number of machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sum(i128);

const UNITS: f64 = (1u64 << 60) as f64;

impl Sum {
    /// Adds a number, which must be finite.
    #[inline]
    pub fn add(&mut self, value: f64) {
        debug_assert!(value.is_finite(), "a sum of numbers that are not finite means nothing");
        self.0 += units(value);
    }

    #[inline]
    pub fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// The sum as the nearest f64.
    pub fn value(self) -> f64 {
        self.0 as f64 / UNITS
    }

    /// NaN where nothing was counted.
    pub fn mean(self, count: u64) -> f64 {
        self.value() / count as f64
    }

    /// For the wire, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(i128::from_le_bytes(bytes))
    }
}

#[inline]
fn units(value: f64) -> i128 {
    let scaled = (value * UNITS).round_ties_even();
    // Most values are metrics in [0, 1], for which the machine has an instruction.
    if scaled.abs() < 4.0 * UNITS { i128::from(scaled as i64) } else { scaled as i128 }
}

/// The mean of a metric over the lists that it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mean {
    pub sum: Sum,
    pub lists: u64,
}

impl Mean {
    /// Adds a list's value as [`Evaluator`](super::Evaluator) gives it: NaN is a list that does not count.
    #[inline]
    pub fn add(&mut self, value: f64) {
        if !value.is_nan() {
            self.sum.add(value);
            self.lists += 1;
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.sum.merge(other.sum);
        self.lists += other.lists;
    }

    /// NaN where no list counted.
    pub fn value(self) -> f64 {
        self.sum.mean(self.lists)
    }
}
