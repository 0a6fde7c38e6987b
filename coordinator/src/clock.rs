//! Points in time as the core sees them: handed in from outside, never read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub fn unix_micros(self) -> u64 {
        self.0
    }

    /// Zero where `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Wall time that never jumps: read once, then carried on by the monotonic clock, so that a corrected system clock can neither
/// time a worker out nor keep a run waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    unix_micros: u64,
}

impl Clock {
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), unix_micros: micros(unix) }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.unix_micros.saturating_add(micros(self.started.elapsed())))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
