//! Chance that is a function of what it is for: the same on every machine, in any order.

/// splitmix64 (Steele, Lea & Flood 2014): spreads a value over 64 bits.
#[inline]
pub fn mix(value: u64) -> u64 {
    finalise(value.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// The last part of it: for values that are spread out already, or counted in steps of its own.
#[inline]
pub fn finalise(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A Poisson variable of mean 1 out of 64 random bits, by inversion; 2^-64 is lost at its far end.
pub fn poisson(bits: u64) -> u8 {
    let mut unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
    let mut mass = (-1.0f64).exp();
    for times in 0..u8::MAX {
        if unit < mass {
            return times;
        }
        unit -= mass;
        mass /= f64::from(times) + 1.0;
        if mass < f64::EPSILON * f64::EPSILON {
            return times;
        }
    }
    u8::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_weights_have_mean_and_variance_one_and_the_masses_of_the_law() {
        const DRAWS: u64 = 400_000;
        let mut counts = [0u64; 256];
        (0..DRAWS).for_each(|at| counts[usize::from(poisson(mix(at)))] += 1);
        let moment = |power: i32| -> f64 {
            counts.iter().enumerate().map(|(at, count)| (at as f64).powi(power) * *count as f64).sum::<f64>()
                / DRAWS as f64
        };
        assert!((moment(1) - 1.0).abs() < 0.01 && (moment(2) - 2.0).abs() < 0.03, "{} {}", moment(1), moment(2));
        let zero = counts[0] as f64 / DRAWS as f64;
        assert!((zero - (-1.0f64).exp()).abs() < 0.005, "{zero}");
        assert!(poisson(u64::MAX) < 40);
    }
}
