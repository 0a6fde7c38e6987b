//! Forming the group of one generation: what a rank needs to know, and the ring that comes of it. How the ranks find each other is
//! the work of `meeting`.

use super::link::Link;
use super::meeting::{Meeting, Seat};
use super::monitor::{Fate, Monitor};
use super::ring::Ring;
use super::shm::Shm;
use super::tcp::Tcp;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Where a rank is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its worker's name in the run, as in `w2:1`.
    pub worker: String,
    /// Where its listener is reached.
    pub address: SocketAddr,
    /// Ranks that say the same here try to share memory.
    pub machine: String,
}

/// Which group a connection is for. The same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupId {
    pub run: String,
    pub generation: u64,
    /// Known to the members alone, so that nobody joins by accident.
    pub secret: u64,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to wait for all peers.
    pub rendezvous: Duration,
    /// How long a client that has connected may take to say who it is.
    pub handshake: Duration,
    /// How long a machine may be unreachable before its ranks are lost.
    pub silence: Duration,
    /// Whether ranks of one machine share memory where they can.
    pub shared_memory: bool,
    /// Set from elsewhere, ends the wait for peers.
    pub cancelled: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rendezvous: Duration::from_secs(60),
            handshake: Duration::from_secs(2),
            silence: Duration::from_secs(10),
            shared_memory: true,
            cancelled: Arc::default(),
        }
    }
}

/// Why a group did not form.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{} of {peers} peers missing after {waited:?}: {}", missing.len(), missing.join(", "))]
    Missing { missing: Vec<String>, ranks: Vec<usize>, peers: usize, waited: Duration },
    #[error("{peer} refused this rank: {reason}")]
    Refused { peer: String, reason: String },
    #[error("rank {me} is not among {world} ranks")]
    NoSuchRank { me: usize, world: usize },
    #[error("cancelled while waiting for {}", missing.join(", "))]
    Cancelled { missing: Vec<String> },
    #[error("cannot listen for peers")]
    Listener(#[source] io::Error),
    #[error("cannot watch the peers")]
    Monitor(#[source] io::Error),
}

/// Connects `me` with all `peers`, given in rank order and including `me`. The listener is only borrowed, and left
/// non-blocking: a later generation uses it again.
///
/// # Errors
/// Names the peers that did not come in time, or the one that refused this rank for good.
pub fn connect(
    listener: &TcpListener,
    me: usize,
    peers: &[PeerAddress],
    group: &GroupId,
    options: &Options,
) -> Result<Ring, ConnectError> {
    if me >= peers.len() {
        return Err(ConnectError::NoSuchRank { me, world: peers.len() });
    }
    listener.set_nonblocking(true).map_err(ConnectError::Listener)?;
    let seats = Meeting::new(me, peers, group, options).gather(listener)?;
    assemble(me, peers, seats)
}

fn assemble(me: usize, peers: &[PeerAddress], seats: Vec<Seat>) -> Result<Ring, ConnectError> {
    let (mut links, mut watches, mut memories) = (Vec::new(), Vec::new(), Vec::new());
    for (rank, seat) in seats.into_iter().enumerate() {
        watches.extend(seat.watch.map(|stream| (rank, stream)));
        let shm = seat.memory.map(Shm::new).inspect(|shm| memories.push(Arc::clone(shm.memory())));
        links.push(shm.map(Link::Shm).or_else(|| seat.data.map(|stream| Link::Tcp(Tcp::new(stream)))));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let crowded = peers.iter().filter(|peer| peer.machine == peers[me].machine).count() > cores;
    let workers = peers.iter().map(|peer| peer.worker.clone()).collect();
    let fate = Arc::new(Fate::new(me, workers, memories).map_err(ConnectError::Monitor)?);
    let monitor = Monitor::start(&fate, watches).map_err(ConnectError::Monitor)?;
    Ok(Ring::new(me, links, crowded, fate, monitor))
}
