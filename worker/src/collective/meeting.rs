//! How the ranks of one generation find each other: every rank dials those below it and accepts those above it.
//!
//! One loop over non-blocking sockets does all of it, so no client, however slow or hostile, holds up another one. Four messages make a
//! connection (`handshake`): `Hello`, `Welcome`, `Ready`, `Settled`; a connection counts only once it is settled, so one that somebody
//! gave up while it stood in a listener's queue never does. A pair first settles its watch connection and, with it, whether it shares
//! memory; a second connection for the numbers is made only if it does not.

use super::handshake::{Channel, Hello, Inbox, Message, Offer};
use super::rendezvous::{ConnectError, GroupId, Options, PeerAddress};
use super::shm::Memory;
use super::{tcp, title};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often to look at the clock, and to dial again.
const TICK: Duration = Duration::from_millis(20);
const SLOWEST_RETRY: Duration = Duration::from_millis(250);
/// How long one attempt to open a connection may take.
const DIAL: Duration = Duration::from_secs(5);
/// How many clients may be in the middle of a handshake; beyond, the oldest makes room.
const CROWD: usize = 256;

/// What there is of the connection to one peer.
pub struct Seat {
    pub watch: Option<TcpStream>,
    pub memory: Option<Memory>,
    pub data: Option<TcpStream>,
    /// The peer had everyone, and has left already.
    spoke: bool,
    retry: Duration,
    dial_at: Instant,
    /// Why the peer is still missing.
    trouble: String,
}

impl Seat {
    fn new() -> Self {
        let (retry, dial_at) = (TICK, Instant::now());
        Self { watch: None, memory: None, data: None, spoke: false, retry, dial_at, trouble: "it did not come".into() }
    }

    fn is_taken(&self) -> bool {
        self.watch.is_some() && (self.memory.is_some() || self.data.is_some())
    }

    /// Which connection is to be made next.
    fn wants(&self) -> Option<Channel> {
        match (&self.watch, self.is_taken()) {
            (_, true) => None,
            (None, _) => Some(Channel::Watch),
            (Some(_), _) => Some(Channel::Data),
        }
    }
}

/// A connection in the middle of its handshake.
struct Talk {
    stream: TcpStream,
    inbox: Inbox,
    waits: Waits,
    /// None: as long as the rendezvous lasts.
    until: Option<Instant>,
    /// Known from the start to the dialler, and after its `Hello` to the acceptor.
    peer: Option<usize>,
    channel: Channel,
    memory: Option<Memory>,
    /// Keeps what is offered reachable until the peer has opened it.
    offered: Option<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Connection,
    Hello,
    Welcome,
    Ready,
    Settled,
}

/// How one step of a handshake went.
enum Step {
    More,
    /// The connection is settled.
    Done,
    /// The connection is of no use.
    Drop(String),
    /// This rank will never be let in.
    Refused(String),
}

/// The search of one rank for all others.
pub struct Meeting<'a> {
    me: usize,
    peers: &'a [PeerAddress],
    group: &'a GroupId,
    options: &'a Options,
    seats: Vec<Seat>,
    talks: Vec<Talk>,
}

impl<'a> Meeting<'a> {
    pub fn new(me: usize, peers: &'a [PeerAddress], group: &'a GroupId, options: &'a Options) -> Self {
        Self { me, peers, group, options, seats: peers.iter().map(|_| Seat::new()).collect(), talks: Vec::new() }
    }

    /// One seat a rank, all taken but this rank's own. The listener is non-blocking.
    pub fn gather(mut self, listener: &TcpListener) -> Result<Vec<Seat>, ConnectError> {
        let begun = Instant::now();
        loop {
            let open = self.open();
            if open.is_empty() {
                return Ok(self.seats);
            }
            if self.options.cancelled.load(Ordering::Acquire) {
                return Err(ConnectError::Cancelled { missing: self.named(&open) });
            }
            if begun.elapsed() >= self.options.rendezvous {
                let missing = open.iter().map(|&rank| format!("{} ({})", self.title(rank), self.seats[rank].trouble));
                let (missing, peers) = (missing.collect(), self.peers.len() - 1);
                return Err(ConnectError::Missing { missing, ranks: open, peers, waited: self.options.rendezvous });
            }
            self.dial();
            let (knocking, stirring) = self.poll(listener);
            for index in stirring.into_iter().rev() {
                self.advance(index)?;
            }
            if knocking {
                self.accept(listener)?;
            }
            self.give_up_on_the_slow();
        }
    }

