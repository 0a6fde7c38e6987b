//! Shared memory between two ranks of one machine: one ring of bytes each way, and a bell a side for whoever sleeps.
//!
//! The accepting side makes the memory (a sealed memfd, so that it can never shrink under a reader), the dialling side opens it through
//! `/proc/<process>/fd/<descriptor>`; nonces prove that both look at the same pages. Each ring is mapped twice in a row, so that
//! what is readable is always contiguous: sums are formed straight out of the ring. Nothing here notices a peer's death: that is
//! the watch's work (`monitor`), whose verdict rings this side's bell.
#![allow(unsafe_code, reason = "memory shared with another process has no safe interface")]

use super::handshake::Offer;
use super::link::Interest;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex::{self, Timespec};
use std::ffi::c_void;
use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime};

/// A ring's size: what fits into the caches of two cores beside what is summed.
const CAPACITY: usize = 1 << 20;
/// The state of both rings lies before them, on whole pages of any page size.
const STATE: usize = 1 << 16;
/// A limit on what an offer may ask this side to map.
const LARGEST: u64 = 64 << 20;

#[repr(C, align(128))]
struct Line<T>(T);

/// Positions count bytes since the beginning and never wrap; each has one writer.
#[repr(C)]
struct Lane {
    written: Line<AtomicU64>,
    consumed: Line<AtomicU64>,
}

/// Side 0 made the memory, side 1 opened it. Lane `i` is what side `i` writes.
#[repr(C)]
struct State {
    nonces: [Line<AtomicU64>; 2],
    lanes: [Lane; 2],
    /// 1 while that side sleeps until its peer has written or consumed something.
    asleep: [Line<AtomicU32>; 2],
}

/// A region this process mapped, unmapped with the value.
struct Mapping {
    base: NonNull<c_void>,
    bytes: usize,
}

