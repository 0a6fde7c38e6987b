//! What workers take of their machines, as curves: heartbeats come often, points are few.

use std::time::Duration;

use proto::{WorkerId, v1};

use super::{Effect, Notice};
use crate::clock::Timestamp;

/// A worker has a point no more often.
const POINT_EVERY: Duration = Duration::from_secs(10);
/// The workers of a run together have no more than four a second.
const FOR_EACH_WORKER: Duration = Duration::from_millis(250);

/// What one worker's heartbeats have said since its last point: the mean of the processor, the most of the memory.
#[derive(Debug)]
pub(super) struct SystemWindow {
    since: Timestamp,
    /// The newest point's step: one step has one point.
    last_step: Option<u64>,
    cpu_percents: f64,
    beats: u32,
    memory_bytes: u64,
}

impl SystemWindow {
    pub fn new(since: Timestamp) -> Self {
        Self { since, last_step: None, cpu_percents: 0.0, beats: 0, memory_bytes: 0 }
    }

    pub fn take(&mut self, seen: &v1::SystemUse) {
        if seen.cpu_percent.is_finite() && seen.cpu_percent >= 0.0 {
            self.cpu_percents += seen.cpu_percent;
            self.beats += 1;
        }
        self.memory_bytes = self.memory_bytes.max(seen.memory_bytes);
    }

    /// The point that is due at `step`. `last`: no other will follow, so its time need not have come.
    pub fn point(&mut self, now: Timestamp, worker: WorkerId, step: u64, world: usize, last: bool) -> Option<Effect> {
        let every = POINT_EVERY.max(FOR_EACH_WORKER * u32::try_from(world).unwrap_or(u32::MAX));
        let due = last || now.since(self.since) >= every;
        if !due || self.beats == 0 || self.last_step.is_some_and(|last| last >= step) {
            return None;
        }
        let point = v1::SystemUse {
            worker: worker.to_string(),
            step,
            cpu_percent: self.cpu_percents / f64::from(self.beats),
            memory_bytes: self.memory_bytes,
        };
        *self = Self { last_step: Some(step), ..Self::new(now) };
        Some(Effect::Emit(Notice::System(point)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cpu_percent: f64, memory_bytes: u64) -> v1::SystemUse {
        v1::SystemUse { cpu_percent, memory_bytes, ..v1::SystemUse::default() }
    }

    #[test]
    fn heartbeats_become_one_point_a_window_with_their_mean_and_their_most() {
        let worker = WorkerId { slot: 2, life: 1 };
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        let mut window = SystemWindow::new(at(0));
        assert!(window.point(at(11), worker, 5, 2, false).is_none(), "nothing was seen");
        window.take(&seen(100.0, 7));
        window.take(&seen(f64::NAN, 9));
        window.take(&seen(50.0, 8));
        assert!(window.point(at(9), worker, 5, 2, false).is_none(), "too early");
        let Some(Effect::Emit(Notice::System(point))) = window.point(at(10), worker, 5, 2, false) else { panic!() };
        assert_eq!((point.worker.as_str(), point.step, point.cpu_percent, point.memory_bytes), ("w2:1", 5, 75.0, 9));
        window.take(&seen(10.0, 1));
        assert!(window.point(at(20), worker, 5, 2, false).is_none(), "the step has its point, what was seen is kept");
        assert!(window.point(at(21), worker, 6, 400, false).is_none(), "four hundred workers have a point less often");
        assert!(window.point(at(21), worker, 6, 400, true).is_some(), "the last one comes when it comes");
    }
}
