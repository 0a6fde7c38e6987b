//! The frames two ranks exchange before a connection carries numbers. No sockets are opened here, and nothing is decided.
//!
//! A frame is a header of [`HEADER`] bytes (magic, protocol version, kind, length) and at most [`LIMIT`] bytes more. The secret
//! keeps strangers and misdirected runs out; it travels in the clear and is no defence against someone on the wire.

use std::io::{self, ErrorKind};

const MAGIC: [u8; 4] = *b"LkRg";
const VERSION: u16 = 1;
pub const HEADER: usize = 12;
pub const LIMIT: usize = 2048;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Open for the group's whole life: its end is the peer's end.
    Watch,
    /// Carries the numbers, where they do not go through shared memory.
    Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub channel: Channel,
    pub run: String,
    pub generation: u64,
    pub secret: u64,
    pub worker: String,
    pub from: u64,
    pub to: u64,
}

/// Memory that the accepting side made, and where the dialling side finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub process: u32,
    pub descriptor: u32,
    pub nonce: u64,
    pub capacity: u64,
}

/// Dialler: `Hello`, `Ready`. Acceptor: `Welcome` or `Refused`, `Settled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    Welcome {
        offer: Option<Offer>,
    },
    /// `again`: what stands in the way may pass.
    Refused {
        again: bool,
        reason: String,
    },
    /// `memory`: the dialler sees the offered memory.
    Ready {
        memory: bool,
    },
    /// `memory`: both see it, so it is used.
    Settled {
        memory: bool,
    },
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let kind = match self {
            Message::Hello(hello) => {
                body.push(u8::from(hello.channel == Channel::Data));
                for number in [hello.generation, hello.secret, hello.from, hello.to] {
                    body.extend(number.to_le_bytes());
                }
                put(&mut body, &hello.run);
                put(&mut body, &hello.worker);
                1
            }
            Message::Welcome { offer } => {
                if let Some(offer) = offer {
                    body.extend(offer.process.to_le_bytes());
                    body.extend(offer.descriptor.to_le_bytes());
                    body.extend(offer.nonce.to_le_bytes());
                    body.extend(offer.capacity.to_le_bytes());
                }
                2
            }
            Message::Refused { again, reason } => {
                body.push(u8::from(*again));
                put(&mut body, reason);
                3
            }
            Message::Ready { memory } => {
                body.push(u8::from(*memory));
                4
            }
            Message::Settled { memory } => {
                body.push(u8::from(*memory));
                5
            }
        };
        let mut frame = MAGIC.to_vec();
        frame.extend(VERSION.to_le_bytes());
        frame.extend([kind, 0]);
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend(body);
        frame
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Message> {
        let mut rest = Fields(body);
        let message = match kind {
            1 => {
                let channel = if rest.flag()? { Channel::Data } else { Channel::Watch };
                let [generation, secret, from, to] = [rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?];
                Message::Hello(Hello { channel, generation, secret, from, to, run: rest.text()?, worker: rest.text()? })
            }
            2 if body.is_empty() => Message::Welcome { offer: None },
            2 => {
                let (process, descriptor) = (rest.u32()?, rest.u32()?);
                Message::Welcome {
                    offer: Some(Offer { process, descriptor, nonce: rest.u64()?, capacity: rest.u64()? }),
                }
            }
            3 => Message::Refused { again: rest.flag()?, reason: rest.text()? },
            4 => Message::Ready { memory: rest.flag()? },
            5 => Message::Settled { memory: rest.flag()? },
            _ => return None,
        };
        rest.0.is_empty().then_some(message)
    }
}

/// Longer texts are cut: a frame stays below [`LIMIT`] whatever a run is called.
fn put(body: &mut Vec<u8>, text: &str) {
    let cut = text.floor_char_boundary(text.len().min(LIMIT / 4));
    body.extend((cut as u16).to_le_bytes());
    body.extend(&text.as_bytes()[..cut]);
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn flag(&mut self) -> Option<bool> {
        self.array::<1>().map(|[byte]| byte != 0)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// One frame as it arrives. Asks for no byte beyond the frame: what follows it belongs to someone else.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Takes what is there. `None`: the frame is not complete yet.
    pub fn receive(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Option<Message>> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                let message = Message::decode(self.bytes[6], &self.bytes[HEADER..]);
                self.bytes.clear();
                return message.map(Some).ok_or_else(|| malformed("a damaged frame"));
            }
            let start = self.bytes.len();
            self.bytes.resize(start + missing, 0);
            let outcome = read(&mut self.bytes[start..]);
            self.bytes.truncate(start + *outcome.as_ref().unwrap_or(&0));
            match outcome {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn missing(&self) -> io::Result<usize> {
        let known = self.bytes.len().min(4);
        if self.bytes[..known] != MAGIC[..known] {
            return Err(malformed("not a Lockstep worker"));
        }
        let Some((header, body)) = self.bytes.split_at_checked(HEADER) else { return Ok(HEADER - self.bytes.len()) };
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(malformed(&format!("protocol {version}, this worker speaks {VERSION}")));
        }
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if length > LIMIT {
            return Err(malformed("a frame beyond the limit"));
        }
        Ok(length - body.len())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(frame: &[u8], step: usize) -> io::Result<Option<Message>> {
        let (mut inbox, mut at) = (Inbox::default(), 0);
        inbox.receive(|into| {
            let n = into.len().min(step).min(frame.len() - at);
            into[..n].copy_from_slice(&frame[at..at + n]);
            at += n;
            if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        })
    }

    #[test]
    fn every_message_survives_the_wire_in_any_pieces() {
        let hello = Hello {
            channel: Channel::Data,
            run: "r-01".into(),
            generation: 7,
            secret: u64::MAX,
            worker: "w2:1".into(),
            from: 3,
            to: 0,
        };
        let offer = Offer { process: 4, descriptor: 9, nonce: 11, capacity: 1 << 20 };
        for message in [
            Message::Hello(hello),
            Message::Welcome { offer: None },
            Message::Welcome { offer: Some(offer) },
            Message::Refused { again: true, reason: "generation 3 is stale".into() },
            Message::Ready { memory: true },
            Message::Settled { memory: false },
        ] {
            for step in [1, 5, 4096] {
                assert_eq!(read_back(&message.encode(), step).unwrap(), Some(message.clone()));
            }
        }
    }

    #[test]
    fn garbage_is_refused_at_its_first_byte_and_a_huge_frame_at_its_header() {
        assert_eq!(read_back(b"G", 1).unwrap_err().to_string(), "not a Lockstep worker");
        let mut frame = Message::Ready { memory: true }.encode();
        frame[10] = 0xff;
        assert_eq!(read_back(&frame, 64).unwrap_err().to_string(), "a frame beyond the limit");
        let mut frame = Message::Ready { memory: true }.encode();
        frame[4] = 9;
        assert_eq!(read_back(&frame, 64).unwrap_err().to_string(), "protocol 9, this worker speaks 1");
        let mut frame = Message::Ready { memory: true }.encode();
        frame[6] = 99;
        assert_eq!(read_back(&frame, 64).unwrap_err().to_string(), "a damaged frame");
    }
}
