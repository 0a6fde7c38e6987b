//! A stream is what one rank sends another during one operation: a head that says which operation, and then legs of the cargo.

use super::Reason;
use super::bytes::Cargo;
use super::link::Link;
use std::io::IoSlice;
use std::ops::Range;

/// Which operation a stream belongs to. Two ranks that disagree would wait for each other for ever, or add what must not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub operation: Operation,
    /// Counts the group's operations.
    pub sequence: u64,
    pub sizes: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    AllReduce,
    Broadcast { root: u32 },
    GatherLengths,
    Gather,
}

impl Head {
    pub const BYTES: usize = 32;

    pub fn encode(&self) -> [u8; Self::BYTES] {
        let operation = match self.operation {
            Operation::AllReduce => 1,
            Operation::Broadcast { root } => 2 | u64::from(root) << 8,
            Operation::GatherLengths => 3,
            Operation::Gather => 4,
        };
        let mut bytes = [0; Self::BYTES];
        let words = [operation, self.sequence, self.sizes[0], self.sizes[1]];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        let operation = match (word(0) & 0xff, word(0) >> 8) {
            (1, 0) => Operation::AllReduce,
            (2, root) => Operation::Broadcast { root: u32::try_from(root).ok()? },
            (3, 0) => Operation::GatherLengths,
            (4, 0) => Operation::Gather,
            _ => return None,
        };
        Some(Self { operation, sequence: word(1), sizes: [word(2), word(3)] })
    }

    fn words(&self) -> String {
        let [first, second] = self.sizes;
        let number = self.sequence;
        match self.operation {
            Operation::AllReduce => format!("operation {number}, an all-reduce of {first} gradients and {second} more"),
            Operation::Broadcast { root } => {
                format!("operation {number}, a broadcast of {first} bytes from rank {root}")
            }
            Operation::GatherLengths | Operation::Gather => format!("operation {number}, a gather"),
        }
    }
}

/// What receiving does to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Add,
    Copy,
}

/// A range of the cargo. `take` means nothing on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub range: Range<usize>,
    pub take: Take,
}

/// How far one end of a stream has come.
struct Cursor<'a> {
    legs: &'a [Leg],
    leg: usize,
    at: usize,
    done: usize,
    total: usize,
}

impl<'a> Cursor<'a> {
    fn new(legs: &'a [Leg]) -> Self {
        let mut cursor = Self { legs, leg: 0, at: 0, done: 0, total: legs.iter().map(|leg| leg.range.len()).sum() };
        cursor.advance(0);
        cursor
    }

    fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        self.at += bytes;
        while self.legs.get(self.leg).is_some_and(|leg| self.at >= leg.range.len()) {
            self.at -= self.legs[self.leg].range.len();
            self.leg += 1;
        }
    }
}

pub struct Outgoing<'a> {
    head: [u8; Head::BYTES],
    head_sent: usize,
    cursor: Cursor<'a>,
    /// The link would take no more.
    pub blocked: bool,
}

impl<'a> Outgoing<'a> {
    pub fn new(head: &Head, legs: &'a [Leg]) -> Self {
        Self { head: head.encode(), head_sent: 0, cursor: Cursor::new(legs), blocked: false }
    }

    pub fn is_done(&self) -> bool {
        self.head_sent == Head::BYTES && self.cursor.done == self.cursor.total
    }

    /// Bytes of the cargo sent so far.
    pub fn sent(&self) -> usize {
        self.cursor.done
    }

