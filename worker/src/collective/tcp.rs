//! One TCP connection that carries numbers, without blocking; whoever finds it blocked waits in `link`.

use super::Reason;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, ErrorKind, IoSlice};
use std::net::TcpStream;
use std::time::Duration;

/// What is received to be added passes through here, and stays in the core's cache meanwhile.
pub const BUFFER: usize = 512 << 10;

/// Sets what every connection of a group needs: no delay, no blocking, and an end to a peer's silence.
pub fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time((silence / 3).max(second))
            .with_interval((silence / 6).max(second))
            .with_retries(4),
    )?;
    socket.set_nonblocking(true)
}

pub struct Tcp {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Tcp {
    /// `stream` has been through [`prepare`].
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// 0: the socket takes nothing now.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Reason> {
        let mut nothing = SendAncillaryBuffer::default();
        unless_blocked(rustix::net::sendmsg(&self.stream, pieces, &mut nothing, SendFlags::NOSIGNAL))
    }

    /// All that has arrived, or nothing if that is less than `at_least`.
    pub fn peek(&mut self, at_least: usize) -> Result<&[u8], Reason> {
        if self.end - self.start < at_least {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.end += receive(&self.stream, &mut self.buffer[self.end..])?;
            if self.end < at_least {
                return Ok(&[]);
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Moves what has arrived to where it belongs; 0: nothing has.
    pub fn take(&mut self, into: &mut [u8]) -> Result<usize, Reason> {
        if self.start == self.end {
            return receive(&self.stream, into);
        }
        let bytes = into.len().min(self.end - self.start);
        into[..bytes].copy_from_slice(&self.buffer[self.start..self.start + bytes]);
        self.start += bytes;
        Ok(bytes)
    }
}

fn receive(stream: &TcpStream, into: &mut [u8]) -> Result<usize, Reason> {
    match rustix::net::recv(stream, into, RecvFlags::empty()) {
        Ok((0, _)) => Err(Reason::Closed),
        outcome => unless_blocked(outcome.map(|(bytes, _)| bytes)),
    }
}

fn unless_blocked(outcome: rustix::io::Result<usize>) -> Result<usize, Reason> {
    outcome.or_else(|error| {
        let kind = error.kind();
        match kind {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
            _ => Err(reason(kind)),
        }
    })
}

/// Every way in which a peer's process may end a connection is the same news.
pub fn reason(kind: ErrorKind) -> Reason {
    match kind {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Reason::Closed,
        kind => Reason::Io { kind },
    }
}
