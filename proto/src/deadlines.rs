//! One budget of time. Two settings are given, the heartbeat and the drain; every other deadline of the control plane and of the
//! collectives follows from them, so that they cannot contradict each other. docs/recovery.md has the table.

use std::time::Duration;

/// Every deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// How often a worker shows that it lives.
    pub heartbeat: Duration,
    /// How long whoever was told to go may take to hand over and leave.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(1), drain: Duration::from_secs(30) }
    }
}

/// Two settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Contradiction {
    pub message: String,
    pub hint: String,
}

impl Deadlines {
    /// Heartbeats that may be missing before a worker counts as gone.
    pub const MISSED_AT_MOST: u32 = 5;

    /// After so long without a word a worker is shown as suspect: one heartbeat may be late by half.
    pub fn suspect(&self) -> Duration {
        self.heartbeat * 3 / 2
    }

    /// After so long without a word a worker has left.
    pub fn lost(&self) -> Duration {
        self.heartbeat * Self::MISSED_AT_MOST
    }

    /// How long a peer's machine may leave bytes unacknowledged (`TCP_USER_TIMEOUT`) before a collective counts it as gone: not before
    /// the coordinator does, which knows more.
    pub fn unacknowledged(&self) -> Duration {
        self.lost() + self.heartbeat
    }

    /// How long members may take to let go of a generation that is over; who has not by then is left behind.
    pub fn let_go(&self) -> Duration {
        self.lost()
    }

    /// How long the members of a new generation may look for one another.
    pub fn rendezvous(&self) -> Duration {
        (self.lost() * 2).max(Duration::from_secs(10))
    }

    /// How long a member may not get on (no step, no block read or scored) while its peers wait for it in a collective. A page fault or
    /// a slow disk is no reason to lose it: much longer than any of them.
    pub fn stuck(&self) -> Duration {
        self.heartbeat * 60
    }

    /// How long a coordinator that comes back waits for the members of a run to find it again.
    pub fn reattach(&self) -> Duration {
        self.lost() * 2
    }

    /// Between two tries of a worker to find its coordinator again, at most.
    pub fn retry(&self) -> Duration {
        self.heartbeat
    }

    /// How long a coordinator that leads others may be out of touch with etcd before it leads no more. etcd knows no lease of less than 2 s.
    pub fn out_of_touch(&self) -> Duration {
        self.lost().max(Duration::from_secs(2))
    }

    /// How often the coordinator looks at its clock.
    pub fn tick(&self) -> Duration {
        (self.heartbeat / 4).clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    /// Looked at when a coordinator starts.
    ///
    /// # Errors
    /// A setting is too small to mean anything, or one leaves no room for the other.
    pub fn check(&self) -> Result<(), Contradiction> {
        let shown = humantime::format_duration;
        if self.heartbeat < Duration::from_millis(20) {
            return Err(Contradiction {
                message: format!("a heartbeat of {} is shorter than a busy machine's pauses", shown(self.heartbeat)),
                hint: "1 s suits most clusters; 100 ms is the least that is of use".into(),
            });
        }
        if self.drain < self.lost() {
            return Err(Contradiction {
                message: format!(
                    "a drain of {} ends before a silent worker is given up, which takes {}",
                    shown(self.drain),
                    shown(self.lost())
                ),
                hint: format!("give at least {} to drain, or a shorter heartbeat", shown(self.lost())),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_follow_one_another_and_contradictions_are_refused() {
        let usual = Deadlines::default();
        usual.check().unwrap();
        assert!(usual.heartbeat < usual.suspect() && usual.suspect() < usual.heartbeat * 2);
        assert!(
            usual.lost() < usual.unacknowledged()
                && usual.let_go() < usual.rendezvous()
                && usual.lost() < usual.stuck()
        );
        let hasty = Deadlines { drain: Duration::from_secs(2), ..usual };
        assert_eq!(
            hasty.check().unwrap_err().to_string(),
            "a drain of 2s ends before a silent worker is given up, which takes 5s"
        );
        assert!(Deadlines { heartbeat: Duration::from_millis(1), ..usual }.check().is_err());
    }
}
