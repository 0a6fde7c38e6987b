//! Who is still there: one thread a group watches a connection to every peer, and its verdict ends whatever waits.
//!
//! The operating system closes a dead process's connections at once, so every survivor learns of it directly and within a
//! millisecond. Beyond that, a rank that gives up says whom it lost, and one that is done says so: the end of a connection
//! after a goodbye is no loss to those still busy with what it took part in.

use super::shm::Memory;
use super::{Lost, Reason, tcp, title};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const HERE: u64 = u64::MAX;

/// What has become of a group, shared by the rank, its monitor and its aborters.
pub struct Fate {
    me: usize,
    workers: Vec<String>,
    lost: OnceLock<Lost>,
    ended: AtomicBool,
    /// The ring itself is being dropped.
    closing: AtomicBool,
    /// How many operations this rank has begun: what it says when it leaves.
    begun: AtomicU64,
    /// After how many operations each rank left; `HERE` for those that have not.
    left: Vec<AtomicU64>,
    anyone_left: AtomicBool,
    /// Becomes readable for good when something ends.
    bell: OwnedFd,
    memories: Vec<Arc<Memory>>,
}

impl Fate {
    pub fn new(me: usize, workers: Vec<String>, memories: Vec<Arc<Memory>>) -> io::Result<Self> {
        Ok(Self {
            me,
            begun: AtomicU64::new(0),
            left: workers.iter().map(|_| AtomicU64::new(HERE)).collect(),
            workers,
            lost: OnceLock::new(),
            ended: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            anyone_left: AtomicBool::new(false),
            bell: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            memories,
        })
    }

    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The verdict, once there is one.
    pub fn verdict(&self) -> Option<&Lost> {
        if self.ended() { self.lost.get() } else { None }
    }

    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Counts an operation.
    ///
    /// # Errors
    /// The group has ended, or someone left without taking part in this operation.
    pub fn begin(&self) -> Result<u64, Lost> {
        if let Some(lost) = self.verdict() {
            return Err(lost.clone());
        }
        let sequence = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if self.anyone_left.load(Ordering::Acquire)
            && let Some(rank) = self.left.iter().position(|left| left.load(Ordering::Acquire) < sequence)
        {
            return Err(self.end(self.lost_peer(rank, Reason::Left)));
        }
        Ok(sequence)
    }

    /// Who has left in peace. Nothing more comes from them, but what they sent before is valid.
    pub fn has_left(&self, rank: usize) -> bool {
        self.left[rank].load(Ordering::Acquire) != HERE
    }

    pub fn lost_peer(&self, rank: usize, reason: Reason) -> Lost {
        Lost::peer(rank, &self.workers[rank], reason)
    }

    /// Ends the group; the first reason stands, and is returned.
    pub fn end(&self, lost: Lost) -> Lost {
        let verdict = self.lost.get_or_init(|| lost).clone();
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.ring();
        }
        verdict
    }

    /// Ends the group because this connection broke, unless the monitor, which may be about to hear from the peer why, knows better.
    pub fn end_broken(&self, rank: usize, reason: Reason) -> Lost {
        let until = Instant::now() + Duration::from_millis(100);
        while reason == Reason::Closed && !self.ended() && !self.has_left(rank) && Instant::now() < until {
            let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let _ = rustix::event::poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], Some(&pause));
        }
        self.end(self.lost_peer(rank, if self.has_left(rank) { Reason::Left } else { reason }))
    }

    fn leave(&self, rank: usize, after: u64) {
        self.left[rank].store(after.min(HERE - 1), Ordering::Release);
        self.anyone_left.store(true, Ordering::Release);
        self.memories.iter().for_each(|memory| memory.wake_own());
    }

    fn ring(&self) {
        // An eventfd's counter can only refuse more when it is readable already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        self.memories.iter().for_each(|memory| memory.wake_own());
    }
}

/// What a rank says on its watch connections before it ends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// After so many operations.
    Goodbye(u64),
    Aborted,
    /// Whom.
    Lost(u64),
}

impl Notice {
    const BYTES: usize = 9;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, number) = match self {
            Notice::Goodbye(after) => (b'g', after),
            Notice::Aborted => (b'a', 0),
            Notice::Lost(rank) => (b'l', rank),
        };
        let mut bytes = [kind; Self::BYTES];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, number @ ..] = bytes;
        let number = u64::from_le_bytes(number);
        match kind {
            b'g' => Some(Notice::Goodbye(number)),
            b'a' => Some(Notice::Aborted),
            b'l' => Some(Notice::Lost(number)),
            _ => None,
        }
    }
}

