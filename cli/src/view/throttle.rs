//! Not too often: lines that stay must not scroll the table away.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_secs(5);

/// Lets one through every few seconds, the first at once.
#[derive(Default)]
pub struct Throttle(Cell<Option<Instant>>);

impl Throttle {
    pub fn due(&self) -> bool {
        let due = self.0.get().is_none_or(|last| last.elapsed() >= EVERY);
        if due {
            self.0.set(Some(Instant::now()));
        }
        due
    }
}
