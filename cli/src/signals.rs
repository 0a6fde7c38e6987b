//! Ctrl-C and its relatives, as a stream of requests to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::Fault;

/// SIGINT, SIGTERM and SIGHUP: a terminal that closes wants the same as one that interrupts.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    /// From here on these signals do not end the process.
    pub fn listen() -> Result<Self, Fault> {
        let listen = |kind| signal(kind).map_err(|error| Fault::run("cannot listen for signals").because(&error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next request. Safe to drop while it waits.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