    /// Sends what fits of the next chunk, no byte of the cargo beyond `limit`. Says whether anything moved.
    pub fn push(&mut self, link: &mut Link, cargo: &impl Cargo, limit: usize) -> Result<bool, Reason> {
        let mut pieces = [IoSlice::new(&[]); 6];
        let mut count = 0;
        if self.head_sent < Head::BYTES {
            pieces[0] = IoSlice::new(&self.head[self.head_sent..]);
            count = 1;
        }
        let mut left = limit.min(self.cursor.total).saturating_sub(self.cursor.done).min(link.chunk());
        let (mut leg, mut at) = (self.cursor.leg, self.cursor.at);
        while left > 0 && count < pieces.len() {
            let range = &self.cursor.legs[leg].range;
            let begin = range.start + at;
            let piece = cargo.read(begin..range.end.min(begin + left));
            pieces[count] = IoSlice::new(piece);
            count += 1;
            left -= piece.len();
            at += piece.len();
            if at == range.len() {
                (leg, at) = (leg + 1, 0);
                while self.cursor.legs.get(leg).is_some_and(|leg| leg.range.is_empty()) {
                    leg += 1;
                }
            }
        }
        self.blocked = false;
        if count == 0 {
            return Ok(false);
        }
        let sent = link.send(&pieces[..count])?;
        self.blocked = sent == 0;
        let of_head = sent.min(Head::BYTES - self.head_sent);
        self.head_sent += of_head;
        self.cursor.advance(sent - of_head);
        Ok(sent > 0)
    }
}

pub struct Incoming<'a> {
    head: Head,
    head_seen: bool,
    cursor: Cursor<'a>,
    /// The link had nothing more.
    pub blocked: bool,
}

impl<'a> Incoming<'a> {
    pub fn new(head: &Head, legs: &'a [Leg]) -> Self {
        Self { head: *head, head_seen: false, cursor: Cursor::new(legs), blocked: false }
    }

    pub fn is_done(&self) -> bool {
        self.head_seen && self.cursor.done == self.cursor.total
    }

    /// Bytes of the cargo received so far.
    pub fn received(&self) -> usize {
        self.cursor.done
    }

    /// Adds or copies the next chunk of what has arrived, no byte of the cargo beyond `limit`. Says whether anything moved.
    pub fn pull(&mut self, link: &mut Link, cargo: &mut impl Cargo, limit: usize) -> Result<bool, Reason> {
        self.blocked = false;
        let mut moved = false;
        if !self.head_seen {
            let Some(head) = link.peek(Head::BYTES)?.first_chunk() else {
                self.blocked = true;
                return Ok(false);
            };
            self.check(head)?;
            link.consume(Head::BYTES);
            self.head_seen = true;
            moved = true;
        }
        let left = limit.min(self.cursor.total).saturating_sub(self.cursor.done).min(link.chunk());
        let Some(leg) = self.cursor.legs.get(self.cursor.leg) else { return Ok(moved) };
        let begin = leg.range.start + self.cursor.at;
        let range = begin..leg.range.end.min(begin + left);
        let received = match leg.take {
            Take::Copy if range.is_empty() => return Ok(moved),
            Take::Copy => link.take(cargo.write(range))?,
            Take::Add => {
                let grain = cargo.grain(begin);
                if range.len() < grain {
                    return Ok(moved);
                }
                let arrived = link.peek(grain)?;
                let bytes = cargo.add(begin, &arrived[..arrived.len().min(range.len())]);
                if bytes > 0 {
                    link.consume(bytes);
                }
                bytes
            }
        };
        self.blocked = received == 0;
        self.cursor.advance(received);
        Ok(moved || received > 0)
    }

    fn check(&self, bytes: &[u8; Head::BYTES]) -> Result<(), Reason> {
        match Head::decode(bytes) {
            Some(theirs) if theirs == self.head => Ok(()),
            theirs => Err(Reason::Disagrees {
                theirs: theirs.map_or_else(|| "an unknown operation".into(), |head| head.words()),
                ours: self.head.words(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_wire_and_says_what_it_is() {
        for operation in
            [Operation::AllReduce, Operation::Broadcast { root: 3 }, Operation::GatherLengths, Operation::Gather]
        {
            let head = Head { operation, sequence: 9, sizes: [10, 4] };
            assert_eq!(Head::decode(&head.encode()), Some(head));
        }
        let head = Head { operation: Operation::AllReduce, sequence: 9, sizes: [10, 4] };
        assert_eq!(head.words(), "operation 9, an all-reduce of 10 gradients and 4 more");
        assert_eq!(Head::decode(&[0xee; Head::BYTES]), None);
    }
}