impl Mapping {
    fn new(file: &OwnedFd, offset: usize, bytes: usize) -> rustix::io::Result<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing of ours.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset as u64,
            )?
        };
        Ok(Self { base: NonNull::new(base).ok_or(Errno::NOMEM)?, bytes })
    }

    /// The same `bytes` of the file twice, one behind the other.
    fn mirrored(file: &OwnedFd, offset: usize, bytes: usize) -> rustix::io::Result<Self> {
        // SAFETY: reserves fresh address space, as in `new`.
        let base =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * bytes, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let whole = Self { base: NonNull::new(base).ok_or(Errno::NOMEM)?, bytes: 2 * bytes };
        for half in [0, bytes] {
            // SAFETY: both halves lie inside the space just reserved, which nobody else knows of.
            unsafe {
                rustix::mm::mmap(
                    whole.base.as_ptr().byte_add(half),
                    bytes,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    file,
                    offset as u64,
                )?;
            }
        }
        Ok(whole)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are what was mapped, and every pointer into it is derived from a borrow of this value.
        let outcome = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
        debug_assert!(outcome.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// The memory of one pair of ranks, seen from one side.
pub struct Memory {
    state: Mapping,
    rings: [Mapping; 2],
    capacity: usize,
    side: usize,
}

// SAFETY: the pointers belong to mappings that live as long as the value; what several threads touch is atomic (the state), and the
// rings' bytes are reached only through `Shm`, of which there is one a side.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes memory for a pair. The descriptor must stay open until the other side has answered the offer.
    pub fn create() -> rustix::io::Result<(Self, OwnedFd, Offer)> {
        let file = rustix::fs::memfd_create("lockstep-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, (STATE + 2 * CAPACITY) as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let memory = Self::map(&file, CAPACITY, 0)?;
        let nonce = RandomState::new().hash_one(file.as_raw_fd()) | 1;
        memory.state().nonces[0].0.store(nonce, Ordering::Release);
        let offer = Offer {
            process: std::process::id(),
            descriptor: file.as_raw_fd().unsigned_abs(),
            nonce,
            capacity: CAPACITY as u64,
        };
        Ok((memory, file, offer))
    }

    /// Opens what the other side offers; an error means that the two do not see the same memory.
    pub fn open(offer: &Offer) -> rustix::io::Result<Self> {
        if offer.capacity == 0 || offer.capacity > LARGEST || !offer.capacity.is_multiple_of(STATE as u64) {
            return Err(Errno::INVAL);
        }
        let path = format!("/proc/{}/fd/{}", offer.process, offer.descriptor);
        let file =
            rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        let capacity = offer.capacity as usize;
        // In another process namespace the path may lead anywhere: only sealed memory of the right size is mapped.
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        if !seals.contains(SealFlags::SHRINK)
            || rustix::fs::fstat(&file)?.st_size as u64 != (STATE + 2 * capacity) as u64
        {
            return Err(Errno::INVAL);
        }
        let memory = Self::map(&file, capacity, 1)?;
        let nonces = &memory.state().nonces;
        if nonces[0].0.load(Ordering::Acquire) != offer.nonce {
            return Err(Errno::INVAL);
        }
        nonces[1].0.store(!offer.nonce, Ordering::Release);
        Ok(memory)
    }

    /// Whether the other side has answered inside this very memory.
    pub fn answered(&self) -> bool {
        let nonces = &self.state().nonces;
        nonces[1].0.load(Ordering::Acquire) == !nonces[0].0.load(Ordering::Acquire)
    }

    fn map(file: &OwnedFd, capacity: usize, side: usize) -> rustix::io::Result<Self> {
        let ring = |lane: usize| Mapping::mirrored(file, STATE + lane * capacity, capacity);
        Ok(Self { state: Mapping::new(file, 0, STATE)?, rings: [ring(0)?, ring(1)?], capacity, side })
    }

    fn state(&self) -> &State {
        const { assert!(size_of::<State>() <= STATE) };
        // SAFETY: the mapping has STATE bytes, is aligned to a page and lives as long as self; State is made of atomics, for which
        // any content is valid.
        unsafe { self.state.base.cast::<State>().as_ref() }
    }

    /// Wakes whoever of this process sleeps on this memory.
    pub fn wake_own(&self) {
        self.wake(self.side);
    }

    fn wake(&self, side: usize) {
        let word = &self.state().asleep[side].0;
        word.store(0, Ordering::SeqCst);
        // A failed wake costs the sleeper its time-out, no more.
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }

    /// Tells the peer that a position moved.
    fn announce(&self) {
        // Orders the position before the look at the bell; a sleeper orders its bell before the look at the position.
        fence(Ordering::SeqCst);
        let peer = 1 - self.side;
        if self.state().asleep[peer].0.load(Ordering::Relaxed) != 0 {
            self.wake(peer);
        }
    }
}

/// One side's end of a pair of rings.
pub struct Shm {
    memory: Arc<Memory>,
    written: u64,
    consumed: u64,
    /// The peer's positions when they were last looked at.
    peer_written: u64,
    peer_consumed: u64,
}

impl Shm {
    pub fn new(memory: Memory) -> Self {
        Self { memory: Arc::new(memory), written: 0, consumed: 0, peer_written: 0, peer_consumed: 0 }
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn outgoing(&self) -> &Lane {
        &self.memory.state().lanes[self.memory.side]
    }

    fn incoming(&self) -> &Lane {
        &self.memory.state().lanes[1 - self.memory.side]
    }

    /// Copies as much of `pieces` as there is space for, and shows it to the peer at once.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> usize {
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        let capacity = self.memory.capacity;
        // However much nonsense a peer writes here, no byte beyond the ring is touched.
        let free = |consumed: u64| capacity.saturating_sub(self.written.wrapping_sub(consumed) as usize);
        let mut space = free(self.peer_consumed);
        if space < wanted {
            self.peer_consumed = self.outgoing().consumed.0.load(Ordering::Acquire);
            space = free(self.peer_consumed);
        }
        let ring = self.memory.rings[self.memory.side].base.cast::<u8>();
        let mut sent = 0;
        for piece in pieces {
            let length = piece.len().min(space - sent);
            let at = (self.written as usize + sent) % capacity;
            // SAFETY: `at` is below the capacity and `length` at most the free space, so all of it lies inside the mirrored
            // mapping; the peer reads these bytes only after `written` says so.
            unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), ring.add(at).as_ptr(), length) };
            sent += length;
        }
        if sent > 0 {
            self.written += sent as u64;
            self.outgoing().written.0.store(self.written, Ordering::Release);
            self.memory.announce();
        }
        sent
    }

    /// All that can be read, or nothing if that is less than `at_least`.
    pub fn peek(&mut self, at_least: usize) -> &[u8] {
        // However much nonsense a peer writes here, no byte beyond the ring is touched.
        let available = |written: u64| (written.wrapping_sub(self.consumed) as usize).min(self.memory.capacity);
        let mut readable = available(self.peer_written);
        if readable < at_least {
            self.peer_written = self.incoming().written.0.load(Ordering::Acquire);
            readable = available(self.peer_written);
            if readable < at_least {
                return &[];
            }
        }
        let ring = self.memory.rings[1 - self.memory.side].base.cast::<u8>();
        let at = self.consumed as usize % self.memory.capacity;
        // SAFETY: `at` is below and `readable` at most the capacity, so all of it lies inside the mirrored mapping; the peer has
        // written these bytes and leaves them alone until `consumed` has passed them, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(ring.add(at).as_ptr(), readable) }
    }

    pub fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        self.incoming().consumed.0.store(self.consumed, Ordering::Release);
        self.memory.announce();
    }

    /// Whether the peer did something of interest since this side last looked.
    pub fn stirred(&self, interest: Interest) -> bool {
        (interest.read && self.incoming().written.0.load(Ordering::Acquire) != self.peer_written)
            || (interest.write && self.outgoing().consumed.0.load(Ordering::Acquire) != self.peer_consumed)
    }
}