    fn open(&self) -> Vec<usize> {
        (0..self.peers.len()).filter(|&rank| rank != self.me && !self.seats[rank].is_taken()).collect()
    }

    fn title(&self, rank: usize) -> String {
        title(&self.peers[rank].worker, rank)
    }

    fn named(&self, ranks: &[usize]) -> Vec<String> {
        ranks.iter().map(|&rank| self.title(rank)).collect()
    }

    fn dial(&mut self) {
        for rank in 0..self.me {
            let busy = self.talks.iter().any(|talk| talk.waits.is_mine() && talk.peer == Some(rank));
            let Some(channel) = self.seats[rank].wants() else { continue };
            if busy || Instant::now() < self.seats[rank].dial_at {
                continue;
            }
            match open_connection(self.peers[rank].address) {
                Ok(stream) => self.talks.push(Talk {
                    stream,
                    inbox: Inbox::default(),
                    waits: Waits::Connection,
                    until: Some(Instant::now() + DIAL),
                    peer: Some(rank),
                    channel,
                    memory: None,
                    offered: None,
                }),
                Err(error) => self.retry_later(rank, error.to_string()),
            }
        }
    }

    fn retry_later(&mut self, rank: usize, trouble: String) {
        let seat = &mut self.seats[rank];
        seat.trouble = trouble;
        seat.dial_at = Instant::now() + seat.retry;
        seat.retry = (seat.retry * 2).min(SLOWEST_RETRY);
    }