/// The connection to one peer whose end is the peer's end.
struct Watch {
    rank: usize,
    stream: TcpStream,
    heard: Vec<u8>,
}

enum Heard {
    Nothing,
    Notice(Notice),
    End(Reason),
}

impl Watch {
    fn listen(&mut self) -> Heard {
        let mut bytes = [0; Notice::BYTES];
        loop {
            let wanted = Notice::BYTES - self.heard.len();
            match (&self.stream).read(&mut bytes[..wanted]) {
                Ok(0) => return Heard::End(Reason::Closed),
                Ok(n) => self.heard.extend(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Heard::End(tcp::reason(error.kind())),
            }
            if let Ok(notice) = <[u8; Notice::BYTES]>::try_from(self.heard.as_slice()) {
                self.heard.clear();
                return Notice::decode(notice).map_or(Heard::End(Reason::Closed), Heard::Notice);
            }
        }
    }
}

/// The thread that watches. Dropping it says goodbye to the peers, or whom this rank lost, and waits for the thread's end.
pub struct Monitor {
    fate: Arc<Fate>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Watches these non-blocking connections, each with its peer's rank.
    pub fn start(fate: &Arc<Fate>, streams: Vec<(usize, TcpStream)>) -> io::Result<Self> {
        let watches = streams.into_iter().map(|(rank, stream)| Watch { rank, stream, heard: Vec::new() }).collect();
        let watched = Arc::clone(fate);
        let thread =
            std::thread::Builder::new().name("collective-watch".into()).spawn(move || watch(&watched, watches))?;
        Ok(Self { fate: Arc::clone(fate), thread: Some(thread) })
    }

    pub fn fate(&self) -> Weak<Fate> {
        Arc::downgrade(&self.fate)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.fate.closing.store(true, Ordering::Release);
        self.fate.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches the peers panicked");
        }
    }
}

fn watch(fate: &Fate, mut watches: Vec<Watch>) {
    while !fate.ended() && !fate.closing.load(Ordering::Acquire) {
        let mut polled: Vec<_> =
            watches.iter().map(|watch| PollFd::new(&watch.stream, PollFlags::IN | PollFlags::RDHUP)).collect();
        polled.push(PollFd::new(&fate.bell, PollFlags::IN));
        // An interrupted poll is an early look: the connections are non-blocking.
        let _ = rustix::event::poll(&mut polled, None);
        let mut reported = None;
        watches.retain_mut(|watch| match watch.listen() {
            Heard::Nothing => true,
            Heard::Notice(Notice::Goodbye(after)) => {
                fate.leave(watch.rank, after);
                false
            }
            Heard::Notice(notice) => {
                reported = reported.take().or(Some((watch.rank, notice)));
                true
            }
            Heard::End(reason) => {
                fate.end(fate.lost_peer(watch.rank, reason));
                false
            }
        });
        // What was seen here goes before what others say.
        if let Some((by, notice)) = reported {
            fate.end(retold(fate, by, notice));
        }
    }
    let last_words = match fate.verdict() {
        None => Notice::Goodbye(fate.begun.load(Ordering::Relaxed)),
        Some(Lost { peer: None, .. }) => Notice::Aborted,
        Some(Lost { peer: Some(rank), .. }) => Notice::Lost(*rank as u64),
    };
    for watch in &watches {
        // Whoever does not hear it sees the connection's end.
        let _ = (&watch.stream).write(&last_words.encode());
        let _ = watch.stream.shutdown(std::net::Shutdown::Write);
    }
}

fn retold(fate: &Fate, by: usize, notice: Notice) -> Lost {
    let whom = match notice {
        Notice::Lost(rank) => (0..fate.workers.len()).find(|&known| known as u64 == rank),
        Notice::Aborted | Notice::Goodbye(_) => None,
    };
    match whom {
        Some(rank) if rank == fate.me => fate.lost_peer(by, Reason::GaveUp),
        Some(rank) => fate.lost_peer(rank, Reason::Reported { by: title(&fate.workers[by], by) }),
        None => fate.lost_peer(by, Reason::Aborted),
    }
}
