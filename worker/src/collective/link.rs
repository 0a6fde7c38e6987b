//! A link carries bytes to and from one peer, over TCP or through shared memory, and this is how a rank waits for links.

use super::Reason;
use super::monitor::Fate;
use super::shm::{self, Shm};
use super::tcp::{self, Tcp};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::IoSlice;
use std::time::{Duration, Instant};

pub enum Link {
    Shm(Shm),
    Tcp(Tcp),
}

/// What somebody waits for on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Link {
    /// How much to move at once. Through memory, little enough that the peer begins to add while this rank still copies; over a socket,
    /// where a call costs more and the kernel overlaps both sides, as much as one call receives.
    pub fn chunk(&self) -> usize {
        match self {
            Link::Shm(_) => 64 << 10,
            Link::Tcp(_) => tcp::BUFFER,
        }
    }

    /// Takes as much of `pieces` as fits; 0: nothing does now.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Reason> {
        match self {
            Link::Shm(shm) => Ok(shm.send(pieces)),
            Link::Tcp(tcp) => tcp.send(pieces),
        }
    }

    /// What has arrived, if that is at least so much; empty otherwise.
    pub fn peek(&mut self, at_least: usize) -> Result<&[u8], Reason> {
        match self {
            Link::Shm(shm) => Ok(shm.peek(at_least)),
            Link::Tcp(tcp) => tcp.peek(at_least),
        }
    }

    /// Done with so much of what `peek` showed.
    pub fn consume(&mut self, bytes: usize) {
        match self {
            Link::Shm(shm) => shm.consume(bytes),
            Link::Tcp(tcp) => tcp.consume(bytes),
        }
    }

    /// Moves what has arrived to where it belongs; 0: nothing has.
    pub fn take(&mut self, into: &mut [u8]) -> Result<usize, Reason> {
        match self {
            Link::Shm(shm) => {
                let arrived = shm.peek(1);
                let bytes = into.len().min(arrived.len());
                into[..bytes].copy_from_slice(&arrived[..bytes]);
                if bytes > 0 {
                    shm.consume(bytes);
                }
                Ok(bytes)
            }
            Link::Tcp(tcp) => tcp.take(into),
        }
    }

    /// Only memory can tell without a system call.
    pub fn stirred(&self, interest: Interest) -> bool {
        match self {
            Link::Shm(shm) => shm.stirred(interest),
            Link::Tcp(_) => false,
        }
    }

    /// Whether nothing of interest that a departed peer did before is left. A socket says so itself, by its end.
    pub fn is_drained(&self, interest: Interest) -> bool {
        match self {
            Link::Shm(shm) => !shm.stirred(interest),
            Link::Tcp(_) => false,
        }
    }
}

/// One of the things that end a wait.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    pub peer: usize,
    pub link: &'a Link,
    pub interest: Interest,
}

/// How one wait goes on: look again at once for a few microseconds, then let others run between looks, then sleep.
pub struct Patience {
    spins: u32,
    since: Option<Instant>,
    looks: u32,
}

/// How long to look before sleeping. A wake-up costs tens of microseconds, which is what peers of one step are usually apart.
const YIELDING: Duration = Duration::from_micros(200);
const LOOKS: u32 = 50;
/// A look at a socket is a system call, as dear as so many looks at memory.
const SOCKET_LOOK: u32 = 16;
/// A sleeper is woken by its peer; this only bounds what a missed wake could cost.
const SLEEP: Duration = Duration::from_millis(100);
/// Where memory and sockets are waited for together, only the sockets can end a wait.
const MIXED_SLEEP: Duration = Duration::from_micros(300);

impl Patience {
    /// `crowded`: more ranks than cores share this machine, so a peer can only be waited for by letting it run.
    pub fn new(crowded: bool) -> Self {
        Self { spins: if crowded { 0 } else { LOOKS }, since: None, looks: 0 }
    }

    pub fn renew(&mut self, crowded: bool) {
        if self.looks > 0 {
            *self = Self::new(crowded);
        }
    }

    /// Waits a little for one of these distinct links, and longer the longer nothing has happened.
    pub fn wait(&mut self, fate: &Fate, waits: &[Wait<'_>]) {
        self.looks += if waits.iter().any(|wait| matches!(wait.link, Link::Tcp(_))) { SOCKET_LOOK } else { 1 };
        if self.looks <= self.spins {
            std::hint::spin_loop();
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < YIELDING {
            std::thread::yield_now();
            return;
        }
        sleep(fate, waits);
    }
}

fn sleep(fate: &Fate, waits: &[Wait<'_>]) {
    let mut memories = Vec::with_capacity(2);
    let mut polled = Vec::with_capacity(3);
    for Wait { link, interest, .. } in waits {
        match link {
            Link::Shm(shm) => memories.push(&**shm.memory()),
            Link::Tcp(tcp) => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.read);
                flags.set(PollFlags::OUT, interest.write);
                polled.push(PollFd::new(tcp.stream(), flags));
            }
        }
    }
    let ready =
        || fate.ended() || waits.iter().any(|wait| fate.has_left(wait.peer) || wait.link.stirred(wait.interest));
    if polled.is_empty() {
        return shm::sleep(&memories, SLEEP, ready);
    }
    if ready() {
        return;
    }
    let limit = if memories.is_empty() { SLEEP } else { MIXED_SLEEP };
    polled.push(PollFd::new(fate.bell(), PollFlags::IN));
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    // A failed poll is an early look; whatever is wrong with a socket, the next send or receive says.
    let _ = rustix::event::poll(&mut polled, Some(&limit));
}