    /// Waits for a tick at most. Says whether somebody knocks, and which talks have something new; frees the seats of peers that are gone.
    fn poll(&mut self, listener: &TcpListener) -> (bool, Vec<usize>) {
        let (talks, seats) = (&self.talks, &self.seats);
        let mut polled: Vec<_> = talks
            .iter()
            .map(|talk| {
                let flags = if talk.waits == Waits::Connection { PollFlags::OUT } else { PollFlags::IN };
                PollFd::new(&talk.stream, flags)
            })
            .collect();
        polled.push(PollFd::new(listener, PollFlags::IN));
        let seated: Vec<_> =
            (0..seats.len()).filter(|&rank| seats[rank].watch.is_some() && !seats[rank].spoke).collect();
        polled
            .extend(seated.iter().filter_map(|&rank| Some(PollFd::new(seats[rank].watch.as_ref()?, PollFlags::RDHUP))));
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        // An interrupted poll finds nothing new, and the next one will.
        let _ = rustix::event::poll(&mut polled, Some(&tick));
        let news: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (stirring, rest) = news.split_at(talks.len());
        let stirring = (0..stirring.len()).filter(|&index| stirring[index]).collect();
        for (&rank, _) in seated.iter().zip(&rest[1..]).filter(|(_, gone)| **gone) {
            // Last words come from a rank that had the whole group, and are for the monitor to hear.
            self.seats[rank].spoke =
                self.seats[rank].watch.as_ref().is_some_and(|watch| matches!(watch.peek(&mut [0]), Ok(1..)));
            if self.seats[rank].spoke {
                continue;
            }
            self.seats[rank] = Seat { trouble: "it came, and went again".into(), ..Seat::new() };
        }
        (rest[0], stirring)
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<(), ConnectError> {
        for _ in 0..CROWD {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(()),
                    ErrorKind::InvalidInput => return Err(ConnectError::Listener(error)),
                    // A client that is gone already, or too many open files for the moment.
                    _ => {
                        tracing::warn!(%error, "cannot accept a connection");
                        std::thread::sleep(TICK);
                        return Ok(());
                    }
                },
            };
            if tcp::prepare(&stream, self.options.silence).is_err() {
                continue;
            }
            let strangers = self.talks.iter().filter(|talk| talk.waits == Waits::Hello).count();
            if strangers >= CROWD
                && let Some(oldest) = self.talks.iter().position(|talk| talk.waits == Waits::Hello)
            {
                self.talks.remove(oldest);
            }
            self.talks.push(Talk {
                stream,
                inbox: Inbox::default(),
                waits: Waits::Hello,
                until: Some(Instant::now() + self.options.handshake),
                peer: None,
                channel: Channel::Watch,
                memory: None,
                offered: None,
            });
        }
        Ok(())
    }

    fn give_up_on_the_slow(&mut self) {
        let now = Instant::now();
        for index in (0..self.talks.len()).rev() {
            if self.talks[index].until.is_some_and(|until| until <= now) {
                let talk = self.talks.remove(index);
                self.drop_talk(talk, "it did not answer in time".into());
            }
        }
    }

    fn drop_talk(&mut self, talk: Talk, why: String) {
        match talk.peer {
            Some(rank) if talk.waits.is_mine() => self.retry_later(rank, why),
            peer => {
                let who =
                    peer.map(|rank| self.title(rank)).or_else(|| talk.stream.peer_addr().ok().map(|a| a.to_string()));
                tracing::warn!(from = who.unwrap_or_default(), reason = why, "refused a connection");
            }
        }
    }

    /// Goes as far with one talk as its bytes allow.
    fn advance(&mut self, index: usize) -> Result<(), ConnectError> {
        let mut talk = self.talks.swap_remove(index);
        loop {
            match self.step(&mut talk) {
                Ok(Step::More) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.talks.push(talk),
                Ok(Step::Done) => self.settle(talk),
                Ok(Step::Drop(why)) => self.drop_talk(talk, why),
                Err(error) => self.drop_talk(talk, error.to_string()),
                Ok(Step::Refused(reason)) => {
                    let peer = talk.peer.map(|rank| self.title(rank)).unwrap_or_default();
                    return Err(ConnectError::Refused { peer, reason });
                }
            }
            return Ok(());
        }
    }

    fn settle(&mut self, talk: Talk) {
        let Some(rank) = talk.peer else { return };
        let seat = &mut self.seats[rank];
        seat.retry = TICK;
        match talk.channel {
            Channel::Watch => {
                seat.watch = Some(talk.stream);
                seat.memory = talk.memory;
            }
            Channel::Data => seat.data = Some(talk.stream),
        }
    }

    fn step(&mut self, talk: &mut Talk) -> io::Result<Step> {
        if talk.waits == Waits::Connection {
            return self.say_hello(talk);
        }
        let stream = &talk.stream;
        let Some(message) = talk.inbox.receive(|into| (&mut &*stream).read(into))? else {
            return Err(ErrorKind::WouldBlock.into());
        };
        match (talk.waits, message) {
            (Waits::Hello, Message::Hello(hello)) => self.welcome(talk, &hello),
            (Waits::Welcome, Message::Welcome { offer }) => self.get_ready(talk, offer),
            (Waits::Welcome, Message::Refused { again: true, reason }) => Ok(Step::Drop(reason)),
            (Waits::Welcome, Message::Refused { again: false, reason }) => Ok(Step::Refused(reason)),
            (Waits::Ready, Message::Ready { memory }) => {
                let memory = memory && talk.memory.as_ref().is_some_and(Memory::answered);
                talk.say(&Message::Settled { memory }, Waits::Settled)?;
                talk.agree_on(memory);
                Ok(Step::Done)
            }
            (Waits::Settled, Message::Settled { memory }) => {
                talk.agree_on(memory);
                Ok(Step::Done)
            }
            _ => Ok(Step::Drop("an answer out of turn".into())),
        }
    }

    fn say_hello(&self, talk: &mut Talk) -> io::Result<Step> {
        if let Some(error) = talk.stream.take_error()? {
            return Err(error);
        }
        tcp::prepare(&talk.stream, self.options.silence)?;
        let hello = Hello {
            channel: talk.channel,
            run: self.group.run.clone(),
            generation: self.group.generation,
            secret: self.group.secret,
            worker: self.peers[self.me].worker.clone(),
            from: self.me as u64,
            to: talk.peer.unwrap_or_default() as u64,
        };
        talk.say(&Message::Hello(hello), Waits::Welcome)?;
        // The peer may not listen for this generation yet.
        talk.until = None;
        Ok(Step::More)
    }

    fn welcome(&self, talk: &mut Talk, hello: &Hello) -> io::Result<Step> {
        if let Err((again, reason)) = self.examine(hello) {
            // Whoever cannot be told sees the connection's end.
            let _ = talk.say(&Message::Refused { again, reason: reason.clone() }, Waits::Hello);
            return Ok(Step::Drop(format!("{}: {reason}", title(&hello.worker, hello.from as usize))));
        }
        let rank = hello.from as usize;
        talk.peer = Some(rank);
        talk.channel = hello.channel;
        let near = self.options.shared_memory && self.peers[rank].machine == self.peers[self.me].machine;
        let mut offer = None;
        if near && hello.channel == Channel::Watch {
            match Memory::create() {
                Ok((memory, file, made)) => {
                    (talk.memory, talk.offered, offer) = (Some(memory), Some(file), Some(made));
                }
                Err(error) => tracing::debug!(%error, "no memory to share, numbers will go over tcp"),
            }
        }
        talk.say(&Message::Welcome { offer }, Waits::Ready)?;
        Ok(Step::More)
    }

    /// Whether a client belongs here; if not, whether that may pass, and why.
    fn examine(&self, hello: &Hello) -> Result<(), (bool, String)> {
        let GroupId { run, generation, secret } = self.group;
        let for_good = |reason: String| Err((false, reason));
        if hello.run != *run {
            return for_good(format!("this is run `{run}`, not `{}`", hello.run));
        }
        if hello.generation < *generation {
            return for_good(format!("generation {} is stale, generation {generation} is forming", hello.generation));
        }
        if hello.generation > *generation {
            return Err((true, format!("generation {generation} is forming, not yet {}", hello.generation)));
        }
        if hello.secret != *secret {
            return for_good(format!("wrong secret for generation {generation}"));
        }
        if hello.to != self.me as u64 {
            return for_good(format!("this is rank {}, not {}", self.me, hello.to));
        }
        let seat = (self.me + 1..self.peers.len()).find(|&rank| rank as u64 == hello.from);
        let Some(rank) = seat.filter(|&rank| self.peers[rank].worker == hello.worker) else {
            return for_good(format!("generation {generation} does not seat it there"));
        };
        if self.seats[rank].wants() != Some(hello.channel) {
            return Err((true, "it is connected already".into()));
        }
        Ok(())
    }

    fn get_ready(&self, talk: &mut Talk, offer: Option<Offer>) -> io::Result<Step> {
        talk.until = Some(Instant::now() + DIAL);
        if let Some(offer) = offer.filter(|_| self.options.shared_memory) {
            talk.memory = Memory::open(&offer)
                .inspect_err(|error| tracing::debug!(%error, "memory cannot be shared, numbers will go over tcp"))
                .ok();
        }
        talk.say(&Message::Ready { memory: talk.memory.is_some() }, Waits::Settled)?;
        Ok(Step::More)
    }
}

impl Waits {
    /// Whether this side dialled.
    fn is_mine(self) -> bool {
        matches!(self, Waits::Connection | Waits::Welcome | Waits::Settled)
    }
}

impl Talk {
    /// A frame is far smaller than an empty socket's buffer, so it leaves whole or the connection is broken.
    fn say(&mut self, message: &Message, waits: Waits) -> io::Result<()> {
        let frame = message.encode();
        match (&self.stream).write(&frame) {
            Ok(written) if written == frame.len() => {
                self.waits = waits;
                Ok(())
            }
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    fn agree_on(&mut self, memory: bool) {
        self.offered = None;
        if !memory {
            self.memory = None;
        }
    }
}

/// Begins to connect; the socket is writable once it has, or has failed.
fn open_connection(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}
