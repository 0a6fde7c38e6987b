//! Names and values as MLflow takes them, and back.
//!
//! MLflow's names have letters, digits and `_-.: /`, so `ndcg@10` goes as `ndcg_at_10`. A name that has `_at_` and a digit of its own keeps it
//! apart by one more `_`: `lift_at_10` goes as `lift_at__10`. Its database has no infinities, its pages no way to draw them.

use serde_json::Value;

const AT: &str = "_at_";

/// `validation/ndcg@10` as `validation/ndcg_at_10`. Characters that no name of Lockstep has become `_`, and do not come back.
pub fn to_mlflow(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if first == '@' {
            out += AT;
        } else if let Some(tail) = rest.strip_prefix(AT)
            && tail.trim_start_matches('_').starts_with(|c: char| c.is_ascii_digit())
        {
            out += AT;
            // One more, before those that are there.
            out.push('_');
            rest = tail;
            continue;
        } else if first.is_ascii_alphanumeric() || "_-.: /".contains(first) {
            out.push(first);
        } else {
            out.push('_');
        }
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// What [`to_mlflow`] was given.
pub fn from_mlflow(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix(AT) {
            let digits = tail.trim_start_matches('_');
            if digits.starts_with(|c: char| c.is_ascii_digit()) {
                match tail.strip_prefix('_') {
                    Some(tail) => {
                        out += AT;
                        rest = tail;
                    }
                    None => {
                        out.push('@');
                        rest = tail;
                    }
                }
                continue;
            }
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// NaN has a word in JSON and a column in MLflow's database; infinities are stored as the largest number of their sign.
pub fn value_to_mlflow(value: f64) -> Value {
    if value.is_nan() { "NaN".into() } else { value.clamp(-f64::MAX, f64::MAX).into() }
}

/// What [`value_to_mlflow`] was given. `None`: not a number's word.
pub fn value_from_mlflow(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(word) => match word.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            digits => digits.parse().ok()?,
        },
        value => value.as_f64()?,
    };
    Some(if number.abs() == f64::MAX { f64::INFINITY.copysign(number) } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_mapped_both_ways() {
        for (ours, theirs) in [
            ("ndcg@10", "ndcg_at_10"),
            ("validation/ndcg@10", "validation/ndcg_at_10"),
            ("lift_at_10", "lift_at__10"),
            ("lift_at__10", "lift_at___10"),
            ("lift_at_10@5", "lift_at__10_at_5"),
            ("look_at_me", "look_at_me"),
            ("system/w1/memory_bytes", "system/w1/memory_bytes"),
        ] {
            assert_eq!(to_mlflow(ours), theirs);
            assert_eq!(from_mlflow(theirs), ours);
        }
        assert_eq!(to_mlflow("größe %"), "gr__e _");
    }

    #[test]
    fn what_is_not_finite_survives() {
        for value in [0.1, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::NAN] {
            let back = value_from_mlflow(&value_to_mlflow(value)).unwrap();
            assert!(back.to_bits() == value.to_bits() || (back.is_nan() && value.is_nan()), "{value} {back}");
        }
        assert_eq!(value_to_mlflow(f64::NAN), "NaN");
        assert_eq!(value_from_mlflow(&"Infinity".into()), Some(f64::INFINITY));
        assert_eq!(value_from_mlflow(&Value::Null), None);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "(@[0-9]|_at_|_|a|t|[0-9]|/){0,12}") {
            let there = to_mlflow(&name);
            prop_assert!(!there.contains('@'));
            prop_assert_eq!(from_mlflow(&there), name);
        }
    }
}