/// Sleeps until a peer stirs, `wake_own` is called on one of the memories, or the time is up. `ready` is asked once more after the bells
/// are set, so that nothing is missed in between.
pub fn sleep(memories: &[&Memory], limit: Duration, ready: impl FnOnce() -> bool) {
    let words = || memories.iter().map(|memory| &memory.state().asleep[memory.side].0);
    words().for_each(|word| word.store(1, Ordering::SeqCst));
    fence(Ordering::SeqCst);
    if !ready() {
        doze(&words().collect::<Vec<_>>(), limit);
    }
    words().for_each(|word| word.store(0, Ordering::Relaxed));
}

fn doze(words: &[&AtomicU32], limit: Duration) {
    // Every outcome, be it a wake, a time-out or a signal, means: look again.
    let timespec = |time: Duration| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    if let [word] = words {
        let _ = futex::wait(word, futex::Flags::empty(), 1, Some(&timespec(limit)));
        return;
    }
    let waiters: Vec<futex::Wait> = words
        .iter()
        .map(|word| {
            let mut wait = futex::Wait::new();
            wait.val = 1;
            wait.uaddr = word.as_ptr().cast::<c_void>().into();
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    // The limit only bounds what a missed wake could cost, so a clock that is set meanwhile does no harm.
    let until = timespec(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + limit);
    let outcome = futex::waitv(&waiters, futex::WaitvFlags::empty(), Some(&until), futex::ClockId::Realtime);
    if outcome == Err(Errno::NOSYS) {
        // Before Linux 5.16 only one word can be waited for: look again soon.
        std::thread::sleep(limit.min(Duration::from_micros(200)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Shm, Shm) {
        let (made, file, offer) = Memory::create().unwrap();
        let opened = Memory::open(&offer).unwrap();
        drop(file);
        assert!(made.answered());
        (Shm::new(made), Shm::new(opened))
    }

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_rings_end() {
        let (mut here, mut there) = pair();
        let sent: Vec<u8> = (0..CAPACITY * 3 / 4).map(|i| (i * 7 % 251) as u8).collect();
        for _ in 0..5 {
            let (a, b) = sent.split_at(1001);
            assert_eq!(here.send(&[IoSlice::new(a), IoSlice::new(b)]), sent.len());
            assert!(there.stirred(Interest { read: true, write: false }));
            assert!(there.peek(sent.len() + 1).is_empty());
            assert!(there.peek(1) == sent.as_slice());
            there.consume(sent.len());
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_until_its_reader_has_consumed() {
        let (mut here, mut there) = pair();
        let much = vec![3_u8; CAPACITY + 10];
        assert_eq!(here.send(&[IoSlice::new(&much)]), CAPACITY);
        assert_eq!(here.send(&[IoSlice::new(&much)]), 0);
        there.peek(1);
        there.consume(12);
        assert!(here.stirred(Interest { read: false, write: true }));
        assert_eq!(here.send(&[IoSlice::new(&much)]), 12);
    }

    #[test]
    fn an_offer_of_other_memory_is_not_taken() {
        let (_made, file, offer) = Memory::create().unwrap();
        assert!(Memory::open(&Offer { nonce: offer.nonce ^ 2, ..offer }).is_err());
        assert!(Memory::open(&Offer { capacity: 2 * offer.capacity, ..offer }).is_err());
        assert!(Memory::open(&Offer { descriptor: 0, ..offer }).is_err());
        drop(file);
        assert!(Memory::open(&offer).is_err());
    }
}
