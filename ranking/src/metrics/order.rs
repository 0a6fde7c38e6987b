//! The order that scores put rows in.

use std::fmt::Debug;

/// A score: f32 or f64. NaN has no place in an order: refuse it before.
pub trait Score: Copy + Debug + private::Sealed {
    /// What rows are sorted by: the score, then the row's number.
    #[doc(hidden)]
    type Key: Copy + Ord + Debug + Default;

    #[doc(hidden)]
    fn scratch(scratch: &mut Scratch) -> &mut Vec<Self::Key>;
    #[doc(hidden)]
    fn key(self, row: usize) -> Self::Key;
    #[doc(hidden)]
    fn row(key: Self::Key) -> usize;
    #[doc(hidden)]
    fn tied(a: Self::Key, b: Self::Key) -> bool;
    #[doc(hidden)]
    fn single(self) -> f32;
}

/// Space for sorting, kept between lists.
#[derive(Debug, Default)]
pub struct Scratch {
    single: Vec<u64>,
    double: Vec<(u64, u32)>,
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Score for f32 {
    type Key = u64;

    fn scratch(scratch: &mut Scratch) -> &mut Vec<u64> {
        &mut scratch.single
    }

    #[inline]
    fn key(self, row: usize) -> u64 {
        u64::from(descending(self)) << 32 | row as u64
    }

    #[inline]
    fn row(key: u64) -> usize {
        (key & 0xffff_ffff) as usize
    }

    #[inline]
    fn tied(a: u64, b: u64) -> bool {
        a >> 32 == b >> 32
    }

    #[inline]
    fn single(self) -> f32 {
        self
    }
}

impl Score for f64 {
    type Key = (u64, u32);

    fn scratch(scratch: &mut Scratch) -> &mut Vec<(u64, u32)> {
        &mut scratch.double
    }

    #[inline]
    fn key(self, row: usize) -> (u64, u32) {
        let bits = (self + 0.0).to_bits();
        let ascending = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        (!ascending, row as u32)
    }

    #[inline]
    fn row(key: (u64, u32)) -> usize {
        key.1 as usize
    }

    #[inline]
    fn tied(a: (u64, u32), b: (u64, u32)) -> bool {
        a.0 == b.0
    }

    #[inline]
    fn single(self) -> f32 {
        self as f32
    }
}

/// A number's bits so that a greater number is a smaller key; equal numbers have equal keys (so has -0 with 0).
#[inline]
pub(super) fn descending(number: f32) -> u32 {
    let bits = (number + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// Ranks rows by descending score, ties in row order, into `order`.
pub fn rank(scores: &[f32], order: &mut Vec<u64>) {
    order.clear();
    order.extend(scores.iter().enumerate().map(|(row, score)| score.key(row)));
    order.sort_unstable();
    order.iter_mut().for_each(|key| *key &= 0xffff_ffff);
}
