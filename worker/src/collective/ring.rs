//! The engine for ranks on CPUs: recursive doubling for what is small, a pipelined ring for what is large.
//!
//! A group is a full mesh. Recursive doubling talks to log2(world) partners, the ring to two neighbours and a gather to everyone; and as
//! every rank watches every other one, a death is seen by all at once instead of travelling around the ring. That costs a
//! connection (two where no memory is shared) a pair, which is nothing for the dozens of ranks a cluster of CPUs has.

use super::bytes::{Cargo, Letters, Sums};
use super::link::{Interest, Link, Patience, Wait};
use super::monitor::{Fate, Monitor};
use super::stream::{Head, Incoming, Leg, Operation, Outgoing, Take};
use super::{Aborter, Collective, Lost, Reason};
use std::ops::Range;
use std::sync::Arc;

pub use super::rendezvous::{ConnectError, GroupId, Options, PeerAddress, connect};

/// Up to here, all bytes go log2(world) times as one message; beyond, twice around the ring in pieces.
const DOUBLING_LIMIT: usize = 256 << 10;
/// Blocks of the ring begin at multiples of so many gradients.
const BLOCK_GRAIN: usize = 16;

/// One rank of a connected group.
pub struct Ring {
    rank: usize,
    world: usize,
    links: Vec<Option<Link>>,
    crowded: bool,
    fate: Arc<Fate>,
    // Last, so that a goodbye follows everything else this rank does.
    monitor: Monitor,
}

/// How far the two directions of an exchange may run ahead of each other.
#[derive(Clone, Copy)]
enum Pace {
    Free,
    /// What is received overwrites what is sent, so it follows.
    ReceivedBehindSent,
    /// After so many bytes of its own, a rank sends on what it has received.
    SentBehindReceived {
        lead: usize,
    },
}

impl Ring {
    pub(super) fn new(rank: usize, links: Vec<Option<Link>>, crowded: bool, fate: Arc<Fate>, monitor: Monitor) -> Self {
        Self { rank, world: links.len(), links, crowded, fate, monitor }
    }

