//! How long to wait before a server is asked again. Pure: chance is handed in.

use std::time::Duration;

use super::mlflow::Trouble;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A server that says no is asked less often: somebody has to do something first.
const FIRST_AFTER_NO: Duration = Duration::from_secs(30);
const LONGEST_AFTER_NO: Duration = Duration::from_secs(600);

/// Before the next try, after so many that failed (this one among them). `chance` in [0, 1): many runs must not ask in step.
pub fn pause(trouble: &Trouble, failures: u32, chance: f64) -> Duration {
    let (first, longest) = match trouble {
        Trouble::Unreachable(_) | Trouble::Busy { .. } | Trouble::Gone(_) => (FIRST, LONGEST),
        Trouble::Refused { .. } | Trouble::Deleted(_) | Trouble::Rejected(_) | Trouble::Invalid(_) => {
            (FIRST_AFTER_NO, LONGEST_AFTER_NO)
        }
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    let asked = match trouble {
        Trouble::Busy { retry_after: Some(after), .. } => (*after).min(LONGEST_AFTER_NO),
        _ => Duration::ZERO,
    };
    doubled.mul_f64(0.5 + chance / 2.0).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_a_no_is_taken_for_longer() {
        let down = Trouble::Unreachable("connection refused".into());
        let most = |failures| pause(&down, failures, 1.0).as_secs_f64();
        assert_eq!([1, 2, 3, 7, 100].map(most), [0.5, 1.0, 2.0, 30.0, 30.0]);
        assert_eq!(pause(&down, 2, 0.0), Duration::from_millis(500));
        let no = Trouble::Refused { status: 401, said: String::new() };
        assert_eq!([1, 100].map(|failures| pause(&no, failures, 1.0).as_secs()), [30, 600]);
        let busy = Trouble::Busy { status: 429, said: String::new(), retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(pause(&busy, 1, 0.5), Duration::from_secs(7));
    }
}
