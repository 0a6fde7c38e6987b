//! When a worker that died is started again: at once, then more and more slowly while it keeps dying young, and no more once it has
//! died too often.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Within so long the restarts of a slot are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Who lived shorter than this died young: most likely of what will kill the next one too.
const YOUNG: Duration = Duration::from_secs(10);

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The restarts of one slot.
#[derive(Debug)]
pub struct Restarts {
    /// In a window; 0: never.
    most: u32,
    /// When the newest ones were due.
    due: VecDeque<Instant>,
    /// Lives in a row that ended young.
    young: u32,
}

impl Restarts {
    pub fn new(most: u32) -> Self {
        Self { most, due: VecDeque::new(), young: 0 }
    }

    /// How long to wait before the next life; none: the slot is given up.
    pub fn after(&mut self, now: Instant, lived: Duration) -> Option<Duration> {
        self.young = if lived < YOUNG { self.young.saturating_add(1) } else { 0 };
        while self.due.front().is_some_and(|due| now.saturating_duration_since(*due) >= WINDOW) {
            self.due.pop_front();
        }
        if self.due.len() >= self.most as usize {
            return None;
        }
        let wait = match self.young.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(8)).min(LONGEST_WAIT),
        };
        self.due.push_back(now + wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lives of so many seconds each, one after another: the waits between them, in milliseconds, until the slot is given up.
    fn waits(most: u32, lives: &[u64]) -> Vec<u128> {
        let (mut restarts, mut now) = (Restarts::new(most), Instant::now());
        let mut waits = Vec::new();
        for seconds in lives {
            let lived = Duration::from_secs(*seconds);
            now += lived;
            let Some(wait) = restarts.after(now, lived) else { break };
            now += wait;
            waits.push(wait.as_millis());
        }
        waits
    }

    #[test]
    fn who_keeps_dying_young_waits_longer_and_longer_and_is_given_up_in_the_end() {
        assert_eq!(waits(10, &[0; 30]), [0, 500, 1000, 2000, 4000, 5000, 5000, 5000, 5000, 5000]);
        assert_eq!(waits(3, &[0; 30]), [0, 500, 1000]);
    }

    #[test]
    fn who_lived_well_is_started_again_at_once_and_for_ever() {
        assert_eq!(waits(10, &[15; 200]), [0; 200]);
        assert_eq!(waits(10, &[0, 0, 0, 3600, 0, 0]), [0, 500, 1000, 0, 0, 500]);
    }

    #[test]
    fn zero_means_never() {
        assert!(waits(0, &[3600]).is_empty());
    }
}