    /// How the bytes to a peer travel: `memory` or `tcp`; none for this rank itself.
    pub fn transport(&self, peer: usize) -> Option<&'static str> {
        self.links[peer].as_ref().map(|link| match link {
            Link::Shm(_) => "memory",
            Link::Tcp(_) => "tcp",
        })
    }

    fn begin(&self, operation: Operation, sizes: [u64; 2]) -> Result<Head, Lost> {
        Ok(Head { operation, sequence: self.fate.begin()?, sizes })
    }

    fn doubling(&mut self, head: &Head, sums: &mut Sums<'_>) -> Result<(), Lost> {
        let all = 0..sums.len();
        let add = [Leg { range: all.clone(), take: Take::Add }];
        let copy = [Leg { range: all, take: Take::Copy }];
        // The largest power of two does the doubling; the ranks beyond it are added to a partner first and hear the sums last.
        let core = 1 << self.world.ilog2();
        if self.rank >= core {
            let partner = self.rank - core;
            self.exchange(head, Some((partner, &add)), None, Pace::Free, sums)?;
            return self.exchange(head, None, Some((partner, &copy)), Pace::Free, sums);
        }
        let beyond = Some(self.rank + core).filter(|&rank| rank < self.world);
        if let Some(partner) = beyond {
            self.exchange(head, None, Some((partner, &add)), Pace::Free, sums)?;
        }
        for bit in 0..core.ilog2() {
            let partner = self.rank ^ (1 << bit);
            // Both add the other's to their own: an addition of two has one result whichever comes first.
            self.exchange(head, Some((partner, &add)), Some((partner, &add)), Pace::ReceivedBehindSent, sums)?;
        }
        match beyond {
            Some(partner) => self.exchange(head, Some((partner, &copy)), None, Pace::Free, sums),
            None => Ok(()),
        }
    }

    /// Reduce-scatter and all-gather as one stream to the right neighbour. Its first block is this rank's own, and every later one is what the
    /// left neighbour sent just before, added up or complete: so each byte goes on as soon as it is here.
    fn around(&mut self, head: &Head, sums: &mut Sums<'_>) -> Result<(), Lost> {
        let (world, rank) = (self.world, self.rank);
        let blocks = blocks(sums, world);
        let back = |steps: usize| blocks[(rank + 2 * world - steps) % world].clone();
        let out: Vec<Leg> = (0..2 * (world - 1)).map(|i| Leg { range: back(i), take: Take::Add }).collect();
        let inn: Vec<Leg> = (1..2 * world - 1)
            .map(|i| Leg { range: back(i), take: if i < world { Take::Add } else { Take::Copy } })
            .collect();
        let (left, right) = ((rank + world - 1) % world, (rank + 1) % world);
        let pace = Pace::SentBehindReceived { lead: out[0].range.len() };
        self.exchange(head, Some((right, &out)), Some((left, &inn)), pace, sums)
    }

    /// Sends one stream and receives another, both at once: neither waits for the other, so that large ones cannot block each other.
    fn exchange(
        &mut self,
        head: &Head,
        out: Option<(usize, &[Leg])>,
        inn: Option<(usize, &[Leg])>,
        pace: Pace,
        cargo: &mut impl Cargo,
    ) -> Result<(), Lost> {
        let mut out = out.map(|(peer, legs)| (peer, Outgoing::new(head, legs)));
        let mut inn = inn.map(|(peer, legs)| (peer, Incoming::new(head, legs)));
        let mut patience = Patience::new(self.crowded);
        loop {
            let mut moved = false;
            if let Some((peer, outgoing)) = &mut out {
                let limit = match (pace, &inn) {
                    (Pace::SentBehindReceived { lead }, Some((_, incoming))) => lead + incoming.received(),
                    _ => usize::MAX,
                };
                let link = link(&mut self.links, *peer);
                moved |= outgoing.push(link, cargo, limit).map_err(|reason| self.fate.end_broken(*peer, reason))?;
            }
            if let Some((peer, incoming)) = &mut inn {
                let limit = match (pace, &out) {
                    (Pace::ReceivedBehindSent, Some((_, outgoing))) => outgoing.sent(),
                    _ => usize::MAX,
                };
                let link = link(&mut self.links, *peer);
                moved |= incoming.pull(link, cargo, limit).map_err(|reason| self.fate.end_broken(*peer, reason))?;
            }
            let sent = out.as_ref().is_none_or(|(_, outgoing)| outgoing.is_done());
            let received = inn.as_ref().is_none_or(|(_, incoming)| incoming.is_done());
            if sent && received {
                return Ok(());
            }
            if moved {
                patience.renew(self.crowded);
                continue;
            }
            let writing = out.as_ref().filter(|(_, outgoing)| !sent && outgoing.blocked).map(|(peer, _)| *peer);
            let reading = inn.as_ref().filter(|(_, incoming)| !received && incoming.blocked).map(|(peer, _)| *peer);
            self.wait(&mut patience, writing, reading)?;
        }
    }

    fn wait(&self, patience: &mut Patience, writing: Option<usize>, reading: Option<usize>) -> Result<(), Lost> {
        if let Some(lost) = self.fate.verdict() {
            return Err(lost.clone());
        }
        let both = writing == reading;
        let wait = |peer: Option<usize>, interest| {
            peer.and_then(|peer| Some(Wait { peer, link: self.links[peer].as_ref()?, interest }))
        };
        let first = wait(writing, Interest { write: true, read: both });
        let second = wait(reading.filter(|_| !both), Interest { read: true, write: false });
        // What a peer did before it left has been done before its goodbye was heard, so look once more.
        let gone = |wait: &Wait<'_>| self.fate.has_left(wait.peer) && wait.link.is_drained(wait.interest);
        if let Some(Wait { peer, .. }) = [first, second].into_iter().flatten().find(gone) {
            return Err(self.fate.end(self.fate.lost_peer(peer, Reason::Left)));
        }
        match (first, second) {
            (Some(one), Some(other)) => patience.wait(&self.fate, &[one, other]),
            (Some(one), None) | (None, Some(one)) => patience.wait(&self.fate, &[one]),
            (None, None) => {}
        }
        Ok(())
    }
}

