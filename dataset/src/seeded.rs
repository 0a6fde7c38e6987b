//! Randomness that is a function of its seed alone, in every version of Lockstep: data order and audit hashes must not move
//! with a library's release, so the mixing function (splitmix64, Steele, Lea & Flood 2014) is spelled out here.

/// Spreads `value` over 64 bits; a bijection.
#[inline]
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One key out of several parts, order mattering.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0x243f_6a88_85a3_08d3, |key, part| mix(key ^ part).rotate_left(23))
}

/// A stream of 64-bit values.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    pub fn new(parts: &[u64]) -> Self {
        Self(key(parts))
    }

    #[inline]
    pub fn draw(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    /// Uniform in `0..bound` (Lemire's multiply-shift; its bias is below 2^-32 for bounds below 2^32).
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in [0, 1).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `0..n` in random order.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n as usize).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}
