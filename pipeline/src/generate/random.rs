//! Randomness by counting: a value is a hash of what it is for, so that no value depends on which were drawn before it.

use dataset::seeded::mix;

/// 2^64 / golden ratio: splitmix64's increment.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stream number `stream` of the values below `key` (splitmix64).
#[inline]
pub fn draw(key: u64, stream: u64) -> u64 {
    mix(key.wrapping_add(stream.wrapping_mul(STEP)))
}

/// Two uniform values in [0, 1), of 24 bits each.
#[inline]
pub fn two(bits: u64) -> (f32, f32) {
    const SCALE: f32 = 1.0 / (1 << 24) as f32;
    ((bits >> 40) as f32 * SCALE, ((bits >> 16) & 0xff_ffff) as f32 * SCALE)
}

/// One uniform value in [0, 1).
#[inline]
pub fn one(bits: u64) -> f32 {
    two(bits).0
}

/// About normal, mean 0 and variance 1, within 3.47: the sum of four uniform values.
#[inline]
pub fn bell(bits: u64) -> f32 {
    let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
    (sum as f32 / 65_535.0 - 2.0) * 1.732_050_8
}
