//! What this process takes of its machine, read where heartbeats are made: two system calls a second, none of them on a step's path.

use std::time::Instant;

use proto::v1;
use rustix::time::{ClockId, clock_gettime};

/// Reads what was taken since it was read last.
pub struct Gauge {
    read: Instant,
    /// Processor seconds of all threads of this process.
    cpu: f64,
}

impl Gauge {
    pub fn start() -> Self {
        Self { read: Instant::now(), cpu: cpu_seconds() }
    }

    /// `None`: no time has passed, or this system does not tell.
    pub fn read(&mut self) -> Option<v1::SystemUse> {
        let (now, cpu) = (Instant::now(), cpu_seconds());
        let seconds = (now - self.read).as_secs_f64();
        let used = cpu - self.cpu;
        if seconds <= 0.0 {
            return None;
        }
        (self.read, self.cpu) = (now, cpu);
        let memory_bytes = resident_bytes()?;
        Some(v1::SystemUse { cpu_percent: used / seconds * 100.0, memory_bytes, ..v1::SystemUse::default() })
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    Some(kibibytes.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_shows_and_so_does_the_memory_that_it_holds() {
        let mut gauge = Gauge::start();
        let held = vec![1u8; 64 << 20];
        let began = Instant::now();
        let mut sum = 0u64;
        while began.elapsed().as_millis() < 50 {
            sum = held.iter().step_by(4096).fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        }
        let seen = gauge.read().unwrap();
        assert!(seen.cpu_percent > 0.0 && seen.memory_bytes > 64 << 20, "{seen:?} {sum}");
    }
}