/// Every rank but this one has a link, and no stream leads to this one.
fn link(links: &mut [Option<Link>], peer: usize) -> &mut Link {
    links[peer].as_mut().expect("a rank has a link to every other rank")
}

/// Cuts the sums into one block a rank; the tail belongs to the first.
fn blocks(sums: &Sums<'_>, world: usize) -> Vec<Range<usize>> {
    let (tail, all) = (sums.tail_bytes(), sums.len());
    let gradients = (all - tail) / size_of::<f32>();
    let cut = |block: usize| match block {
        0 => 0,
        _ if block == world => all,
        _ => tail + gradients * block / world / BLOCK_GRAIN * BLOCK_GRAIN * size_of::<f32>(),
    };
    (0..world).map(|block| cut(block)..cut(block + 1)).collect()
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&mut self, gradients: &mut [f32], tail: &mut [f64]) -> Result<(), Lost> {
        let head = self.begin(Operation::AllReduce, [gradients.len() as u64, tail.len() as u64])?;
        let mut sums = Sums::new(gradients, tail);
        match self.world {
            1 => Ok(()),
            _ if sums.len() <= DOUBLING_LIMIT => self.doubling(&head, &mut sums),
            _ => self.around(&head, &mut sums),
        }
    }

    /// Along the ring from the root on, each rank passing on what it has as it comes.
    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), Lost> {
        assert!(root < self.world, "rank {root} is not among {} ranks", self.world);
        let head = self.begin(Operation::Broadcast { root: root as u32 }, [bytes.len() as u64, 0])?;
        let legs = [Leg { range: 0..bytes.len(), take: Take::Copy }];
        let (left, right) = ((self.rank + self.world - 1) % self.world, (self.rank + 1) % self.world);
        let out = (right != root).then_some((right, legs.as_slice()));
        let inn = (self.rank != root).then_some((left, legs.as_slice()));
        let cargo = &mut Letters { mine: &[], theirs: bytes };
        self.exchange(&head, out, inn, Pace::SentBehindReceived { lead: 0 }, cargo)
    }

    fn gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        let lengths = self.begin(Operation::GatherLengths, [0, 0])?;
        let head = Head { operation: Operation::Gather, ..lengths };
        let mut all = vec![Vec::new(); self.world];
        for step in 1..self.world {
            let (to, from) = ((self.rank + step) % self.world, (self.rank + self.world - step) % self.world);
            let mut length = [0; 8];
            let legs = |bytes: usize, start: usize| [Leg { range: start..start + bytes, take: Take::Copy }];
            let cargo = &mut Letters { mine: &(mine.len() as u64).to_le_bytes(), theirs: &mut length };
            self.exchange(&lengths, Some((to, &legs(8, 0))), Some((from, &legs(8, 8))), Pace::Free, cargo)?;
            let mut theirs = vec![0; u64::from_le_bytes(length) as usize];
            let (out, inn) = (legs(mine.len(), 0), legs(theirs.len(), mine.len()));
            let cargo = &mut Letters { mine, theirs: &mut theirs };
            self.exchange(&head, Some((to, &out)), Some((from, &inn)), Pace::Free, cargo)?;
            all[from] = theirs;
        }
        all[self.rank] = mine.to_vec();
        Ok(all)
    }

    fn aborter(&self) -> Aborter {
        let fate = self.monitor.fate();
        Aborter::new(move || {
            if let Some(fate) = fate.upgrade() {
                fate.end(Lost::aborted());
            }
        })
    }
}
