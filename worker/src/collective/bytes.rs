//! Numbers as the bytes that travel: what a collective works on is one space of bytes, whoever owns it.
//!
//! Links carry bytes in this machine's order; big-endian machines are not supported.
#![allow(unsafe_code, reason = "views of plain numbers as bytes, which std has no safe call for")]

use std::ops::Range;

const _: () = assert!(cfg!(target_endian = "little"), "collectives carry little-endian numbers");

/// What a collective reads from and writes to, addressed by byte. Parts that are not contiguous in memory may follow each other.
pub trait Cargo {
    /// The longest contiguous beginning of `range`; empty only for an empty range.
    fn read(&self, range: Range<usize>) -> &[u8];
    /// The longest contiguous beginning of `range`, to be overwritten.
    fn write(&mut self, range: Range<usize>) -> &mut [u8];
    /// How many bytes the number at `at` has: what [`Cargo::add`] needs at least.
    fn grain(&self, at: usize) -> usize;
    /// Adds the whole numbers at the beginning of `bytes` to those at `at`; returns how many bytes that were.
    fn add(&mut self, at: usize, bytes: &[u8]) -> usize;
}

/// A tail of f64 and, behind it, gradients in f32: what an all-reduce sums.
pub struct Sums<'a> {
    tail: &'a mut [f64],
    gradients: &'a mut [f32],
}

impl<'a> Sums<'a> {
    pub fn new(gradients: &'a mut [f32], tail: &'a mut [f64]) -> Self {
        Self { tail, gradients }
    }

    pub fn len(&self) -> usize {
        self.tail_bytes() + size_of_val(self.gradients)
    }

    pub fn tail_bytes(&self) -> usize {
        size_of_val(self.tail)
    }
}

impl Cargo for Sums<'_> {
    fn read(&self, range: Range<usize>) -> &[u8] {
        let split = self.tail_bytes();
        if range.start < split {
            &view(self.tail)[range.start..range.end.min(split)]
        } else {
            &view(self.gradients)[range.start - split..range.end - split]
        }
    }

    fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        let split = self.tail_bytes();
        if range.start < split {
            &mut view_mut(self.tail)[range.start..range.end.min(split)]
        } else {
            &mut view_mut(self.gradients)[range.start - split..range.end - split]
        }
    }

    fn grain(&self, at: usize) -> usize {
        if at < self.tail_bytes() { size_of::<f64>() } else { size_of::<f32>() }
    }

    fn add(&mut self, at: usize, bytes: &[u8]) -> usize {
        let split = self.tail_bytes();
        if at < split {
            add_f64(&mut self.tail[at / 8..], bytes)
        } else {
            add_f32(&mut self.gradients[(at - split) / 4..], bytes)
        }
    }
}

/// Bytes to be sent and, behind them, bytes to be overwritten. Nothing is ever added to them.
pub struct Letters<'a> {
    pub mine: &'a [u8],
    pub theirs: &'a mut [u8],
}

impl Cargo for Letters<'_> {
    fn read(&self, range: Range<usize>) -> &[u8] {
        let split = self.mine.len();
        if range.start < split {
            &self.mine[range.start..range.end.min(split)]
        } else {
            &self.theirs[range.start - split..range.end - split]
        }
    }

    fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        let split = self.mine.len();
        &mut self.theirs[range.start - split..range.end - split]
    }

    fn grain(&self, _at: usize) -> usize {
        1
    }

    fn add(&mut self, at: usize, bytes: &[u8]) -> usize {
        let into = self.write(at..at + bytes.len());
        into.copy_from_slice(bytes);
        bytes.len()
    }
}

// Both loops compile to vector additions: the arrays have a known size, and unaligned vector loads cost nothing here.
fn add_f32(sums: &mut [f32], bytes: &[u8]) -> usize {
    let (values, _) = bytes.as_chunks::<4>();
    let count = values.len().min(sums.len());
    for (sum, value) in sums[..count].iter_mut().zip(&values[..count]) {
        *sum += f32::from_ne_bytes(*value);
    }
    count * 4
}

fn add_f64(sums: &mut [f64], bytes: &[u8]) -> usize {
    let (values, _) = bytes.as_chunks::<8>();
    let count = values.len().min(sums.len());
    for (sum, value) in sums[..count].iter_mut().zip(&values[..count]) {
        *sum += f64::from_ne_bytes(*value);
    }
    count * 8
}

/// Numbers without padding, of which every bit pattern is a value.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f64 {}

fn view<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: the same memory for the same lifetime; a Plain has no padding, and u8 no alignment.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

fn view_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `view`; whatever is written is a valid Plain.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_crosses_from_tail_to_gradients_and_leaves_broken_numbers_for_later() {
        let (mut gradients, mut tail) = ([1.0_f32, 2.0, 3.0], [10.0_f64, 20.0]);
        let mut sums = Sums::new(&mut gradients, &mut tail);
        assert_eq!(sums.len(), 28);
        assert_eq!(sums.read(0..28).len(), 16);
        assert_eq!(sums.read(16..28).len(), 12);
        let mut incoming = 0.5_f64.to_ne_bytes().to_vec();
        incoming.extend([0; 5]);
        assert_eq!(sums.add(8, &incoming), 8);
        let incoming: Vec<u8> = [1.0_f32, 1.5].iter().flat_map(|v| v.to_ne_bytes()).chain([7; 3]).collect();
        assert_eq!(sums.add(20, &incoming), 8);
        assert_eq!((gradients, tail), ([1.0, 3.0, 4.5], [10.0, 20.5]));
    }
}
